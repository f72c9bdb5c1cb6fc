-- A cell that the design always or never treats cannot be compared; weighting by its probability would divide by zero.
-- checks: experiment.assignments
select
    product_id,
    date,
    probability
from experiment.assignments
where probability is not null and not (probability > 0 and probability < 1)
