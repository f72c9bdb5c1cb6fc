"""How probable each joint state of two products is: out of the experiment, treated or control."""

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pricelab_dagster.science import _exposure_designs as mechanisms
from pricelab_dagster.science._draws import Assignment, check_share, text
from pricelab_dagster.science._exposure_bits import check_draws, common, pack

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

OUT, TREATMENT, CONTROL = 0, 1, 2
STATES = ("out", "treatment", "control")

# Sums of a few thousand terms of order one: what is below this is zero.
ROUNDING = 1e-12


@dataclass(frozen=True, slots=True)
class PairProbabilities:
    """The joint state of the two products of each of M edges.

    Attributes
    ----------
    first, second
        (M,) positions of the products.
    probability
        (M, 3, 3): [e, a, b] is P(`first` in state a, `second` in state b); states are out, treatment, control.
    se
        (M, 3, 3), of a Monte Carlo frequency; 0 for a closed form.
    n_draws
        Draws behind the frequencies; 0 for a closed form.
    """

    first: IntArray
    second: IntArray
    probability: FloatArray
    se: FloatArray
    n_draws: int


def closed_form(
    edges: ArrayLike, assignment: Assignment, *, strata: ArrayLike | None = None, period: int | None = None
) -> PairProbabilities:
    """Return the exact joint state probabilities of edges under the recorded mechanism, given who was drawn from.

    Systematic sampling (time_bound, triggered, crossover): the mean, over the places of the two units in the list, of
    how far their arcs of random starts overlap. random_days: products of p, or exact opposites for balanced partners.
    Products of one unit are always in the same state. Treatment is any arm; for one arm of several use `monte_carlo`.

    Parameters
    ----------
    edges
        (M, 2) positions in `assignment.product_id`; -1 for a product outside the experiment, which is out.
    assignment
        From `designs`.
    strata
        (N,) labels that it was drawn by; None where the mechanism has none.
    period
        Position of the date; None is the first one. For a triggered design None is the drawn arm of the products that
        have a window, and a product is out at a period outside its window.

    Raises
    ------
    ValueError
        If edges, strata or period do not go with the assignment, or its mechanism is not one of `designs`.

    References
    ----------
    Madow and Madow (1944), On the theory of systematic sampling, I. Annals of Mathematical Statistics 15.

    Examples
    --------
    >>> import numpy as np
    >>> from pricelab_dagster.science import designs
    >>> draw = designs.time_bound(list("abcd"), "2017-06-05", duration=7, rng=np.random.default_rng(1))
    >>> closed_form([[0, 1]], draw).probability[0].round(3).tolist()
    [[0.0, 0.0, 0.0], [0.0, 0.167, 0.333], [0.0, 0.333, 0.167]]
    """
    of = mechanisms.drawing(assignment, strata, period)
    first, second = _ends(edges, len(of.unit), lowest=-1)
    joint = mechanisms.both_taken(of, of.unit[first], of.unit[second])
    share = 1.0 - of.share if of.swapped else of.share
    if of.swapped:
        joint = 1.0 - 2.0 * of.share + joint
    inside = [(end >= 0) & of.present[end] for end in (first, second)]
    alone = [side.astype(float) for side in inside]
    return _exact(first, second, share, joint, alone[0], alone[1], alone[0] * alone[1])


def of_scope(
    edges: ArrayLike,
    assignment: Assignment,
    sample_units: ArrayLike,
    *,
    sample_share: float,
    units: ArrayLike | None = None,
) -> PairProbabilities:
    """Return the exact joint state probabilities of edges of a scope from which a sample was drawn before the arms.

    round(`sample_share` x number) of the sampled units, at least one, are in, all subsets alike; the arms are drawn
    among those in. Exact for independent coins, and for a draw without strata whose units are the sampled ones, as then
    every sample has the same number of them. Strata that are made anew for each sample have no closed form: give draws
    of sample and arms together to `monte_carlo`.

    Parameters
    ----------
    edges
        (M, 2) positions in the scope.
    assignment
        The arms that were drawn for the sample; its mechanism counts, at its first period.
    sample_units
        (N,) labels of what the sample draws, for all products of the scope.
    sample_share
        Part of the units that is drawn, in (0, 1].
    units
        (N,) labels of what the arms are drawn for; None for one unit per product.

    Raises
    ------
    ValueError
        If there is no closed form, or shapes and shares break these rules.

    References
    ----------
    Cochran, Sampling Techniques (1977), section 2.9: pairs of a simple random sample.
    """
    in_sample = np.unique(text("sample_units", sample_units), return_inverse=True)[1]
    n = len(in_sample)
    unit = np.arange(n) if units is None else np.unique(text("units", units, n), return_inverse=True)[1]
    if sample_share != 1.0:
        check_share(sample_share)
    U = int(in_sample.max()) + 1
    size = max(1, round(sample_share * U))
    name, options = mechanisms.recorded(assignment.mechanism)
    share = float(options["share"])
    alike = len(np.unique(np.c_[in_sample, unit], axis=0)) == U == int(unit.max()) + 1
    if options.get("balance") == "none":
        joint = share**2
    elif name in mechanisms.KINDS and options["strata"] is None and alike:
        joint = mechanisms.in_one_stratum(size, share)
    else:
        rule = "of coins, or without strata and with units == sample_units. Give draws to monte_carlo"
        raise ValueError(f"mechanism == {assignment.mechanism!r}, must be {rule}.")
    first, second = _ends(edges, n)
    together = np.where(in_sample[first] == in_sample[second], size / U, size * (size - 1) / (U * max(U - 1, 1)))
    treated = np.where(unit[first] == unit[second], share, joint)
    inside = np.full(len(first), size / U)
    return _exact(first, second, share, treated, inside, inside, together)


