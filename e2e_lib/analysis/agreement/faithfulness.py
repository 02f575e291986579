"""Does a model with an SAE spliced in still do a task, and how few features does that take?

Source: the paper's appendix I (Table 7, Fig 24). The metric m is the mean over prompts of
logit(form of the verb that agrees) − logit(form that does not) at the last token before the verb,
averaged over the verbs that can stand there. To mean-ablate is to set a value, at every token of a
template slot, to its mean over all prompts' tokens of that slot; tokens outside the template stay
as they are. For features that is done to the codes, after the ReLU.

    faithfulness        (m(SAE) − m(∅)) / (m(clean) − m(∅))    as printed; ∅: the activation at the
                                                               hook is mean-ablated as a whole
    faithfulness_paper  m(SAE) / m(clean)                      as the authors computed it
"""

from collections.abc import Mapping
from itertools import product
from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from e2e_lib.analysis.agreement.prompts import Prompts
from e2e_lib.analysis.matched import stacked
from e2e_lib.core.hooks import clean_pass
from e2e_lib.core.sae import SAE
from e2e_lib.engine.model.probes import replaced_pass
from e2e_lib.errors import require
from e2e_lib.names import TransformerBridge, layer_of, resid_pre
from e2e_lib.runs.load import SavedSAE

ROWS = 64  # prompts a pass; small models on CPUs are fastest while a pass fits the cache
RANKINGS = ("exact", "attribution")


def preference(
    logits: Float[Tensor, "examples pos vocab"], prompts: Prompts
) -> Float[Tensor, " examples"]:
    """Per prompt: logit of the agreeing form minus that of the other, mean over the verbs."""
    at_verb = logits[torch.arange(len(logits)), prompts.last]
    return (at_verb.gather(1, prompts.correct) - at_verb.gather(1, prompts.wrong)).mean(dim=1)


@torch.no_grad()
def clean_preferences(model: TransformerBridge, prompts: Prompts) -> Float[Tensor, " examples"]:
    """The untouched model's preference for the form that agrees, per prompt."""
    parts = []
    for own in _split(prompts):
        logits = clean_pass(model, own.tokens).logits
        assert logits is not None
        parts.append(preference(logits, own))
    return torch.cat(parts)


def to_slot_means(
    values: Float[Tensor, "examples pos width"], prompts: Prompts
) -> Float[Tensor, "examples pos width"]:
    """What mean ablation adds to `values`: slot mean − value; 0 outside the template.

    A slot's mean is over all its tokens in all prompts.
    """
    slots = range(len(prompts.slot_names))
    means = torch.stack([values[prompts.slots == slot].mean(dim=0) for slot in slots])
    shift = means[prompts.slots] - values  # slot -1 is masked below
    return shift * (prompts.slots >= 0).unsqueeze(-1)


class Site:
    """One task's prompts at one hook of a model; holds what all SAEs at that hook share.

    Attributes:
        activation: what the clean model computes at the hook; (examples, pos, d).
        clean: per prompt the clean model's preference for the verb that agrees; (examples,).
        empty: the same with the activation mean-ablated as a whole, the ∅ of the paper.
    """

    @torch.no_grad()
    def __init__(self, model: TransformerBridge, prompts: Prompts, hook: str) -> None:
        self.model, self.prompts, self.hook = model, prompts, hook
        before = resid_pre(layer_of(hook))  # where passes with another activation may start
        passes = [
            clean_pass(model, own.tokens, [hook, before], logits=False).activations
            for own in _split(prompts)
        ]
        self.activation = torch.cat([kept[hook] for kept in passes])
        self.start = torch.cat([kept[before] for kept in passes])
        self.clean = clean_preferences(model, prompts)
        self.empty = self.preferences(self.activation + to_slot_means(self.activation, prompts))

    def preferences(
        self, activation: Float[Tensor, "examples pos d"]
    ) -> Float[Tensor, " examples"]:
        """The model's preferences with another activation at the hook."""
        rows = (activation.split(ROWS), self.start.split(ROWS), _split(self.prompts))
        return torch.cat([
            preference(replaced_pass(self.model, own.tokens, self.hook, new, start), own)
            for new, start, own in zip(*rows, strict=True)
        ])  # fmt: skip


def _split(prompts: Prompts) -> list[Prompts]:
    return [prompts.part(i, i + ROWS) for i in range(0, len(prompts.tokens), ROWS)]


class Spliced(NamedTuple):
    """An SAE at a site. Only features that fire on a token of the template can be ablated."""

    site: Site
    output: Float[Tensor, "examples pos d"]  # the SAE's
    features: Int[Tensor, " active"]  # which elements of the dictionary those are
    directions: Float[Tensor, "active d"]
    shift: Float[Tensor, "examples pos active"]  # what mean ablation adds to the codes

    def ablated(self, which: Int[Tensor, " ablated"]) -> Float[Tensor, "examples pos d"]:
        """The SAE's output with some of `features` mean-ablated; `which` counts among those."""
        return self.output + self.shift[..., which] @ self.directions[which]


