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
    or (effect is not null and ci_lower is not null and not (ci_lower <= effect and effect <= ci_upper))
