"""The one place where everything Dagster knows is listed."""

from collections.abc import Mapping

import dagster as dg

from plusultra_dagster.assets import data
from plusultra_dagster.assets.columns import features, regimes, targets, views
from plusultra_dagster.assets.desk import feedback, monitoring
from plusultra_dagster.assets.judgement import evaluation, execution, factors, promotion, reporting, stress
from plusultra_dagster.assets.learning import rl, simulation, training, windows
from plusultra_dagster.checks.contracts import contracts
from plusultra_dagster.checks.gate import gate_checks
from plusultra_dagster.checks.leaks import leaks
from plusultra_dagster.checks.seeds import seed_checks
from plusultra_dagster.jobs import all_jobs
from plusultra_dagster.places import CHECKOUT, Places, places
from plusultra_dagster.resources.landing import Landing
from plusultra_dagster.resources.processes import Jobs
from plusultra_dagster.resources.references import ReferenceIO
from plusultra_dagster.resources.registry import Registry
from plusultra_dagster.resources.tables import ParquetIO
from plusultra_dagster.resources.tracking import MlflowTracking
from plusultra_dagster.sensors.arrivals import landed_dumps, new_snapshots
from plusultra_dagster.sensors.retraining import retraining
from plusultra_dagster.sensors.upkeep import dead_runs, hourly_watch, tables_automation, training_automation, weekly_retraining


def resources(at: Places) -> dict[str, object]:
    """Stores, processes and tracking of one home."""
    return {
        "tables": ParquetIO(base=at.lake_url),
        "artifacts": ReferenceIO(base=at.lake_url, artifacts=str(at.artifacts)),
        "landing": Landing(folder=str(at.landing)),
        "jobs": Jobs(folder=str(at.work), cwd=str(CHECKOUT)),
        "tracking": tracking(at),
        "registry": Registry(folder=str(at.registry), artifacts=str(at.artifacts)),
    }


def tracking(at: Places) -> MlflowTracking:
    """MLflow on SQLite, by an absolute address: the default would make a database in the current folder."""
    return MlflowTracking(uri=f"sqlite:///{at.mlflow}", artifacts=(at.mlflow.parent / "artifacts").as_uri())


def assets() -> list[object]:
    """All assets in the order of the way."""
    return [
        data.dump,
        data.snapshot,
        *data.tables,
        data.bars,
        features.features,
        regimes.regimes,
        targets.targets,
        views.cross_asset_view,
        windows.windows,
        factors.factor_sheet,
        training.pretrained_checkpoint,
        training.supervised_checkpoint,
        training.forecasts,
        rl.policy_checkpoint,
        simulation.simulator_trace,
        rl.offline_policy,
        simulation.stress_scenarios,
        evaluation.scorecard,
        evaluation.trial_ledger,
        evaluation.significance,
        promotion.champion,
        execution.execution_report,
        stress.stress_report,
        reporting.report,
        monitoring.drift,
        monitoring.operations_summary,
        feedback.annotations,
        feedback.offline_rl_dataset,
    ]


def build_defs(at: Places | None = None, loggers: Mapping[str, dg.LoggerDefinition] | None = None) -> dg.Definitions:
    """Definitions over the folders of a home; `loggers` are for a run that a person follows at a terminal."""
    return dg.Definitions(
        assets=assets(),  # type: ignore[arg-type]
        asset_checks=[*contracts, *leaks, *gate_checks, *seed_checks],
        jobs=all_jobs,
        schedules=[weekly_retraining, hourly_watch],
        sensors=[landed_dumps, new_snapshots, dead_runs, tables_automation, training_automation, retraining],
        resources=resources(at or places()),
        loggers=loggers,
        executor=dg.in_process_executor,
    )
