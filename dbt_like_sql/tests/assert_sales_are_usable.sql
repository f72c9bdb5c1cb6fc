-- Effects are built on units, prices and dates; a row without a product, or with units that are not positive and finite, counts nothing.
-- checks: staging.stg_sales
select
    product_id,
    date,
    units,
    price
from staging.stg_sales
where
    product_id is null
    or date is null
    or not (units > 0 and units < cast('infinity' as double))
    or not (price >= 0 and price < cast('infinity' as double))
    or not (revenue >= 0 and revenue < cast('infinity' as double))
