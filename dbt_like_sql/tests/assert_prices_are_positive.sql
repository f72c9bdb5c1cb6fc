-- A price of zero or less, or one that is no number, must never reach a shelf.
-- checks: experiment.price_plan
select
    product_id,
    date,
    price
from experiment.price_plan
where price is not null and not (price > 0 and price < cast('infinity' as double))
