"""A crew of processes on this machine: weights and rollouts lie in shared memory, only their places go through pipes."""

import multiprocessing
import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np

from plusultra_core.errors import ContractError, JobError
from plusultra_core.rl.workers.crew import Recruit, Shipment, Weights, Worker

_PATIENCE_S = 600.0
_ROOMS = 2
"""Rollouts of a worker that may be read and written at once."""


class Processes:
    """Each worker in a process with one thread. Arrays of a shipment are views that hold until the next but one `receive`."""

    def __init__(self, recruit: Recruit, size: int, num_steps: int, seed: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.size = size
        self._pipes, self._processes = [], []
        for rank in range(size):
            here, there = context.Pipe()
            process = context.Process(target=_live, args=(there, recruit, rank, size, num_steps, seed), daemon=True)
            process.start()
            there.close()
            self._pipes.append(here)
            self._processes.append(process)
        self._rooms: dict[str, SharedMemory] = {}
        self._weights: list[SharedMemory] = []
        self._turn = 0
        self._on_their_way = 0

    def send(self, weights: Weights, number: int, version: int) -> None:
        """Put the weights where all see them, and name the place. Two places take turns."""
        if not self._weights:
            self._weights = [SharedMemory(create=True, size=weights.size) for _ in range(_ROOMS)]
        room = self._weights[self._turn % _ROOMS]
        self._turn += 1
        _bytes(room)[: weights.size] = weights
        self._ask("work", [(room.name, weights.size, number, version)] * self.size)
        self._on_their_way += 1

    def receive(self) -> list[Shipment]:
        """One shipment a worker, in their order."""
        answers = self._answers()
        self._on_their_way -= 1
        return [self._open(*answer) for answer in answers]

    def states(self) -> list[dict[str, Any]]:
        """The episodes of every worker.

        Raises  ContractError while rollouts are on their way: those would come back in their place.
        """
        self._still("state")
        self._ask("state", [()] * self.size)
        return self._answers()

    def load_states(self, states: Sequence[dict[str, Any]]) -> None:
        """Go on from `states`. Raises  ContractError while rollouts are on their way."""
        self._still("load_state")
        self._ask("load_state", [(state,) for state in states])
        self._answers()

    def close(self) -> None:
        """Send the workers home and give the memory back. By SIGKILL: who ignores SIGTERM hands that on to its children."""
        for process, pipe in zip(self._processes, self._pipes, strict=True):
            process.kill()
            process.join()
            pipe.close()
        for room in (*self._rooms.values(), *self._weights):
            room.unlink()

    def _still(self, asked: str) -> None:
        if self._on_their_way:
            raise ContractError(f"workers: {asked} was asked while {self._on_their_way} rollouts are on their way; receive them first")

    def _ask(self, name: str, arguments: Sequence[tuple[Any, ...]]) -> None:
        for rank, (pipe, of_worker) in enumerate(zip(self._pipes, arguments, strict=True)):
            with self._named(rank):
                pipe.send((name, of_worker))

    def _answers(self) -> list[Any]:
        answers = []
        for rank, pipe in enumerate(self._pipes):
            with self._named(rank):
                if not pipe.poll(_PATIENCE_S):
                    raise JobError(f"workers: number {rank} of {self.size} did not answer within {_PATIENCE_S:.0f} s")
                answers.append(pipe.recv())
        return answers

    @contextmanager
    def _named(self, rank: int) -> Iterator[None]:
        try:
            yield
        except (EOFError, OSError):
            raise JobError(f"workers: number {rank} of {self.size} failed; its traceback is above") from None

    def _open(self, name: str, sizes: list[int], header: bytes) -> Shipment:
        if name not in self._rooms:
            self._rooms[name] = SharedMemory(name)
        view, buffers, first = _bytes(self._rooms[name]), [], 0
        for size in sizes:
            buffers.append(view[first : first + size])
            first += size
        shipment: Shipment = pickle.loads(header, buffers=buffers)
        return shipment


class _Shelf:
    """Where a worker lays its rollouts: two rooms in turn, larger ones when they have grown."""

    def __init__(self) -> None:
        self._rooms: list[SharedMemory | None] = [None] * _ROOMS
        self._turn = 0

    def lay(self, shipment: Shipment) -> tuple[str, list[int], bytes]:
        """Name of the room, sizes of the arrays in it, and what is left of the shipment without them."""
        parts: list[pickle.PickleBuffer] = []
        header = pickle.dumps(shipment, protocol=5, buffer_callback=parts.append)
        arrays = [np.frombuffer(part.raw(), dtype=np.uint8) for part in parts]
        sizes = [array.size for array in arrays]
        place = self._turn % _ROOMS
        self._turn += 1
        room = self._rooms[place]
        if room is None or room.size < sum(sizes):
            room = self._rooms[place] = SharedMemory(create=True, size=max(1, sum(sizes)))
        first = 0
        for array in arrays:
            _bytes(room)[first : first + array.size] = array
            first += array.size
        return room.name, sizes, header


def _live(pipe: Any, recruit: Recruit, rank: int, size: int, num_steps: int, seed: int) -> None:
    worker, shelf, seen = Worker(recruit, rank, size, num_steps, seed), _Shelf(), dict[str, SharedMemory]()
    while True:
        asked, arguments = pipe.recv()
        if asked == "work":
            name, num, number, version = arguments
            if name not in seen:
                seen[name] = SharedMemory(name)
            weights = _bytes(seen[name])[:num]
            pipe.send(shelf.lay(worker.work(weights, number, version)))
        else:
            pipe.send(getattr(worker, asked)(*arguments))


def _bytes(room: SharedMemory) -> Weights:
    view: Weights = np.ndarray((room.size,), dtype=np.uint8, buffer=room.buf)
    return view
