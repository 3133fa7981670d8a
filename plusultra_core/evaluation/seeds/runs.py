"""Which runs of a trace are trainings of one policy with different seeds: one is served and judged, the others say how lucky it was."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from plusultra_core import config
from plusultra_core.errors import ConfigError, ContractError

POLICY, SEED_RUN = "policy", "policy_seed_"
"""The policy as it is served, and the runs of its other seeds by their number."""
Run = TypeVar("Run")


@dataclass(frozen=True, kw_only=True, slots=True)
class SeedRun:
    """A training of the policy: its run in the trace, and what was known of it before the locked window."""

    strategy: str
    seed: int
    valid_reward: float
    update: int
    is_flat: bool

    @property
    def is_served(self) -> bool:
        """Whether it is the one that would trade."""
        return self.strategy == POLICY


def is_seed_run(strategy: str) -> bool:
    """Whether a strategy is a seed of the policy that is not served: no contestant."""
    return strategy.startswith(SEED_RUN)


def contestants(runs: Mapping[str, Run]) -> dict[str, Run]:
    """Runs without those of seeds that are not served."""
    return {name: run for name, run in runs.items() if not is_seed_run(name)}


def read_seed_runs(directory: Path, strategies: Iterable[str]) -> tuple[SeedRun, ...]:
    """The seeds that a trace tells of, in the order of training; none of a trace that tells of none, as older ones.

    Raises  ContractError unless each is a run of the trace, each run of a seed is told of, no seed stands twice, and one is served.
    """
    path = directory / "trace.json"
    raw = json.loads(path.read_text(encoding="utf-8")).get("policy_seeds", []) if path.is_file() else []
    if not isinstance(raw, list):
        raise ContractError(f"{path}: policy_seeds: expected a list, found {type(raw).__name__}; run the trace task again")
    try:
        runs = tuple(config.parse(SeedRun, one, f"{path}: policy_seeds[{place}]") for place, one in enumerate(raw))
    except ConfigError as error:
        raise ContractError(f"{error}; run the trace task again") from error
    named = sorted(run.strategy for run in runs)
    there = sorted(name for name in strategies if is_seed_run(name) or (runs and name == POLICY))
    if named != there:
        raise ContractError(f"{path}: policy_seeds: expected the runs {there}, found {named}; run the trace task again")
    numbers = [run.seed for run in runs]
    for run in runs:
        misnamed = not run.is_served and run.strategy != f"{SEED_RUN}{run.seed}"
        if misnamed or run.seed < 0 or numbers.count(run.seed) > 1:
            raise ContractError(f"{path}: policy_seeds: seed {run.seed} stands twice or is not {run.strategy}; run the trace task again")
    return runs
