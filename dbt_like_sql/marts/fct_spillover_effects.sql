-- One row per experiment, metric, scale and component.
-- Direct, spillover and total effects over all experiments.
with spillover_effects as (
    select * from experiment.spillover_effects
)

select
    experiment_id,
    metric,
    scale,
    component,
    estimator,
    estimand,
    effect,
    se,
    ci_lower,
    ci_upper,
    n_units,
    n_no_overlap,
    reason
from spillover_effects
