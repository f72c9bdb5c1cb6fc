-- Filling the calendar must neither lose nor invent a sale.
-- checks: intermediate.int_product_days
with days as (
    select coalesce(sum(units), 0) as units
    from intermediate.int_product_days
),

sales as (
    select coalesce(sum(units), 0) as units
    from staging.stg_sales
)

select
    days.units as units_by_day,
    sales.units as units_sold
from days
cross join sales
where abs(days.units - sales.units) > 1e-6 * (1 + abs(sales.units))
