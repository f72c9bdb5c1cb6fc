-- One row per experiment, check.
-- Every check of every experiment: what passed, what failed, what informs.
with diagnostics as (
    select * from experiment.diagnostics
)

select
    experiment_id,
    check_name,
    status,
    value,
    threshold,
    p_value,
    message
from diagnostics
