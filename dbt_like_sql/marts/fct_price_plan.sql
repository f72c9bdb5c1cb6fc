-- One row per product and period, over all experiments that are not retired.
-- The prices of all experiments: what a pricing system ingests. A product has one price in a period.
with price_plan as (
    select * from experiment.price_plan
),

in_force as (
    select experiment_id
    from source.experiments
    where status <> 'retired'
)

select
    price_plan.experiment_id,
    price_plan.product_id,
    price_plan.date,
    price_plan.incumbent_price,
    price_plan.price,
    price_plan.multiplier,
    price_plan.arm,
    price_plan.note
from price_plan
inner join in_force
    on price_plan.experiment_id = in_force.experiment_id
