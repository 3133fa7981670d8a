"""Where things lie: the one module that knows the folders of the checkout and of `data/`."""

import os
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
CONFIGS = CHECKOUT / "configs"
REPORTS_PORT = int(os.environ.get("PLUSULTRA_REPORTS_PORT", "3001"))


def page_url(asset: str, key: str, page: str) -> str:
    """Where `plusultra ui` serves a page of an artifact: a browser opens no file from a page that came by http."""
    return f"http://127.0.0.1:{REPORTS_PORT}/{asset}/{key}/{page}"


def home() -> Path:
    """Folder above `data/`: PLUSULTRA_HOME, or the checkout."""
    return Path(os.environ.get("PLUSULTRA_HOME", CHECKOUT)).resolve()


def profile() -> str:
    """Folder under configs/ that the stations read: PLUSULTRA_PROFILE, or base."""
    return os.environ.get("PLUSULTRA_PROFILE", "base")


@dataclass(frozen=True, slots=True)
class Places:
    """The folders under `<home>/data`."""

    data: Path

    @property
    def landing(self) -> Path:
        """Where dumps are put down."""
        return self.data / "landing"

    @property
    def snapshots(self) -> Path:
        """Read-only copies of the dumps, by key."""
        return self.data / "snapshots"

    @property
    def lake(self) -> Path:
        """Tables: `<asset>/<asset_class>/<snapshot>.parquet`."""
        return self.data / "lake"

    @property
    def lake_url(self) -> str:
        """The same, or another store that fsspec knows: PLUSULTRA_LAKE (`s3://bucket/lake`)."""
        return os.environ.get("PLUSULTRA_LAKE", str(self.lake))

    @property
    def artifacts(self) -> Path:
        """Content-addressed directories: `<asset>/<key>/`."""
        return self.data / "artifacts"

    @property
    def work(self) -> Path:
        """Checkpoints of jobs that are under way."""
        return self.data / "work"

    @property
    def dagster(self) -> Path:
        """DAGSTER_HOME."""
        return self.data / "dagster"

    @property
    def mlflow(self) -> Path:
        """The tracking database."""
        return self.data / "mlflow" / "mlflow.db"

    @property
    def trials(self) -> Path:
        """Every trial ever scored: `<asset_class>/<snapshot>/<key>.json`."""
        return self.data / "trials"

    @property
    def registry(self) -> Path:
        """The champion of each class and the decisions that made it."""
        return self.data / "registry"

    @property
    def journal(self) -> Path:
        """What the service wrote: requests and predictions."""
        return self.data / "service" / "journal.sqlite"

    def alarms(self, asset_class: str) -> Path:
        """The alarms of a class, between comparisons."""
        return self.data / "monitoring" / f"{asset_class}.json"

    def exposition(self, asset_class: str) -> Path:
        """Verdicts, alarms and scores of a class as Prometheus text; the service adds it to its own."""
        return self.data / "monitoring" / f"{asset_class}.prom"

    @property
    def feedback(self) -> Path:
        """The analysts' store."""
        return self.data / "feedback"


def places() -> Places:
    """The folders of this home. Read each time, so that a test may set PLUSULTRA_HOME."""
    return Places(home() / "data")
