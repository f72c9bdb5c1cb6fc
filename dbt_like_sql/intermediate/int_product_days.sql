-- One row per product and period of the whole calendar, zero-filled.
-- Experiments compare periods, so a period without sales has to be a row; its price is the last one observed.
with sales as (
    select * from staging.stg_sales
),

span as (
    select
        min(date) as first_date,
        max(date) as last_date
    from sales
),

calendar as (
    select cast(unnest(range(
        cast(first_date as timestamp),
        cast(last_date as timestamp) + interval 1 day,
        case when $grain = 'week' then interval 7 day else interval 1 day end
    )) as date) as date
    from span
),

products as (
    select distinct product_id from sales
),

filled as (
    select
        products.product_id,
        calendar.date,
        coalesce(sales.units, 0) as units,
        coalesce(sales.revenue, 0) as revenue,
        last_value(sales.price ignore nulls) over past as last_price,
        first_value(sales.price ignore nulls) over future as next_price,
        last_value(sales.cost ignore nulls) over past as last_cost,
        first_value(sales.cost ignore nulls) over future as next_cost,
        sales.product_id is not null as is_sold
    from products
    cross join calendar
    left join sales
        on products.product_id = sales.product_id and calendar.date = sales.date
    window
        past as (
            partition by products.product_id order by calendar.date
            rows between unbounded preceding and current row
        ),
        future as (
            partition by products.product_id order by calendar.date
            rows between current row and unbounded following
        )
),

priced as (
    select
        product_id,
        date,
        units,
        revenue,
        coalesce(last_price, next_price) as price,
        coalesce(last_cost, next_cost) as cost,
        is_sold
    from filled
)

select
    product_id,
    date,
    cast(units as double) as units,
    cast(revenue as double) as revenue,
    cast(price as double) as price,
    cast(cost as double) as cost,
    cast(revenue - units * cost as double) as profit,
    is_sold
from priced
