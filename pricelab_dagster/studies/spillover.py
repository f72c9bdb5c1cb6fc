"""The study of spillover: what clusters, exposure and the certificate reach where cross effects are known."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from pricelab_dagster.studies import figures, interference, networks, resume
from pricelab_dagster.studies.bars import Bar, at_least, at_most

MARKETS = (*interference.SUBSTITUTION.values(), "halo")
NULL = "null"
CUTS = {
    "substitution_weak": at_least(25.0),
    "substitution_middle": at_least(42.0),
    "substitution_strong": at_least(60.0),
}
ORACLE, WITH_EXPOSURE, COST = at_least(80.0), at_least(65.0), at_most(25.0)
FORETOLD, HELD = Bar(0.8, 1.2), at_least(0.90)
FALSE_SHARE, ANY_EDGE = at_most(0.12), at_most(0.18)
CERTIFIED = ("substitution_middle", "substitution_strong")
MOST_WORLDS = 24
"""Worlds of a market with cross effects, however many are asked for: their figures are means, and narrow by then."""

READING = (
    "Every world is a new market of 600 products and a year of history. The spillover bias of an assignment is the "
    "expected difference between the arms less the effect of treating every product, without sales noise; "
    "bias_cut_percent is how much less it is than by product, se_cost_percent how much wider the filtered difference "
    "spreads over draws of the arms. foretold_ratio is the certificate's prediction over the bias, foretold_held how "
    "often its interval holds it. Intervals are 95 %: of shares exact binomial, of the others bootstrap over worlds. "
    "`bar` is what methods ask; `reached` says whether the value meets it, `unsure` that its interval lies on both "
    "sides."
)

Job = tuple[str, int]


def run(worlds: int, *, workers: int, out: Path, report: resume.Progress, real: bool = True) -> pa.Table:
    """Return one row per figure, as `READING` describes them; worlds that `out` already holds are not drawn again.

    `real` adds what stands on real sales (`networks.real_rows`).
    """
    wanted: list[Job] = [(market, k) for k in range(1, min(worlds, MOST_WORLDS) + 1) for market in MARKETS]
    wanted += [(NULL, k) for k in range(1, worlds + 1)]
    done = {(row["market"], row["world"]) for row in resume.read(out)}
    jobs = [job for job in wanted if job not in done]
    report(f"{len(wanted) - len(jobs)} of {len(wanted)} worlds are there already")
    resume.append(
        jobs, _world, out=out, workers=workers, report=report, title=lambda job: f"world {job[1]} of {job[0]}"
    )
    asked = set(wanted)
    rows = [row for row in resume.read(out) if (row["market"], row["world"]) in asked]
    found = list(summary(pd.DataFrame([{"market": row["market"], **row["found"]} for row in rows])))
    report("probabilities, published graphs and a network with hubs")
    found += networks.rows()
    if real:
        report("Complete Journey")
        found += networks.real_rows()
    return pa.Table.from_pylist(found)


def summary(worlds: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Yield the figures of worlds, one row each with its market and what `interference` measured."""
    for market in MARKETS:
        part = worlds[worlds["market"] == market]
        if len(part):
            yield from _of_market(market, part)
    null = worlds[worlds["market"] == NULL]
    if len(null):
        share = figures.proportion(int(null["any edge"].sum()), len(null))
        yield networks.row(NULL, "worlds_with_an_edge", "graph, q <= .1", share, ANY_EDGE, len(null))


def _of_market(market: str, part: pd.DataFrame) -> Iterator[dict[str, Any]]:
    n, halo = len(part), market == "halo"
    product = part["bias product"].to_numpy(dtype=float)
    yield networks.row(market, "bias_points", "product", figures.mean(100.0 * product), None, n)
    held = {"leiden": CUTS.get(market), "oracle": None if halo else ORACLE}
    held["leiden + exposure"] = WITH_EXPOSURE if market == "substitution_strong" else None
    assignments = ("leiden", *interference.METHODS[1:], interference.EITHER_SIGN, "oracle")
    for name in (*assignments, "product + exposure", "leiden + exposure"):
        other = part[f"bias {name}"].to_numpy(dtype=float)
        yield networks.row(market, "bias_cut_percent", name, figures.compare(_cut, other, product), held.get(name), n)
    for name in (*assignments, "product + exposure", "leiden + exposure"):
        spread = [part[f"se {one}"].to_numpy(dtype=float) for one in (name, "product")]
        cost = figures.compare(lambda ours, theirs: 100.0 * (ours.mean() / theirs.mean() - 1.0), *spread)
        yield networks.row(market, "se_cost_percent", name, cost, COST if name == "leiden" and not halo else None, n)
    for name in ("product", "leiden"):
        bias, told = (part[f"{kind} {name}"].to_numpy(dtype=float) for kind in ("bias", "foretold"))
        certified = market in CERTIFIED
        ratio = figures.compare(lambda told, bias: told.mean() / bias.mean(), told, bias)
        yield networks.row(market, "foretold_ratio", name, ratio, FORETOLD if certified else None, n)
        hits = int(((part[f"low {name}"] <= bias) & (bias <= part[f"high {name}"])).sum())
        yield networks.row(market, "foretold_held", name, figures.proportion(hits, n), HELD if certified else None, n)
    false = figures.compare(np.mean, part["false share"].to_numpy(dtype=float))
    yield networks.row(market, "false_share", "graph, q <= .1", false, None if halo else FALSE_SHARE, n)
    found = figures.compare(np.mean, part["found share"].to_numpy(dtype=float))
    yield networks.row(market, "found_share", "graph, q <= .1", found, None, n)


def _cut(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> float:
    return float(100.0 * (1.0 - abs(ours.mean()) / abs(theirs.mean())))


def _world(job: Job) -> list[dict[str, Any]]:
    market, world = job
    found = interference.any_edge(world) if market == NULL else interference.measured(market, world)
    return [{"market": market, "world": world, "found": found}]
