"""The loop: what age, drift, vetoes and new bars say about each class, and a training of that class alone where the written rule asks."""

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from plusultra_dagster import jobs
from plusultra_dagster.config import Feedback
from plusultra_dagster.partitions import multi_key, partition_of, snapshot
from plusultra_dagster.places import Places, places

if TYPE_CHECKING:
    from plusultra_core.feedback.annotations import FeedbackConfig
    from plusultra_core.feedback.retrain import RetrainFacts

ASKED = "plusultra/retrain"
_TRAINED = "policy_checkpoint"
_CLASS = "dagster/partition/asset_class"
_RUNS = 50
_ENDED = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
_UNDER_WAY = [status for status in dg.DagsterRunStatus if status not in _ENDED]
_NS = 10**9


@dg.sensor(
    job=jobs.train,
    minimum_interval_seconds=300,
    default_status=dg.DefaultSensorStatus.STOPPED,
    description="Asks feedback's rule (age, drift alarms, vetoes; not within the cool-down, without new bars, after failures) about each "
    "class of retrain.asset_classes in the newest snapshot, and trains those that it names.",
)
def retraining(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """One question a class; the answer of each, also of those that wait, is the reason that the tick shows."""
    from plusultra_core.clock import now_ns
    from plusultra_core.errors import PlusUltraError
    from plusultra_core.feedback.annotations import FeedbackConfig
    from plusultra_core.feedback.retrain import should_retrain

    at, cfg = places(), Feedback().load(FeedbackConfig)
    key, classes = classes_with_tables(context.instance)
    requests, said = [], []
    for name in classes:
        if name not in cfg.retrain.asset_classes:
            said.append(f"{name}: not among retrain.asset_classes")
        elif under_way(context.instance, name):
            said.append(f"{name}: a training is under way")
        else:
            try:
                facts = facts_of(context.instance, at, key, name, now_ns(), cfg)
            except (PlusUltraError, OSError) as error:  # its alarms, bars or judgements cannot be read: the other classes go on
                said.append(f"{name}: {error}")
                continue
            decision = should_retrain(facts, cfg.retrain)
            said.append(f"{name}: for {_words(decision.reasons)}, against {_words(decision.blocks)}")
            if decision.retrain:
                tags = {"plusultra/tier": "gpu", ASKED: ",".join(decision.reasons)}
                run_key = f"retrain:{name}:{key}:{facts.attempted_ns or 0}"
                requests.append(dg.RunRequest(run_key=run_key, partition_key=multi_key(key, name), tags=tags))
    context.log.info("; ".join(said))
    if requests:
        return dg.SensorResult(run_requests=requests)
    return dg.SensorResult(skip_reason=dg.SkipReason("; ".join(said) or "no snapshot with tables yet"))


def classes_with_tables(instance: dg.DagsterInstance) -> tuple[str, list[str]]:
    """The snapshot materialised last and the classes whose tables it has."""
    newest = instance.fetch_materializations(dg.AssetKey("snapshot"), limit=1).records
    if not newest:
        return "", []
    key = str(newest[0].partition_key)
    done = instance.get_materialized_partitions(dg.AssetKey("targets"))
    return key, sorted(str(cell.asset_class) for cell in map(partition_of, done) if cell.snapshot == key)


def under_way(instance: dg.DagsterInstance, asset_class: str) -> bool:
    """Whether a training of the class is queued or running, by this job or by whatever makes its policy."""
    filters = dg.RunsFilter(tags={_CLASS: asset_class}, statuses=_UNDER_WAY)
    runs = [record.dagster_run for record in instance.get_run_records(filters)]
    return any(run.job_name == jobs.train.name or dg.AssetKey(_TRAINED) in (run.asset_selection or ()) for run in runs)


def facts_of(
    instance: dg.DagsterInstance, at: Places, snapshot_key: str, asset_class: str, now_ns: int, cfg: "FeedbackConfig"
) -> "RetrainFacts":
    """What the instance, the lake, the analysts' store and the alarms say of a class now."""
    from plusultra_core.feedback.retrain import RetrainFacts
    from plusultra_core.monitoring.alarms import load_alarms

    trained = _newest(instance, _TRAINED, [multi_key(key, asset_class) for key in instance.get_dynamic_partitions(str(snapshot.name))])
    trained_ns = None if trained is None else int(trained.timestamp * _NS)
    before = None if trained is None else partition_of(trained.partition_key).snapshot
    attempts = _attempts(instance, asset_class)
    return RetrainFacts(
        now_ns=now_ns,
        trained_ns=trained_ns,
        attempted_ns=int((attempts[0].start_time or attempts[0].create_timestamp.timestamp()) * _NS) if attempts else trained_ns,
        num_failures=_failures(attempts),
        num_new_bars=_new_bars(at.lake_url, asset_class, snapshot_key, before),
        num_new_vetoes=_new_vetoes(at, asset_class, snapshot_key, trained_ns or 0, now_ns, cfg),
        drift_alarm=bool(load_alarms(at.alarms(asset_class)).firing()),
    )


def _words(names: tuple[str, ...]) -> str:
    return ", ".join(names) or "nothing"


def _newest(instance: dg.DagsterInstance, asset: str, partitions: list[Any]) -> Any:
    filtered = dg.AssetRecordsFilter(asset_key=dg.AssetKey(asset), asset_partitions=[str(key) for key in partitions])
    records = instance.fetch_materializations(filtered, limit=1).records if partitions else []
    return records[0] if records else None


def _attempts(instance: dg.DagsterInstance, asset_class: str) -> list[Any]:
    """Runs of the job `train` for a class, newest first."""
    filters = dg.RunsFilter(job_name=jobs.train.name, tags={_CLASS: asset_class})
    return list(instance.get_run_records(filters, limit=_RUNS))


def _failures(attempts: list[Any]) -> int:
    """Failed runs since the last success; what a person ended counts as neither."""
    num = 0
    for record in attempts:
        if record.dagster_run.status == dg.DagsterRunStatus.SUCCESS:
            break
        num += record.dagster_run.status == dg.DagsterRunStatus.FAILURE
    return num


def _new_bars(lake: str, asset_class: str, newest: str, trained: str | None) -> int:
    """Bar times of the newest snapshot later than every bar of the one trained on."""
    import polars as pl

    def times(key: str) -> pl.Series:
        return pl.scan_parquet(f"{lake}/bars/{asset_class}/{key}.parquet").select("ts_ns").unique().collect()["ts_ns"]

    if trained == newest:
        return 0
    after = 0 if trained is None else int(times(trained).max() or 0)  # type: ignore[arg-type]
    return int((times(newest) > after).sum())


def _new_vetoes(at: Places, asset_class: str, key: str, since_ns: int, now_ns: int, cfg: "FeedbackConfig") -> int:
    """Vetoes of this class's symbols that were said after the last training."""
    import polars as pl

    from plusultra_core.feedback.annotations import open_store, read

    path: Path = at.feedback / "annotations.sqlite"
    if not path.exists():
        return 0
    with closing(open_store(path, cfg)) as store:
        said = read(store, now_ns)
    symbols = pl.scan_parquet(f"{at.lake_url}/assets/{asset_class}/{key}.parquet").select("symbol").collect()["symbol"].implode()
    new = (pl.col("created_ns") > since_ns) & pl.col("decision").is_in(list(cfg.outcomes.veto_decisions))
    return said.filter(new & pl.col("symbol").is_in(symbols)).height
