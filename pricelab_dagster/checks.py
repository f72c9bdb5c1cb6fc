"""The diagnostics of one experiment: which checks apply to it, on which of its tables."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pricelab_dagster import disturbing, drawing, replaying
from pricelab_dagster.lab import CONTROL, DOSE_LINE, Experiment
from pricelab_dagster.science import affinity, agreement, diagnostics
from pricelab_dagster.science.diagnostics import Diagnostic
from pricelab_dagster.science.panel import LIKE_WITH_LIKE, Panel, Trimmed

BACK_TO_INCUMBENT = "guard: back to the incumbent price"
BETWEEN_PRODUCTS = ("covariate_balance", "pre_trend", "missing_by_arm")
DRAWS_PER_ARM = 1000
"""Of K arms each has K times as many, so that a p-value can be as small as its part of alpha asks."""


def run(
    experiment: Experiment,
    panel: Panel,
    trimmed: list[Trimmed],
    *,
    X: pd.DataFrame,
    plan: pd.DataFrame,
    days: pd.DataFrame,
    effects: pd.DataFrame,
    arms: pd.DataFrame,
    facts: Mapping[str, object],
    draws: pd.DataFrame | None = None,
    frame: drawing.Frame | None = None,
    others: Sequence[disturbing.Neighbour] | None = None,
    rng: np.random.Generator,
) -> list[Diagnostic]:
    """Return the checks of an experiment, in a fixed order.

    Parameters
    ----------
    X : attributes of the products (N rows).
    plan : experiment.price_plan of the experiment.
    days : int_product_days of its products since the start.
    effects : experiment.effects of the experiment.
    arms : experiment.drawn_arms of the experiment.
    facts : what is stored beside the assignment.
    draws : experiment.effect_draws of the experiment; without them no estimator is compared with the headline.
    frame : who was drawn; without it they are not drawn again over the history.
    others : experiments beside it, from `disturbing.neighbours`; without them they are not listed.
    """
    found = [_plan_kept(plan, days), diagnostics.one_price(plan), _guarded(plan)]
    found.append(_drawn_in_time(experiment, panel, str(facts.get("drawn_as_of"))))
    if panel.imported:
        found.append(_follows_design(facts.get("deviations")))
    if len(arms):
        units = arms.assign(hit=arms["product_id"].isin(set(panel.product_id))).groupby("unit_id")
        treated = (units["arm"].first() != CONTROL).to_numpy(dtype=float)
        found.append(diagnostics.triggers_by_arm(units["hit"].any().to_numpy(), treated))
    if panel.kind == "random_days":
        found += list(_random_days(panel, trimmed[0]))
    else:
        found += list(_between_products(experiment, panel, trimmed[0], X, rng))
    found.append(_two_arm_share(effects, experiment.metrics[0]))
    if draws is not None:
        found.append(_estimators_agree(experiment, panel, trimmed, X, effects, draws, rng))
    if frame is not None:
        found.append(replaying.aa_own_history(experiment, panel, trimmed[0], X, frame=frame, rng=rng))
    found += disturbing.checks(experiment, panel, trimmed[0], plan, others)
    return found


def _estimators_agree(
    experiment: Experiment,
    panel: Panel,
    trimmed: list[Trimmed],
    X: pd.DataFrame,
    effects: pd.DataFrame,
    draws: pd.DataFrame,
    rng: np.random.Generator,
) -> Diagnostic:
    """Return whether the estimators of each arm agree with its headline, on the primary metric's relative scale."""
    arms, primary = {}, trimmed[0]
    for code, arm in enumerate(experiment.arms, 1):
        rows, drawn = (
            part[(part["arm"] == arm.name) & (part["metric"] == primary.metric) & (part["scale"] == primary.scale)]
            for part in (effects, draws)
        )
        by_estimator = {
            name: part.sort_values("replicate")["effect"].to_numpy(dtype=float)
            for name, part in drawn.groupby("estimator")
        }
        estimates = {
            row["estimator"]: agreement.Estimate(
                float(row["effect"]), float(row["se"]), by_estimator.get(row["estimator"], np.empty(0))
            )
            for row in rows.to_dict("records")
            # the headline's own number, tested otherwise
            if row["estimator"] != replaying.ESTIMATOR
        }
        quoted = rows.loc[rows["is_headline"], "estimator"]
        known = agreement.evidence(panel.against(code), trimmed, X, clustered=experiment.assignment.by_cluster, rng=rng)
        alpha = agreement.ALPHA / len(experiment.arms)
        arms[arm.name] = agreement.compare(estimates, headline=quoted.iloc[0], evidence=known, alpha=alpha)
    return agreement.estimators_agree(arms)


def _between_products(
    experiment: Experiment, panel: Panel, primary: Trimmed, X: pd.DataFrame, rng: np.random.Generator
) -> Iterator[Diagnostic]:
    """Yield the checks on how the products of the arms differ: of several arms the worst of each."""
    n_draws = DRAWS_PER_ARM * len(experiment.arms) - 1
    by_arm = [_of_arm(panel, primary, X, code, n_draws, rng) for code in range(1, len(experiment.arms) + 1)]
    names = [arm.name for arm in experiment.arms]
    for same in zip(*by_arm, strict=True):
        yield diagnostics.worst_arm(dict(zip(names, same, strict=True)))


