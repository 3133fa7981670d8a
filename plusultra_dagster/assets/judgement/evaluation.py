"""Scorecard, trial ledger, significance."""

from functools import partial
from pathlib import Path

import dagster as dg
import polars as pl

from plusultra_core.artifacts import Artifact, publish
from plusultra_core.errors import ArtifactError
from plusultra_dagster.assets import summary
from plusultra_dagster.assets.automation import LEARN
from plusultra_dagster.assets.record import Record, dressed, write_json
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
    _require_one_lineage(simulator_trace, forecasts)
    if not (record.store / record.provenance).exists():
        frame, cfg = pl.read_parquet(forecasts.path / "forecasts.parquet"), config.load(EvaluationConfig)
        lineage = {**record.lineage, "snapshot": record.partition.snapshot}
        card = build_scorecard(simulator_trace.path, frame, regimes, bars, record.market, cfg, lineage, targets)
        publish(record.store, record.provenance, partial(write_json, "scorecard.json", card), record.lineage)
    artifact = record.published()
    card = record.read_json(artifact, "scorecard.json")
    return record.artifact(artifact, **summary.scorecard(card))


def _require_one_lineage(trace: Artifact, forecasts: Artifact) -> None:
    """A trace is judged beside the forecasts it traded, and beside no others."""
    traded = trace.manifest["lineage"].get("forecasts")
    if traded != forecasts.sha256:
        raise ArtifactError(
            f"{trace.path}: traded forecasts {str(traded)[:16]}, found {forecasts.sha256[:16]} beside it; materialise simulator_trace again"
        )


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
    return record.artifact(artifact, **summary.significance(found))
