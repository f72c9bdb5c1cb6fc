"""Windows before the start, without any treatment: how often the mechanism, drawn again, finds an effect there."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from pricelab_dagster.science import bootstrap, detrend, hpte
from pricelab_dagster.science._panel import matrix
from pricelab_dagster.science._replay import Fixed, FloatArray
from pricelab_dagster.science._windows import by_window
from pricelab_dagster.science.replay import Instant, instant

StandardError = Literal["instant", "calibrated", "bootstrap"]

CALIBRATED_REPLAYS = 4


@dataclass(frozen=True, slots=True)
class Rejections:
    """How often estimates on untreated windows are called effects.

    Attributes
    ----------
    by_window
        (K,) share of the draws whose |estimate / se| exceeds the nominal quantile; nan for a window without estimates.
    share, ci_lower, ci_upper
        Mean over windows and draws, with a 95 % interval for what windows and draws leave open.
    n_replays, n_undefined
        Draws per window, and estimates that are undefined and left out, over all windows.
    se_ratio
        Bootstrap over instant standard error, by which `calibrated` multiplies; 1 for `instant`, nan for `bootstrap`.
    """

    by_window: FloatArray
    share: float
    ci_lower: float
    ci_upper: float
    n_replays: int
    n_undefined: int
    se_ratio: float


def residuals(
    history: ArrayLike,
    horizon: int,
    *,
    n_windows: int = 6,
    groups: ArrayLike | None = None,
    season: int = 7,
    method: detrend.Method = "pooled_ridge",
    window: int = 28,
    prices: ArrayLike | None = None,
) -> FloatArray:
    """Return observed minus predicted values (K, N, horizon) of windows before the experiment, latest first.

    Estimand: zero. Their means are the placebo differences of `detrend.placebo`, with the same rules: windows do not
    overlap, each is predicted from the periods before it alone, and needs four weeks of them, of each product too (nan
    where it has less). K is `n_windows`, or how many the history has room for. `auto` is the method of the experiment,
    chosen on the whole history.

    Parameters and errors as in `detrend.placebo`.

    Examples
    --------
    >>> import numpy as np
    >>> residuals(np.ones((2, 60)), 14, n_windows=3).shape
    (2, 2, 14)
    """
    Y = matrix("history", history)
    P = None if prices is None else np.asarray(prices, dtype=float)
    if method == "auto":
        method = detrend.choose(history, horizon, groups=groups, season=season, window=window, prices=prices).method
    found: list[FloatArray] = []
    origin = Y.shape[1] - horizon
    while len(found) < n_windows and origin >= detrend.MIN_PLACEBO_WEEKS * season:
        past, end = Y[:, :origin], origin + horizon
        known = {} if P is None else {"prices": P[:, :origin], "planned": P[:, origin:end]}
        width = min(window, origin)
        predicted = detrend.forecast(past, horizon, groups=groups, season=season, method=method, window=width, **known)
        enough = (~np.isnan(past)).sum(axis=1) >= detrend.MIN_PLACEBO_WEEKS * season
        found.append(np.where(enough[:, None], Y[:, origin:end] - predicted, np.nan))
        origin -= horizon
    return np.array(found).reshape(-1, len(Y), horizon)


def aa_rejections(
    windows: Sequence[Fixed],
    arms: ArrayLike,
    *,
    nominal: float = 0.05,
    se: StandardError = "instant",
    n_replicates: int = 200,
    rng: np.random.Generator,
) -> Rejections:
    """Return how often the mechanism, drawn again over windows without any treatment, finds an effect.

    The estimand is the size of the test |estimate / se| > z that the interval of an effect makes, of absolute effects;
    with less than 30 units in an arm against t, and undefined with less than 3, as that interval is. It is `nominal`
    where standard errors tell how far draws of the arms spread; below it where strata or pairs make the draws closer
    than independent ones. Holds for sales as those of the windows; a break that the experiment alone met is not in
    them.

    Parameters
    ----------
    windows
        K of them, each with its own value and leaves; `outcome` plays no part.
    arms
        Draws as for `instant`, the same for all windows.
    nominal
        Size of the test.
    se
        instant; bootstrap, that of `hpte.estimate` with `n_replicates`, for each draw and window; calibrated: the
        instant one times the mean ratio of the two over the first draws of each window.
    n_replicates
        B of the bootstrap.
    rng
        Source of the bootstrap weights.

    Raises
    ------
    ValueError
        As `instant`; or without windows, for a nominal size outside (0, 1) or an unknown se.

    References
    ----------
    Methods.md, HPTE, "Must reach"; the interval adds the variances of window means and of draw means, t with K - 1
    degrees of freedom: Cameron, Gelbach and Miller, "Robust inference with multiway clustering", JBES 29 (2011),
    without the subtraction, so on the safe side.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> windows = [Fixed(rng.normal(size=80), np.arange(80)) for _ in range(6)]
    >>> arms = rng.permuted(np.tile(np.arange(80) % 2, (400, 1)), axis=1).T
    >>> found = aa_rejections(windows, arms, rng=rng)
    >>> 0.03 < found.share < 0.08
    True
    """
    if not windows:
        raise ValueError("windows == [], must have at least one. Give a value for each window.")
    if not 0.0 < nominal < 1.0:
        raise ValueError(f"nominal == {nominal}, must be in (0, 1). 0.05 is usual.")
    if se not in get_args(StandardError):
        raise ValueError(f"se == {se!r}, must be one of {get_args(StandardError)}. 'instant' is quick.")
    ratio = 1.0
    if se == "bootstrap":
        t = np.stack([_bootstrapped(one, arms, n_replicates, rng).t for one in windows])
        ratio = np.nan
    else:
        found = [instant(replace(one, outcome=None), arms) for one in windows]
        if se == "calibrated":
            ratio = _ratio(windows, arms, found, n_replicates, rng)
        t = np.stack([one.t for one in found]) / ratio
    quantile = _quantile(windows[0], arms, nominal)
    defined = ~np.isnan(t) & np.isfinite(quantile)
    hit = np.where(defined, np.abs(t) > quantile, np.nan)
    mean, lower, upper = by_window(hit)
    return Rejections(
        by_window=mean,
        share=float(np.nanmean(hit)) if defined.any() else np.nan,
        ci_lower=float(lower),
        ci_upper=float(upper),
        n_replays=t.shape[1],
        n_undefined=int((~defined).sum()),
        se_ratio=float(ratio),
    )


def _draw(fixed: Fixed, arms: ArrayLike, r: int) -> FloatArray:
    """Return draw r of W, (N,) or (N, T), nan where not in the analysis."""
    W = np.asarray(arms)
    one = np.asarray(W[r] if fixed.cells else W[:, r], dtype=float)
    return np.where(one >= 0.0, one, np.nan)


def _bootstrapped(fixed: Fixed, arms: ArrayLike, n_replicates: int, rng: np.random.Generator) -> Instant:
    """Return the absolute estimates with the bootstrap's standard errors; one draw of weights serves all of them."""
    n_draws = np.shape(arms)[0 if fixed.cells else -1]
    weights = bootstrap.poisson_weights(fixed.unit_id, n_replicates=n_replicates, rng=rng)
    found = np.full((2, n_draws), np.nan)
    for r in range(n_draws):
        W = _draw(fixed, arms, r)
        options: dict[str, Any] = {"leaves": fixed.leaves}
        if fixed.probability is not None:
            options = {"method": "hajek", "probability": fixed.probability}
        one = hpte.estimate(
            fixed.value,
            W,
            units=fixed.unit_id,
            within=fixed.within,
            trim=fixed.trim,  # type: ignore[arg-type]  # an unknown rule is refused there
            trim_c=fixed.trim_c,
            factor=fixed.factor,
            weights=weights,
            rng=rng,
            **options,
        )
        found[:, r] = one.effect, one.se
    return Instant(found[0], found[1])


