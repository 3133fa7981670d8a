"""Clockwork: dead runs, automation, the weekly retraining."""

import dagster as dg

from plusultra_dagster import jobs
from plusultra_dagster.partitions import multi_key, partition_of
from plusultra_dagster.repair import end_dead_runs
from plusultra_dagster.sensors.retraining import classes_with_tables

tables_automation = dg.AutomationConditionSensorDefinition(
    "tables_automation",
    target=dg.AssetSelection.groups(*jobs.TABLE_GROUPS),
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=30,
    description="Keeps tables that exist in step with their inputs.",
)
training_automation = dg.AutomationConditionSensorDefinition(
    "training_automation",
    target=dg.AssetSelection.all() - dg.AssetSelection.groups(*jobs.TABLE_GROUPS),
    default_status=dg.DefaultSensorStatus.STOPPED,
    minimum_interval_seconds=60,
    use_user_code_server=True,  # where conditions of our own, the classes of the config, can be asked
    run_tags={"plusultra/tier": "gpu"},
    description="The switch: while it is on, everything from the view to the champion follows new tables by itself.",
)


@dg.sensor(
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Ends runs of the command line whose process was killed, so that their pool slots are free again.",
)
def dead_runs(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """One look at the runs under way."""
    ended = end_dead_runs(context.instance)
    return dg.SkipReason(f"ended {', '.join(ended)}" if ended else "no dead run")


@dg.schedule(
    job=jobs.train,
    cron_schedule="0 2 * * 6",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description="Saturdays: train every class of the newest snapshot that has tables. What is unchanged returns at once.",
)
def weekly_retraining(context: dg.ScheduleEvaluationContext) -> list[dg.RunRequest] | dg.SkipReason:
    """Run requests for the snapshot materialised last."""
    key, classes = classes_with_tables(context.instance)
    if not classes:
        return dg.SkipReason(f"{key} has no tables yet" if key else "no snapshot yet")
    return [dg.RunRequest(partition_key=multi_key(key, name)) for name in classes]


@dg.schedule(
    job=jobs.watch,
    cron_schedule="0 * * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description="Hourly: drift on the newest bars and on what requests were answered on, alarms, journal, metrics; no training.",
)
def hourly_watch(context: dg.ScheduleEvaluationContext) -> list[dg.RunRequest] | dg.SkipReason:
    """Run requests for the classes of the newest snapshot that have been decided about."""
    key, _ = classes_with_tables(context.instance)
    decided = context.instance.get_materialized_partitions(dg.AssetKey("champion"))
    classes = sorted(str(cell.asset_class) for cell in map(partition_of, decided) if cell.snapshot == key)
    if not classes:
        return dg.SkipReason(f"{key} has no decision to watch over yet" if key else "no snapshot yet")
    return [dg.RunRequest(partition_key=multi_key(key, name)) for name in classes]
