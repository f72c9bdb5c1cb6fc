-- Two experiments that price a product in the same period would show customers two policies at once.
-- checks: experiment.price_plan
select
    plan.product_id,
    plan.date,
    others.experiment_id as also_priced_by
from experiment.price_plan as plan
inner join source.cells_in_force as others
    on plan.product_id = others.product_id and plan.date = others.date
