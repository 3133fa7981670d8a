"""What is to be forecast: the only station that looks ahead."""

import dagster as dg
import polars as pl

from plusultra_dagster.assets.record import Record, dressed
from plusultra_dagster.config import Targets


@dg.asset(**dressed(__file__, "targets", code=("targets",), configs=("targets",)))
def targets(context: dg.AssetExecutionContext, bars: pl.DataFrame, config: Targets) -> dg.MaterializeResult:
    """Vol-scaled forward returns per horizon, directions, triple barriers, uniqueness weights and meta-labels of every bar."""
    from plusultra_core.targets.build import TargetsConfig, build, summary

    record, cfg = Record(context, config), config.load(TargetsConfig)
    frame = build(bars, cfg)
    ups = {f"share of up {name}": float((frame[name] == 2).mean() or 0.0) for name in frame.columns if name.startswith("direction_")}  # type: ignore[arg-type]
    meta = {
        "share of bars with a side": float((frame["meta_side"] != 0).fill_null(False).mean() or 0.0),
        "share of sides that pay": float(frame["meta_label"].mean() or 0.0),  # type: ignore[arg-type]
    }
    classes = dg.MetadataValue.table([dg.TableRecord(row) for row in summary(frame, cfg).to_dicts()])
    return record.table("targets", frame, classes=classes, **ups, **meta)
