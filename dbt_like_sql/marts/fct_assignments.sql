-- One row per experiment, product and period.
-- Which arm every product was in, over all experiments.
with assignments as (
    select * from experiment.assignments
)

select
    experiment_id,
    product_id,
    date,
    arm,
    in_analysis,
    probability,
    unit_id
from assignments
