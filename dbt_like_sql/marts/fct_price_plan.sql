-- One row per experiment, product and period.
-- The prices of all experiments: what a pricing system ingests.
with price_plan as (
    select * from experiment.price_plan
)

select
    experiment_id,
    product_id,
    date,
    incumbent_price,
    price,
    multiplier,
    arm,
    note
from price_plan
