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
TABLE6 = [  # hours of training on one A100, 400k samples
    (2, "local", 3 + 45 / 60),
    (2, "e2e", 12 + 24 / 60),
    (2, "e2e_ds", 12 + 30 / 60),
    (6, "local", 4 + 45 / 60),
    (6, "e2e", 11 + 20 / 60),
    (6, "e2e_ds", 11 + 24 / 60),
    (10, "local", 5 + 19 / 60),
    (10, "e2e", 10 + 12 / 60),
    (10, "e2e_ds", 10 + 20 / 60),
]
TABLE5 = [  # L2 ratio of the SAEs of Table 2: at position 0, and at all later positions
    (2, "local", 1.00, 0.98),
    (2, "e2e", 0.16, 0.67),
    (2, "e2e_ds", 0.14, 0.74),
    (6, "local", 1.00, 0.92),
    (6, "e2e", 0.11, 0.31),
    (6, "e2e_ds", 0.99, 0.56),
    (10, "local", 1.00, 0.91),
    (10, "e2e", 0.08, 0.15),
    (10, "e2e_ds", 0.99, 0.32),
]
MAP_REGIONS = [  # Figs 19 and 20: elements of e2e+ds and of local in each region, and its theme
    (6, "A", 18, 91, "late positions"),
    (6, "B", 48, 2, "end of text and newline"),
    (6, "C", 20, 31, "'by' and 'from'"),
    (6, "D", 11, 19, "'at' in certain contexts"),
    (6, "E", 3, 67, "what opens a sentence"),
    (6, "F", 19, 8, "what opens a sentence"),
    (6, "G", 41, 71, "specific words, mixed"),
    (10, "H", 2, 593, "none; away from PCA direction 0"),
]
TABLE7 = [  # m(SAE) / m(clean) in %: simple, across a PP, across an RC, within an RC
    ("ce_increase", 2, "local", 101.0, 103.1, 102.4, 100.6),
    ("ce_increase", 2, "e2e", 104.1, 100.5, 98.8, 102.1),
    ("ce_increase", 2, "e2e_ds", 105.6, 101.9, 99.1, 102.2),
    ("ce_increase", 6, "local", 100.6, 96.0, 79.0, 102.8),
    ("ce_increase", 6, "e2e", 96.8, 94.5, 104.7, 94.4),
    ("ce_increase", 6, "e2e_ds", 95.2, 79.2, 95.5, 98.7),
    ("ce_increase", 10, "local", 97.2, 79.3, 85.2, 106.0),
    ("ce_increase", 10, "e2e", 92.5, 90.5, 89.1, 100.0),
    ("ce_increase", 10, "e2e_ds", 104.7, 107.4, 84.2, 107.4),
    ("l0", 2, "local", 103.4, 107.7, 105.7, 101.0),
    ("l0", 2, "e2e", 100.8, 101.0, 101.6, 98.9),
    ("l0", 2, "e2e_ds", 104.8, 109.3, 97.9, 98.8),
    ("l0", 6, "local", 99.6, 93.2, 89.1, 99.1),
    ("l0", 6, "e2e", 101.2, 101.3, 107.0, 101.1),
    ("l0", 6, "e2e_ds", 95.2, 79.2, 95.5, 98.7),
    ("l0", 10, "local", 95.1, 77.8, 68.6, 106.9),
    ("l0", 10, "e2e", 92.5, 90.5, 89.1, 100.0),
    ("l0", 10, "e2e_ds", 104.7, 107.4, 84.2, 107.4),
]


