"""Whether what comes in still looks like what was learnt from, and whether the desk is well."""

from functools import partial

import dagster as dg
import polars as pl

from plusultra_core.artifacts import Artifact, publish
from plusultra_dagster.assets.automation import LEARN
from plusultra_dagster.assets.record import Record, dressed, numbers, write_json
from plusultra_dagster.config import Monitoring
from plusultra_dagster.places import places


@dg.asset(**dressed(__file__, "monitoring", code=("monitoring",), configs=("monitoring",), automation=LEARN))
def drift(context: dg.AssetExecutionContext, features: pl.DataFrame, windows: Artifact, config: Monitoring) -> dg.MaterializeResult:
    """Features of the newest span against those that the last fold was trained on, under a block-permutation null."""
    from plusultra_core.monitoring.drift import MonitoringConfig, build_drift
    from plusultra_core.windows.panel import load_panel

    record = Record(context, config)
    panel = load_panel(windows.path)
    fold, ts_ns = panel.folds[-1], panel.ts_ns_T
    names = tuple(name for name in features.columns if name not in ("symbol", "ts_ns", "known_ns") and name in panel.features)
    reference = features.filter(pl.col("ts_ns").is_between(int(ts_ns[fold.train[0]]), int(ts_ns[fold.train[1] - 1])))
    live = features.filter(pl.col("ts_ns") >= int(ts_ns[fold.test[0]]))
    frame = build_drift(reference, live, names, config.load(MonitoringConfig))
    counts = {f"num_{status}": int((frame["status"] == status).sum()) for status in ("stable", "drift", "insufficient")}
    worst = dg.MetadataValue.table(
        [dg.TableRecord({k: str(v) for k, v in row.items()}) for row in frame.sort("psi", descending=True).head(8).to_dicts()]
    )
    return record.table(None, frame, **counts, worst=worst)


@dg.asset(
    **dressed(
        __file__,
        "monitoring",
        code=("monitoring",),
        configs=("monitoring",),
        market="own",
        io="artifacts",
        kinds=("json",),
        automation=LEARN,
    )
)
def operations_summary(context: dg.AssetExecutionContext, champion: Artifact, config: Monitoring) -> dg.MaterializeResult:
    """Requests, errors, latency, staleness and guardrails of the last window of the service's journal; nothing where it never served."""
    from plusultra_core.clock import bar_ns, now_ns
    from plusultra_core.monitoring.drift import MonitoringConfig
    from plusultra_core.monitoring.health import build_summary, read_journal

    record, journal = Record(context, config), places().journal
    now, cfg, summary = now_ns(), config.load(MonitoringConfig).health, {"num_requests": 0, "num_predictions": 0, "breaches": []}
    if journal.exists():
        requests, predictions = read_journal(journal, now, cfg)
        summary = build_summary(requests, predictions, now, bar_ns(record.market.bar), cfg)
    key = record.with_content(summary)
    artifact = publish(record.store, key, partial(write_json, "summary.json", summary), record.lineage)
    return record.artifact(artifact, **numbers(summary), breaches=dg.MetadataValue.json(summary["breaches"]))
