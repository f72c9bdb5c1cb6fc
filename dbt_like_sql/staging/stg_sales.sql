-- One row per product and period with sales.
-- Rows of one product and period are added up, so that transactions, days and weeks all read alike.
with sales as (
    select * from source.sales
),

usable as (
    select
        product_id,
        cast(date as date) as date,
        units,
        price,
        case when cost > cast('-infinity' as double) and cost < cast('infinity' as double) then cost end as cost
    from sales
    where
        product_id is not null
        and date is not null
        and units > 0
        and units < cast('infinity' as double)
        and price >= 0
        and price < cast('infinity' as double)
),

-- weekly labels on one weekday stay as they are; anything else is labelled by its Monday
weekdays as (
    select
        count(distinct datediff('day', date_trunc('week', date), date)) as n_weekdays,
        min(date) as first_date,
        max(date) as last_date
    from usable
),

labelled as (
    select
        usable.product_id,
        $grain = 'week' and weekdays.n_weekdays > 1 as is_summed,
        case
            when $grain = 'week' and weekdays.n_weekdays > 1 then cast(date_trunc('week', usable.date) as date)
            else usable.date
        end as date,
        usable.units,
        usable.price,
        usable.cost,
        weekdays.first_date,
        weekdays.last_date
    from usable
    cross join weekdays
),

-- half a week would pass for a whole one with few sales
periods as (
    select
        product_id,
        date,
        units,
        price,
        cost
    from labelled
    where not is_summed or (first_date <= date and last_date >= date + interval 6 day)
),

summed as (
    select
        product_id,
        date,
        sum(units) as units,
        sum(units * price) as revenue,
        sum(case when cost is not null then units end) as units_with_cost,
        sum(units * cost) as total_cost
    from periods
    group by product_id, date
)

select
    product_id,
    date,
    cast(units as double) as units,
    cast(revenue as double) as revenue,
    cast(revenue / units as double) as price,
    cast(total_cost / units_with_cost as double) as cost
from summed
