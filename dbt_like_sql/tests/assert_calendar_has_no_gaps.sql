-- A missing period would shift every later one against the plan: each product has each period of the calendar.
-- checks: intermediate.int_product_days
with counted as (
    select
        product_id,
        count(*) as n_periods
    from intermediate.int_product_days
    group by product_id
),

calendar as (
    select cast(datediff('day', min(date), max(date)) / $days_per_period as bigint) + 1 as n_periods
    from intermediate.int_product_days
)

select
    counted.product_id,
    counted.n_periods,
    calendar.n_periods as n_calendar
from counted
cross join calendar
where counted.n_periods <> calendar.n_periods
