"""Whether what comes in still looks like what was learnt from, and whether the desk is well."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import dagster as dg
import polars as pl

from plusultra_core.artifacts import Artifact, publish, write_atomic
from plusultra_dagster.assets.automation import LEARN
from plusultra_dagster.assets.record import Record, dressed, numbers, write_json
from plusultra_dagster.config import Monitoring
from plusultra_dagster.places import places


@dg.asset(**dressed(__file__, "monitoring", code=("monitoring",), configs=("monitoring",), automation=LEARN))
def drift(context: dg.AssetExecutionContext, features: pl.DataFrame, windows: Artifact, config: Monitoring) -> dg.MaterializeResult:
    """Features of the newest span, and of the bars that the service answered on, against those of the last training; the alarms."""
    from plusultra_core.monitoring.alarms import step_alarms
    from plusultra_core.monitoring.drift import MonitoringConfig
    from plusultra_core.monitoring.watch import NEWEST, REQUESTS, compare
    from plusultra_core.windows.panel import load_panel

    record, cfg, at = Record(context, config), config.load(MonitoringConfig), places()
    panel = load_panel(windows.path)
    fold, ts_ns = panel.folds[-1], panel.ts_ns_T
    names = tuple(name for name in features.columns if name not in ("symbol", "ts_ns", "known_ns") and name in panel.features)
    train = int(ts_ns[fold.train[0]]), int(ts_ns[fold.train[1] - 1])
    found = compare(features, names, train, int(ts_ns[fold.test[0]]), at.journal, cfg)
    book = step_alarms(at.alarms(str(record.partition.asset_class)), found, int(ts_ns[-1]), cfg)
    frame = found[NEWEST]
    counts = {f"num_{status}": int((frame["status"] == status).sum()) for status in ("stable", "drift", "insufficient")}
    counts |= {"num_alarms": len(book.firing()), "num_comparisons": book.num_comparisons}
    on_requests = found[REQUESTS]["status"].value_counts(name="features").to_dicts() if REQUESTS in found else []
    worst = dg.MetadataValue.table(
        [dg.TableRecord({k: str(v) for k, v in row.items()}) for row in frame.sort("psi", descending=True).head(8).to_dicts()]
    )
    return record.table(None, frame, **counts, worst=worst, on_requests=on_requests, firing=book.firing())


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
def operations_summary(
    context: dg.AssetExecutionContext, champion: Artifact, scorecard: Artifact, drift: pl.DataFrame, config: Monitoring
) -> dg.MaterializeResult:
    """Requests, errors, latency, staleness and guardrails of the last window of the service's journal; all verdicts as Prometheus text."""
    from plusultra_core.clock import bar_ns, now_ns
    from plusultra_core.monitoring.alarms import load_alarms
    from plusultra_core.monitoring.drift import MonitoringConfig
    from plusultra_core.monitoring.health import summarise
    from plusultra_core.monitoring.metrics import render_metrics

    record, at, cfg = Record(context, config), places(), config.load(MonitoringConfig)
    name = str(record.partition.asset_class)
    summary = summarise(at.journal, now_ns(), bar_ns(record.market.bar), cfg.health)
    firing = load_alarms(at.alarms(name)).firing()
    text = render_metrics(drift, len(firing), summary, _scores(record.read_json(scorecard, "scorecard.json")), cfg.metrics)
    write_atomic(at.exposition(name), text)
    key = record.with_content(summary)
    artifact = publish(record.store, key, partial(write_json, "summary.json", summary), record.lineage)
    told = {"breaches": dg.MetadataValue.json(summary["breaches"]), "firing": firing, "metrics": dg.MetadataValue.path(at.exposition(name))}
    return record.artifact(artifact, **numbers(summary), **told)


def _scores(card: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Metrics of every strategy of the scorecard that have a value."""
    strategies = card["strategies"].items()
    return {name: {metric: value for metric, value in score["metrics"].items() if value is not None} for name, score in strategies}