def _of_arm(
    panel: Panel, primary: Trimmed, X: pd.DataFrame, arm: int, n_draws: int, rng: np.random.Generator
) -> list[Diagnostic]:
    """Return the checks of one arm against control; not computed where one side has no product."""
    rows, W = _compared(panel, arm)
    lacking = [side for side, value in (("treated", 1.0), ("control", 0.0)) if value not in W]
    if lacking:
        one_sequence = panel.kind == "crossover" and len(lacking) == 1
        why = (
            "all products have the same sequence of arms" if one_sequence else f"no {' and no '.join(lacking)} product"
        )
        nothing = float("nan")
        return [
            Diagnostic(name, "informational", nothing, diagnostics.ALPHA, nothing, f"Not computed: {why}.")
            for name in BETWEEN_PRODUCTS
        ]
    features, units = affinity.encode(X[rows])[0], panel.unit_id[rows]
    return [
        diagnostics.covariate_balance(features, W, units=units, n_permutations=n_draws, rng=rng),
        diagnostics.pre_trend(primary.placebo[rows, ::-1], W, units),
        diagnostics.missing_by_arm(~np.isfinite(primary.first_difference[rows]), W),
    ]


def _compared(panel: Panel, arm: int) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Return the products (N,) that one arm is compared on, and whether each of them is in it, of a crossover first.

    By what they were drawn for: a product that starts late is treated, and no product of another arm is control.
    """
    if panel.kind == "crossover":
        rows = panel.drawn_arm == arm
        return rows, (panel.sequence[rows] > 0).astype(float)
    rows = np.isin(panel.drawn_arm, (0, arm))
    return rows, (panel.drawn_arm[rows] == arm).astype(float)


def _two_arm_share(effects: pd.DataFrame, metric: str) -> Diagnostic:
    """Return whether enough products stand beside the other arm, of the quoted estimates that compare within leaves.

    It informs where none of them has an effect, or only such as are not quoted.
    """
    rows = effects[(effects["metric"] == metric) & (effects["scale"] == "relative") & (effects["arm"] != DOSE_LINE)]
    n_arms = rows["arm"].nunique()
    rows = rows[rows["estimator"].isin(LIKE_WITH_LIKE) & rows["effect"].notna() & rows["two_arm_share"].notna()]
    quoted = rows[rows["is_headline"].astype(bool)]
    if rows.empty:
        message = "Not computed: no effect rests on products that share a leaf."
        nothing = float("nan")
        return Diagnostic("two_arm_share", "informational", nothing, nothing, nothing, message)
    least = (rows if quoted.empty else quoted).sort_values("two_arm_share", kind="stable").iloc[0]
    found = diagnostics.two_arm_share(float(least["two_arm_share"]))
    if quoted.empty:
        message = f"{found.message} The headline does not rest on leaves; {least['estimator']} beside it does."
        return replace(found, status="informational", message=message)
    if n_arms > 1:
        return replace(found, message=f"Arm {least['arm']}, the least: {found.message}")
    return found


def _random_days(panel: Panel, primary: Trimmed) -> Iterator[Diagnostic]:
    yield diagnostics.carryover(primary.residual, panel.treated, panel.in_analysis, units=panel.unit_id)
    if panel.grain == "day":
        yield diagnostics.cell_balance(panel.treated, panel.date, in_analysis=panel.analysed(primary.residual))


def _drawn_in_time(experiment: Experiment, panel: Panel, drawn_as_of: str) -> Diagnostic:
    """Return whether the arms were fixed before the start; an assignment that was imported later cannot be.

    Of a triggered experiment, before its first trigger took effect.
    """
    name, nothing, start = "drawn_before_start", float("nan"), experiment.start.isoformat()
    if panel.kind == "triggered":
        start = str(np.min(panel.dates[~np.isnat(panel.dates)]))
    if drawn_as_of < start:
        message = f"The arms were fixed with sales through {drawn_as_of}, before the start on {start}."
        return Diagnostic(name, "passed", nothing, nothing, nothing, message)
    message = (
        f"The arms were fixed with sales through {drawn_as_of}, after the start on {start}: the effect "
        "means something only if the prices followed the same arms; see price_compliance."
    )
    return Diagnostic(name, "informational", nothing, nothing, nothing, message)


def _follows_design(deviations: object) -> Diagnostic:
    """Return whether an imported assignment is what the experiment's file declares."""
    found = [str(one) for one in deviations] if isinstance(deviations, list) else []
    message = (
        f"The imported arms depart from the design: {'; '.join(found)}." if found else "The arms follow the design."
    )
    status: diagnostics.Status = "failed" if found else "passed"
    return Diagnostic("follows_design", status, float(len(found)), 0.0, float("nan"), message)


def _guarded(plan: pd.DataFrame) -> Diagnostic:
    """Return how many treated prices the guard put back to the incumbent one: they carry no treatment.

    Those that it moved to another price are counted beside them: they carry another treatment than the file says.
    """
    treated = plan[(plan["arm"] != CONTROL) & plan["price"].notna()]
    back = treated["note"].eq(BACK_TO_INCUMBENT)
    moved = treated["note"].notna() & ~back
    share = float(back.mean()) if len(treated) else float("nan")
    message = (
        f"{int(back.sum())} of {len(treated)} treated prices, of {treated.loc[back, 'product_id'].nunique()} products, "
        f"are the incumbent price; the guard moved {int(moved.sum())} more to another price than the policy's."
    )
    status: diagnostics.Status = "failed" if back.any() else "passed"
    if not back.any() and (moved.any() or not len(treated)):
        status = "informational"
    return Diagnostic("guarded_prices", status, share, 0.0, float("nan"), message)


def _plan_kept(plan: pd.DataFrame, days: pd.DataFrame) -> Diagnostic:
    both = plan.merge(days[days["is_sold"]], on=["product_id", "date"], suffixes=("", "_charged"))
    return diagnostics.price_compliance(
        both["price"].to_numpy(dtype=float),
        both["price_charged"].to_numpy(dtype=float),
        arm=(both["arm"] != CONTROL).to_numpy(dtype=float),
        product_id=both["product_id"].to_numpy(),
        date=both["date"].to_numpy().astype("datetime64[D]"),
    )
