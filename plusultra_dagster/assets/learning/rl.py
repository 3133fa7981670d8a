"""The policy."""

import dagster as dg

from plusultra_core.artifacts import Artifact
from plusultra_dagster.assets.automation import LEARN
from plusultra_dagster.assets.record import dressed
from plusultra_dagster.assets.station import run_station
from plusultra_dagster.config import Rl
from plusultra_dagster.resources.processes import Jobs
from plusultra_dagster.resources.tracking import MlflowTracking


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
    supervised_checkpoint: Artifact,
    config: Rl,
    jobs: Jobs,
    tracking: MlflowTracking,
) -> dg.MaterializeResult:
    """PPO policy whose environment is the execution kernel, warm-started from the first fold's forecaster."""
    inputs = {"windows": windows, "supervised": supervised_checkpoint}
    return run_station(context, jobs, tracking, "rl", "policy", inputs, config, beside=("simulation", "guardrails"))
