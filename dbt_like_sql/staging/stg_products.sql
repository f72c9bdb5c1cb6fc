-- One row per product, with its category and the lab's attributes.
-- Products that sell but are not in the products source get the category 'unknown'.
with products as (
    select * from source.products
),

numbered as (
    select
        *,
        row_number() over (partition by product_id order by category) as occurrence
    from products
    where product_id is not null
),

sold as (
    select distinct product_id from staging.stg_sales
),

every_product as (
    select product_id from sold
    union
    select product_id from numbered
)

select
    every_product.product_id,
    coalesce(numbered.category, 'unknown') as category,
    numbered.* exclude (product_id, category, occurrence)
from every_product
left join numbered
    on every_product.product_id = numbered.product_id and numbered.occurrence = 1
