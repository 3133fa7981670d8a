"""What stress came to, as a page."""

from functools import partial
from pathlib import Path

import dagster as dg

from plusultra_core.artifacts import Artifact, publish
from plusultra_dagster.assets import summary
from plusultra_dagster.assets.automation import LEARN
from plusultra_dagster.assets.record import Record, dressed
from plusultra_dagster.config import Reporting
from plusultra_dagster.places import page_url

PAGE = "stress.html"


@dg.asset(
    **dressed(
        __file__, "reporting", code=("reporting",), configs=("reporting",), market="own", io="artifacts", kinds=("html",), automation=LEARN
    )
)
def stress_report(context: dg.AssetExecutionContext, stress_scenarios: Artifact, config: Reporting) -> dg.MaterializeResult:
    """Distributions, fans, costs and capacity of every strategy over all stressed worlds, as one self-contained page."""
    record = Record(context, config)
    if not (record.store / record.provenance).exists():
        publish(record.store, record.provenance, partial(_fill, stress_scenarios.path), record.lineage)
    artifact = record.published()
    page = {"page": dg.MetadataValue.path(str(artifact.path / PAGE))}
    link = dg.MetadataValue.url(page_url("stress_report", artifact.path.name, PAGE))
    metrics = record.read_json(stress_scenarios, "metrics.json")
    return record.artifact(artifact, **page, stress=link, **summary.station("stress", metrics, []))


def _fill(stress: Path, folder: Path) -> None:
    from plusultra_core.reporting.pages.stress import render_stress

    render_stress(stress, folder)
