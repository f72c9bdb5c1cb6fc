"""The peers of HPTE over the panel of one experiment: what they are adjusted for, and which design offers them."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from pricelab_dagster.science import detrend, hpte, peers
from pricelab_dagster.science._experiment import FloatArray, Panel, Trimmed

PEERS = ("ancova", "cuped", "causal_forest_dml")
RAW = "_raw"
"""Suffix of a peer on the mean sales after the start, without forecast and filter."""
RECENT_DAYS = 28


def is_peer(estimator: str) -> bool:
    """Return whether an estimator is one of these."""
    return estimator.removesuffix(RAW) in PEERS


def offered(panel: Panel, one: Trimmed, estimator: str, *, primary: str) -> bool:
    """Return whether a peer has a row: not on random days, which are balanced within products; the forest only once."""
    if panel.kind == "random_days":
        return False
    once = estimator.removesuffix(RAW) == "causal_forest_dml"
    return not once or (one.metric, one.scale) == (primary, "relative")


def effect(panel: Panel, one: Trimmed, estimator: str, X: pd.DataFrame | None, options: dict[str, Any]) -> hpte.Effect:
    """Return the effect of a peer on a metric and scale; `options` as for `peers.ancova`, with its filter.

    Without X the regressions are adjusted for sales before the start alone, and no forest is grown.
    """
    common = {**options, "factor": 0.5 if panel.kind == "crossover" else 1.0}
    if estimator.endswith(RAW):
        one = replace(one, first_difference=_after_start(panel, one))
        common["trim"] = "none"
    D, W, before = one.first_difference, panel.sequence, _before_start(panel, one)
    name = estimator.removesuffix(RAW)
    if name == "cuped":
        return peers.cuped(D, W, before["recent sales"], **common)
    common["estimand"] = "att" if panel.imported else "ate"
    covariates = before if X is None else pd.concat([before, X.reset_index(drop=True)], axis=1)
    if name == "ancova":
        return peers.ancova(D, W, covariates, **common)
    common.pop("weights")
    return peers.causal_forest_dml(D, W, None if X is None else covariates, **common)


def _after_start(panel: Panel, one: Trimmed) -> FloatArray:
    """Return the mean over the analysed periods (N,), of a crossover odd minus even phases."""
    analysed = panel.analysed(one.outcome)
    if panel.kind == "crossover":
        return detrend.phase_contrast(one.outcome, panel.phase, analysed)
    return detrend.first_difference(one.outcome, np.zeros_like(one.outcome), analysed)


def _before_start(panel: Panel, one: Trimmed) -> pd.DataFrame:
    """Return what sold before each product's own start: lately and ever, on this scale, and the log of its level."""
    n_periods = RECENT_DAYS if panel.grain == "day" else RECENT_DAYS // 7
    recent, ever = np.full((2, len(panel.product_id)), np.nan)
    for rows, eve in panel.cohorts():
        history = panel.history[one.metric][rows, :eve]
        ever[rows], recent[rows] = _mean(history), _mean(history[:, -n_periods:])
    size = np.log(ever, where=ever > 0, out=np.full_like(ever, np.nan))
    scaled = {"recent sales": recent / one.product_scale, "sales": ever / one.product_scale}
    return pd.DataFrame({**scaled, "log of level": size})


def _mean(values: FloatArray) -> FloatArray:
    """Return row means over the known values, nan without any."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0.0).sum(axis=1) / known.sum(axis=1)
