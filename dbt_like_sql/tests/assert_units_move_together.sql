-- Products of one unit (substitutes of one cluster) must never be in different arms in the same period.
-- checks: experiment.assignments
select
    unit_id,
    date,
    count(distinct arm) as n_arms
from experiment.assignments
group by unit_id, date
having count(distinct arm) > 1
