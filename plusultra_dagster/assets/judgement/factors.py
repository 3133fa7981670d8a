"""What each feature has said by itself."""

from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from plusultra_core.artifacts import Artifact, publish
from plusultra_dagster.assets import summary
from plusultra_dagster.assets.automation import LEARN
from plusultra_dagster.assets.record import Record, dressed
from plusultra_dagster.config import Evaluation
from plusultra_dagster.places import page_url

TABLES = ("factors", "decay", "states", "quantiles", "years")


@dg.asset(
    **dressed(
        __file__,
        "evaluation",
        code=("evaluation", "reporting"),
        configs=("evaluation",),
        market="own",
        io="artifacts",
        kinds=("parquet", "html"),
        automation=LEARN,
    )
)
def factor_sheet(
    context: dg.AssetExecutionContext,
    features: pl.DataFrame,
    bars: pl.DataFrame,
    targets: pl.DataFrame,
    regimes: pl.DataFrame,
    windows: Artifact,
    config: Evaluation,
) -> dg.MaterializeResult:
    """Every feature by itself: IC, decay, quantile spread after costs, turnover, stability, with errors and false-discovery control."""
    from plusultra_core.evaluation.factors import build_factors
    from plusultra_core.evaluation.scorecard import EvaluationConfig
    from plusultra_core.windows.panel import load_panel

    record = Record(context, config)
    if not (record.store / record.provenance).exists():
        panel, cfg = load_panel(windows.path), config.load(EvaluationConfig).factors
        until_ns = int(panel.ts_ns_T[panel.folds[-1].test[0]])
        sheet = build_factors(features, bars, targets, regimes, record.market.costs, cfg, until_ns)
        publish(record.store, record.provenance, partial(_fill, sheet, record), record.lineage)
    artifact = record.published()
    page = {"page": dg.MetadataValue.path(str(artifact.path / "factors.html"))}
    link = dg.MetadataValue.url(page_url("factor_sheet", artifact.path.name, "factors.html"))
    return record.artifact(artifact, **page, factors=link, **summary.factors(pl.read_parquet(artifact.path / "factors.parquet")))


def _fill(sheet: Any, record: Record, folder: Path) -> None:
    from plusultra_core.reporting.factors import render_factors
    from plusultra_dagster.resources.tables import parquet_bytes

    for name in TABLES:
        (folder / f"{name}.parquet").write_bytes(parquet_bytes(getattr(sheet, name)))
    render_factors(sheet, str(record.partition.asset_class), record.partition.snapshot, folder)
