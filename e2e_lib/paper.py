"""The paper's printed numbers (paper.yaml), tidy, and beside ours.

Layers 2, 6 and 10 of 12; ours are compared by depth: early, middle, late.
"""

from pathlib import Path

import pandas as pd
import yaml

DEPTH = {2: "early", 6: "middle", 10: "late"}
# What rows are matched by.
KEYS = ("match", "depth", "objective", "difference", "positions", "task")
PRINTED = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))


def rows(number: int) -> list[list]:
    """The rows of Table 2 or 3 as printed: layer, objective, λ, L0, alive, gradient norm, CE."""
    printed: list[list] = PRINTED["tables"][number]["rows"]
    return printed


def table(number: int) -> pd.DataFrame:
    """Table 2, 3, 4, 5, 6 or 7, tidy, with a further column `depth`.

    Table 4 has a further column `difference`, as ours has. Table 5 has a row for position 0
    ("first") and one for the rest ("after first"), with the ratio in a column `paper`; Table 7 a
    row a task, with a share there. Table 6 has a further column `ratio`: hours over local's at the
    same layer.
    """
    printed = _frame(PRINTED["tables"][number])
    columns = list(printed)
    if number == 5:
        printed = printed.melt(columns[:2], var_name="positions", value_name="paper")
    if number == 6:
        printed["hours"] += printed.pop("minutes") / 60
        local = printed[printed["objective"] == "local"].set_index("layer")["hours"]
        printed = printed.assign(ratio=printed["hours"] / printed["layer"].map(local))
    if number == 7:
        printed = printed.melt(columns[:3], var_name="task", value_name="paper")
        printed = printed.assign(paper=printed["paper"] / 100)
    if number == 4:
        printed = printed.assign(difference="e2e_ds - local")
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
    regions = _frame(PRINTED["map_regions"])
    share = regions["n_first"] / (regions["n_first"] + regions["n_second"])
    alive = table(2).pivot_table("alive", "layer", "objective")
    overall = alive["e2e_ds"] / (alive["e2e_ds"] + alive["local"])
    return regions.assign(share_first=share, overall_share=regions["layer"].map(overall))


def _frame(printed: dict[str, list]) -> pd.DataFrame:
    return pd.DataFrame(printed["rows"], columns=printed["columns"])
