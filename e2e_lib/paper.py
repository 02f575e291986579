"""Numbers printed in the paper (GPT-2 small, ratio 60, 400k samples), as data.

Layers 2, 6 and 10 of 12; ours are compared by depth: early, middle, late.
"""

import pandas as pd

DEPTH = {2: "early", 6: "middle", 10: "late"}
KEYS = ("match", "depth", "objective", "positions", "task")  # what rows are matched by
SIMILAR = ["layer", "objective", "sparsity_coeff", "l0", "alive", "grad_norm", "ce_increase"]
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

# By number: the columns and rows of a table.
TABLES: dict[int, tuple[list[str], list[tuple]]] = {
    # SAEs of similar CE increase; its layer 6 is Table 1
    2: (SIMILAR, [
        (2, "local", 0.8, 73.5, 41_000, 0.04, 0.016),
        (2, "e2e", 0.5, 33.4, 22_000, 0.24, 0.020),
        (2, "e2e_ds", 10, 36.2, 18_000, 1.55, 0.015),
        (6, "local", 4, 69.4, 26_000, 0.12, 0.144),
        (6, "e2e", 3, 27.5, 22_000, 0.59, 0.145),
        (6, "e2e_ds", 50, 36.8, 15_000, 3.27, 0.124),
        (10, "local", 6, 162.7, 33_000, 0.40, 0.122),
        (10, "e2e", 1.5, 62.3, 25_000, 0.64, 0.131),
        (10, "e2e_ds", 1.75, 70.2, 25_000, 0.24, 0.144),
    ]),
    # SAEs of similar L0
    3: (SIMILAR, [
        (2, "local", 4, 18.4, 18_000, 0.04, 0.101),
        (2, "e2e", 1.5, 18.6, 20_000, 0.31, 0.043),
        (2, "e2e_ds", 35, 17.9, 15_000, 2.24, 0.039),
        (6, "local", 6, 42.8, 21_000, 0.13, 0.228),
        (6, "e2e", 1.5, 39.7, 25_000, 0.42, 0.099),
        (6, "e2e_ds", 50, 36.8, 15_000, 3.27, 0.124),
        (10, "local", 10, 74.9, 28_000, 0.37, 0.202),
        (10, "e2e", 1.5, 62.3, 25_000, 0.64, 0.131),
        (10, "e2e_ds", 1.75, 70.2, 25_000, 0.24, 0.144),
    ]),
    # mean interpretability score of e2e+ds minus local's
    4: (["match", "layer", "value", "low", "high", "p"], [
        ("l0", 2, -0.01, -0.07, 0.04, 0.61),
        ("l0", 6, -0.01, -0.07, 0.05, 0.71),
        ("l0", 10, 0.03, -0.03, 0.08, 0.33),
        ("ce_increase", 2, 0.08, 0.02, 0.13, 0.0057),
        ("ce_increase", 6, 0.10, 0.05, 0.16, 0.00044),
        ("ce_increase", 10, 0.02, -0.03, 0.08, 0.41),
    ]),
    # L2 ratio of the SAEs of Table 2: at position 0, and at all later positions
    5: (["layer", "objective", "first", "after first"], [
        (2, "local", 1.00, 0.98),
        (2, "e2e", 0.16, 0.67),
        (2, "e2e_ds", 0.14, 0.74),
        (6, "local", 1.00, 0.92),
        (6, "e2e", 0.11, 0.31),
        (6, "e2e_ds", 0.99, 0.56),
        (10, "local", 1.00, 0.91),
        (10, "e2e", 0.08, 0.15),
        (10, "e2e_ds", 0.99, 0.32),
    ]),
    # hours of training on one A100, 400k samples
    6: (["layer", "objective", "hours"], [
        (2, "local", 3 + 45 / 60),
        (2, "e2e", 12 + 24 / 60),
        (2, "e2e_ds", 12 + 30 / 60),
        (6, "local", 4 + 45 / 60),
        (6, "e2e", 11 + 20 / 60),
        (6, "e2e_ds", 11 + 24 / 60),
        (10, "local", 5 + 19 / 60),
        (10, "e2e", 10 + 12 / 60),
        (10, "e2e_ds", 10 + 20 / 60),
    ]),
    # m(SAE) / m(clean) in %: simple, across a PP, across an RC, within an RC
    7: (["match", "layer", "objective", "simple", "nounpp", "rc", "within_rc"], [
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
    ]),
}  # fmt: skip


