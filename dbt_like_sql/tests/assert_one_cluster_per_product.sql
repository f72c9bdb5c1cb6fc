-- A product in two clusters would have to be in two arms at once.
-- checks: spillover.product_clusters
select
    product_id,
    count(*) as n_clusters
from spillover.product_clusters
group by product_id
having count(*) > 1
