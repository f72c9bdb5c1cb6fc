-- Errors of functions of several effects come from the covariance, those of one effect from its row: the two must agree.
-- checks: experiment.effect_covariance
with variances as (
    select
        scale,
        estimator,
        arm,
        metric,
        covariance
    from experiment.effect_covariance
    where metric = other_metric
)

select
    variances.scale,
    variances.estimator,
    variances.arm,
    variances.metric,
    variances.covariance,
    effects.se
from variances
inner join experiment.effects
    on
        variances.scale = effects.scale
        and variances.estimator = effects.estimator
        and variances.arm = effects.arm
        and variances.metric = effects.metric
where
    abs(variances.covariance - effects.se * effects.se) > 1e-6 * effects.se * effects.se + 1e-15
    or (effects.se is not null and variances.covariance is null)
