"""Figure 1's top half: what each objective runs and compares, drawn by code.

A model of five blocks stands for any, with the SAE before block 2. All lengths are in inches.
"""

from typing import Any

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Polygon, Rectangle

from e2e_lib.names import OBJECTIVES
from e2e_lib.plots.style import COLOURS, INK, LABELS, MARKERS, WIDTH, use_house_style

CARD, GAP, KEY = 2.14, 0.12, 0.42  # heights of a card, between two, and of the key
CLEAN, SPLICED = 1.5, 0.52  # the two lanes, above a card's lower edge
TOKENS, BRANCH, CODES, OUTPUT, LOGITS = 0.61, 3.0, 4.1, 5.09, 8.39  # left to right
BLOCKS = {0: 1.53, 1: 2.45, 2: 5.69, 3: 6.59, 4: 7.49}  # their centres
STREAM = {3: 6.14, 4: 7.04}  # the residual stream before these blocks
WIRE, FROZEN, GHOST = "#8b91a8", "#dfe3f1", "#b4bacd"

AIM = {
    "local": "rebuild the activation",
    "e2e": "keep the output",
    "e2e_ds": "keep the output, and the way to it",
}
SPARSITY = r"$\lambda\,\Vert c\,\Vert_1 \,/\, d$"
FORMULA = {
    "local": [r"$\mathrm{MSE}(\hat{a}_2,\,a_2)$", SPARSITY],
    "e2e": [r"$\mathrm{KL}(y\,\Vert\,\hat{y})$", SPARSITY],
    "e2e_ds": [
        r"½ $\mathrm{KL}(y\,\Vert\,\hat{y})$",
        r"$\beta\;\mathrm{mean}_k\,\mathrm{MSE}(\hat{a}_k,\,a_k)$",
        SPARSITY,
    ],
}
L1 = "codes: L1 norm over the width d of the activation, mean over tokens"
TERMS = [
    ("local", "reconstruction", "1", "SAE output and its input: mean squared error"),
    ("local", "sparsity", "λ", L1),
    ("e2e", "kl", "1", "clean and spliced predictions: KL(clean ‖ spliced), mean over tokens"),
    ("e2e", "sparsity", "λ", L1),
    ("e2e_ds", "kl", "½", "clean and spliced predictions: KL(clean ‖ spliced), mean over tokens"),
    ("e2e_ds", "downstream", "β", "clean and spliced residual stream before every later block: "
     "mean squared error, mean over blocks"),
    ("e2e_ds", "sparsity", "λ", L1),
]  # fmt: skip


def loss_terms() -> pd.DataFrame:
    """What the diagram shows, as a table: objective, term, weight, compared."""
    return pd.DataFrame(TERMS, columns=["objective", "term", "weight", "compared"])


def objectives_diagram() -> Figure:
    """Fig 1, top: the frozen model as a row of blocks, the SAE in it, and what enters the loss."""
    use_house_style()
    height = len(OBJECTIVES) * (CARD + GAP) + KEY
    figure = plt.figure(figsize=(WIDTH, height))
    figure.set_layout_engine("none")  # places are given; layout="none" above would not last
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH), ylim=(0, height))
    axes.set_axis_off()
    for place, name in enumerate(OBJECTIVES):
        bottom = height - (place + 1) * (CARD + GAP) + GAP / 2
        _title(axes, name, bottom)
        _passes(axes, name, bottom + CLEAN, bottom + SPLICED)
        _links(axes, name, bottom + CLEAN, bottom + SPLICED)
    _key(axes, KEY / 2)
    return figure


def _title(axes: Axes, name: str, bottom: float) -> None:
    """The card, its title, and the formula in the room below the blocks that both passes share."""
    _box(axes, WIDTH / 2, bottom + CARD / 2, WIDTH - 0.2, CARD, face="#f5f6fc", edge="#dde1ef")
    top = bottom + CARD - 0.22
    axes.plot(0.36, top, MARKERS[name], color=COLOURS[name], markersize=11, mec="white")
    _text(axes, 0.56, top, LABELS[name], size=13.0, weight="bold", ha="left")
    _text(axes, 1.56, top, AIM[name], size=10.5, ha="left")
    terms = FORMULA[name]
    for line, term in enumerate(terms):
        y = bottom + SPLICED + 0.25 * ((len(terms) - 1) / 2 - line)
        _text(axes, 0.3, y, "loss" if line == 0 else "", size=10.5, ha="left")
        _text(axes, 0.75, y, "=" if line == 0 else "+", size=10.5)
        _text(axes, 0.92, y, term, size=10.5, ha="left")


