"""How a recorded mechanism moves pairs of units: what it says of itself, and how often two are treated together."""

import ast
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pricelab_dagster.science._draws import Assignment, Frame, balanced_days, shuffled, systematic

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Kind = Literal["systematic", "coin", "balanced"]

KINDS: dict[str, Kind] = {"time_bound": "systematic", "triggered": "systematic", "crossover": "systematic"}


@dataclass(frozen=True, slots=True)
class Drawing:
    """What decides the states of N products at one period.

    Attributes
    ----------
    kind
        systematic: one sample of the units listed by stratum. coin: each unit on its own. balanced: a coin a pair.
    unit
        (N,) codes.
    stratum
        (G,) codes of the units' strata, in the order in which the mechanism lists them.
    share
        P(taken) of every unit.
    swapped
        Whether the units that were taken are the controls of the period.
    present
        (N,) whether the product is in the experiment at the period.
    one_stratum
        Whether the mechanism knew no strata.
    """

    kind: Kind
    unit: IntArray
    stratum: IntArray
    share: float
    swapped: bool
    present: NDArray[np.bool_]
    one_stratum: bool


def drawing(assignment: Assignment, strata: ArrayLike | None, period: int | None) -> Drawing:
    """Return the drawing that an assignment records; `period` None is the first, for a triggered design any."""
    name, options = recorded(assignment.mechanism)
    stratified = options.get("strata") is not None
    if stratified and strata is None:
        raise ValueError("strata == None, must be (N,) for a draw in strata. Give the labels that it was drawn by.")
    if not stratified and strata is not None:
        raise ValueError("strata are given, must be None for a draw without strata. Leave them out.")
    n_periods = assignment.arm.shape[1]
    if period is not None and not 0 <= period < n_periods:
        raise ValueError(f"period == {period}, must be in [0, {n_periods}). Give the position of a date.")
    frame = Frame.of(assignment.product_id, assignment.unit_id, strata)
    at = period or 0
    in_force = assignment.in_force if period is None else assignment.in_force[:, at : at + 1]
    return Drawing(
        kind=KINDS.get(name) or ("coin" if options["balance"] == "none" else "balanced"),
        unit=frame.unit,
        stratum=frame.stratum,
        share=options["share"],
        swapped=name == "crossover" and at // options["phase"] % 2 == 1,
        present=np.any(in_force, axis=1),
        one_stratum=not stratified,
    )


def both_taken(of: Drawing, g: IntArray, h: IntArray) -> FloatArray:
    """Return P(units g and h are both taken) (M,)."""
    if of.kind == "systematic":
        joint = _systematic(of.stratum, of.share, g, h)
    elif of.kind == "coin":
        joint = np.full(len(g), of.share**2)
    else:
        joint = np.where(_partner(of.stratum)[g] == h, 0.0, 0.25)
    return np.where(g == h, of.share, joint)


def in_one_stratum(n_units: int, share: float) -> float:
    """Return P(two units are both taken) by a systematic sample of `n_units` in random order."""
    zero, one = np.array([0]), np.array([1])
    return float(_systematic(np.zeros(n_units, dtype=np.int64), share, zero, one)[0]) if n_units > 1 else 0.0


def taken(of: Drawing, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return which units are taken (G,) in a new draw."""
    if of.kind == "coin":
        return rng.random(len(of.stratum)) < of.share
    if of.kind == "balanced":
        return balanced_days(of.stratum, 1, rng)[:, 0]
    found = np.empty(len(of.stratum), dtype=bool)
    found[shuffled(of.stratum, rng)] = systematic(len(of.stratum), of.share, rng)
    return found


def recorded(mechanism: str) -> tuple[str, dict[str, Any]]:
    """Return the design and the keywords of a recorded call; names stand for themselves."""
    try:
        call = ast.parse(mechanism, mode="eval").body
    except SyntaxError:
        call = ast.Constant(None)
    name = call.func.id if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) else ""
    if not isinstance(call, ast.Call) or name not in (*KINDS, "random_days"):
        rule = "the call of a design. Give draws to monte_carlo"
        raise ValueError(f"mechanism == {mechanism!r}, must be {rule}.")
    return name, {
        str(word.arg): word.value.id if isinstance(word.value, ast.Name) else ast.literal_eval(word.value)
        for word in call.keywords
    }


def _systematic(stratum: IntArray, share: float, g: IntArray, h: IntArray) -> FloatArray:
    """Return P(both taken) (M,): the mean of f(k - l) over the places k and l that the two units may have.

    Place k is taken when the random start is in an arc of length `share` that begins at -(k + 1) share on a circle of
    length 1, so f is the overlap of two arcs. Double sums of f over two ranges are second differences of H, where H has
    f for its own second difference; the mean share^2 of f and the slope of H are taken out, as they only cost digits.
    """
    G = len(stratum)
    apart = np.mod(np.arange(-G, G + 2) * share, 1.0)
    f = np.maximum(share - apart, 0.0) + np.maximum(share - (1.0 - apart), 0.0) - share**2
    first = np.r_[0.0, np.cumsum(f)]
    H = np.r_[0.0, np.cumsum(first - first.mean())]
    n = np.bincount(stratum)
    low = (np.cumsum(n) - n)[stratum]
    size = n[stratum]
    top, bottom = low[g] - low[h] + G + 1, low[g] - low[h] + G + 1 - size[h]
    total = H[top + size[g]] - H[top] - H[bottom + size[g]] + H[bottom]
    same = stratum[g] == stratum[h]
    pairs = np.where(same, size[g] * np.maximum(size[g] - 1, 1), size[g] * size[h])
    alike = np.where(same, size[g] * (share - share**2), 0.0)
    return (total - alike) / pairs + share**2


def _partner(stratum: IntArray) -> IntArray:
    """Return the unit (G,) that takes the complement of each, -1 for one that is alone."""
    order = np.argsort(stratum, kind="stable")
    n = np.bincount(stratum)
    rank = np.arange(len(order)) - np.repeat(np.cumsum(n) - n, n)
    left_over = (rank == np.repeat(n, n) - 1) & (rank % 2 == 0)
    order = np.r_[order[~left_over], order[left_over]]
    paired = order[: len(order) // 2 * 2].reshape(-1, 2)
    partner = np.full(len(order), -1)
    partner[paired] = paired[:, ::-1]
    return partner
