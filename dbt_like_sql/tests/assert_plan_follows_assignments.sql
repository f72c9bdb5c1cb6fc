-- A price without an assignment, or an assignment without a row in the plan, would make shelf and analysis disagree.
-- checks: experiment.price_plan
with planned as (
    select
        product_id,
        date,
        arm
    from experiment.price_plan
),

assigned as (
    select
        product_id,
        date,
        arm
    from experiment.assignments
)

select
    coalesce(planned.product_id, assigned.product_id) as product_id,
    coalesce(planned.date, assigned.date) as date,
    planned.arm as planned_arm,
    assigned.arm as assigned_arm
from planned
full outer join assigned
    on planned.product_id = assigned.product_id and planned.date = assigned.date
where planned.arm is null or assigned.arm is null or planned.arm <> assigned.arm
