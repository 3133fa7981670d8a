"""Which config file a station reads in a run. What the values mean stands in core, what they are in configs/."""

import hashlib
from pathlib import Path
from typing import Any, TypeVar

import dagster as dg
from pydantic import Field

from plusultra_core import config as core_config
from plusultra_core.artifacts import canonical_json
from plusultra_core.market import ASSET_CLASSES, MarketConfig
from plusultra_dagster.places import CONFIGS, profile

T = TypeVar("T")


class Station(dg.Config):
    """A file under configs/ (without a folder: that of the profile) and dotted keys laid over it."""

    file: str
    overrides: dict[str, Any] = Field(default_factory=dict)

    def path(self, file: str | None = None) -> Path:
        """Where `file` (this station's own, or one beside it) lies."""
        name = Path(self.file)
        folder = name.parent if len(name.parts) > 1 else Path(profile())
        return CONFIGS / folder / (file or name.name)

    def load(self, cls: type[T]) -> T:
        """The station's config as its dataclass."""
        return core_config.load(cls, self.path(), self.overrides)

    def read(self) -> dict[str, Any]:
        """The station's config as plain JSON: for a child process, which parses it where torch may load."""
        return core_config.read(self.path(), self.overrides)

    def beside(self, name: str) -> dict[str, Any]:
        """The config of another station of the same profile, as plain JSON."""
        return core_config.read(self.path(f"{name}.yaml"))


class Data(Station):
    file: str = "data.yaml"


class Features(Station):
    file: str = "features.yaml"


class Regimes(Station):
    file: str = "regimes.yaml"


class Targets(Station):
    file: str = "targets.yaml"


class Views(Station):
    file: str = "views.yaml"


class Windows(Station):
    file: str = "windows.yaml"


class Training(Station):
    file: str = "training.yaml"


class Rl(Station):
    file: str = "rl.yaml"


class Inference(Station):
    file: str = "inference.yaml"


class Evaluation(Station):
    file: str = "evaluation.yaml"


class Reporting(Station):
    file: str = "reporting.yaml"


class Monitoring(Station):
    file: str = "monitoring.yaml"


class Feedback(Station):
    file: str = "feedback.yaml"


def markets() -> dict[str, MarketConfig]:
    """The facts of every market, by asset class."""
    return {name: core_config.load(MarketConfig, CONFIGS / "markets" / f"{name}.yaml") for name in ASSET_CLASSES}


def digest_of(value: object) -> str:
    """16 hex digits that name a JSON value."""
    return hashlib.sha256(canonical_json(value)).hexdigest()[:16]
