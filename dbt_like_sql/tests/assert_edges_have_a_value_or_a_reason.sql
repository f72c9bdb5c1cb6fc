-- A pair of substitutes is estimated or says why it is not identified; never neither.
-- checks: spillover.substitute_edges
select
    product_id,
    on_price_of,
    effect,
    reason
from spillover.substitute_edges
where (effect is null and reason is null) or product_id = on_price_of