def _passes(axes: Axes, name: str, clean: float, spliced: float) -> None:
    """Both passes as wires with blocks on them, and the SAE between them."""
    local = name == "local"
    heads = [(1.09, clean), (CODES - 0.72, spliced)]  # which way it flows
    heads += [] if local else [(x, y) for x in (5.3, 7.97) for y in (clean, spliced)]
    axes.plot(*zip(*heads, strict=True), ">", color=WIRE, markersize=5.5, mew=0, zorder=2)
    axes.plot([TOKENS, OUTPUT if local else LOGITS], [clean, clean], color=WIRE, zorder=2)
    _box(axes, TOKENS, clean, 0.62, 0.36, "tokens", face="white", edge=WIRE)
    for block, x in BLOCKS.items():
        _block(axes, x, clean, f"block {block}", ghost=local and block > 1)
    _block(axes, LOGITS, clean, "logits $y$", ghost=local, face="white", edge=WIRE)
    _text(axes, CODES, clean + 0.13, "clean pass", size=9.0, style="italic")
    if local:
        axes.plot([OUTPUT, LOGITS], [clean, clean], color=GHOST, linestyle=":", zorder=1)
        between = (BLOCKS[2] + LOGITS) / 2
        _text(axes, between, clean - 0.34, "later blocks are not run", size=9.0, style="italic")
    else:
        axes.plot([OUTPUT, LOGITS], [spliced, spliced], color=WIRE, zorder=2)
        for block in (2, 3, 4):
            _block(axes, BLOCKS[block], spliced, f"block {block}")
        _block(axes, LOGITS, spliced, r"logits $\hat{y}$", face="white", edge=WIRE)
        _text(axes, BLOCKS[3], spliced - 0.37, "spliced pass", size=9.0, style="italic")
    _sae(axes, clean, spliced, COLOURS[name])


def _sae(axes: Axes, clean: float, y: float, colour: str) -> None:
    """From the clean activation down to the encoder, the codes, the decoder, and its output."""
    axes.plot([BRANCH, BRANCH, OUTPUT], [clean, y, y], color=WIRE, zorder=2)
    small, large, near, far = 0.12, 0.28, 0.13, 0.6
    for side, label in ((-1, "enc"), (1, "dec")):
        inner, outer = CODES + side * near, CODES + side * far
        corners = [(outer, y - small), (outer, y + small), (inner, y + large), (inner, y - large)]
        axes.add_patch(Polygon(corners, facecolor="white", edgecolor="none", zorder=3))
        axes.add_patch(
            Polygon(corners, facecolor=f"{colour}40", edgecolor=colour, linewidth=1.6, zorder=3)
        )
        _text(axes, (inner + outer) / 2, y, label, size=9.5)
    cells, size = 7, 2 * large / 7
    for cell in range(cells):
        face = colour if cell in (1, 4) else "white"
        corner = (CODES - 0.07, y - large + cell * size)
        axes.add_patch(
            Rectangle(corner, 0.14, size, facecolor=face, edgecolor=colour, linewidth=1, zorder=4)
        )
    _text(axes, CODES, y - large - 0.12, "codes $c$", size=9.0)
    axes.plot([BRANCH, OUTPUT], [clean, y], "o", color=INK, markersize=4.5, zorder=5)
    _text(axes, BRANCH, clean + 0.15, "$a_2$", size=10.5)
    _text(axes, OUTPUT, y - 0.17, r"$\hat{a}_2$", size=10.5)


