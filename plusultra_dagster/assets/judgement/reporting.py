"""The page one hands on."""

from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg

from plusultra_core.artifacts import Artifact, publish
from plusultra_dagster import provenance
from plusultra_dagster.assets.automation import LEARN
from plusultra_dagster.assets.record import Record, dressed
from plusultra_dagster.config import Reporting
from plusultra_dagster.places import page_url, places

PAGES = {"execution_report": ("execution trace", "execution.html"), "stress_report": ("stress", "stress.html")}
"""Of an asset the title and the file of its page."""


@dg.asset(
    **dressed(
        __file__,
        "reporting",
        code=("reporting",),
        configs=("reporting",),
        market="own",
        io="artifacts",
        kinds=("html", "markdown"),
        automation=LEARN,
    ),
    deps=["snapshot"],
)
def report(
    context: dg.AssetExecutionContext,
    scorecard: Artifact,
    significance: Artifact,
    champion: Artifact,
    pretrained_checkpoint: Artifact,
    supervised_checkpoint: Artifact,
    policy_checkpoint: Artifact,
    execution_report: Artifact,
    stress_report: Artifact,
    config: Reporting,
) -> dg.MaterializeResult:
    """One self-contained HTML page and the same in Markdown: data, regimes, forecasts, equity, costs, baselines, lineage."""
    from plusultra_core.data.snapshot import open_snapshot
    from plusultra_core.reporting.render import ReportingConfig, render_report
    from plusultra_core.reporting.sections import Evidence

    record = Record(context, config)
    if not (record.store / record.provenance).exists():
        read, stages = record.read_json, {"pretrain": pretrained_checkpoint, "supervised": supervised_checkpoint, "ppo": policy_checkpoint}
        evidence = Evidence(
            scorecard=read(scorecard, "scorecard.json"),
            significance=read(significance, "significance.json"),
            findings=open_snapshot(places().snapshots, record.partition.snapshot, verify=False).manifest["findings"],
            checks=_checks(context.instance, record.partition.key),
            history={name: read(artifact, "history.json") for name, artifact in stages.items()},
            decision=read(champion, "decision.json")["decision"],
            links=beside(execution_report, stress_report),
            revisions=since_previous(context.instance, record.partition.snapshot),
        )
        publish(record.store, record.provenance, partial(_fill, evidence, config.load(ReportingConfig), render_report), record.lineage)
    artifact = record.published()
    page = dg.MetadataValue.path(str(artifact.path / "report.html"))
    return record.artifact(artifact, page=page, report=dg.MetadataValue.url(page_url("report", artifact.path.name, "report.html")))


def beside(*artifacts: Artifact) -> tuple[tuple[str, str], ...]:
    """Pages of other artifacts as seen from an artifact's own folder: what they show, and where they lie; those that are there."""
    found = [(artifact, *PAGES[artifact.path.parent.name]) for artifact in artifacts]
    return tuple(
        (title, f"../../{artifact.path.parent.name}/{artifact.path.name}/{page}")
        for artifact, title, page in found
        if (artifact.path / page).is_file()
    )


def since_previous(instance: dg.DagsterInstance, snapshot: str) -> dict[str, Any] | None:
    """What the newest materialisation of a snapshot said of the one before it: its key, None of the first, and rows by table."""
    found = provenance.latest(instance, "snapshot", snapshot)
    if found is None or "previous" not in found.metadata:
        return None
    previous, told = str(found.metadata["previous"]), found.metadata.get("since previous")
    rows = [dict(row.data) for row in told.records] if isinstance(told, dg.TableMetadataValue) else []
    return {"previous": None if previous.startswith("none:") else previous, "by_table": rows}


def _fill(evidence: Any, cfg: Any, render: Any, folder: Path) -> None:
    render(evidence, folder, cfg)


def _checks(instance: dg.DagsterInstance, partition: str) -> list[dict[str, Any]]:
    """Every blocking check and whether it has passed on this partition."""
    failed = set(provenance.unpassed(instance, provenance.GATES, partition))
    names = [f"{asset}:{name}" for asset, checks in provenance.GATES.items() for name in checks]
    return [{"name": name, "passed": name not in failed} for name in names]
