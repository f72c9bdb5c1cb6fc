-- The store shows every customer the same price: the plan has exactly one price per product and period.
-- checks: experiment.price_plan
select
    product_id,
    date,
    count(*) as n_prices
from experiment.price_plan
group by product_id, date
having count(*) > 1