def _links(axes: Axes, name: str, clean: float, spliced: float) -> None:
    """What enters the loss, between the two passes."""
    colour, middle = COLOURS[name], (clean + spliced) / 2
    axes.plot([CODES, CODES], [spliced + 0.28, middle], color=colour, linewidth=2, zorder=3)
    _box(axes, CODES, middle, 0.76, 0.27, SPARSITY, edge=colour, bold=True)
    if name == "local":
        axes.plot(OUTPUT, clean, "o", color=INK, markersize=4.5, zorder=5)
        _text(axes, OUTPUT, clean + 0.15, "$a_2$", size=10.5)
        _link(axes, OUTPUT, clean, spliced, "MSE", colour)
        return
    _link(axes, LOGITS, clean - 0.17, spliced + 0.17, "KL" if name == "e2e" else "½ KL", colour)
    if name == "e2e_ds":
        for k, x in STREAM.items():
            _link(axes, x, clean, spliced, "MSE", colour)
            axes.plot([x, x], [clean, spliced], "o", color=INK, markersize=4.5, zorder=5)
            _text(axes, x, clean + 0.15, f"$a_{k}$", size=10.5)
            _text(axes, x, spliced - 0.17, rf"$\hat{{a}}_{k}$", size=10.5)


def _link(axes: Axes, x: float, top: float, bottom: float, label: str, colour: str) -> None:
    """A double-headed arrow between the passes, with what it is called in the middle."""
    heads = "<|-|>,head_length=0.35,head_width=0.18"
    arrow: dict[str, Any] = {"arrowstyle": heads, "color": colour, "linewidth": 2}
    arrow |= {"shrinkA": 4, "shrinkB": 4}  # points: the heads stop short of what they point at
    axes.annotate("", (x, top), (x, bottom), arrowprops=arrow, zorder=3)
    _box(axes, x, (top + bottom) / 2, 0.6, 0.27, label, edge=colour, bold=True)


def _block(axes: Axes, x: float, y: float, label: str, ghost: bool = False, **look: Any) -> None:
    if ghost:
        look = {"face": "#f5f6fc", "edge": GHOST, "linestyle": ":", "colour": GHOST}
    _box(axes, x, y, 0.62, 0.36, label, **({"face": FROZEN, "edge": WIRE} | look))


def _box(
    axes: Axes, x: float, y: float, width: float, height: float, label: str = "",
    *, face: str = "white", edge: str = WIRE, colour: str = INK, linestyle: str = "-",
    bold: bool = False,
) -> None:  # fmt: skip
    """A rounded box with its label in the middle; bold ones are terms of the loss."""
    pad = 0.05
    corner = (x - width / 2 + pad, y - height / 2 + pad)
    axes.add_patch(
        FancyBboxPatch(
            corner, width - 2 * pad, height - 2 * pad, boxstyle=f"round,pad={pad}",
            facecolor=face, edgecolor=edge, linestyle=linestyle,
            linewidth=2 if bold else 1.1, zorder=4 if label else 1,
        )
    )  # fmt: skip
    _text(axes, x, y, label, size=9.5, color=colour, weight="bold" if bold else "normal")


def _text(axes: Axes, x: float, y: float, label: str, size: float, **look: Any) -> None:
    look = {"ha": "center", "va": "center", "color": INK} | look
    axes.text(x, y, label, fontsize=size, zorder=6, **look)


def _key(axes: Axes, y: float) -> None:
    """What grey, tinted and outlined things are."""
    _box(axes, 1.6, y, 0.5, 0.24, " ", face=FROZEN, edge=WIRE)
    _text(axes, 1.94, y, "language model, frozen", size=9.5, ha="left")
    axes.add_patch(
        Polygon(
            [(4.02, y - 0.06), (4.02, y + 0.06), (4.46, y + 0.13), (4.46, y - 0.13)],
            facecolor="#8b91a840", edgecolor=INK, linewidth=1.4,
        )
    )  # fmt: skip
    _text(axes, 4.58, y, "SAE, trained", size=9.5, ha="left")
    _box(axes, 6.2, y, 0.5, 0.24, " ", edge=INK, bold=True)
    _text(axes, 6.54, y, "enters the loss", size=9.5, ha="left")
