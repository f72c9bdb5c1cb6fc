-- Every customer sees one price: a product has exactly one arm in a period.
-- checks: experiment.assignments
select
    product_id,
    date,
    count(*) as n_arms
from experiment.assignments
group by product_id, date
having count(*) > 1
