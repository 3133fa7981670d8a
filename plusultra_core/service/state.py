"""What is being served: one verified directory at a time, swapped whole.

A served directory is an artifact: `bundle/`, `panel/` and, where a policy decides, `policy/` as they were promoted, and `settings`
(the configs of inference, guardrails and market) in its manifest. The forecasts of the newest bars are computed once, when it is loaded.
"""

import json
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from plusultra_core.artifacts import MANIFEST, Artifact, canonical_json, open_artifact, publish, sha256_file, write_atomic
from plusultra_core.errors import ArtifactError, ConfigError, ContractError

BUNDLE = "bundle"
PANEL = "panel"
POLICY = "policy"


class Horizon(NamedTuple):
    """Forecast of one horizon: level -> log return, probabilities, confidence."""

    horizon_bars: int
    quantiles_ret_log: dict[str, float]
    p_down: float
    p_flat: float
    p_up: float
    confidence: float


class Outlook(NamedTuple):
    """The newest bar of one symbol."""

    symbol: str
    ts_ns: int
    known_ns: int
    sigma_per_bar: float
    adv_ccy: float | None
    horizons: tuple[Horizon, ...]


class Held(NamedTuple):
    """What an account holds of a symbol; None: not said. `fresh`: its newest bar is young enough to trade on."""

    weight: float | None
    fresh: bool


class Verdict(NamedTuple):
    """What sizing asks for and what the guardrails let pass."""

    proposed: float | None
    target: float | None
    reason: str


class Slot(NamedTuple):
    """What a policy sees of its own position in one symbol, besides the weight."""

    pnl_ccy: float
    """Result of the symbol after all its costs since the account began."""
    pnl_peak_ccy: float
    working_weight: float
    """Still to be traded by the order at work, signed fraction of equity."""
    last_fill_weight: float
    """Filled in the newest bar, signed fraction of equity."""


class Books(NamedTuple):
    """The account of a request; None where it was not said."""

    equity_ccy: float | None
    peak_ccy: float | None
    state: str
    capital_ccy: float | None = None
    """What the account began with."""
    age_bars: int | None = None
    slots: Mapping[str, Slot] = MappingProxyType({})


Decide = Callable[[Sequence[str], Mapping[str, Held], Books], tuple[dict[str, Verdict], str]]
"""Symbols asked for, holdings of these and all others, the account -> a verdict a symbol asked for, and the account's state."""


@dataclass(frozen=True, slots=True)
class Served:
    """A directory that has been verified, with its forecasts."""

    sha256: str
    bundle_sha256: str
    panel_sha256: str
    lineage: dict[str, str]
    bar_ns: int
    outlooks: dict[str, Outlook]
    decide: Decide
    whole_account: bool = False
    """Whether `decide` reads capital, age and slots of the account: a policy does."""


Open = Callable[[Path, Artifact], Served]

_SENTENCES = (
    (ContractError, "there is no champion"),
    (ArtifactError, "what is named is not there, is not what was signed, or does not fit"),
    (ConfigError, "the settings of what is named are of another version"),
    (OSError, "what is named cannot be read"),
)


def publish_served(
    bundle: Path, panel: Path, store: Path, key: str, manifest: Mapping[str, object], policy: Path | None = None
) -> Artifact:
    """Copy a bundle, a panel and, where one decides, a policy into one served directory `store/key`.

    `manifest` holds settings, lineage and, of a champion, its strategy.
    """

    def fill(directory: Path) -> None:
        shutil.copytree(bundle, directory / BUNDLE)
        shutil.copytree(panel, directory / PANEL)
        if policy is not None:
            (directory / POLICY).mkdir()
            for file in sorted(path for path in policy.iterdir() if path.is_file()):  # the other seeds lie in folders
                shutil.copy2(file, directory / POLICY)

    return publish(store, key, fill, manifest)


def point(pointer: Path, served: Artifact) -> None:
    """Name what is to be served; a running service takes it at its next look."""
    write_atomic(pointer, canonical_json({"path": str(served.path.absolute()), "sha256": served.sha256}))


class ServiceState:
    """Holds what is served. Readers take `served` once a request and so never see two versions in one answer."""

    def __init__(self, open_served: Open) -> None:
        self._open = open_served
        self._served: Served | None = None
        self._lock = threading.Lock()
        self._seen: str | None = None
        self.refusal = ""
        """Why the last attempt was refused, for who runs the service; empty when it was not."""
        self.why = ""
        """The same for who asks without a key: a sentence of a closed list, without paths and names."""

    @property
    def served(self) -> Served | None:
        """What is served now."""
        return self._served

    def swap(self, path: Path, sha256: str) -> bool:
        """Serve the directory at `path` if it is whole, and is the one meant; otherwise keep what is served."""
        with self._lock:
            try:
                artifact = open_artifact(path)
                if artifact.sha256 != sha256:
                    raise ArtifactError(f"{path}: expected sha256 {sha256}, found {artifact.sha256}; promote it again")
                served = self._open(path, artifact)
                if open_artifact(path).sha256 != sha256:  # whole again, after it was read
                    raise ArtifactError(f"{path}: changed while it was loaded; publish it again")
            except Exception as error:  # whatever a file can make a library raise: the old one serves on, and the next look comes
                return self._refuse(error)
            self._served = served
            self.refusal = self.why = ""
            return True

    def take(self, make: Callable[[], Artifact]) -> bool:
        """Serve what `make` publishes; where it refuses, what is served stays."""
        try:
            artifact = make()
        except Exception as error:
            return self._refuse(error)
        return self.swap(artifact.path, artifact.sha256)

    def refresh(self, pointer: Path) -> bool | None:
        """Look at the pointer: None when it names nothing new, else whether the swap was done.

        What was refused is not tried again until the pointer changes.
        """
        try:
            content = pointer.read_text()
            if content == self._seen:
                return None
            self._seen = content
            named = json.loads(content)
            return self.swap(Path(named["path"]), str(named["sha256"]))
        except Exception as error:
            return self._refuse(error, f"{pointer}: ")

    def _refuse(self, error: Exception, where: str = "") -> bool:
        self.refusal = f"{where}{type(error).__name__}: {error}"
        self.why = next((words for kind, words in _SENTENCES if isinstance(error, kind)), "what is named cannot be loaded")
        return False


def part_sha256(path: Path, part: str) -> str:
    """Name of the bundle (its header, which holds the sha256 of the weights) or of the panel (its manifest)."""
    return sha256_file(path / part / ("bundle.json" if part == BUNDLE else MANIFEST))
