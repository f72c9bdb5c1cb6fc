-- One row per scale, estimator, arm and unordered pair of metrics, a metric with itself included.
-- One bootstrap draw serves all metrics, so that what is computed from several effects has its error from here.
with draws as (
    select
        experiment_id,
        scale,
        estimator,
        arm,
        metric,
        replicate,
        effect
    from experiment.effect_draws
    where
        estimator in ('hpte', 'hajek', 'hpte_leaf', 'hpte_doubly_robust')
        and effect is not null
),

pairs as (
    select
        draws.experiment_id,
        draws.scale,
        draws.estimator,
        draws.arm,
        draws.metric,
        others.metric as other_metric,
        draws.effect,
        others.effect as other_effect
    from draws
    inner join draws as others
        on
            draws.experiment_id = others.experiment_id
            and draws.scale = others.scale
            and draws.estimator = others.estimator
            and draws.arm = others.arm
            and draws.replicate = others.replicate
            and draws.metric <= others.metric
),

moments as (
    select
        experiment_id,
        scale,
        estimator,
        arm,
        metric,
        other_metric,
        covar_samp(effect, other_effect) as covariance,
        sqrt(var_samp(effect) * var_samp(other_effect)) as scale_of_both,
        count(*) as n_replicates
    from pairs
    group by experiment_id, scale, estimator, arm, metric, other_metric
)

select
    experiment_id,
    scale,
    estimator,
    arm,
    metric,
    other_metric,
    cast(covariance as double) as covariance,
    cast(covariance / nullif(scale_of_both, 0) as double) as correlation,
    cast(n_replicates as bigint) as n_replicates
from moments
