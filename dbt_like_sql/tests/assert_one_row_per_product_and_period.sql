-- A product that stands twice in one period would be counted twice in every effect.
-- checks: intermediate.int_product_days
select
    product_id,
    date,
    count(*) as n_rows
from intermediate.int_product_days
group by product_id, date
having count(*) > 1
