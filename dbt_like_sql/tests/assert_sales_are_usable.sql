-- Effects are built on units, prices and dates; a row without a product, or with units that are not positive, counts nothing.
-- checks: staging.stg_sales
select
    product_id,
    date,
    units,
    price
from staging.stg_sales
where product_id is null or date is null or not (units > 0) or not (price >= 0) or not (revenue >= 0)
