"""Causal features."""

import dagster as dg
import polars as pl

from plusultra_dagster.assets.record import Record, dressed
from plusultra_dagster.config import Features


@dg.asset(**dressed(__file__, "features", code=("features",), configs=("features",), market="own"))
def features(
    context: dg.AssetExecutionContext, bars: pl.DataFrame, indicators: pl.DataFrame, side_tables: pl.DataFrame, config: Features
) -> dg.MaterializeResult:
    """Features of every bar; each looks back only. The catalogue is docs/features.md."""
    from plusultra_core.features.build import FeaturesConfig, build
    from plusultra_core.features.catalog import CATALOG

    record = Record(context, config)
    frame = build(bars, indicators, side_tables, record.market, config.load(FeaturesConfig))
    columns = [name for name in frame.columns if name not in ("symbol", "ts_ns", "known_ns")]
    covered = {name: float(frame[name].is_finite().fill_null(False).mean() or 0.0) for name in columns}  # type: ignore[arg-type]
    coverage = dg.MetadataValue.table([dg.TableRecord({"feature": name, "covered": round(share, 4)}) for name, share in covered.items()])
    meanings = {spec.name: f"{spec.doc} Unit: {spec.unit}." for spec in CATALOG}
    return record.table("features", frame, meanings, num_features=len(columns), coverage=coverage)
