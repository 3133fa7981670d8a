"""What a run leaves behind so that it can go on bit for bit: one file of the first worker, and one of every worker's episodes."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plusultra_core import artifacts
from plusultra_core.errors import JobError
from plusultra_core.rl.learning.learner import Team
from plusultra_core.rl.replay.store import Replay
from plusultra_core.rl.reward import RewardScale
from plusultra_core.rl.workers.telemetry import Telemetry


def load(path: Path, shape: Mapping[str, int]) -> dict[str, Any] | None:
    """The state that `save` wrote last; None where a run begins.

    Raises  JobError when it is that of a run of another shape.
    """
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, weights_only=True)
    found = {name: state[name] for name in shape}
    if found != dict(shape):
        raise JobError(f"{path}: checkpoint of a run with {found}, asked for {dict(shape)}; remove it")
    return state


def save(
    path: Path, state: dict[str, Any], shape: Mapping[str, int], learner: Any, env: Any, scale: RewardScale | None, telemetry: Telemetry,
    replay: Replay,
) -> None:  # fmt: skip
    """Every worker its episodes, then the first the rest, which names the update; then what is older goes."""
    team: Team = learner.team
    place, optimizer = _place(path, team, state["update"]), dict(learner.state())
    parts = {"env": env.state(), "scale": {} if scale is None else scale.state, "telemetry": telemetry.state, "replay": replay.state}
    own = {name: {k: torch.from_numpy(array) for k, array in part.items()} for name, part in parts.items()}
    own["memory"] = {"rows": rows} if (rows := optimizer.pop("memory", None)) is not None else {}
    _write(place, own)
    team.total(np.zeros(1))
    if team.rank == 0:
        _write(path, {**state, "policy": learner.policy.state_dict(), "optimizer": optimizer, **shape})
    team.total(np.zeros(1))
    for older in path.parent.glob(f"{path.name}.{team.rank}.*"):
        if older != place:
            older.unlink()


def restore(
    path: Path, state: dict[str, Any], learner: Any, env: Any, scale: RewardScale | None, telemetry: Telemetry, replay: Replay
) -> None:
    """Put a loaded state back: weights and optimiser, episodes and what was told of them, what accounts remember, the scale of rewards,
    the rollouts that are learned from again."""
    parts: dict[str, dict[str, Tensor]] = torch.load(_place(path, learner.team, state["update"]), weights_only=True)
    learner.load_state(state["policy"], {**state["optimizer"], "memory": parts["memory"].get("rows")})
    env.load_state({name: tensor.numpy() for name, tensor in parts["env"].items()})
    telemetry.state = {name: tensor.numpy().copy() for name, tensor in parts["telemetry"].items()}
    replay.load_state({name: tensor.numpy() for name, tensor in parts["replay"].items()})
    if scale is not None:
        scale.state = {name: tensor.numpy().copy() for name, tensor in parts["scale"].items()}


def _place(path: Path, team: Team, number: int) -> Path:
    """Where a worker keeps its episodes at an update: named by it, so that those of the checkpoint outlive a kill during the next."""
    return path.with_name(f"{path.name}.{team.rank}.{number}")


def _write(path: Path, state: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    artifacts.write_atomic(path, buffer.getvalue())
