"""Market states, fitted causally."""

import dagster as dg
import polars as pl

from plusultra_dagster.assets.record import Record, dressed
from plusultra_dagster.config import Regimes


@dg.asset(**dressed(__file__, "regimes", code=("regimes",), configs=("regimes",)))
def regimes(
    context: dg.AssetExecutionContext, bars: pl.DataFrame, features: pl.DataFrame, assets: pl.DataFrame, config: Regimes
) -> dg.MaterializeResult:
    """Volatility, liquidity, rotation, trend and hidden Markov state of every bar; bands and fits see the past only."""
    from plusultra_core.regimes.build import COLUMNS, RegimesConfig, build
    from plusultra_core.regimes.summary import STATES, summary, transitions

    record = Record(context, config)
    cfg = config.load(RegimesConfig)
    frame = build(bars, features, assets, cfg)
    tables = {"coverage and dwell times": summary(frame), "transitions": transitions(frame)}
    shown = {name: dg.MetadataValue.table([dg.TableRecord(row) for row in table.to_dicts()]) for name, table in tables.items()}
    shares = {f"share of {STATES[name][3]} {name}": float((frame[name] == 3).mean() or 0.0) for name in COLUMNS}  # type: ignore[arg-type]
    reads = {"volatility_state": (cfg.volatility,), "liquidity_state": (cfg.illiquidity,), "rotation_state": (cfg.rotation,)}
    return record.table("regimes", frame, reads=reads, **shown, **shares)