def table(number: int) -> pd.DataFrame:
    """Table 2, 3, 4, 5, 6 or 7, tidy, with a further column `depth`.

    Table 5 has a row for position 0 ("first") and one for the rest ("after first"), with the ratio
    in a column `paper`; Table 7 a row a task, with a share there. Table 6 has a further column
    `ratio`: hours over local's at the same layer.
    """
    columns, rows = TABLES[number]
    printed = pd.DataFrame(rows, columns=columns)
    if number == 5:
        printed = printed.melt(columns[:2], var_name="positions", value_name="paper")
    if number == 6:
        local = printed[printed["objective"] == "local"].set_index("layer")["hours"]
        printed = printed.assign(ratio=printed["hours"] / printed["layer"].map(local))
    if number == 7:
        printed = printed.melt(columns[:3], var_name="task", value_name="paper")
        printed = printed.assign(paper=printed["paper"] / 100)
    return printed.assign(depth=printed["layer"].map(DEPTH))


def beside(ours: pd.DataFrame, depth: dict[int, str], number: int) -> pd.DataFrame:
    """Our table with the paper's values for the same depth, objective, … in columns `paper_NAME`.

    ours: what the library computes for this table: `matched.over_seeds` (Tables 2 and 3),
    `statistics.score_differences` (4), `activations.means` (5), `sweeps.training_cost` (6) or
    `agreement.tables.faithfulness_table` (7). depth: as `matched.depth_names` returns it; becomes a
    column. Of Tables 5 and 7 there is one value, in the column `paper`; NaN where none is printed.
    """
    printed = table(number)
    keys = [key for key in KEYS if key in printed]
    if number > 3:  # the others name the layer that their SAEs are at
        printed = printed.drop(columns="layer")
    named = {c: f"paper_{c}" for c in printed if c not in (*keys, "paper")}
    ours = ours.assign(depth=ours["layer"].map(depth))
    return ours.merge(printed.rename(columns=named), on=keys, how="left")


def relative_to_local(summary: pd.DataFrame, depth: dict[int, str], number: int) -> pd.DataFrame:
    """L0, alive elements and CE increase as shares of local's, here and (paper_NAME) in the paper.

    One row a layer and end-to-end objective; arguments as for `beside`, of Table 2 or 3.
    """
    columns = [
        f"{start}{name}" for name in ("l0", "alive", "ce_increase") for start in ("", "paper_")
    ]
    both = beside(summary, depth, number)
    keys = ["layer", "depth", "objective"]
    local = both[both["objective"] == "local"].set_index("layer")[columns]
    others = both[both["objective"] != "local"].reset_index(drop=True)
    shares = others[columns].astype(float) / local.loc[others["layer"]].to_numpy(dtype=float)
    return pd.concat([others[keys], shares], axis=1)


def map_regions() -> pd.DataFrame:
    """The regions of Figs 19 and 20: layer, region, theme, n_first (e2e+ds), n_second (local), the
    first's share of them, and its share of all alive elements at that layer (from Table 2)."""
    columns = ["layer", "region", "n_first", "n_second", "theme"]
    regions = pd.DataFrame(MAP_REGIONS, columns=columns)
    share = regions["n_first"] / (regions["n_first"] + regions["n_second"])
    alive = table(2).pivot_table("alive", "layer", "objective")
    overall = alive["e2e_ds"] / (alive["e2e_ds"] + alive["local"])
    return regions.assign(share_first=share, overall_share=regions["layer"].map(overall))
