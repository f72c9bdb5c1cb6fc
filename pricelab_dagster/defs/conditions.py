"""When assets materialise by themselves, and when they count as overdue."""

from datetime import timedelta

import dagster as dg
from dagster_shared.check import CheckError

_INTERVALS = (
    *(timedelta(days=days) for days in (28, 7, 1)),
    *(timedelta(minutes=minutes) for minutes in (23 * 60, 12 * 60, 8 * 60, 6 * 60, 3 * 60, 60, 30, 15, 5, 1)),
)


def fresh_by_schedule(cron: str, time_zone: str) -> dg.FreshnessPolicy:
    """Return the policy that a table was read anew since the schedule's last tick but one.

    It fails at a tick when the refresh of the tick before has not happened, until one does. The longest interval that
    Dagster accepts for the cron is the one between two ticks.
    """
    for interval in _INTERVALS:
        try:
            return dg.FreshnessPolicy.cron(deadline_cron=cron, lower_bound_delta=interval, timezone=time_zone)
        except CheckError:
            continue
    raise ValueError(f"schedule.cron == {cron!r}, must tick at most once a minute. Give five fields of a cron.")


def publish_when_settled() -> dg.AutomationCondition:
    """Return the condition under which a mart is built: something it reads changed, and nothing is being written.

    Signals: a dependency was updated since the mart was last requested, or the mart was wiped. That the mart was built
    since then does not count: it may have been read before the update and written after it. The first tick only looks:
    a mart that was never built waits for the first change of what it reads. It waits while any dependency is in
    progress, so that a backfill of many experiments publishes once, at its end. A failed experiment does not hold it
    back: its last good rows stay in the lake and the others are published. It does not retry a failed publish; the next
    change does.
    """
    changed = dg.AutomationCondition.any_deps_updated() | dg.AutomationCondition.missing().newly_true()
    busy = dg.AutomationCondition.any_deps_in_progress() | dg.AutomationCondition.in_progress()
    # a request is seen one tick after it was made, together with what changed since then
    asked = dg.AutomationCondition.newly_requested() & ~changed
    return (changed.since(asked | dg.AutomationCondition.initial_evaluation()) & ~busy).with_label(
        "publish_when_settled"
    )
