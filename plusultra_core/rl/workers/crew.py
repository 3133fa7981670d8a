"""Workers that act while somebody else learns: weights go out, whole rollouts come back, in the order of the workers.

A crew of a given size gives the same bytes wherever its workers live: in this process, in others, or on other machines.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from plusultra_core.arrays import BoolArray, Float32Array
from plusultra_core.errors import ContractError
from plusultra_core.rl.learning.learner import Learns
from plusultra_core.rl.learning.recorder import Record, closed
from plusultra_core.rl.rollout import Episodes, Trajectory, roll

_MEMORY = "memory"
Weights = NDArray[np.uint8]
"""Bytes of all tensors of a policy, in the order of its `state_dict`."""


class Station(NamedTuple):
    """What a worker works with. Its episodes were reset."""

    learner: Learns
    policy: Any
    """An `nn.Module`; what the learner acts with."""
    env: Episodes


Recruit = Callable[[int, int], Station]
"""Sets a worker up, given its rank and the size of the crew; a function of a module, so that it can be sent to other processes."""


class Shipment(NamedTuple):
    """One worker's rollout, and the update before which its weights were read."""

    trajectory: Trajectory
    version: int


class Crew(Protocol):
    """Some workers."""

    size: int

    def send(self, weights: Weights, number: int, version: int) -> None:
        """Let every worker act for update `number`, with the weights of before update `version`; returns at once."""

    def receive(self) -> list[Shipment]:
        """What came of the oldest `send`, one a worker."""

    def states(self) -> list[dict[str, Any]]:
        """The episodes of every worker, for a checkpoint; while nothing is on its way."""

    def load_states(self, states: Sequence[dict[str, Any]]) -> None:
        """Go on from `states`, bit for bit."""

    def close(self) -> None:
        """Send the workers home."""


class Worker:
    """One worker, wherever it lives."""

    def __init__(self, recruit: Recruit, rank: int, size: int, num_steps: int, seed: int) -> None:
        torch.set_num_threads(1)
        self._station = recruit(rank, size)
        self._rank, self._num_steps, self._seed = rank, num_steps, seed

    def work(self, weights: Weights, number: int, version: int) -> Shipment:
        """A rollout with these weights, drawn from the generator of (seed, number) and the worker."""
        unpack(self._station.policy, weights)
        rng = generator(self._seed, number, self._rank)
        return Shipment(roll(self._station.learner, self._station.env, self._num_steps, rng), version)

    def state(self) -> dict[str, Any]:
        """Of the episodes, and what the policy remembers of them."""
        env, learner = self._anything()
        state: dict[str, Any] = env.state()
        memory = learner.state().get(_MEMORY)
        return state if memory is None else {**state, _MEMORY: memory.cpu().numpy().copy()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a `state`."""
        env, learner = self._anything()
        env.load_state({name: value for name, value in state.items() if name != _MEMORY})
        if hasattr(learner, "keep"):
            memory_ES: Any = state.get(_MEMORY, np.zeros((0, 0), dtype=np.float32))
            learner.keep(torch.from_numpy(memory_ES.copy()).to(learner.cfg.device))

    def _anything(self) -> tuple[Any, Any]:
        return self._station.env, self._station.learner


class Here:
    """A crew in this process, one worker after the other: what the others are held to."""

    def __init__(self, recruit: Recruit, size: int, num_steps: int, seed: int) -> None:
        self.size = size
        self._workers = [Worker(recruit, rank, size, num_steps, seed) for rank in range(size)]
        self._sent: list[list[Shipment]] = []

    def send(self, weights: Weights, number: int, version: int) -> None:
        """Does the work."""
        self._sent.append([worker.work(weights, number, version) for worker in self._workers])

    def receive(self) -> list[Shipment]:
        """What came of the oldest `send`."""
        return self._sent.pop(0)

    def states(self) -> list[dict[str, Any]]:
        """The episodes of every worker."""
        return [worker.state() for worker in self._workers]

    def load_states(self, states: Sequence[dict[str, Any]]) -> None:
        """Go on from `states`."""
        for worker, state in zip(self._workers, states, strict=True):
            worker.load_state(state)

    def close(self) -> None:
        """Nobody to send home."""


class Supply:
    """Rollouts for one update after the other. With a lag of 1 the workers act while the learner learns, one update behind."""

    def __init__(self, crew: Crew, lag: Literal[0, 1]) -> None:
        self._crew, self._lag = crew, lag
        self._on_its_way = False

    def take(self, weights: Weights, number: int) -> tuple[Trajectory, int]:
        """All workers' samples for update `number`, given the weights before it; and how many updates theirs are old."""
        if not self._on_its_way:
            self._crew.send(weights, number, number)
        shipments = self._crew.receive()
        self._on_its_way = self._lag == 1
        if self._on_its_way:
            self._crew.send(weights, number + 1, number)
        return merge([shipment.trajectory for shipment in shipments]), number - shipments[0].version


def merge(trajectories: Sequence[Trajectory]) -> Trajectory:
    """Accounts side by side, in the order of the workers; what comes back is owned and may be written to."""
    records = [trajectory.record for trajectory in trajectories]
    axes = {"state_ES": 0, "final_CP": 0}
    record = Record(*(_beside([record[i] for record in records], axis=axes.get(name, 1)) for i, name in enumerate(Record._fields)))
    record = record._replace(final_CP=_in_order(record.final_CP, [trajectory.ended_TE for trajectory in trajectories]))
    return Trajectory(record, *(_beside([t[i] for t in trajectories], axis=1) for i in range(1, len(Trajectory._fields))))


def _beside(parts: Sequence[Any], axis: int) -> Any:
    return None if parts[0] is None else np.concatenate(parts, axis=axis)


def _in_order(final_CP: Float32Array | None, ended: Sequence[BoolArray]) -> Float32Array | None:
    """What followed, worker after worker, in the order of time and account of all."""
    if final_CP is None:
        return None
    columns = np.repeat(np.arange(len(ended)), [ended_TE.shape[1] for ended_TE in ended])
    worker_C = np.broadcast_to(columns, (len(ended[0]), columns.size))[closed(np.concatenate(ended, axis=1))]
    ordered_CP = np.empty_like(final_CP)
    ordered_CP[np.argsort(worker_C, kind="stable")] = final_CP
    return ordered_CP


def pack(policy: nn.Module) -> Weights:
    """All tensors of a policy, byte after byte."""
    tensors = [tensor.detach().cpu().contiguous().reshape(-1) for tensor in policy.state_dict().values()]
    parts: list[Weights] = [tensor.numpy().view(np.uint8) for tensor in tensors if tensor.numel()]
    return np.concatenate(parts)


def unpack(policy: nn.Module, weights: Weights) -> None:
    """Give a policy the tensors that `pack` took from its twin; they stay where they lie.

    Raises  ContractError when there are more or fewer bytes than the policy has.
    """
    tensors = list(policy.state_dict().values())
    expected = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    if weights.size != expected:
        raise ContractError(
            f"workers: weights of {weights.size} bytes for a policy of {expected}; recruit workers with the learner's policy"
        )
    first = 0
    for tensor in tensors:
        num = tensor.numel() * tensor.element_size()
        part = torch.from_numpy(weights[first : first + num].copy())
        tensor.copy_(part.view(tensor.dtype).view(tensor.shape) if num else tensor)
        first += num


def generator(seed: int, number: int, rank: int) -> np.random.Generator:
    """Of an update and a worker; the first worker's is that of a training without workers."""
    entropy = (seed, number) if rank == 0 else (seed, number, rank)
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy)))
