"""Forecasters: pretrained, supervised, and what they forecast out of sample."""

import dagster as dg

from plusultra_core.artifacts import Artifact
from plusultra_dagster.assets.automation import LEARN
from plusultra_dagster.assets.record import dressed
from plusultra_dagster.assets.station import run_station
from plusultra_dagster.config import Inference, Training
from plusultra_dagster.resources.processes import Jobs
from plusultra_dagster.resources.tracking import MlflowTracking

_TRAINED = dressed(
    __file__,
    "training",
    code=("training",),
    configs=("training",),
    market="own",
    io="artifacts",
    kinds=("pytorch", "safetensors"),
    automation=LEARN,
    pool="gpu",
)


@dg.asset(**_TRAINED)
def pretrained_checkpoint(
    context: dg.AssetExecutionContext, windows: Artifact, config: Training, jobs: Jobs, tracking: MlflowTracking
) -> dg.MaterializeResult:
    """Encoder pretrained by masked reconstruction on the first fold's train span only."""
    return run_station(context, jobs, tracking, "training", "pretrain", {"windows": windows}, config)


@dg.asset(**_TRAINED)
def supervised_checkpoint(
    context: dg.AssetExecutionContext,
    windows: Artifact,
    pretrained_checkpoint: Artifact,
    config: Training,
    jobs: Jobs,
    tracking: MlflowTracking,
) -> dg.MaterializeResult:
    """Quantile and direction forecasters, refitted on every walk-forward fold, the hybrid beside its linear floor."""
    inputs = {"windows": windows, "pretrained": pretrained_checkpoint}
    return run_station(context, jobs, tracking, "training", "supervised", inputs, config)


@dg.asset(
    **dressed(
        __file__,
        "training",
        code=("inference",),
        configs=("inference", "simulation", "guardrails"),
        market="own",
        io="artifacts",
        kinds=("pytorch", "parquet"),
        automation=LEARN,
        pool="gpu",
    )
)
def forecasts(
    context: dg.AssetExecutionContext,
    windows: Artifact,
    supervised_checkpoint: Artifact,
    config: Inference,
    jobs: Jobs,
    tracking: MlflowTracking,
) -> dg.MaterializeResult:
    """Out-of-sample forecasts of every test anchor, each made by the fold that did not see it."""
    inputs = {"windows": windows, "supervised": supervised_checkpoint}
    return run_station(context, jobs, tracking, "inference", "forecast", inputs, config, beside=("simulation", "guardrails"))
