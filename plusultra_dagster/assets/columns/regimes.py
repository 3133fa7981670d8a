"""Market states, fitted causally."""

import dagster as dg
import polars as pl

from plusultra_dagster.assets.record import Record, dressed
from plusultra_dagster.config import Regimes


@dg.asset(**dressed(__file__, "regimes", code=("regimes",), configs=("regimes",)))
def regimes(context: dg.AssetExecutionContext, bars: pl.DataFrame, features: pl.DataFrame, config: Regimes) -> dg.MaterializeResult:
    """Volatility, liquidity and rotation state of every bar; the bands see the past only."""
    from plusultra_core.regimes.build import RegimesConfig, build

    record = Record(context, config)
    frame = build(bars, features, config.load(RegimesConfig))
    states = [name for name in frame.columns if name.endswith("_state")]
    shares = {f"share of high {name}": float((frame[name] == 3).mean() or 0.0) for name in states}  # type: ignore[arg-type]
    return record.table("regimes", frame, **shares)