def _ratio(
    windows: Sequence[Fixed], arms: ArrayLike, found: list[Instant], n_replicates: int, rng: np.random.Generator
) -> float:
    """Return the mean ratio of bootstrap to instant standard errors over the first draws of each window."""
    W = np.asarray(arms)
    ratios = []
    for fixed, quick in zip(windows, found, strict=True):
        first = W[:CALIBRATED_REPLAYS] if fixed.cells else W[:, :CALIBRATED_REPLAYS]
        ratios.append(_bootstrapped(fixed, first, n_replicates, rng).se / quick.se[:CALIBRATED_REPLAYS])
    ratio = np.concatenate(ratios)
    ratio = ratio[np.isfinite(ratio)]
    return float(ratio.mean()) if ratio.size else np.nan


def _quantile(fixed: Fixed, arms: ArrayLike, nominal: float) -> float:
    """Return what |t| must exceed, as the interval of an effect has it for the units of the first draw, or nan."""
    W = _draw(fixed, arms, 0)
    sides = [W == 1.0, W == 0.0]
    n_units = [len(np.unique(fixed.unit_id[side.any(axis=1) if fixed.cells else side])) for side in sides]
    total = len(np.unique(fixed.unit_id[np.isfinite(W).any(axis=1) if fixed.cells else np.isfinite(W)]))
    if min(n_units) < bootstrap.MIN_UNITS_PER_ARM:
        return np.nan
    df = bootstrap.freedom(n_units_smaller_arm=min(n_units), n_units=total)
    return float((stats.t(df) if np.isfinite(df) else stats.norm()).ppf(1.0 - nominal / 2.0))
