"""Make a trained SAE better end to end, in its own format, and say by how much.

    python -m e2e_lib.finetune SAE [SAE ...] --model MODEL --data TEXT --output FOLDER

SAE is a folder or file of any format of `data.formats`; several are trained in one pass and share
the clean model. Each keeps its latents in their order, its format and its L0:

| it is | its L0 is held by |
|---|---|
| topk | k, exactly |
| relu | λ, steered while it trains; at the end one number is taken from its encoder's biases |
| jumprelu | the same, and the number is added to its thresholds, as far as 0 |

That number is set on held-out text (`finetune.calibrate`), other than that of the card. An SAE of
another model is refused by name, whatever its width; where names cannot tell, a sentence says so.

FOLDER gets for each a folder of its name: the SAE, as it came in, and the card: metrics on held-out
text before and after, the share of latents that kept their direction, seconds, as `card.json`,
`card.png` and a page, `card.html`; the latter two where the extra `analysis` is installed. Stopped,
the command goes on where it was.
"""
