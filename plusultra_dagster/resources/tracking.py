"""MLflow: one run per asset, partition and Dagster run, found again by its tags. Nothing of it loads before it is used."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import dagster as dg

OFFLINE = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_MODEL_CATALOG_URI": "",
    "MLFLOW_SKIP_PIP_REQUIREMENTS_CHECK": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
}
STEPS = ("epoch", "update", "iteration", "step")
_PARAMS_A_BATCH = 100
_METRICS_A_BATCH = 1000
_PARAM_LENGTH = 500

# Opens the experiment in the UI's view of training runs; without it, it opens in that of language models.
_KIND = {"mlflow.experimentKind": "custom_model_development"}


class Tracked:
    """One MLflow run, while it is written."""

    def __init__(self, client: Any, run_id: str, url: str, found: bool) -> None:
        self.run_id = run_id
        self.url = url
        self.found = found
        self._client = client

    def log(self, params: Mapping[str, Any], metrics: Mapping[str, float], history: Sequence[Mapping[str, float]]) -> None:
        """Parameters, final numbers and the history of a loop, in as few writes as MLflow takes. A run found again has them."""
        if self.found or self._client is None:
            return
        from mlflow.entities import Metric, Param

        named = [Param(name, str(value)[:_PARAM_LENGTH]) for name, value in sorted(flatten(params).items())]
        points = [Metric(f"final/{name}", float(value), 0, 0) for name, value in sorted(metrics.items())]
        points += [Metric(name, value, 0, step) for name, value, step in _points(history)]
        for start in range(0, len(named), _PARAMS_A_BATCH):
            self._client.log_batch(self.run_id, params=named[start : start + _PARAMS_A_BATCH])
        for start in range(0, len(points), _METRICS_A_BATCH):
            self._client.log_batch(self.run_id, metrics=points[start : start + _METRICS_A_BATCH])

    def metadata(self) -> dict[str, Any]:
        """The link from the asset."""
        return {"mlflow_run_id": self.run_id, "mlflow": dg.MetadataValue.url(self.url)} if self.run_id else {}


class MlflowTracking(dg.ConfigurableResource):
    """The tracking store; an empty `uri` tracks nothing (unit tests)."""

    uri: str
    artifacts: str
    experiment: str = "plusultra"
    ui: str = "http://127.0.0.1:5000"

    @contextmanager
    def run(self, context: dg.AssetExecutionContext, key: str) -> Iterator[Tracked]:
        """A run that ends FINISHED, or FAILED when the body raises. `key` names the artifact: an equal one's run is found again."""
        if not self.uri:
            yield Tracked(None, "", "", found=False)
            return
        client, experiment = self._open()
        old = client.search_runs([experiment], f"tags.`plusultra.key` = '{key}' and attributes.status = 'FINISHED'", max_results=1)
        if old:
            run_id = old[0].info.run_id
            yield Tracked(client, run_id, self._url(experiment, run_id), found=True)
            return
        for left in client.search_runs([experiment], f"tags.`plusultra.key` = '{key}' and attributes.status = 'RUNNING'"):
            client.set_terminated(left.info.run_id, "KILLED")  # one slot, so nobody else is at work on this key: its worker was killed
        asset, partition = context.asset_key.to_user_string(), str(context.partition_key)
        tags = {"dagster.run_id": context.run.run_id, "dagster.asset_key": asset, "dagster.partition": partition, "plusultra.key": key}
        run_id = client.create_run(experiment, tags=tags, run_name=f"{asset} {partition}").info.run_id
        try:
            yield Tracked(client, run_id, self._url(experiment, run_id), found=False)
        except BaseException:
            client.set_terminated(run_id, "FAILED")
            raise
        client.set_terminated(run_id, "FINISHED")

    def end_runs_of(self, dagster_run_ids: Sequence[str]) -> None:
        """Mark as KILLED what dead Dagster runs left RUNNING."""
        if not (self.uri and dagster_run_ids):
            return
        client, experiment = self._open()
        for dagster_run_id in dagster_run_ids:
            left = client.search_runs([experiment], f"tags.`dagster.run_id` = '{dagster_run_id}' and attributes.status = 'RUNNING'")
            for run in left:
                client.set_terminated(run.info.run_id, "KILLED")

    def create(self) -> None:
        """Make the database and its experiment: once, at set-up, because several first users at a time break it."""
        self._open()

    def _open(self) -> tuple[Any, str]:
        for name, value in OFFLINE.items():
            os.environ.setdefault(name, value)
        from mlflow.tracking import MlflowClient

        client = MlflowClient(tracking_uri=self.uri)
        found = client.get_experiment_by_name(self.experiment)
        return client, found.experiment_id if found else client.create_experiment(self.experiment, self.artifacts, tags=_KIND)

    def _url(self, experiment: str, run_id: str) -> str:
        return f"{self.ui}/#/experiments/{experiment}/runs/{run_id}"


def _points(history: Sequence[Mapping[str, float]]) -> Iterator[tuple[str, float, int]]:
    """Name, value and step of every number of a history; the step is the how-manieth of its name, since epochs may be fractions."""
    counts: dict[str, int] = {}
    for row in history:
        for name, value in sorted(row.items()):
            if name not in STEPS:
                yield name, float(value), counts.setdefault(name, 0)
                counts[name] += 1


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings under dotted names."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found
