"""New dumps: from a file that lies still to a snapshot, from a snapshot to the tables of the classes in it."""

import json

import dagster as dg

from plusultra_dagster import jobs
from plusultra_dagster.partitions import multi_key, snapshot
from plusultra_dagster.resources.landing import Landing

DOOR = "plusultra/door"
_NAME = str(snapshot.name)
_SNAPSHOTS_PER_TICK = 8


@dg.sensor(
    job=jobs.take_snapshot,
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Registers a snapshot for every new dump in the landing folder. Content that a snapshot has already is left alone.",
)
def landed_dumps(context: dg.SensorEvaluationContext, landing: Landing) -> dg.SensorResult:
    """One look at the folder; the cursor holds the signatures of the files that have been dealt with."""
    scan = landing.scan(json.loads(context.cursor or "{}"), context.instance.get_dynamic_partitions(_NAME))
    cursor = json.dumps(scan.seen, sort_keys=True)
    if not scan.new:
        waiting = "; ".join(f"{name}: {reason}" for name, reason in sorted(scan.waiting.items())[:5])
        return dg.SensorResult(skip_reason=dg.SkipReason(waiting or "no new dump"), cursor=cursor)
    requests = [
        dg.RunRequest(run_key=f"{landed.key}:{landed.signature}", partition_key=landed.key, tags={"plusultra/dump": landed.name[:60]})
        for landed in scan.new
    ]
    add = snapshot.build_add_request([landed.key for landed in scan.new])
    return dg.SensorResult(run_requests=requests, dynamic_partitions_requests=[add], cursor=cursor)


@dg.sensor(
    job=jobs.refresh_tables,
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Requests the tables of every class that a new snapshot holds. Training stays behind its own switch.",
)
def new_snapshots(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """One request a class and snapshot content; snapshots taken by the command line are its own to go on with."""
    after = int(context.cursor or 0)
    filtered = dg.AssetRecordsFilter(asset_key=dg.AssetKey("snapshot"), after_storage_id=after)
    records = context.instance.fetch_materializations(filtered, limit=_SNAPSHOTS_PER_TICK, ascending=True).records
    requests: list[dg.RunRequest] = []
    for record in records:
        run = context.instance.get_run_by_id(record.run_id)
        if run is not None and run.tags.get(DOOR) == "command line":
            continue
        event = record.asset_materialization
        if event is None:
            continue
        classes = event.metadata["classes"].value
        sha256 = str(event.metadata["sha256"].value)[:16]
        requests += [
            dg.RunRequest(run_key=f"{record.partition_key}:{name}:{sha256}", partition_key=multi_key(str(record.partition_key), str(name)))
            for name in classes  # type: ignore[union-attr]
        ]
    cursor = str(records[-1].storage_id) if records else str(after)
    if not requests:
        return dg.SensorResult(skip_reason=dg.SkipReason("no new snapshot"), cursor=cursor)
    return dg.SensorResult(run_requests=requests, cursor=cursor)