TABLE4 = [  # match, layer, mean interpretability score of e2e+ds minus local's, low, high, p
    ("l0", 2, -0.01, -0.07, 0.04, 0.61),
    ("l0", 6, -0.01, -0.07, 0.05, 0.71),
    ("l0", 10, 0.03, -0.03, 0.08, 0.33),
    ("ce_increase", 2, 0.08, 0.02, 0.13, 0.0057),
    ("ce_increase", 6, 0.10, 0.05, 0.16, 0.00044),
    ("ce_increase", 10, 0.02, -0.03, 0.08, 0.41),
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


def beside_table5(ratios: pd.DataFrame, depth: dict[int, str]) -> pd.DataFrame:
    """Our L2 ratios with the paper's for the same depth in a column `paper`.

    ratios: as `activations.means` returns it; depth: as `matching.depth_names` returns it. The
    paper prints position 0 ("first") and the rest ("after first"), but not all together (NaN).
    """
    wide = pd.DataFrame(TABLE5, columns=["layer", "objective", "first", "after first"])
    wide = wide.assign(depth=wide["layer"].map(DEPTH)).drop(columns="layer")
    printed = wide.melt(["depth", "objective"], var_name="positions", value_name="paper")
    ours = ratios.assign(depth=ratios["layer"].map(depth))
    return ours.merge(printed, on=["depth", "objective", "positions"], how="left")


def map_regions() -> pd.DataFrame:
    """The regions of Figs 19 and 20: layer, region, theme, n_first (e2e+ds), n_second (local), the
    first's share of them, and its share of all alive elements at that layer (from Table 2)."""
    columns = ["layer", "region", "n_first", "n_second", "theme"]
    table = pd.DataFrame(MAP_REGIONS, columns=columns)
    share = table["n_first"] / (table["n_first"] + table["n_second"])
    alive = similar_runs("ce_increase").pivot_table("alive", "layer", "objective")
    overall = alive["e2e_ds"] / (alive["e2e_ds"] + alive["local"])
    return table.assign(share_first=share, overall_share=table["layer"].map(overall))


def beside_table7(table: pd.DataFrame, depth: dict[int, str]) -> pd.DataFrame:
    """Our faithfulness with the paper's for the same depth and match in a column `paper` (a share).

    table: as `faithfulness_tables.faithfulness_table` returns it; depth: as
    `matching.depth_names` returns it.
    """
    keys = ["match", "layer", "objective"]
    wide = pd.DataFrame(TABLE7, columns=[*keys, "simple", "nounpp", "rc", "within_rc"])
    printed = wide.melt(keys, var_name="task", value_name="paper")
    printed = printed.assign(depth=printed["layer"].map(DEPTH), paper=printed["paper"] / 100)
    ours = table.assign(depth=table["layer"].map(depth))
    on = ["match", "depth", "objective", "task"]
    return ours.merge(printed[[*on, "paper"]], on=on, how="left").drop(columns="depth")


def beside_table4(differences: pd.DataFrame, depth: dict[int, str]) -> pd.DataFrame:
    """Our differences of interpretability scores with the paper's for the same depth and match.

    differences: as `scores.score_differences` returns it; depth: as `matching.depth_names` returns
    it. Further columns: depth, paper_value, paper_low, paper_high, paper_p.
    """
    columns = ["match", "layer", "paper_value", "paper_low", "paper_high", "paper_p"]
    printed = pd.DataFrame(TABLE4, columns=columns)
    printed = printed.assign(depth=printed["layer"].map(DEPTH)).drop(columns="layer")
    ours = differences.assign(depth=differences["layer"].map(depth))
    return ours.merge(printed, on=["match", "depth"], how="left")


def beside_table6(cost: pd.DataFrame, depth: dict[int, str]) -> pd.DataFrame:
    """Our training cost with the paper's hours for the same depth, and their ratio to local's.

    cost: as `cost.training_cost` returns it; depth: as `matching.depth_names` returns it. Adds
    columns depth, paper_hours and paper_ratio.
    """
    printed = pd.DataFrame(TABLE6, columns=["layer", "objective", "paper_hours"])
    local = printed[printed["objective"] == "local"].set_index("layer")["paper_hours"]
    printed = printed.assign(paper_ratio=printed["paper_hours"] / printed["layer"].map(local))
    printed = printed.assign(depth=printed["layer"].map(DEPTH)).drop(columns="layer")
    ours = cost.assign(depth=cost["layer"].map(depth))
    return ours.merge(printed, on=["depth", "objective"], how="left")
