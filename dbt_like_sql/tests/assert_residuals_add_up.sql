-- The first difference is observed minus predicted; a row that does not add up would hide where an effect comes from.
-- checks: experiment.detrended_sales
select
    product_id,
    date,
    metric,
    observed,
    predicted,
    residual
from experiment.detrended_sales
where
    abs(observed - predicted - residual) > 1e-9 * (1 + abs(observed) + abs(predicted))
    or (residual is null) <> (observed is null or predicted is null)
