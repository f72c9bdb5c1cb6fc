-- An effect outside its own interval, or a missing effect without a reason, must not reach a reader.
-- checks: experiment.effects
select
    metric,
    scale,
    estimator,
    arm,
    effect,
    ci_lower,
    ci_upper,
    reason
from experiment.effects
where
    (effect is null and reason is null)
    or effect < ci_lower
    or effect > ci_upper
