"""When assets refresh by themselves.

Which classes a new snapshot holds is decided by a sensor that reads its manifest; automation never starts a
partition of a class that a dump does not have. What it does is keep what is there in step with its inputs.
"""

import dagster as dg

# Tables: a partition that exists follows its inputs. The first materialisation is the sensor's. An update counts only when the
# partition existed as it came: kept from before, it would ask for a table again in the tick in which the sensor's run ends.
REFRESH = (
    (dg.AutomationCondition.any_deps_updated() & ~dg.AutomationCondition.missing()).since_last_handled()
    & ~dg.AutomationCondition.any_deps_missing()
    & ~dg.AutomationCondition.any_deps_in_progress()
    & ~dg.AutomationCondition.in_progress()
).with_label("refresh what is there")

# Learning: everything downstream of tables that exist and whose blocking checks have passed.
LEARN = (dg.AutomationCondition.eager() & dg.AutomationCondition.all_deps_blocking_checks_passed()).with_label("learn from checked tables")

# The view reads the context classes that are there, so a missing one must not hold it up: only its own class's targets must exist.
VIEW = (
    (dg.AutomationCondition.newly_missing() | dg.AutomationCondition.any_deps_updated()).since_last_handled()
    & ~dg.AutomationCondition.asset_matches("targets", dg.AutomationCondition.missing())
    & ~dg.AutomationCondition.any_deps_in_progress()
    & ~dg.AutomationCondition.in_progress()
).with_label("view the classes that are there")
