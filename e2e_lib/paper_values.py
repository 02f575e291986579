"""Numbers printed in the paper (GPT-2 small, ratio 60, 400k samples), as data.

Layers 2, 6 and 10 of 12; ours are compared by depth: early, middle, late.
"""

import pandas as pd

DEPTH = {2: "early", 6: "middle", 10: "late"}
COLUMNS = ["layer", "objective", "sparsity_coeff", "l0", "alive", "grad_norm", "ce_increase"]

SIMILAR_CE = [  # Table 2; its layer 6 is Table 1
    (2, "local", 0.8, 73.5, 41_000, 0.04, 0.016),
    (2, "e2e", 0.5, 33.4, 22_000, 0.24, 0.020),
    (2, "e2e_ds", 10, 36.2, 18_000, 1.55, 0.015),
    (6, "local", 4, 69.4, 26_000, 0.12, 0.144),
    (6, "e2e", 3, 27.5, 22_000, 0.59, 0.145),
    (6, "e2e_ds", 50, 36.8, 15_000, 3.27, 0.124),
    (10, "local", 6, 162.7, 33_000, 0.40, 0.122),
    (10, "e2e", 1.5, 62.3, 25_000, 0.64, 0.131),
    (10, "e2e_ds", 1.75, 70.2, 25_000, 0.24, 0.144),
]
SIMILAR_L0 = [  # Table 3
    (2, "local", 4, 18.4, 18_000, 0.04, 0.101),
    (2, "e2e", 1.5, 18.6, 20_000, 0.31, 0.043),
    (2, "e2e_ds", 35, 17.9, 15_000, 2.24, 0.039),
    (6, "local", 6, 42.8, 21_000, 0.13, 0.228),
    (6, "e2e", 1.5, 39.7, 25_000, 0.42, 0.099),
    (6, "e2e_ds", 50, 36.8, 15_000, 3.27, 0.124),
    (10, "local", 10, 74.9, 28_000, 0.37, 0.202),
    (10, "e2e", 1.5, 62.3, 25_000, 0.64, 0.131),
    (10, "e2e_ds", 1.75, 70.2, 25_000, 0.24, 0.144),
]


def similar_runs(on: str) -> pd.DataFrame:
    """The paper's Table 2 (on = "ce_increase") or Table 3 (on = "l0"), with a column `depth`."""
    table = pd.DataFrame({"ce_increase": SIMILAR_CE, "l0": SIMILAR_L0}[on], columns=COLUMNS)
    return table.assign(depth=table["layer"].map(DEPTH))


def beside_paper(summary: pd.DataFrame, depth: dict[int, str], on: str) -> pd.DataFrame:
    """Our matched runs with the paper's values for the same depth in columns `paper_NAME`.

    summary: as `matching.over_seeds` returns it; depth: as `matching.depth_names` returns it.
    """
    printed = similar_runs(on).rename(
        columns={c: f"paper_{c}" for c in COLUMNS if c != "objective"}
    )
    ours = summary.assign(depth=summary["layer"].map(depth))
    return ours.merge(printed, on=["depth", "objective"], how="left")


def relative_to_local(summary: pd.DataFrame, depth: dict[int, str], on: str) -> pd.DataFrame:
    """L0, alive elements and CE increase as shares of local's, here and (paper_NAME) in the paper.

    One row a layer and end-to-end objective; arguments as for `beside_paper`.
    """
    columns = [
        f"{start}{name}" for name in ("l0", "alive", "ce_increase") for start in ("", "paper_")
    ]
    table = beside_paper(summary, depth, on)
    keys = ["layer", "depth", "objective"]
    local = table[table["objective"] == "local"].set_index("layer")[columns]
    others = table[table["objective"] != "local"].reset_index(drop=True)
    shares = others[columns].astype(float) / local.loc[others["layer"]].to_numpy(dtype=float)
    return pd.concat([others[keys], shares], axis=1)
