"""What a partition holds now, for a person and for a program."""

import json
from pathlib import Path
from typing import Any

import dagster as dg

from plusultra_dagster import provenance
from plusultra_dagster.commands.plan import reference_of
from plusultra_dagster.partitions import Partition
from plusultra_dagster.places import Places

BUNDLES = ("pretrained_checkpoint", "supervised_checkpoint", "policy_checkpoint")
_COLUMNS = ("sharpe", "sortino", "calmar", "max_drawdown", "hit_rate", "turnover_year")


def scorecard_of(at: Places, cell: Partition) -> dict[str, Any] | None:
    """The scorecard that belongs to a partition."""
    folder = reference_of(at, "scorecard", cell)
    return json.loads((folder / "scorecard.json").read_text()) if folder else None


def report_of(at: Places, cell: Partition) -> Path | None:
    """The HTML report of a partition."""
    folder = reference_of(at, "report", cell)
    return folder / "report.html" if folder else None


def decision_line(at: Places, cell: Partition) -> str | None:
    """What was decided about this partition's challenger, None where nothing was."""
    folder = reference_of(at, "champion", cell)
    return f"champion: {json.loads((folder / 'decision.json').read_text())['decision']['reason']}" if folder else None


def answer(instance: dg.DagsterInstance, at: Places, cell: Partition, outcome: Any) -> dict[str, Any]:
    """One class of the JSON that `plusultra run --json` ends with."""
    bundles, mlflow_runs = {}, {}
    for asset in BUNDLES:
        newest = provenance.latest(instance, asset, cell.key)
        if newest is not None:
            bundles[asset] = str(newest.metadata.get("sha256", ""))
            if "mlflow_run_id" in newest.metadata:
                mlflow_runs[asset] = str(newest.metadata["mlflow_run_id"])
    card, report = scorecard_of(at, cell), report_of(at, cell)
    newest = provenance.latest(instance, "scorecard", cell.key)
    run_id = outcome.run_ids[-1] if outcome.run_ids else (newest.run_id if newest else None)
    return {
        "run_id": run_id,
        "run_ids": outcome.run_ids,
        "status": outcome.status,
        "error": outcome.error,
        "made": outcome.made,
        "metrics": {name: entry["metrics"] for name, entry in card["strategies"].items()} if card else None,
        "report": str(report) if report else None,
        "bundles": bundles,
        "mlflow_runs": mlflow_runs,
    }


def scorecard_lines(card: dict[str, Any]) -> list[str]:
    """The scorecard as a table for a terminal, and under it who won."""
    from plusultra_core.reporting.words import headline

    span = card["span"]
    lines = [f"{card['asset_class']}  {span['start']} .. {span['end']}  ({span['num_bars']} bars, after costs)"]
    names = [name for name in _COLUMNS if any(name in entry["metrics"] for entry in card["strategies"].values())]
    lines.append(f"  {'strategy':<16}" + "".join(f"{name:>14}" for name in names) + f"{'95% CI of Sharpe':>22}")
    for strategy, entry in card["strategies"].items():
        low_high = entry.get("ci", {}).get("sharpe")
        interval = f"[{low_high[0]:.2f}, {low_high[1]:.2f}]" if low_high else "-"
        lines.append(f"  {strategy:<16}" + "".join(f"{_shown(entry['metrics'].get(name)):>14}" for name in names) + f"{interval:>22}")
    for model, horizons in card.get("forecasts", {}).items():
        for horizon, scores in sorted(horizons.items(), key=lambda item: int(item[0])) if isinstance(horizons, dict) else []:
            if isinstance(scores, dict) and "ic" in scores:
                ic, skill = _shown(scores["ic"]), _shown(scores.get("skill_vs_climatology"))
                lines.append(f"  {model:<10} horizon {horizon:>3}, all test spans: IC {ic}, skill against climatology {skill}")
    lines.append(f"  {headline(card)}.")
    lines += [f"  warning: {text}" for text in card.get("warnings", [])]
    return lines


def _shown(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, int | float) else "-"
