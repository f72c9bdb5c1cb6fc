-- One row per experiment, retired ones included.
-- Where each experiment stands: planned, running or concluded by the last date in sales, retired when its file is gone.
with experiments as (
    select * from source.experiments
),

assignments as (
    select
        experiment_id,
        count(distinct product_id) as n_products,
        count(distinct unit_id) as n_units,
        count(*) as n_cells,
        sum(case when in_analysis then 1 else 0 end) as n_in_analysis
    from experiment.assignments
    group by experiment_id
),

effects as (
    select distinct experiment_id from experiment.effects
)

select
    experiments.experiment_id,
    experiments.title,
    experiments.owner,
    experiments.design,
    experiments.status,
    cast($as_of as date) as as_of,
    experiments.start,
    experiments.end,
    cast(coalesce(assignments.n_products, 0) as bigint) as n_products,
    cast(coalesce(assignments.n_units, 0) as bigint) as n_units,
    cast(coalesce(assignments.n_cells, 0) as bigint) as n_cells,
    cast(coalesce(assignments.n_in_analysis, 0) as bigint) as n_in_analysis,
    effects.experiment_id is not null as has_effects
from experiments
left join assignments
    on experiments.experiment_id = assignments.experiment_id
left join effects
    on experiments.experiment_id = effects.experiment_id
