-- One row per product and period of the experiment: the price to charge.
-- A pricing system reads this table; it needs the assignment only, so it stands before the experiment starts.
with assignments as (
    select
        experiment_id,
        product_id,
        date,
        arm
    from experiment.assignments
),

first_assigned as (
    select
        product_id,
        min(date) as first_date
    from assignments
    group by product_id
),

treated_elsewhere as (
    select distinct
        product_id,
        date
    from source.cells_ever
    where arm <> 'control'
),

-- shelf prices from a product's own start on carry the arms, and so do those of its earlier experiments:
-- only what is left may stand in for the running policy
shelf as (
    select
        days.product_id,
        days.date,
        days.price
    from intermediate.int_product_days as days
    inner join first_assigned
        on days.product_id = first_assigned.product_id
    left join treated_elsewhere
        on days.product_id = treated_elsewhere.product_id and days.date = treated_elsewhere.date
    -- a price carried over a period without sales may be the one of a treatment before it
    where
        not $has_incumbent
        and days.is_sold
        and days.date < first_assigned.first_date
        and treated_elsewhere.product_id is null
),

known_prices as (
    select product_id, date, price from staging.stg_incumbent_prices where price > 0
    union all
    select product_id, date, price from shelf where price > 0
),

timeline as (
    select product_id, date, price, 0 as is_planned from known_prices
    union all
    select product_id, date, null as price, 1 as is_planned from assignments
),

carried as (
    select
        product_id,
        date,
        is_planned,
        last_value(price ignore nulls) over (
            partition by product_id order by date, is_planned
            rows between unbounded preceding and current row
        ) as incumbent_price
    from timeline
),

last_cost as (
    select
        product_id,
        cost
    from (
        select
            product_id,
            cost,
            row_number() over (partition by product_id order by date desc) as age
        from intermediate.int_product_days
        where date < cast($start as date)
    ) as costs
    where age = 1
),

arms_with_prices as (
    select distinct arm from source.policy_prices
),

wanted as (
    select
        assignments.experiment_id,
        assignments.product_id,
        assignments.date,
        assignments.arm,
        carried.incumbent_price,
        last_cost.cost,
        arms_with_prices.arm is not null as has_price_table,
        coalesce(policy_prices.price, carried.incumbent_price * policies.price_multiplier) as wanted_price
    from assignments
    inner join carried
        on
            assignments.product_id = carried.product_id
            and assignments.date = carried.date
            and carried.is_planned = 1
    left join last_cost
        on assignments.product_id = last_cost.product_id
    left join arms_with_prices
        on assignments.arm = arms_with_prices.arm
    left join source.policies as policies
        on assignments.arm = policies.arm
    left join source.policy_prices as policy_prices
        on
            assignments.arm = policy_prices.arm
            and assignments.product_id = policy_prices.product_id
            and (policy_prices.date is null or assignments.date = policy_prices.date)
),

bounded as (
    select
        *,
        coalesce(incumbent_price * (1 - $max_change), cast('-infinity' as double)) as lowest_change,
        coalesce(incumbent_price * (1 + $max_change), cast('infinity' as double)) as highest_change,
        coalesce(cost / (1 - $min_margin), cast('-infinity' as double)) as lowest_margin,
        coalesce($floor, cast('-infinity' as double)) as lowest,
        coalesce($ceiling, cast('infinity' as double)) as highest
    from wanted
),

guarded as (
    select
        *,
        least(highest_change, highest) as upper_bound,
        least(greatest(lowest_change, lowest_margin, lowest), highest) as lower_bound,
        -- least and greatest pass over nulls, so a guard alone would invent a price where none is wanted
        case
            when wanted_price is not null then least(
                greatest(least(greatest(wanted_price, lowest_change), highest_change), lowest_margin, lowest),
                highest
            )
        end as exact_price,
        power(10, $decimals) as steps
    from bounded
),

-- rounding may carry a price over a bound by half a step: then it goes to the step inside
rounded as (
    select
        *,
        case
            when round(exact_price, $decimals) > upper_bound and exact_price <= upper_bound
                then floor(exact_price * steps + 1e-6) / steps
            when round(exact_price, $decimals) < lower_bound and exact_price >= lower_bound
                then ceil(exact_price * steps - 1e-6) / steps
            else round(exact_price, $decimals)
        end as guarded_price
    from guarded
),

-- a price that the policy moves may have one of the allowed endings only: the nearest one inside the bounds
candidates as (
    select
        rounded.product_id,
        rounded.date,
        rounded.exact_price,
        round(floor(rounded.exact_price) + whole.step + endings.ending, $decimals) as price
    from rounded
    cross join source.endings as endings
    cross join (select unnest([-1, 0, 1]) as step) as whole
    where
        abs(rounded.wanted_price - rounded.incumbent_price) > 1e-9
        and round(floor(rounded.exact_price) + whole.step + endings.ending, $decimals)
        between greatest(rounded.lower_bound, 0) and rounded.upper_bound
        -- an ending must not turn a cut into a raise, or a raise into a cut
        and (
            (
                rounded.wanted_price < rounded.incumbent_price
                and round(floor(rounded.exact_price) + whole.step + endings.ending, $decimals) <= rounded.incumbent_price
            )
            or (
                rounded.wanted_price > rounded.incumbent_price
                and round(floor(rounded.exact_price) + whole.step + endings.ending, $decimals) >= rounded.incumbent_price
            )
        )
),

nearest as (
    select
        product_id,
        date,
        price
    from (
        select
            product_id,
            date,
            price,
            row_number() over (partition by product_id, date order by abs(price - exact_price), price) as distance
        from candidates
        where price > 0
    ) as ranked
    where distance = 1
),

ended as (
    select
        rounded.* exclude (guarded_price),
        allowed.n_endings > 0
        and nearest.price is null
        and abs(rounded.wanted_price - rounded.incumbent_price) > 1e-9 as lacks_ending,
        nearest.price as ending_price,
        coalesce(nearest.price, rounded.guarded_price) as guarded_price
    from rounded
    cross join (select count(*) as n_endings from source.endings) as allowed
    left join nearest
        on rounded.product_id = nearest.product_id and rounded.date = nearest.date
),

noted as (
    select
        *,
        case
            when wanted_price is null and incumbent_price is null then 'no incumbent price is known'
            when wanted_price is null and has_price_table then 'the table of this arm has no price for the day'
            when wanted_price is null then 'prices of this arm are set elsewhere'
            when incumbent_price is null then 'no incumbent price is known'
            when guarded_price <= 0 then 'the price would be zero'
            when lacks_ending then 'guard: no allowed ending within the bounds'
            when guarded_price = round(wanted_price, $decimals) then null
            when guarded_price = round(incumbent_price, $decimals) then 'guard: back to the incumbent price'
            when wanted_price > highest then 'guard: ceiling'
            when wanted_price < lowest then 'guard: floor'
            when wanted_price < lowest_margin then 'guard: minimum margin'
            when wanted_price < lowest_change or wanted_price > highest_change then 'guard: maximum change'
            when ending_price is not null then 'guard: price ending'
        end as note
    from ended
)

select
    experiment_id,
    product_id,
    date,
    cast(incumbent_price as double) as incumbent_price,
    cast(case when guarded_price > 0 then guarded_price end as double) as price,
    cast(case when guarded_price > 0 then guarded_price end / nullif(incumbent_price, 0) as double) as multiplier,
    arm,
    note
from noted
