"""The whole way through the console script, in processes of its own: once, twice, killed, and served."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest

from plusultra_dagster.commands.serve import free_port
from plusultra_dagster.places import Places

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
CLI = [sys.executable, "-m", "plusultra_dagster.cli"]


def plusultra(at: Places, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PLUSULTRA_HOME": str(at.data.parent)}
    return subprocess.run([*CLI, *arguments], cwd=ROOT, env=env, capture_output=True, text=True, timeout=900)


def test_a_dump_goes_all_the_way_and_the_second_run_has_nothing_to_do(home: Places, real_dump: Callable[[str], Path]) -> None:
    dump = str(real_dump("market_tiny"))
    first = plusultra(home, "run", dump, "--asset-class", "equity", "--profile", "smoke", "--json")
    assert first.returncode == 0, first.stdout + first.stderr
    said = json.loads(first.stdout.splitlines()[-1])
    equity = said["asset_classes"]["equity"]
    assert said["snapshot"] == "market_tiny-0da05f928fdf"
    assert equity["status"] == "success"
    assert {"no_trade", "buy_and_hold", "policy"} <= set(equity["metrics"])
    assert set(equity["bundles"]) == set(equity["mlflow_runs"]) == {"pretrained_checkpoint", "supervised_checkpoint", "policy_checkpoint"}
    assert "plotly" in Path(equity["report"]).read_text().lower()
    second = plusultra(home, "run", dump, "--asset-class", "equity", "--profile", "smoke", "--json")
    assert second.returncode == 0
    assert "nothing to recompute" in second.stdout
    again = json.loads(second.stdout.splitlines()[-1])["asset_classes"]["equity"]
    assert again["made"] == []
    assert {name: again[name] for name in ("bundles", "metrics", "report")} == {
        name: equity[name] for name in ("bundles", "metrics", "report")
    }


def children(pid: int, of: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            command = path.with_name("cmdline").read_bytes().decode()
        except (OSError, ValueError):
            continue
        if parent == pid and of in command:
            found.append(int(path.parent.name))
    return found


def wait_until(found: Callable[[], object], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


def test_a_run_that_is_killed_takes_its_child_along_frees_its_slot_and_goes_on(home: Places, tiny_dump: Path) -> None:
    arguments = ["run", str(tiny_dump), "--asset-class", "equity", "--profile", "smoke"]
    env = {**os.environ, "PLUSULTRA_HOME": str(home.data.parent)}
    process = subprocess.Popen([*CLI, *arguments], cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: list(home.work.glob("*/fold_0-linear.pt")) or process.poll() is not None, 600)
        assert process.poll() is None
        trainers = children(process.pid, "plusultra_core.training")
        assert trainers
    finally:
        process.kill()
        process.wait()
    killed = time.monotonic()
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in trainers), 5)
    assert time.monotonic() - killed < 5
    assert not list((home.artifacts / "supervised_checkpoint").glob("[0-9a-f]*"))
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        assert instance.event_log_storage.get_concurrency_info("gpu").active_slot_count == 1
    again = plusultra(home, *arguments)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "ended 1 run(s) whose process was killed" in again.stdout
    assert "fold_0-hybrid" not in again.stdout, "the first fold was trained again"
    assert "fold_1-hybrid" in again.stdout
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        assert instance.event_log_storage.get_concurrency_info("gpu").active_slot_count == 0
        assert {run.status.value for run in instance.get_runs()} == {"SUCCESS", "FAILURE"}


@pytest.fixture
def ui(home: Places) -> Iterator[tuple[subprocess.Popen[str], int]]:
    port = free_port()
    env = {**os.environ, "PLUSULTRA_HOME": str(home.data.parent), "PLUSULTRA_PROFILE": "smoke", "PLUSULTRA_REPORTS_PORT": str(free_port())}
    with subprocess.Popen([*CLI, "ui", "--port", str(port)], cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True) as process:
        yield process, port
        if process.poll() is None:
            process.kill()


def graphql(port: int, query: str) -> dict[str, object]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/graphql", json.dumps({"query": query}).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return dict(json.loads(answer.read())["data"])


def test_a_dump_put_down_beside_the_running_desk_becomes_a_snapshot_and_tables(
    ui: tuple[subprocess.Popen[str], int], home: Places, tiny_dump: Path
) -> None:
    process, port = ui
    assert process.stdout is not None
    assert f"http://127.0.0.1:{port}" in process.stdout.readline()
    (home.landing / "tiny.sqlite").write_bytes(tiny_dump.read_bytes())
    query = '{ runsOrError(filter: {pipelineName: "refresh_tables"}) { ... on Runs { results { status } } } }'

    def done() -> bool:
        results = graphql(port, query)["runsOrError"]["results"]  # type: ignore[index]
        assert "FAILURE" not in {run["status"] for run in results}
        return sorted(run["status"] for run in results) == ["SUCCESS", "SUCCESS"]

    end = time.monotonic() + 400
    while not done():
        assert time.monotonic() < end, "no tables"
        time.sleep(2)
    assert len(list(home.lake.glob("regimes/*/tiny-*.parquet"))) == 2
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    with pytest.raises(OSError):
        graphql(port, "{ __typename }")
