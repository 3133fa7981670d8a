"""Scorecard, trial ledger, significance."""

from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from plusultra_core.artifacts import Artifact, publish
from plusultra_dagster.assets.automation import LEARN
from plusultra_dagster.assets.record import Record, dressed, numbers, sparkline, write_json
from plusultra_dagster.config import Evaluation
from plusultra_dagster.places import places

_JUDGED = dressed(
    __file__, "evaluation", code=("evaluation",), configs=("evaluation",), market="own", io="artifacts", kinds=("json",), automation=LEARN
)


@dg.asset(**_JUDGED)
def scorecard(
    context: dg.AssetExecutionContext,
    simulator_trace: Artifact,
    forecasts: Artifact,
    regimes: pl.DataFrame,
    bars: pl.DataFrame,
    targets: pl.DataFrame,
    config: Evaluation,
) -> dg.MaterializeResult:
    """Every strategy after costs with its intervals, every forecast against climatology and volatility baselines, on the locked window."""
    from plusultra_core.evaluation.scorecard import EvaluationConfig, build_scorecard

    record = Record(context, config)
    if not (record.store / record.provenance).exists():
        frame, cfg = pl.read_parquet(forecasts.path / "forecasts.parquet"), config.load(EvaluationConfig)
        lineage = {**record.lineage, "snapshot": record.partition.snapshot}
        card = build_scorecard(simulator_trace.path, frame, regimes, bars, record.market, cfg, lineage, targets)
        publish(record.store, record.provenance, partial(write_json, "scorecard.json", card), record.lineage)
    artifact = record.published()
    card = record.read_json(artifact, "scorecard.json")
    plain = numbers({name: {"metrics": entry.get("metrics", {})} for name, entry in card["strategies"].items()})
    return record.artifact(artifact, **plain, warnings=dg.MetadataValue.json(card["warnings"]), equity=sparkline(_equity(card)))


def _equity(card: dict[str, Any]) -> list[float]:
    returns = card.get("series", {}).get("locked", {}).get("ret", {})
    chosen = next((name for name in card.get("models", []) if name in returns), None)
    total, line = 1.0, []
    for value in returns.get(chosen, []):
        total *= 1.0 + float(value)
        line.append(total)
    return line


@dg.asset(**_JUDGED)
def trial_ledger(context: dg.AssetExecutionContext, scorecard: Artifact, config: Evaluation) -> dg.MaterializeResult:
    """Every trial of this class up to this partition's own: what luck has to be counted from. It only grows."""
    from plusultra_core.evaluation.scorecard import trials_of
    from plusultra_core.evaluation.trials import read_trials, record_trials

    record = Record(context, config)
    if not (record.store / record.provenance).exists():
        ledger = places().trials / f"{record.partition.asset_class}.jsonl"
        own = trials_of(record.read_json(scorecard, "scorecard.json"), record.provenance)
        record_trials(ledger, own)
        keys = [trial.key for trial in read_trials(ledger)]
        end = 1 + max((keys.index(trial.key) for trial in own), default=-1)
        lines = ledger.read_bytes().splitlines(keepends=True)[:end] if own else []
        publish(record.store, record.provenance, lambda folder: _write(folder / "trials.jsonl", b"".join(lines)), record.lineage)
    artifact = record.published()
    count = len((artifact.path / "trials.jsonl").read_bytes().splitlines())
    return record.artifact(artifact, trials=count)


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


@dg.asset(**_JUDGED)
def significance(
    context: dg.AssetExecutionContext, scorecard: Artifact, trial_ledger: Artifact, config: Evaluation
) -> dg.MaterializeResult:
    """Probabilistic and deflated Sharpe, overfitting probability and superior predictive ability, with the trial count of the ledger."""
    from plusultra_core.evaluation.scorecard import EvaluationConfig
    from plusultra_core.evaluation.significance import build_significance
    from plusultra_core.evaluation.trials import read_trials

    record = Record(context, config)
    if not (record.store / record.provenance).exists():
        cfg, card = config.load(EvaluationConfig), record.read_json(scorecard, "scorecard.json")
        trials = read_trials(trial_ledger.path / "trials.jsonl")
        returns = card["series"]["locked"]["ret"]
        found = build_significance(returns, cfg.models, trials, cfg.significance, cfg.bootstrap, cfg.seed)
        publish(record.store, record.provenance, partial(write_json, "significance.json", found), record.lineage)
    artifact = record.published()
    found = record.read_json(artifact, "significance.json")
    return record.artifact(artifact, **numbers({"strategies": found["strategies"]}), num_trials=found["num_trials"])
