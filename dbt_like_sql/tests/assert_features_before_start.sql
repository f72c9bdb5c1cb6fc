-- A feature that has seen the experiment would let the treatment choose its own control group.
-- checks: intermediate.int_product_features
select
    product_id,
    first_sold,
    last_sold
from intermediate.int_product_features
where last_sold >= cast($start as date) or first_sold > last_sold
