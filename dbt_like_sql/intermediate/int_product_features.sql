-- One row per product, described by what was known before the experiment's start.
-- Scopes, strata and affinity stand on these columns, so nothing from the start on may enter them.
with history as (
    select
        product_id,
        date,
        units,
        revenue,
        price,
        is_sold,
        min(case when is_sold then date end) over (partition by product_id) as first_sold,
        max(case when is_sold then date end) over (partition by product_id) as last_sold,
        max(date) over (partition by product_id) as last_date
    from intermediate.int_product_days
    where date < cast($start as date) and date >= cast($history_start as date)
),

summed as (
    select
        product_id,
        first_sold,
        last_sold,
        sum(units) as units,
        sum(revenue) as revenue,
        sum(case when date >= first_sold then 1 else 0 end) as history_periods,
        sum(case when is_sold then 1 else 0 end) as active_days,
        min(case when is_sold then price end) as min_price,
        max(case when is_sold then price end) as max_price,
        max(case when date = last_date then price end) as last_price
    from history
    where first_sold is not null
    group by product_id, first_sold, last_sold
)

select
    cast($experiment_id as varchar) as experiment_id,
    products.*,
    cast(summed.units / (summed.history_periods * $days_per_period) as double) as units_per_day,
    cast(summed.revenue / (summed.history_periods * $days_per_period) as double) as revenue_per_day,
    cast(summed.revenue / summed.units as double) as base_price,
    cast(summed.last_price as double) as last_price,
    cast(summed.min_price as double) as min_price,
    cast(summed.max_price as double) as max_price,
    cast(summed.active_days as bigint) as active_days,
    cast(summed.history_periods as bigint) as history_periods,
    summed.first_sold,
    summed.last_sold
from summed
inner join staging.stg_products as products
    on summed.product_id = products.product_id