def monte_carlo(edges: ArrayLike, draws: ArrayLike) -> PairProbabilities:
    """Return the frequencies of joint states of edges over draws, with their standard errors.

    Parameters
    ----------
    edges
        (M, 2) positions of products.
    draws
        (R, N) independent draws: 1 treated, 0 control, -1 or nan out.

    Raises
    ------
    ValueError
        If draws or edges break these rules.

    Examples
    --------
    >>> monte_carlo([[0, 1]], [[1, 0], [0, 1], [1, 1], [-1, 0]]).probability[0].tolist()
    [[0.0, 0.0, 0.25], [0.0, 0.25, 0.25], [0.0, 0.25, 0.0]]
    """
    state = check_draws(draws)
    first, second = _ends(edges, state.shape[1])
    packed = {TREATMENT: pack(state == 1), CONTROL: pack(state == 0)}
    count = np.zeros((len(first), 3, 3))
    count[:, OUT, OUT] = len(state)
    for s, bits in packed.items():
        total = np.bitwise_count(bits).sum(axis=1, dtype=np.int64)
        count[:, s, OUT] += total[first]
        count[:, OUT, s] += total[second]
        count[:, OUT, OUT] -= total[first] + total[second]
    for a, b in product(packed, packed):
        both = common(packed[a], packed[b], first, second)
        for rows, columns, sign in ((a, b, 1), (a, OUT, -1), (OUT, b, -1), (OUT, OUT, 1)):
            count[:, rows, columns] += sign * both
    p = count / len(state)
    return PairProbabilities(first, second, p, np.sqrt(p * (1.0 - p) / len(state)), len(state))


def draws(
    assignment: Assignment,
    *,
    strata: ArrayLike | None = None,
    period: int | None = None,
    n_draws: int,
    rng: np.random.Generator,
) -> NDArray[np.int8]:
    """Return new draws of the states at one period (n_draws, N): 1 treated by any arm, 0 control, -1 out.

    Parameters
    ----------
    assignment, strata, period
        As in `closed_form`.
    n_draws
        R.
    rng
        Source of the draws.

    Raises
    ------
    ValueError
        As `closed_form`.
    """
    of = mechanisms.drawing(assignment, strata, period)
    found = np.empty((n_draws, len(of.stratum)), dtype=np.int8)
    for row in found:
        row[:] = mechanisms.taken(of, rng) != of.swapped
    spread = found[:, of.unit]
    spread[:, ~of.present] = -1
    return spread


def _ends(edges: ArrayLike, n: int, *, lowest: int = 0) -> tuple[IntArray, IntArray]:
    ends = np.asarray(edges)
    if ends.size == 0:
        ends = np.empty((0, 2), dtype=np.int64)
    if ends.ndim != 2 or ends.shape[1] != 2 or ends.dtype.kind not in "iu":
        raise ValueError(f"edges.shape == {ends.shape}, must be (M, 2) whole numbers. Give positions of products.")
    wrong = (ends < lowest) | (ends >= n)
    if wrong.any():
        raise ValueError(f"edges has the position {ends[wrong][0]}, must be in [{lowest}, {n}). Give those drawn from.")
    return ends[:, 0].astype(np.int64), ends[:, 1].astype(np.int64)


def _exact(
    first: IntArray,
    second: IntArray,
    share: float,
    both_treated: FloatArray,
    first_in: FloatArray,
    second_in: FloatArray,
    both_in: FloatArray,
) -> PairProbabilities:
    """Return the tables from P(both treated | both in) and the probabilities to be in."""
    p = np.zeros((len(first), 3, 3))
    p[:, TREATMENT, TREATMENT] = both_in * both_treated
    p[:, TREATMENT, CONTROL] = p[:, CONTROL, TREATMENT] = both_in * (share - both_treated)
    p[:, CONTROL, CONTROL] = both_in * (1.0 - 2.0 * share + both_treated)
    for s, marginal in ((TREATMENT, share), (CONTROL, 1.0 - share)):
        p[:, s, OUT] = (first_in - both_in) * marginal
        p[:, OUT, s] = (second_in - both_in) * marginal
    p[:, OUT, OUT] = 1.0 - first_in - second_in + both_in
    p[p < ROUNDING] = 0.0
    return PairProbabilities(first, second, p, np.zeros_like(p), 0)
