"""The certificate before launch: how much spillover would bias an experiment, and what avoiding it would cost."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypedDict, Unpack

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse

from pricelab_dagster.science import designs
from pricelab_dagster.science._certificate_advice import Recommendation as Recommendation
from pricelab_dagster.science._certificate_advice import recommend as recommend
from pricelab_dagster.science._certificate_advice import told_apart as told_apart
from pricelab_dagster.science._certificate_designs import same_stratum as same_stratum
from pricelab_dagster.science._certificate_designs import same_unit as same_unit
from pricelab_dagster.science._certificate_evidence import Clusters as Clusters
from pricelab_dagster.science._certificate_evidence import Evidence as Evidence
from pricelab_dagster.science._certificate_evidence import FloatArray, IntArray
from pricelab_dagster.science._certificate_evidence import evidence as evidence
from pricelab_dagster.science._certificate_evidence import form_clusters as form_clusters
from pricelab_dagster.science._certificate_frontier import MIN_UNITS, by_cluster
from pricelab_dagster.science._certificate_frontier import Choice as Choice
from pricelab_dagster.science._certificate_frontier import Route as Route
from pricelab_dagster.science._certificate_frontier import joined as joined
from pricelab_dagster.science._certificate_frontier import standard_error as standard_error
from pricelab_dagster.science._certificate_prediction import ESTIMAND as ESTIMAND
from pricelab_dagster.science._certificate_prediction import Prediction as Prediction
from pricelab_dagster.science._certificate_prediction import predict as predict
from pricelab_dagster.science._certificate_prediction import predicted

MDE = 2.8
"""Standard errors of the effect that a two-sided 5 % test finds with probability .8."""


class _Arms(TypedDict):
    share: float
    n_arms: int


def frontier(
    evidence: Evidence,
    first_difference: ArrayLike,
    *,
    caps: Sequence[int] = (1, 4, 8, 12, 24),
    planned: Route | None = None,
    planned_label: ArrayLike | None = None,
    mixed: bool = False,
    strata: ArrayLike | None = None,
    share: float = 0.5,
    n_arms: int = 1,
    multiplier: float = 0.95,
    confidence: float = 0.95,
    n_replicates: int = 500,
    rng: np.random.Generator,
) -> tuple[Choice, ...]:
    """Return predicted bias, standard error and minimum detectable effect by product and by clusters of each cap.

    The estimands are those of `predict` and `standard_error`. Products are drawn in `strata`, clusters in pairs of like
    size from different categories, as in `designs.paired_strata`. All intervals come from the same weeks. The standard
    error is that of the unadjusted difference of the first differences passed in, root mean square over windows: it is
    for comparing the choices, and to compare with other figures these must be on their scale and over their window. Of
    a mixed assignment half of the clusters are broken up: rho is a half inside, and the square of the standard error
    the mean of those by product and by cluster.

    Parameters
    ----------
    evidence
        From `evidence`.
    first_difference
        D (N,) of a placebo window, or (K, N) of several, in parts of mean demand; nan takes no part in the standard
        error.
    caps
        Largest cluster of each choice.
    planned, planned_label
        How the clusters of the plan are formed, a row beside the caps or in the place of one; and those clusters, (N,),
        for their standard error. None: as formed here.
    mixed
        Whether the mixed assignment of the planned clusters, the last row, is asked too.
    strata
        (N,) labels in which products are drawn; None: one stratum, whose correlation is taken as 0.
    share, n_arms
        As for `standard_error`.
    multiplier, confidence, n_replicates
        As for `predict`.
    rng
        Breaks ties of clusters and draws weeks.

    Raises
    ------
    ValueError
        As `predict`, `form_clusters` and `standard_error`.

    References
    ----------
    Eckles, Karrer and Ugander, "Design and analysis of experiments in networks", J. Causal Inference 5 (2017): bias
    against variance of cluster assignment.
    """
    N, weeks_seed = len(evidence.product_id), int(rng.integers(2**63))
    D, arms = np.atleast_2d(np.asarray(first_difference, dtype=float)), _Arms(share=share, n_arms=n_arms)
    drawn_in = None if strata is None else joined(strata, share=share, n_arms=n_arms)
    independent = sparse.csr_array((N, N)) if drawn_in is None else same_stratum(drawn_in)
    options: Any = {"multiplier": multiplier, "confidence": confidence, "n_replicates": n_replicates}
    errors = np.array([standard_error(one, strata=strata, **arms) for one in D])

    def row(design: Clusters | sparse.csr_array, route: Route | None, n_units: int, by_window: FloatArray) -> Choice:
        found = predicted(evidence, design, **options, rng=np.random.default_rng(weeks_seed))
        return _choice(*found, route=route, n_units=n_units, errors=by_window, base=errors)

    choices = [row(independent, None, N, errors)]
    routes = list(dict.fromkeys([*map(Route, caps), *([] if planned is None else [planned])]))
    for route in routes:
        formed = form_clusters(evidence, **_options(route), rng=rng)
        if route == planned and planned_label is not None:
            formed = replace(formed, label=np.unique(np.asarray(planned_label), return_inverse=True)[1])
        n_units = int(formed.label.max()) + 1
        by_window = _errors(evidence, D, formed.label, **arms)
        choices.append(row(formed, route, n_units, by_window))
        if mixed and route == planned:
            halves = np.sqrt((errors**2 + by_window**2) / 2)
            both = row(replace(formed, whole=0.5), route, (n_units + N) // 2, halves)
            last = replace(both, assignment="mixed")
    return (*choices, last) if mixed and planned is not None else tuple(choices)


def _choice(
    found: Prediction,
    drawn: FloatArray,
    *,
    route: Route | None,
    n_units: int,
    errors: FloatArray,
    base: FloatArray,
) -> Choice:
    """Return a row of the frontier; standard errors by window, of the choice and of products."""
    se, by_product = (float(np.sqrt((one**2).mean())) for one in (errors, base))
    few = None
    if np.isnan(se):
        few = f"not identified: {n_units} units, of which too few for a draw have sales; {MIN_UNITS} are needed."
    return Choice(
        assignment="product" if route is None else "cluster",
        max_size=None if route is None else route.max_size,
        n_units=n_units,
        bias=found.bias,
        bias_se=found.se,
        ci_lower=found.ci_lower,
        ci_upper=found.ci_upper,
        kept_share=found.kept_share,
        identified_share=found.identified_share,
        se=se,
        se_cost=se / by_product - 1 if by_product > 0 else np.nan,
        mde=MDE * se,
        rmse=float(np.hypot(found.bias, se)),
        reason=few or found.reason,
        route="" if route is None else route.name,
        se_by_window=tuple(errors.tolist()),
        bias_drawn=drawn,
    )


def _options(route: Route) -> dict[str, Any]:
    return {"max_size": route.max_size, "method": route.method, "either_sign": route.either_sign}


def _errors(evidence: Evidence, D: FloatArray, label: IntArray, **arms: Unpack[_Arms]) -> FloatArray:
    """Return the standard error by cluster in each window (K,), nan with fewer units than a draw needs."""
    category, size = by_cluster(label, evidence.category, evidence.mean_units)
    rank = np.empty(len(size))
    rank[np.lexsort((size, np.bincount(label)))] = np.arange(len(size))
    strata = designs.paired_strata(rank, category=category)[label]
    return np.array(
        [
            standard_error(one, units=label, strata=strata, **arms)
            if len(np.unique(label[np.isfinite(one)])) >= MIN_UNITS
            else np.nan
            for one in D
        ]
    )
