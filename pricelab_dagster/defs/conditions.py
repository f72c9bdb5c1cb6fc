"""When assets materialise by themselves."""

import dagster as dg


def publish_when_settled() -> dg.AutomationCondition:
    """Return the condition under which a mart is built: something it reads changed, and nothing is being written.

    Signals: a dependency was updated since the mart was last requested, or the mart was wiped. The first tick only
    looks: a mart that was never built waits for the first change of what it reads. It waits while any dependency is in
    progress, so that a backfill of many experiments publishes once, at its end. A failed experiment does not hold it
    back: its last good rows stay in the lake and the others are published. It does not retry a failed publish; the next
    change does.
    """
    changed = dg.AutomationCondition.any_deps_updated() | dg.AutomationCondition.missing().newly_true()
    busy = dg.AutomationCondition.any_deps_in_progress() | dg.AutomationCondition.in_progress()
    return (changed.since_last_handled() & ~busy).with_label("publish_when_settled")
