"""The example for more than one machine, as far as it can be checked without one."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster._core.instance.config import dagster_instance_config

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"


@pytest.fixture(scope="module")
def documents() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / "plusultra.yaml").read_text()))


def test_the_instance_is_one_that_dagster_takes_and_keeps_the_limits_of_the_small_one() -> None:
    large, _ = dagster_instance_config(str(FOLDER))
    small = yaml.safe_load((ROOT / "dagster.yaml").read_text())
    assert large["concurrency"]["pools"] == small["concurrency"]["pools"]
    assert large["run_retries"] == small["run_retries"]
    assert large["storage"]["postgres"]["postgres_db"]["scheme"] == "postgresql+psycopg2"


def test_every_service_finds_its_pods_and_the_workspace_its_service(documents: list[dict[str, Any]]) -> None:
    pods = {doc["spec"]["template"]["metadata"]["labels"]["app"]: doc for doc in documents if doc["kind"] == "Deployment"}
    services = {doc["metadata"]["name"]: doc for doc in documents if doc["kind"] == "Service"}
    assert {doc["spec"]["selector"]["app"] for doc in services.values()} <= set(pods)
    target = yaml.safe_load((FOLDER / "workspace.yaml").read_text())["load_from"][0]["grpc_server"]
    assert services[target["host"]]["spec"]["ports"][0]["port"] == target["port"]
    command = pods["plusultra-code"]["spec"]["template"]["spec"]["containers"][0]["command"]
    assert str(target["port"]) in command


def test_no_secret_stands_in_the_files(documents: list[dict[str, Any]]) -> None:
    variables = [
        variable
        for doc in documents
        if doc["kind"] == "Deployment"
        for variable in doc["spec"]["template"]["spec"]["containers"][0]["env"]
        if "PASSWORD" in variable["name"]
    ]
    assert len(variables) == 3
    assert all("secretKeyRef" in variable["valueFrom"] for variable in variables)


def test_run_pods_find_the_password_where_the_launcher_puts_it(documents: list[dict[str, Any]]) -> None:
    """dagster-k8s gives a run's pod DAGSTER_PG_PASSWORD from the key postgresql-password, and nothing else of the secret."""
    instance = yaml.safe_load((FOLDER / "dagster.yaml").read_text())
    postgres, launcher = instance["storage"]["postgres"]["postgres_db"], instance["run_launcher"]["config"]
    assert postgres["password"] == {"env": "DAGSTER_PG_PASSWORD"}
    handed = {name.partition("=")[0] for name in launcher["env_vars"]}
    assert {postgres[field]["env"] for field in ("username", "hostname")} <= handed
    for doc in documents:
        if doc["kind"] == "Deployment":
            env = {variable["name"]: variable for variable in doc["spec"]["template"]["spec"]["containers"][0]["env"]}
            secret = env["DAGSTER_PG_PASSWORD"]["valueFrom"]["secretKeyRef"]
            assert secret == {"name": launcher["postgres_password_secret"], "key": "postgresql-password"}
