"""A dictionary's examination: every measure at one hook, beside floors and oracle.

    exam = open_exam(model, "blocks.2.hook_resid_pre", pair_rows(...), pair_rows(...))
    found = examine(exam, sae)                          # every measure, and its resamples
    floors, oracle = examined_floors(exam, sae.d_sae, k=8), examine(exam, None)
    measure_table(found, floors, oracle)                # values, intervals, scale

The pairs are the same for every dictionary; what the network uses is decided before any is looked
at, by `use.use_table`'s rule on these pairs.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from e2e_lib.analysis.counterfactual import dictionaries
from e2e_lib.analysis.counterfactual.measures import dedicated, exchange, necessities, observe
from e2e_lib.analysis.counterfactual.scale import measure_table
from e2e_lib.analysis.counterfactual.swaps import (
    ROWS,
    Coded,
    Dictionary,
    Site,
    code,
    kl_sums,
    open_site,
)
from e2e_lib.analysis.counterfactual.tables import Samples, samples
from e2e_lib.analysis.counterfactual.use import kinds_by_verdict, use_table
from e2e_lib.core.hooks import clean_pass
from e2e_lib.core.sae import SAE
from e2e_lib.errors import DataError
from e2e_lib.names import TransformerBridge, layer_of
from e2e_lib.runs.load import SavedSAE
from e2e_lib.storyworld.pairs import PairRows

ALONE = ("waste_alive", "dedicated_alive", "dedicated_l0")  # what single latents are asked for
FLOOR_TOKENS = 20_000  # of the pairs' own text, about, to which floors are fitted


class AtDecision(NamedTuple):
    """The activations at t alone, of further pairs; rows 2i and 2i + 1 are partners."""

    values: Int[Tensor, " row"]  # the token at t
    activation: Float[Tensor, "row d"]


@dataclass(frozen=True)
class Exam:
    """One hook's pairs, and what every dictionary there is compared with."""

    sites: dict[str, Site]  # by kind
    others: dict[str, AtDecision]  # by kind: what the oracle is fitted to, and latents are tried on
    used: list[str]
    unused: list[str]
    vocabulary: int

    @cached_property
    def directions(self) -> dict[str, Float[Tensor, "vocab d"]]:
        """The oracle's, of used kinds."""
        return {
            kind: dictionaries.value_directions(*self.others[kind], self.vocabulary)
            for kind in self.used
        }

    @cached_property
    def activations(self) -> Float[Tensor, "token d"]:
        """Clean activations at the hook, of some of the pairs' own tokens from t on."""
        every = torch.cat([site.activation[site.counts] for site in self.sites.values()])
        return every[:: 1 + len(every) // FLOOR_TOKENS]


def sites_by_kind(model: TransformerBridge, hook: str, rows: PairRows) -> dict[str, Site]:
    """A site for every kind among the pairs, in their order."""
    kinds, found = np.array(rows.kind), {}
    for kind in dict.fromkeys(rows.kind):
        own = torch.as_tensor(kinds == kind)
        tokens, places, lengths = (values[own] for values in rows[:3])
        at, length = places.repeat_interleave(2), lengths.flatten()
        found[kind] = open_site(model, hook, kind, tokens.flatten(0, 1), at, length)
    return found


def open_exam(
    model: TransformerBridge,
    hook: str,
    rows: PairRows,
    others: PairRows,
    verdicts: Mapping[str, list[str]] | None = None,
    seed: int = 0,
) -> Exam:
    """Run the clean model on all pairs of `rows`, and up to t on those of `others`.

    verdicts: the kinds that are used and unused, if another model is to say.

    Raises:
        DataError: the model uses none of the kinds, or all of them.
        ModelError: the model has no such hook.
    """
    sites, layer = sites_by_kind(model, hook, rows), layer_of(hook)
    if verdicts is None:
        blank = {"layer": layer, "presence": 0.0}  # which the verdict does not ask for
        uses = [pd.DataFrame({"kind": k, "use": _use(site)} | blank) for k, site in sites.items()]
        verdicts = kinds_by_verdict(use_table(pd.concat(uses), seed), layer)
    if not verdicts["used"] or not verdicts["unused"]:
        raise DataError(
            f"Of the kinds {', '.join(sites)} the model uses {len(verdicts['used'])} at {hook!r} "
            f"and does not use {len(verdicts['unused'])}, but both must be at least 1."
        )
    at = {
        kind: _at_decision(model, hook, _of_kind(others, kind))
        for kind in dict.fromkeys(others.kind)
    }
    return Exam(sites, at, verdicts["used"], verdicts["unused"], model.cfg.d_vocab)


def _use(site: Site) -> Float[np.ndarray, " pair"]:
    return kl_sums(site, site.clean, site.target).view(-1, 2).mean(1).double().cpu().numpy()


def _of_kind(rows: PairRows, kind: str) -> PairRows:
    own = torch.tensor([name == kind for name in rows.kind], dtype=torch.bool)
    tokens, at, length = (values[own] for values in rows[:3])
    return PairRows(tokens, at, length, [kind] * int(own.sum()))


@torch.no_grad()
def _at_decision(model: TransformerBridge, hook: str, rows: PairRows) -> AtDecision:
    rows = rows.to(model.cfg.device)
    tokens, places, *_ = rows
    tokens = tokens.flatten(0, 1)
    kept = [clean_pass(model, own, [hook], logits=False) for own in tokens.split(ROWS)]
    at, row = places.repeat_interleave(2), torch.arange(len(tokens))
    return AtDecision(tokens[row, at], torch.cat([own.activations[hook] for own in kept])[row, at])


def examine(
    exam: Exam,
    dictionary: Dictionary | None,
    *,
    necessary: bool = False,
    least: float = -math.inf,
    seed: int = 0,
) -> Samples:
    """Every measure of a dictionary; None: of the oracle.

    necessary: necessity too, the dearest, if the carried function is above `least`.

    Raises:
        ModelError: the dictionary reads another width than the hook's.
    """
    swaps = {
        kind: exchange(
            site,
            dictionaries.oracle(site, exam.directions.get(kind))
            if dictionary is None
            else code(site, dictionary),
        )
        for kind, site in exam.sites.items()
    }
    numbers = {kind: observe(swap) for kind, swap in swaps.items()}
    coded = {kind: swap.coded for kind, swap in swaps.items()}
    found = samples(numbers, exam.used, exam.unused, seed=seed)
    if necessary and not found["carried_function", "all"][0] <= least:
        needed = necessities({kind: swaps[kind] for kind in exam.used}, seed)
        found = samples(numbers, exam.used, exam.unused, needed, seed)
    if dictionary is None:  # it has no latents for what is not used
        found |= {key: np.zeros(1) for key in found if key[0] == "waste_l0"}
    alone = dict.fromkeys(ALONE, 0.0) if dictionary is None else _latents(exam, dictionary, coded)
    return found | {(name, "all"): np.array([value]) for name, value in alone.items()}


@torch.no_grad()
def _latents(exam: Exam, dictionary: Dictionary, coded: Mapping[str, Coded]) -> dict[str, float]:
    """Shares of alive latents, and of L0, that unused kinds alone toggle, or have to themselves."""
    fired = torch.stack([own.fired for own in coded.values()]).sum(0)
    toggled, telling = [], []
    for kinds in (exam.used, exam.unused):
        codes = {kind: dictionary.encode(exam.others[kind].activation) for kind in kinds}
        on = [own.unflatten(0, (-1, 2)) > 0 for own in codes.values()]
        toggled.append(torch.stack([(both[:, 0] != both[:, 1]).any(0) for both in on]).any(0))
        told = [dedicated(exam.others[kind].values, own) for kind, own in codes.items()]
        telling.append(torch.stack(told).any(0))
    alive, total = fired > 0, float(fired.sum())
    wasted, own = (unused & ~used & alive for used, unused in (toggled, telling))
    counts = {"waste_alive": wasted.sum(), "dedicated_alive": own.sum()}
    shares = {
        name: float(x) / float(alive.sum()) if total else np.nan for name, x in counts.items()
    }
    return shares | {"dedicated_l0": float(fired[own].sum()) / total if total else np.nan}


def mean_l0(exam: Exam, dictionary: Dictionary) -> float:
    """Latents on at a token, mean over `exam.activations`."""
    return float((dictionary.encode(exam.activations) > 0).sum(-1).float().mean())


def examined_floors(
    exam: Exam, d_sae: int, k: int, seed: int = 0, *, necessary: bool = False
) -> dict[str, Samples]:
    """`examine` of every floor of this width and a mean of k latents on a token.

    necessary: necessity too of floors that carry something: it counts what a dictionary's own full
    swap takes, which where S is not above 0 is no decision's effect, and may take few.
    """
    made = dictionaries.floors(exam.activations, d_sae, k, seed)
    return {
        name: examine(exam, own, necessary=necessary, least=0.0, seed=seed)
        for name, own in made.items()
    }


class Examined(NamedTuple):
    """SAEs by run name: their measures with all resamples, and as `measure_table` shows them."""

    found: dict[str, Samples]
    table: pd.DataFrame  # columns run and those of `measure_table`
    verdicts: pd.DataFrame  # columns hook, kind, verdict


def examine_all(
    model: TransformerBridge,
    saes: Mapping[str, SavedSAE],
    rows: PairRows,
    others: PairRows,
    *,
    necessary_at: Collection[str] = (),
    seed: int = 0,
) -> Examined:
    """Every SAE, beside the oracle of its hook and floors of its width and its hook's mean L0.

    Arguments as of `open_exam`; a hook that it refuses is left out, with its sentence printed.
    necessary_at: the hooks at which necessity is measured too.
    """
    found, tables, verdicts = {}, [], []
    for hook in sorted({saved.hook for saved in saes.values()}):
        own = {run: saved.sae for run, saved in saes.items() if saved.hook == hook}
        try:
            exam, necessary = open_exam(model, hook, rows, others, seed=seed), hook in necessary_at
        except DataError as reason:
            print(f"Left out: {reason}")
            continue
        k = max(1, round(float(np.mean([mean_l0(exam, sae) for sae in own.values()]))))
        floors = {
            size: examined_floors(exam, size, k, seed, necessary=necessary)
            for size in {s.d_sae for s in own.values()}
        }
        oracle = examine(exam, None, necessary=necessary, seed=seed)
        for run, sae in own.items():
            found[run] = examine(exam, sae, necessary=necessary, seed=seed)
            tables.append(measure_table(found[run], floors[sae.d_sae], oracle).assign(run=run))
        for verdict, kinds in (("used", exam.used), ("unused", exam.unused)):
            verdicts.append(pd.DataFrame({"hook": hook, "kind": kinds, "verdict": verdict}))
    nothing = measure_table({}, {}, {}).assign(run="")
    table = pd.concat(tables, ignore_index=True) if tables else nothing
    said = pd.concat([pd.DataFrame(columns=["hook", "kind", "verdict"]), *verdicts])
    return Examined(found, table, said)


def measure_folder(folder: str | Path, exam: Exam, *, seed: int = 0) -> pd.DataFrame:
    """`tables.measure_table` of the SAE in a SAELens folder, whoever trained it.

    Raises:
        ModelError: the folder cannot be read, or the SAE reads another width than the exam's hook.
    """
    sae = SAE.load(folder).eval().requires_grad_(False)
    found = examine(exam, sae, necessary=True, seed=seed)
    k = max(1, round(mean_l0(exam, sae)))
    floors = examined_floors(exam, sae.d_sae, k, seed, necessary=True)
    return measure_table(found, floors, examine(exam, None, necessary=True, seed=seed))
