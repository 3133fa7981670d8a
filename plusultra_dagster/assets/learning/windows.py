"""The panel that learning reads."""

import dagster as dg
import polars as pl

from plusultra_dagster.assets.automation import LEARN
from plusultra_dagster.assets.record import Record, dressed
from plusultra_dagster.config import Windows


@dg.asset(
    **dressed(
        __file__, "windows", code=("windows",), configs=("windows",), market="own", io="artifacts", kinds=("safetensors",), automation=LEARN
    )
)
def windows(
    context: dg.AssetExecutionContext,
    bars: pl.DataFrame,
    features: pl.DataFrame,
    regimes: pl.DataFrame,
    targets: pl.DataFrame,
    cross_asset_view: pl.DataFrame,
    side_tables: pl.DataFrame,
    assets: pl.DataFrame,
    indicators: pl.DataFrame,
    exchange_rates: pl.DataFrame,
    config: Windows,
) -> dg.MaterializeResult:
    """Inputs and targets on the class's grid, purged walk-forward folds, and for each fold a scaler fitted on its train span."""
    from plusultra_core.windows.build import WindowsConfig, build
    from plusultra_core.windows.panel import publish_panel
    from plusultra_core.windows.quotes import build_quotes

    record = Record(context, config)
    record.require_checks()
    if (record.store / record.provenance).exists():
        return record.artifact(record.published())
    quotes = build_quotes(bars, assets, indicators, side_tables, exchange_rates, record.market)
    panel = build(bars, features, regimes, targets, cross_asset_view, side_tables, quotes, record.market, config.load(WindowsConfig))
    artifact = publish_panel(panel, record.store, record.provenance, record.lineage)
    anchors = int(panel.anchor_NT.sum())
    return record.artifact(artifact, num_symbols=len(panel.symbols), num_bars=len(panel.ts_ns_T), anchors=anchors, folds=len(panel.folds))
