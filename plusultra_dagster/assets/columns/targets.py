"""What is to be forecast: the only station that looks ahead."""

import dagster as dg
import polars as pl

from plusultra_dagster.assets.record import Record, dressed
from plusultra_dagster.config import Targets


@dg.asset(**dressed(__file__, "targets", code=("targets",), configs=("targets",)))
def targets(context: dg.AssetExecutionContext, bars: pl.DataFrame, config: Targets) -> dg.MaterializeResult:
    """Vol-scaled forward returns per horizon, directions, triple barriers and uniqueness weights of every bar."""
    from plusultra_core.targets.build import TargetsConfig, build

    record = Record(context, config)
    frame = build(bars, config.load(TargetsConfig))
    ups = {f"share of up {name}": float((frame[name] == 2).mean() or 0.0) for name in frame.columns if name.startswith("direction_")}  # type: ignore[arg-type]
    return record.table("targets", frame, **ups)