@torch.no_grad()
def splice(site: Site, sae: SAE) -> Spliced:
    """Run an SAE on a site's activations."""
    on_template = site.prompts.slots >= 0
    outputs, fired = [], torch.zeros(sae.d_sae, dtype=torch.bool, device=sae.b_enc.device)
    for rows, mask in zip(site.activation.split(ROWS), on_template.split(ROWS), strict=True):
        output, codes = sae(rows)
        outputs.append(output)
        fired |= (codes[mask] > 0).any(dim=0)
    features = fired.nonzero().squeeze(1)
    # All codes of a large dictionary at once would not fit; those that fire here do.
    codes = torch.cat([sae.encode(rows)[..., features] for rows in site.activation.split(ROWS)])
    shift = to_slot_means(codes, site.prompts)
    return Spliced(site, torch.cat(outputs), features, sae.dictionary[features], shift)


@torch.no_grad()
def single_effects(spliced: Spliced) -> Float[Tensor, " active"]:
    """Exact: how far m moves when a feature alone is mean-ablated, one pass a feature."""
    site = spliced.site
    before = site.preferences(spliced.output).mean()
    effects = [
        site.preferences(spliced.ablated(feature)).mean() - before
        for feature in torch.arange(len(spliced.features)).split(1)
    ]
    return torch.stack(effects) if effects else spliced.output.new_zeros(0)


def attributed_effects(spliced: Spliced) -> Float[Tensor, " active"]:
    """First-order estimate of `single_effects` from one backward pass, for very many features."""
    site = spliced.site
    output = spliced.output.clone().requires_grad_(True)
    [gradient] = torch.autograd.grad(site.preferences(output).mean(), output)
    by_code = gradient @ spliced.directions.T  # change of m by change of a code
    return (by_code * spliced.shift).sum(dim=(0, 1))


def ranked(spliced: Spliced, ranking: str = "exact") -> Int[Tensor, " active"]:
    """Features from the largest change of m, up or down, to the smallest; counts as `ablated`.

    Raises:
        ConfigError: ranking is neither "exact" nor "attribution".
    """
    require(ranking in RANKINGS, "ranking", ranking, " or ".join(RANKINGS))
    effects = single_effects(spliced) if ranking == "exact" else attributed_effects(spliced)
    return effects.abs().argsort(descending=True, stable=True)


@torch.no_grad()
def kept_preferences(
    spliced: Spliced, order: Int[Tensor, " active"], counts: list[int]
) -> Float[Tensor, "counts examples"]:
    """Preferences with the first k features of `order` kept and all others mean-ablated."""
    return torch.stack([spliced.site.preferences(spliced.ablated(order[k:])) for k in counts])


def kept_counts(active: int, singly: int) -> list[int]:
    """Numbers of kept features to try: one by one below `singly`, then every fifth below 500, and
    all. The authors' `singly` is 100."""
    return [*range(min(singly, active)), *range(singly, min(500, active), 5), active]


def spliced_table(
    model: TransformerBridge,
    prompts: Mapping[str, Prompts],
    runs: pd.DataFrame,
    saes: Mapping[str, SavedSAE],
) -> pd.DataFrame:
    """One row a matched run, task and prompt: how much the model prefers the form that agrees.

    runs: columns match, layer, objective, seed and run; those without an SAE are left out.
    Columns of the result: these, task, prompt (its number), clean, empty (∅) and spliced.
    """
    tables = []
    for task, hook in product(prompts, sorted({saved.hook for saved in saes.values()})):
        site = Site(model, prompts[task], hook)
        for run in (name for name, saved in saes.items() if saved.hook == hook):
            with torch.no_grad():
                spliced = site.preferences(saes[run].sae(site.activation).output)
            tables.append(_prompt_table(site, spliced).assign(run=run))
    keys = ["match", "layer", "objective", "seed", "run"]
    found = stacked(tables, ["run", "task", "prompt", "clean", "empty", "spliced"])
    return runs[keys].merge(found, on="run")


def kept_table(
    model: TransformerBridge,
    prompts: Mapping[str, Prompts],
    runs: pd.DataFrame,
    saes: Mapping[str, SavedSAE],
    *,
    ranking: str = "exact",
    singly: int = 20,
) -> pd.DataFrame:
    """One row a run, task, number of kept features and prompt; arguments as `spliced_table`.

    Columns: layer, objective, seed, task, active (features that fire on the template), kept,
    prompt, clean, empty and spliced: the preference with the others mean-ablated.
    """
    tables = []
    for row in (row for row in runs.itertuples() if row.run in saes):
        labels = {"layer": row.layer, "objective": row.objective, "seed": row.seed}
        for own in prompts.values():
            site = Site(model, own, saes[row.run].hook)
            spliced = splice(site, saes[row.run].sae)
            counts = kept_counts(len(spliced.features), singly)
            curve = kept_preferences(spliced, ranked(spliced, ranking), counts)
            labels |= {"active": len(spliced.features)}
            tables += [
                _prompt_table(site, values).assign(kept=kept, **labels)
                for kept, values in zip(counts, curve, strict=True)
            ]
    columns = ["layer", "objective", "seed", "task", "active", "kept", "prompt"]
    return stacked(tables, [*columns, "clean", "empty", "spliced"])


def _prompt_table(site: Site, spliced: Float[Tensor, " examples"]) -> pd.DataFrame:
    values = {"clean": site.clean, "empty": site.empty, "spliced": spliced}
    numbers = {name: value.double().cpu().numpy() for name, value in values.items()}
    return pd.DataFrame({"task": site.prompts.task, "prompt": range(len(spliced))} | numbers)
