"""When assets refresh by themselves.

Which classes a new snapshot holds is decided by a sensor that reads its manifest; automation never starts a
partition of a class that a dump does not have. What it does is keep what is there in step with its inputs.
"""

import dagster as dg

from plusultra_dagster.config import Feedback
from plusultra_dagster.partitions import partition_of


class MayTrain(dg.AutomationCondition):
    """Partitions of the classes in `retrain.asset_classes`, read at each tick: what may train by itself, by rule or by switch."""

    @property
    def name(self) -> str:
        """As the UI shows it."""
        return "of a class in retrain.asset_classes"

    def evaluate(self, context: dg.AutomationContext) -> dg.AutomationResult:  # type: ignore[override]
        """The candidates of these classes."""
        allowed = set(Feedback().read()["retrain"]["asset_classes"])
        keys = context.candidate_subset.expensively_compute_partition_keys()
        own = {key for key in keys if partition_of(key).asset_class in allowed}
        return dg.AutomationResult(context, context.candidate_subset.compute_intersection_with_partition_keys(own))


# Tables: a partition that exists follows its inputs; the first materialisation is the sensor's. The daemon reads "updated" as of the
# start of a tick, but "missing" and "in progress" some seconds later: a table that is made in between looks old, there and idle. So an
# update counts only where the table existed, and is acted on a tick later, when the table's own update has been seen; a table whose
# parent is requested now goes along with it.
_PENDING = (dg.AutomationCondition.any_deps_updated() & ~dg.AutomationCondition.missing()).since_last_handled()
REFRESH = (
    _PENDING
    & (~_PENDING.newly_true() | dg.AutomationCondition.any_deps_match(dg.AutomationCondition.will_be_requested()))
    & ~dg.AutomationCondition.any_deps_missing()
    & ~dg.AutomationCondition.any_deps_in_progress()
    & ~dg.AutomationCondition.in_progress()
).with_label("refresh what is there")

# Learning: everything downstream of tables that exist and whose blocking checks have passed.
LEARN = (dg.AutomationCondition.eager() & dg.AutomationCondition.all_deps_blocking_checks_passed() & MayTrain()).with_label(
    "learn from checked tables"
)

# The view reads the context classes that are there, so a missing one must not hold it up: only its own class's targets must exist.
VIEW = (
    (dg.AutomationCondition.newly_missing() | dg.AutomationCondition.any_deps_updated()).since_last_handled()
    & ~dg.AutomationCondition.asset_matches("targets", dg.AutomationCondition.missing())
    & ~dg.AutomationCondition.any_deps_in_progress()
    & ~dg.AutomationCondition.in_progress()
    & MayTrain()
).with_label("view the classes that are there")
