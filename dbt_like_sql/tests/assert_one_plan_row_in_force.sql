-- The pricing system reads one table: over all experiments it names one price per product and period.
-- checks: marts.fct_price_plan
select
    product_id,
    date,
    count(*) as n_prices
from marts.fct_price_plan
group by product_id, date
having count(*) > 1
