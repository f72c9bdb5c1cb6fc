-- One row per outside event: what happened to which product on which day.
-- Events without an id are known by product, date and kind, so that a file read twice starts nothing twice.
with events as (
    select * from source.events
),

named as (
    select
        coalesce(
            event_id,
            concat(product_id, '|', cast(cast(occurred_on as date) as varchar), '|', coalesce(kind, ''))
        ) as event_id,
        product_id,
        cast(occurred_on as date) as occurred_on,
        kind
    from events
    where product_id is not null and occurred_on is not null
)

select
    event_id,
    product_id,
    occurred_on,
    kind,
    cast(count(*) as bigint) as n_rows
from named
group by event_id, product_id, occurred_on, kind
