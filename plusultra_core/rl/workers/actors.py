"""A crew of Ray actors, on one machine or many: the same workers, the same bytes.

Whole rollouts are shipped, never steps: a call costs about a millisecond, a rollout takes tens of them.
"""

from collections.abc import Sequence
from typing import Any

from plusultra_core.errors import JobError
from plusultra_core.rl.workers.crew import Recruit, Shipment, Weights, Worker


class Actors:
    """Each worker an actor with one core; the caller has called `ray.init`."""

    def __init__(self, recruit: Recruit, size: int, num_steps: int, seed: int, spread: bool = True) -> None:
        """With `spread` the actors are placed on as many machines as there are."""
        ray = _ray()
        self.size = size
        strategy = "SPREAD" if spread else "DEFAULT"
        actor = ray.remote(Worker).options(num_cpus=1, scheduling_strategy=strategy)
        self._workers = [actor.remote(recruit, rank, size, num_steps, seed) for rank in range(size)]
        self._sent: list[list[Any]] = []

    def send(self, weights: Weights, number: int, version: int) -> None:
        """The weights go into the object store once."""
        place = _ray().put(weights)
        self._sent.append([worker.work.remote(place, number, version) for worker in self._workers])

    def receive(self) -> list[Shipment]:
        """One shipment a worker, in their order; arrays are read-only views of the object store."""
        shipments: list[Shipment] = self._get(self._sent.pop(0))
        return shipments

    def states(self) -> list[dict[str, Any]]:
        """The episodes of every worker."""
        states: list[dict[str, Any]] = self._get([worker.state.remote() for worker in self._workers])
        return states

    def load_states(self, states: Sequence[dict[str, Any]]) -> None:
        """Go on from `states`."""
        self._get([worker.load_state.remote(state) for worker, state in zip(self._workers, states, strict=True)])

    def close(self) -> None:
        """Send the workers home."""
        for worker in self._workers:
            _ray().kill(worker)

    def _get(self, places: list[Any]) -> Any:
        ray = _ray()
        try:
            return ray.get(places)
        except ray.exceptions.RayError as error:
            raise JobError(f"workers: one of {self.size} actors failed: {str(error).splitlines()[0]}") from error


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise JobError("workers: expected Ray, found none; install the extra `ray`, or use processes") from None
    return ray
