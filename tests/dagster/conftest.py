"""Fixtures of the orchestration: a home of one's own, a tiny dump, an instance, definitions that track nothing."""

import gc
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.storage.defs_state.base import DefsStateStorage

from plusultra_core.data.samples.synthetic import SyntheticConfig, make_synthetic
from plusultra_dagster import jobs
from plusultra_dagster.build import build_defs
from plusultra_dagster.partitions import add_snapshot, multi_key
from plusultra_dagster.places import Places, places
from plusultra_dagster.resources.landing import key_of
from plusultra_dagster.resources.tracking import MlflowTracking

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
Run = Callable[..., dg.ExecuteInProcessResult]


def make_home(root: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    """Folders under a root, which becomes the home of this process, with the smoke profile."""
    monkeypatch.setenv("PLUSULTRA_HOME", str(root))
    monkeypatch.setenv("PLUSULTRA_PROFILE", "smoke")
    at = places()
    for folder in (at.landing, at.snapshots, at.lake, at.artifacts, at.work):
        folder.mkdir(parents=True, exist_ok=True)
    return at


def untracked(at: Places) -> dg.Definitions:
    """The real definitions without MLflow."""
    made = build_defs(at)
    return dg.Definitions(
        assets=made.assets,
        asset_checks=made.asset_checks,
        jobs=made.jobs,
        schedules=made.schedules,
        sensors=made.sensors,
        resources={**(made.resources or {}), "tracking": MlflowTracking(uri="", artifacts="")},
        executor=dg.in_process_executor,
    )


def runner(instance: dg.DagsterInstance, defs: dg.Definitions) -> Run:
    """Materialises some assets of one cell through a job of the definitions."""

    def go(job: str, names: list[str], snapshot: str, asset_class: str | None = None) -> dg.ExecuteInProcessResult:
        add_snapshot(instance, snapshot)
        return defs.resolve_job_def(job).execute_in_process(
            instance=instance,
            partition_key=multi_key(snapshot, asset_class) if asset_class else snapshot,
            asset_selection=[dg.AssetKey(name) for name in names],
            run_config=QUIET,
            raise_on_error=False,
        )

    return go


@pytest.fixture(scope="module", autouse=True)
def nothing_left_open() -> Iterator[None]:
    """Fails the module that leaves an instance entered: whatever loads definitions after it in this process would meet a dead one."""
    yield
    gc.collect()
    assert DefsStateStorage.get() is None


@pytest.fixture(scope="session")
def tiny_dump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two equities and an ETF over 160 sessions."""
    path = tmp_path_factory.mktemp("dump") / "tiny.sqlite"
    nothing = {f"num_{name}": 0 for name in ("forex", "crypto", "crypto_perpetual", "volatility_index")}
    size = {"num_bars": 160, "num_hourly_bars": 100, "num_equity": 2, "num_etf": 1}
    make_synthetic(path, SyntheticConfig(seed=5, start="2015-01-02", gap_frac=0.0, jump_frac=0.0, planted_ic=0.3, **size, **nothing))
    return path


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    """An empty home."""
    return make_home(tmp_path / "home", monkeypatch)


@pytest.fixture
def landed(home: Places, tiny_dump: Path) -> str:
    """The tiny dump in the landing folder; its snapshot key."""
    path = home.landing / tiny_dump.name
    path.write_bytes(tiny_dump.read_bytes())
    return key_of(path)


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """A persistent instance in a temporary folder."""
    folder = tmp_path / "dagster"
    folder.mkdir(exist_ok=True)
    with dg.instance_for_test(temp_dir=str(folder)) as made:
        yield made


@pytest.fixture
def defs(home: Places) -> dg.Definitions:
    """The real definitions over the temporary home, tracking nothing."""
    return untracked(home)


@pytest.fixture
def run(instance: dg.DagsterInstance, defs: dg.Definitions) -> Run:
    """Materialise some assets of one cell."""
    return runner(instance, defs)


@pytest.fixture(scope="session")
def made_once(tiny_dump: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with a home and an instance in which the tiny dump's snapshot and equity tables are made; its snapshot key."""
    root = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        at = make_home(root / "home", patch)
        path = Path(shutil.copyfile(tiny_dump, at.landing / tiny_dump.name))
        key = key_of(path)
        (root / "dagster").mkdir()
        with dg.instance_for_test(temp_dir=str(root / "dagster")) as made:
            go = runner(made, untracked(at))
            assert go("take_snapshot", ["snapshot"], key).success
            assert go("refresh_tables", list(jobs.TABLES), key, "equity").success
    return root, key


@pytest.fixture
def with_tables(made_once: tuple[Path, str], tmp_path: Path) -> str:
    """A copy of that home and instance: ask for it before `instance`, `home` and `run`."""
    root, key = made_once
    for name in ("home", "dagster"):
        shutil.copytree(root / name, tmp_path / name, dirs_exist_ok=True)
    return key


_DAGSTER_ITSELF = ("Property `OpDefinition.version`", r"AssetExecutionContext\.run_id is deprecated")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Observed sources and Pipes ask for properties that Dagster has deprecated."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            for text in _DAGSTER_ITSELF:
                item.add_marker(pytest.mark.filterwarnings(f"ignore:{text}:DeprecationWarning"))
