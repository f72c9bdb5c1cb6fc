-- One row per experiment, product.
-- The clusters of substitutes, each as they stood before their experiment.
with product_clusters as (
    select * from spillover.product_clusters
)

select
    experiment_id,
    product_id,
    cluster_id
from product_clusters
