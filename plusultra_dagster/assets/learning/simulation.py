"""What would have happened: every strategy through the one kernel."""

import dagster as dg

from plusultra_core.artifacts import Artifact
from plusultra_dagster.assets.automation import LEARN
from plusultra_dagster.assets.record import dressed
from plusultra_dagster.assets.station import run_station
from plusultra_dagster.config import Inference
from plusultra_dagster.resources.processes import Jobs
from plusultra_dagster.resources.tracking import MlflowTracking

_SIMULATED = dressed(
    __file__,
    "simulation",
    code=("inference",),
    configs=("inference", "simulation", "guardrails"),
    market="own",
    io="artifacts",
    kinds=("numba", "parquet"),
    automation=LEARN,
    pool="gpu",
)


@dg.asset(**_SIMULATED)
def simulator_trace(
    context: dg.AssetExecutionContext,
    windows: Artifact,
    supervised_checkpoint: Artifact,
    policy_checkpoint: Artifact,
    forecasts: Artifact,
    config: Inference,
    jobs: Jobs,
    tracking: MlflowTracking,
) -> dg.MaterializeResult:
    """Ledger of every strategy over the locked window: each order, fill and cost, for the policy and its baselines alike."""
    inputs = {"windows": windows, "supervised": supervised_checkpoint, "policy": policy_checkpoint, "forecasts": forecasts}
    return run_station(context, jobs, tracking, "inference", "trace", inputs, config, beside=("simulation", "guardrails"))


@dg.asset(**_SIMULATED)
def stress_scenarios(
    context: dg.AssetExecutionContext,
    windows: Artifact,
    supervised_checkpoint: Artifact,
    policy_checkpoint: Artifact,
    forecasts: Artifact,
    config: Inference,
    jobs: Jobs,
    tracking: MlflowTracking,
) -> dg.MaterializeResult:
    """The same strategies through worlds with higher costs, longer latency, thinner volume and shocked prices."""
    inputs = {"windows": windows, "supervised": supervised_checkpoint, "policy": policy_checkpoint, "forecasts": forecasts}
    return run_station(context, jobs, tracking, "inference", "stress", inputs, config, beside=("simulation", "guardrails"))
