"""How far windows and draws pin down a share that both move."""

import numpy as np
from numpy.typing import NDArray
from scipy import stats

FloatArray = NDArray[np.float64]

CONFIDENCE = 0.95


def by_window(hit: FloatArray) -> tuple[FloatArray, float, float]:
    """Return the share of each window (K,), and a 95 % interval for the share over windows and draws (K, R).

    Entries are 1, 0, or nan where undefined. The variance of the mean is that of window means plus that of draw means,
    with a t quantile of K - 1 degrees of freedom; never narrower than Wilson's interval for K R independent entries,
    which stands alone for one window.
    """
    defined = np.isfinite(hit)
    if not defined.any():
        return np.full(len(hit), np.nan), np.nan, np.nan
    windows, draws = (_means(hit, defined, axis) for axis in (1, 0))
    share, n = float(np.nanmean(hit)), int(defined.sum())
    tested = stats.binomtest(round(share * n), n).proportion_ci(CONFIDENCE, "wilson")
    lower, upper = float(tested.low), float(tested.high)
    known = windows[np.isfinite(windows)]
    seen = draws[np.isfinite(draws)]
    if len(known) > 1 and len(seen) > 1:
        half = stats.t(len(known) - 1).ppf(0.5 + CONFIDENCE / 2)
        half *= np.sqrt(known.var(ddof=1) / len(known) + seen.var(ddof=1) / len(seen))
        lower, upper = min(lower, share - half), max(upper, share + half)
    return windows, max(lower, 0.0), min(upper, 1.0)


def _means(hit: FloatArray, defined: NDArray[np.bool_], axis: int) -> FloatArray:
    count = defined.sum(axis=axis)
    total = np.where(defined, hit, 0.0).sum(axis=axis)
    return np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)
