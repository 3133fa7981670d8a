"""A home made ready: folders, the instance's settings, the tracking database. Done before anything of Dagster loads."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from plusultra_dagster.places import CHECKOUT, CONFIGS, Places, places, profile


def prepare(chosen_profile: str | None = None) -> Places:
    """Set the environment of this process, make the folders, copy dagster.yaml to DAGSTER_HOME.

    Raises  ConfigError when configs/ has no such profile.
    """
    from plusultra_core.errors import ConfigError

    if chosen_profile is not None:
        os.environ["PLUSULTRA_PROFILE"] = chosen_profile
    if not (CONFIGS / profile()).is_dir() or profile() == "markets":
        known = sorted(path.name for path in CONFIGS.iterdir() if path.is_dir() and path.name != "markets")
        raise ConfigError(f"profile: expected one of {known}, found {profile()!r}")
    at = places()
    for folder in (at.landing, at.snapshots, at.lake, at.artifacts, at.work, at.dagster, at.mlflow.parent):
        folder.mkdir(parents=True, exist_ok=True)
    _copy_if_changed(CHECKOUT / "dagster.yaml", at.dagster / "dagster.yaml")
    os.environ["DAGSTER_HOME"] = str(at.dagster)
    for name in ("DAGSTER_DISABLE_TELEMETRY", "DO_NOT_TRACK", "MLFLOW_DISABLE_TELEMETRY"):
        os.environ.setdefault(name, "true")
    return at


def quiet() -> None:
    """Beta and preview notices of Dagster are known and tested; they would be printed in every process."""
    import warnings

    from dagster._utils.warnings import BetaWarning, PreviewWarning

    warnings.filterwarnings("ignore", category=BetaWarning)
    warnings.filterwarnings("ignore", category=PreviewWarning)


def create_tracking(at: Places) -> None:
    """Make the MLflow database if it is not there: alone, because several first users at a time break it."""
    if at.mlflow.exists():
        return
    from plusultra_dagster.build import tracking

    with locked(at.mlflow.with_suffix(".lock")):
        if not at.mlflow.exists():
            tracking(at).create()


@contextmanager
def locked(path: Path, shared: bool = False) -> Iterator[bool]:
    """Hold a lock file; yields whether this process holds it alone."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            alone = True
        except OSError:
            fcntl.flock(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
            alone = not shared
        yield alone
        if alone and shared:
            fcntl.flock(file, fcntl.LOCK_SH)


def _copy_if_changed(source: Path, target: Path) -> None:
    if not target.exists() or source.read_bytes() != target.read_bytes():
        beside = target.with_name(f".{target.name}.{os.getpid()}")
        shutil.copyfile(source, beside)
        beside.replace(target)
