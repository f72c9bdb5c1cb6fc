-- One row per rule and source: how many rows it finds and how many of them stay.
-- Nothing is dropped in silence: what is left out of the sales is counted here under the first rule that it breaks.
with sales as (
    select * from source.sales
),

tested as (
    select
        cast(date as date) as date,
        case
            when product_id is null then 'product is missing'
            when date is null then 'date is missing'
            when units is null then 'units are missing'
            when not (units > cast('-infinity' as double) and units < cast('infinity' as double)) then 'units are not finite'
            when units <= 0 then 'units are zero or negative'
            when price is null then 'price is missing'
            when not (price > cast('-infinity' as double) and price < cast('infinity' as double)) then 'price is not finite'
            when price < 0 then 'price is negative'
            else 'usable'
        end as rule
    from sales
),

weekdays as (
    select
        count(distinct datediff('day', date_trunc('week', date), date)) as n_weekdays,
        min(date) as first_date,
        max(date) as last_date
    from tested
    where rule = 'usable'
),

judged as (
    select
        case
            when
                tested.rule = 'usable'
                and $grain = 'week'
                and weekdays.n_weekdays > 1
                and (
                    weekdays.first_date > date_trunc('week', tested.date)
                    or weekdays.last_date < date_trunc('week', tested.date) + interval 6 day
                )
                then 'week is not complete'
            else tested.rule
        end as rule
    from tested
    cross join weekdays
),

rules as (
    select unnest([
        'product is missing',
        'date is missing',
        'units are missing',
        'units are not finite',
        'units are zero or negative',
        'price is missing',
        'price is not finite',
        'price is negative',
        'week is not complete'
    ]) as rule
),

left_out as (
    select
        rules.rule,
        'sales' as source,
        count(judged.rule) as rows_found,
        0 as rows_kept,
        'left out' as action
    from rules
    left join judged
        on rules.rule = judged.rule
    group by rules.rule
),

all_sales as (
    select
        'all rows' as rule,
        'sales' as source,
        count(*) as rows_found,
        coalesce(sum(case when rule = 'usable' then 1 else 0 end), 0) as rows_kept,
        'added up by product and period' as action
    from judged
),

cost_not_finite as (
    select
        'cost is not finite' as rule,
        'sales' as source,
        count(*) as rows_found,
        count(*) as rows_kept,
        'cost ignored' as action
    from sales
    where cost is not null and not (cost > cast('-infinity' as double) and cost < cast('infinity' as double))
),

products as (
    select
        product_id,
        count(*) as n_rows
    from source.products
    group by product_id
),

products_repeated as (
    select
        'product stands more than once' as rule,
        'products' as source,
        coalesce(sum(n_rows), 0) as rows_found,
        count(*) as rows_kept,
        'first category in order kept' as action
    from products
    where product_id is not null and n_rows > 1
),

products_missing as (
    select
        'product is missing' as rule,
        'products' as source,
        coalesce(sum(n_rows), 0) as rows_found,
        0 as rows_kept,
        'left out' as action
    from products
    where product_id is null
),

sold as (
    select distinct product_id from staging.stg_sales
),

products_unknown as (
    select
        'product sells but is not in products' as rule,
        'products' as source,
        count(*) as rows_found,
        count(*) as rows_kept,
        'category unknown' as action
    from sold
    left join products
        on sold.product_id = products.product_id
    where products.product_id is null
),

events_broken as (
    select
        'product or date is missing' as rule,
        'events' as source,
        count(*) as rows_found,
        0 as rows_kept,
        'left out' as action
    from source.events
    where product_id is null or occurred_on is null
),

events_without_kind as (
    select
        'kind is missing' as rule,
        'events' as source,
        count(*) as rows_found,
        0 as rows_kept,
        'starts nothing' as action
    from source.events
    where kind is null and product_id is not null and occurred_on is not null
),

events_repeated as (
    select
        'event stands more than once' as rule,
        'events' as source,
        coalesce(sum(n_rows), 0) as rows_found,
        count(*) as rows_kept,
        'counted once' as action
    from staging.stg_events
    where n_rows > 1
),

events_unknown as (
    select
        'event names a product that neither sells nor is in products' as rule,
        'events' as source,
        count(*) as rows_found,
        0 as rows_kept,
        'starts nothing' as action
    from staging.stg_events as events
    left join staging.stg_products as known
        on events.product_id = known.product_id
    where known.product_id is null
),

statuses as (
    select unnest([
        'started',
        'ghost',
        'duplicate',
        'unknown_product',
        'outside_window',
        'inside_running',
        'late'
    ]) as status
),

triggers as (
    select
        concat('trigger is ', statuses.status) as rule,
        'events' as source,
        count(found.status) as rows_found,
        case when statuses.status in ('started', 'ghost') then count(found.status) else 0 end as rows_kept,
        case
            when statuses.status = 'started' then 'treatment starts'
            when statuses.status = 'ghost' then 'control starts'
            else 'starts nothing'
        end as action
    from statuses
    left join experiment.triggers as found
        on statuses.status = found.status
    group by statuses.status
),

incumbent_broken as (
    select
        'product, date or price is missing, or price is negative or not finite' as rule,
        'incumbent prices' as source,
        count(*) as rows_found,
        0 as rows_kept,
        'left out' as action
    from source.incumbent_prices
    where
        product_id is null
        or date is null
        or price is null
        or not (price >= 0 and price < cast('infinity' as double))
),

every_rule as (
    select * from left_out
    union all
    select * from all_sales
    union all
    select * from cost_not_finite
    union all
    select * from products_repeated
    union all
    select * from products_missing
    union all
    select * from products_unknown
    union all
    select * from events_broken
    union all
    select * from events_without_kind
    union all
    select * from events_repeated
    union all
    select * from events_unknown
    union all
    select * from triggers
    union all
    select * from incumbent_broken
)

select
    rule,
    source,
    cast(rows_found as bigint) as rows_found,
    cast(rows_kept as bigint) as rows_kept,
    action
from every_rule
