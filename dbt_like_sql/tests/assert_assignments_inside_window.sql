-- Before the start and after the end the incumbent price holds, so no cell may be assigned there.
-- checks: experiment.assignments
select
    product_id,
    date
from experiment.assignments
where date < cast($start as date) or date > cast($end as date)
