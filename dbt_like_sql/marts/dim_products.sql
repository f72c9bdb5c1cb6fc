-- One row per product.
-- What a product is and how much of it sells over the whole calendar.
with sales as (
    select
        product_id,
        min(date) as first_sold,
        max(date) as last_sold,
        sum(units) as units,
        sum(revenue) as revenue,
        count(*) as active_days
    from staging.stg_sales
    group by product_id
)

select
    products.*,
    sales.first_sold,
    sales.last_sold,
    cast(coalesce(sales.units, 0) as double) as units,
    cast(coalesce(sales.revenue, 0) as double) as revenue,
    cast(coalesce(sales.active_days, 0) as bigint) as active_days
from staging.stg_products as products
left join sales
    on products.product_id = sales.product_id
