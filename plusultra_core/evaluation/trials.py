"""The trial ledger: one line for every configuration that was ever scored, kept so that luck can be counted.

A JSON-lines file that only grows. A trial has a key; recording it again with the same content changes nothing.
"""

import fcntl
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from plusultra_core.arrays import Float64Array
from plusultra_core.artifacts import canonical_json, write_atomic
from plusultra_core.errors import ArtifactError, ContractError
from plusultra_core.evaluation.metrics import checked_returns, sharpe


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One configuration's result on one span. Sharpe is per bar, not annualised; None where returns do not vary."""

    key: str
    asset_class: str
    snapshot: str
    strategy: str
    config_digest: str
    start_ns: int
    end_ns: int
    num_bars: int
    sharpe_per_bar: float | None
    returns: tuple[float, ...]
    """Net simple returns per bar, so that trials can be ranked on parts of their span."""

    def __post_init__(self) -> None:
        if not self.key or not self.strategy:
            raise ContractError(f"trial: expected a key and a strategy, found {self.key!r} and {self.strategy!r}")
        if self.num_bars != len(self.returns) or self.num_bars < 1:
            raise ContractError(f"trial {self.key}: expected {self.num_bars} returns, found {len(self.returns)}")
        if self.sharpe_per_bar is not None and not math.isfinite(self.sharpe_per_bar):
            raise ContractError(f"trial {self.key}: Sharpe must be finite or None, found {self.sharpe_per_bar}")


def sharpe_per_bar(ret_T: Float64Array) -> float | None:
    """Mean over standard deviation (ddof 1), not annualised; None where returns do not vary."""
    value = float(sharpe(checked_returns(ret_T), 1.0))
    return value if math.isfinite(value) else None


def read_trials(path: Path) -> tuple[Trial, ...]:
    """All trials in the order in which they were recorded; none when the file is not there.

    Raises  ArtifactError when a line is no trial or a key stands twice.
    """
    if not path.exists():
        return ()
    trials: dict[str, Trial] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            raw = json.loads(line)
            trial = Trial(**{**raw, "returns": tuple(float(value) for value in raw["returns"])})
        except (ValueError, TypeError, KeyError, ContractError) as error:
            raise ArtifactError(f"{path}:{number}: not a trial ({error}); restore the ledger from its backup") from error
        if trial.key in trials:
            raise ArtifactError(f"{path}:{number}: key {trial.key!r} stands twice; restore the ledger from its backup")
        trials[trial.key] = trial
    return tuple(trials.values())


def record_trials(path: Path, trials: Sequence[Trial]) -> int:
    """Add the trials that are not there yet; returns how many were new.

    Raises  ArtifactError when a key is there with another result: one configuration has one result.
    """
    with _locked(path):
        known = {trial.key: trial for trial in read_trials(path)}
        count = len(known)
        for trial in trials:
            if known.setdefault(trial.key, trial) != trial:
                raise ArtifactError(f"{path}: trial {trial.key} is recorded with another result; give another configuration another key")
        if len(known) > count:
            write_atomic(path, b"".join(canonical_json(asdict(trial)) for trial in known.values()))
        return len(known) - count


def returns_matrix(trials: Sequence[Trial]) -> tuple[Float64Array, tuple[str, ...]]:
    """Returns of the trials that share the span of the last one, and their keys.

    Shapes  result (N, T): one row a trial.
    """
    if not trials:
        return np.empty((0, 0)), ()
    last = trials[-1]
    span = (last.start_ns, last.end_ns, last.num_bars)
    same = [trial for trial in trials if (trial.start_ns, trial.end_ns, trial.num_bars) == span]
    return np.array([trial.returns for trial in same]), tuple(trial.key for trial in same)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(path.name + ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
