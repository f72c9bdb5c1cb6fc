-- One row per experiment, ordered pair of products.
-- The graphs of substitutes, each as it stood before its experiment.
with substitute_edges as (
    select * from spillover.substitute_edges
)

select
    experiment_id,
    product_id,
    on_price_of,
    effect,
    se,
    z,
    q_value,
    shrunk_effect,
    series_group,
    history_weeks,
    reason
from substitute_edges
