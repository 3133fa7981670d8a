"""A team of processes that learns one policy: gradients are summed through shared memory.

Every member draws its own samples and takes every step with the sum, so that all hold the same weights. Sums are
taken in the order of the members: the same bytes for a given size of the team.
"""

import multiprocessing
from collections.abc import Callable
from threading import BrokenBarrierError
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from plusultra_core.arrays import Float64Array
from plusultra_core.errors import JobError
from plusultra_core.rl.learning.learner import Team

_PATIENCE_S = 600.0
T = TypeVar("T")


class Shared:
    """One member of a team."""

    def __init__(self, rank: int, size: int, memory: Any, barrier: Any) -> None:
        self.rank, self.size = rank, size
        self._barrier = barrier
        self._slots: Float64Array = np.frombuffer(memory, dtype=np.float64).reshape(2, size, -1)
        self._turn = 0

    def total(self, *arrays: Any) -> None:
        """Replace every array by its sum over the team. Two sets of slots take turns, so that one barrier is enough."""
        slots = self._slots[self._turn]
        self._turn = 1 - self._turn
        first = 0
        for array in arrays:
            slots[self.rank, first : first + array.size] = array.ravel()
            first += array.size
        self._barrier.wait(_PATIENCE_S)
        total = slots[:, :first].sum(axis=0)
        first = 0
        for array in arrays:
            array[...] = total[first : first + array.size].reshape(array.shape)
            first += array.size


def align(policy: nn.Module, team: Team) -> None:
    """Give every member the first one's weights: a clone made with another number of threads rounds otherwise, and would never meet."""
    if team.size == 1:
        return
    with torch.no_grad():
        for tensor in policy.state_dict().values():
            values: Float64Array = tensor.double().cpu().numpy() * (team.rank == 0)
            team.total(values)
            tensor.copy_(torch.from_numpy(values))


def run_team(size: int, capacity: int, lead: Callable[[Shared], T], work: Callable[..., object], *arguments: Any) -> T:
    """Run `lead(team)` in this process and `work(team, *arguments)` in size - 1 others; returns what the lead gave.

    `capacity` is the most numbers that one sum holds. Each other process uses one thread of torch. Where a member fails, all stop.
    Raises  JobError when another member failed.
    """
    context = multiprocessing.get_context("spawn")
    memory, barrier = context.RawArray("d", 2 * size * capacity), context.Barrier(size)
    others = [context.Process(target=_member, args=(rank, size, memory, barrier, work, arguments), daemon=True) for rank in range(1, size)]
    for process in others:
        process.start()
    try:
        result = lead(Shared(0, size, memory, barrier))
    except BrokenBarrierError:
        raise JobError(f"team: one of {size} processes failed; its traceback is above") from None
    else:
        for process in others:
            process.join(_PATIENCE_S)
    finally:
        barrier.abort()
        for process in others:
            process.kill()
            process.join()
    return result


def _member(rank: int, size: int, memory: Any, barrier: Any, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    try:
        work(Shared(rank, size, memory, barrier), *arguments)
    except BaseException:
        barrier.abort()
        raise
