-- One row per experiment, metric, scale, estimator and arm.
-- All effects side by side, over every experiment that succeeded.
with effects as (
    select * from experiment.effects
)

select
    experiment_id,
    metric,
    scale,
    estimator,
    arm,
    estimand,
    effect,
    se,
    ci_lower,
    ci_upper,
    p_value,
    n_treated,
    n_control,
    n_trimmed,
    two_arm_share,
    n_replicates,
    seed,
    is_headline,
    reason
from effects
