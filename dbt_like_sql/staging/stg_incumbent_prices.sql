-- One row per product and day from which a price of the running policy holds.
-- Empty without a `prices.incumbent` source: then the last shelf price before the start stands in.
with prices as (
    select * from source.incumbent_prices
)

select
    product_id,
    cast(date as date) as date,
    cast(avg(price) as double) as price
from prices
where product_id is not null and date is not null and price >= 0 and price < cast('infinity' as double)
group by product_id, cast(date as date)
