-- Readers quote one figure per metric and arm; two headlines would let them choose.
-- checks: experiment.effects
select
    metric,
    arm,
    sum(case when is_headline then 1 else 0 end) as n_headlines
from experiment.effects
group by metric, arm
having sum(case when is_headline then 1 else 0 end) <> 1
