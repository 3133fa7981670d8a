"""The policy."""

import dagster as dg

from plusultra_core.artifacts import Artifact
from plusultra_dagster.assets.automation import LEARN
from plusultra_dagster.assets.record import dressed
from plusultra_dagster.assets.station import run_station
from plusultra_dagster.config import Rl
from plusultra_dagster.resources.processes import Jobs
from plusultra_dagster.resources.tracking import MlflowTracking

_BESIDE = ("simulation", "guardrails")


@dg.asset(
    **dressed(
        __file__,
        "rl",
        code=("rl",),
        configs=("rl", "simulation", "guardrails"),
        market="own",
        io="artifacts",
        kinds=("pytorch", "safetensors"),
        automation=LEARN,
        pool="gpu",
    )
)
def policy_checkpoint(
    context: dg.AssetExecutionContext,
    windows: Artifact,
    pretrained_checkpoint: Artifact,
    supervised_checkpoint: Artifact,
    config: Rl,
    jobs: Jobs,
    tracking: MlflowTracking,
) -> dg.MaterializeResult:
    """PPO policy whose environment is the execution kernel, warm-started from the first fold's forecaster or the pretrained backbone."""
    inputs = {"windows": windows, "supervised": supervised_checkpoint, "pretrained": pretrained_checkpoint}
    return run_station(context, jobs, tracking, "rl", "policy", inputs, config, beside=("simulation", "guardrails"))


@dg.asset(
    **dressed(
        __file__,
        "rl",
        code=("rl",),
        configs=("rl", "offline", *_BESIDE),
        market="own",
        io="artifacts",
        kinds=("pytorch", "safetensors"),
        automation=None,
        pool="gpu",
    )
)
def offline_policy(
    context: dg.AssetExecutionContext,
    windows: Artifact,
    supervised_checkpoint: Artifact,
    simulator_trace: Artifact,
    config: Rl,
    jobs: Jobs,
    tracking: MlflowTracking,
) -> dg.MaterializeResult:
    """A policy out of the ledgers of the written rules alone, before the locked window; judged off policy and on; made when asked for."""
    inputs = {"windows": windows, "supervised": supervised_checkpoint, "trace": simulator_trace}
    return run_station(context, jobs, tracking, "rl", "offline", inputs, config, beside=("offline", *_BESIDE))
