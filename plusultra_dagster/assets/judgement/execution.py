"""What execution cost, order by order."""

from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from plusultra_core.artifacts import Artifact, publish
from plusultra_dagster.assets import summary
from plusultra_dagster.assets.automation import LEARN
from plusultra_dagster.assets.record import Record, dressed
from plusultra_dagster.config import Reporting
from plusultra_dagster.places import page_url

PAGE = "execution.html"


@dg.asset(
    **dressed(
        __file__,
        "reporting",
        code=("evaluation", "reporting"),
        configs=("reporting",),
        market="own",
        io="artifacts",
        kinds=("parquet", "html"),
        automation=LEARN,
    )
)
def execution_report(context: dg.AssetExecutionContext, simulator_trace: Artifact, config: Reporting) -> dg.MaterializeResult:
    """Fills on bars, cost waterfall, implementation shortfall, latencies and worst fills of every strategy, with nothing left over."""
    from plusultra_core.evaluation.execution.sheet import build_execution, load_tape
    from plusultra_core.reporting.render import ReportingConfig

    record = Record(context, config)
    if not (record.store / record.provenance).exists():
        tape, cfg = load_tape(simulator_trace.path), config.load(ReportingConfig).execution
        sheet = build_execution(tape, cfg.max_rows)
        publish(record.store, record.provenance, partial(_fill, tape, sheet, record, cfg), record.lineage)
    artifact = record.published()
    page = {"page": dg.MetadataValue.path(str(artifact.path / PAGE))}
    link = dg.MetadataValue.url(page_url("execution_report", artifact.path.name, PAGE))
    return record.artifact(artifact, **page, execution=link, **summary.execution(pl.read_parquet(artifact.path / "strategies.parquet")))


def _fill(tape: Any, sheet: Any, record: Record, cfg: Any, folder: Path) -> None:
    from plusultra_core.evaluation.execution.sheet import TABLES
    from plusultra_core.reporting.pages.execution import render_execution
    from plusultra_dagster.resources.tables import parquet_bytes

    for name in TABLES:
        (folder / f"{name}.parquet").write_bytes(parquet_bytes(getattr(sheet, name)))
    render_execution(tape, sheet, str(record.partition.asset_class), record.partition.snapshot, record.market.currency, folder, cfg, ())
