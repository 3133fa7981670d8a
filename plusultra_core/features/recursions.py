"""What depends on all the past of a symbol: exponential means, running sums, self-paced averages.

A recursion has a name. A build leaves behind, for each name, the state after every symbol's last bar and the
values of its last rows; a later build that continues these symbols starts from both and comes out the same
to the last bit, without the rows before.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from safetensors.numpy import load, save

from plusultra_core.arrays import Float64Array, Int64Array

if TYPE_CHECKING:
    F = TypeVar("F", bound=Callable[..., object])

    def njit(*, cache: bool) -> Callable[[F], F]:
        """numba.njit, as a type checker should see it."""
else:
    from numba import njit


@dataclass(frozen=True, slots=True)
class Trace:
    """One recursion: its value at every row, and its state after every symbol's last row."""

    values: Float64Array
    """(N,)"""
    state: Float64Array
    """(S, k)"""


@dataclass(frozen=True, slots=True)
class State:
    """Where a build stands: the last rows of every recursion, and its state after them."""

    symbols: tuple[str, ...]
    starts: Int64Array
    """(S + 1,) where the rows kept of each symbol begin."""
    traces: dict[str, Trace]


@dataclass(frozen=True, slots=True)
class Recursions:
    """The recursions of one build.

    The first `num_done` rows of each symbol have been made before: their values, and the state after them, are
    those of `before`. Rows further on are computed. `made` collects what this build leaves behind.
    """

    starts: Int64Array
    num_done: Int64Array
    """(S,)"""
    before: Mapping[str, Trace]
    made: dict[str, Trace] = field(default_factory=dict)

    def ewma(self, name: str, x: Float64Array, alpha: float, min_count: int) -> Float64Array:
        """Exponentially weighted mean of the values so far, weights (1 - alpha)^age, normalised.

        A missing value neither counts nor ages the others; the row carries the mean of what came before.
        """
        if name not in self.made:
            trace = self._begin(name, 3, 0.0)
            ewma_on(x, self.starts, self.num_done, alpha, min_count, trace.state, trace.values)
        return self.made[name].values

    def cumulative(self, name: str, x: Float64Array) -> Float64Array:
        """Running sum within the symbol; a missing value adds nothing."""
        if name not in self.made:
            trace = self._begin(name, 1, 0.0)
            cumulative_on(x, self.starts, self.num_done, trace.state, trace.values)
        return self.made[name].values

    def follow(self, name: str, x: Float64Array, step: Float64Array) -> Float64Array:
        """y + step (x - y) from row to row, from the first row that has both; a missing value leaves y as it is."""
        if name not in self.made:
            trace = self._begin(name, 1, np.nan)
            follow_on(x, step, self.starts, self.num_done, trace.state, trace.values)
        return self.made[name].values

    def _begin(self, name: str, num_states: int, empty: float) -> Trace:
        if name in self.before:
            past = self.before[name]
            trace = Trace(past.values.copy(), past.state.copy())
        else:
            trace = Trace(np.full(int(self.starts[-1]), np.nan), np.full((self.starts.size - 1, num_states), empty))
        trace.state[self.num_done == 0] = empty
        self.made[name] = trace
        return trace


def join_traces(parts: Sequence[Mapping[str, Trace]]) -> dict[str, Trace]:
    """Traces of groups of symbols that follow each other, as one."""
    if len(parts) == 1:
        return dict(parts[0])
    names = parts[0] if parts else ()
    return {
        name: Trace(np.concatenate([part[name].values for part in parts]), np.concatenate([part[name].state for part in parts]))
        for name in names
    }


def rows_from(starts: Int64Array, keep: Int64Array) -> Int64Array:
    """Rows of each symbol from its row `keep` on."""
    lengths = starts[1:] - starts[:-1]
    rows = np.arange(starts[-1])
    return rows if not keep.any() else rows[rows >= np.repeat(starts[:-1] + keep, lengths)]


def part_of_traces(traces: Mapping[str, Trace], symbols: slice, rows: slice) -> dict[str, Trace]:
    """Traces of some symbols and their rows."""
    return {name: Trace(trace.values[rows], trace.state[symbols]) for name, trace in traces.items()}


def state_bytes(state: State) -> bytes:
    """A state as safetensors: equal states, equal bytes."""
    tensors = {f"values.{name}": trace.values for name, trace in state.traces.items()}
    tensors |= {f"state.{name}": trace.state for name, trace in state.traces.items()}
    content: bytes = save({"starts": state.starts, **tensors}, metadata={"symbols": json.dumps(state.symbols)})
    return content


def read_state(content: bytes) -> State:
    """The state of such bytes."""
    length = int.from_bytes(content[:8], "little")
    symbols = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["symbols"])
    tensors = load(content)
    names = [name.removeprefix("values.") for name in tensors if name.startswith("values.")]
    traces = {name: Trace(tensors[f"values.{name}"], tensors[f"state.{name}"]) for name in sorted(names)}
    return State(tuple(symbols), tensors["starts"], traces)


@njit(cache=True)
def laid(values: Float64Array, first: Int64Array, starts: Int64Array, num_done: Int64Array) -> Float64Array:
    """Of each symbol `num_done` values from its `first` on at the begin of its rows; what comes after them is to be made."""
    out = np.empty(starts[-1])
    for s in range(num_done.size):
        out[starts[s] : starts[s] + num_done[s]] = values[first[s] : first[s] + num_done[s]]
    return out


@njit(cache=True)
def ewma_on(
    x: Float64Array,
    starts: Int64Array,
    num_done: Int64Array,
    alpha: float,
    min_count: int,
    state: Float64Array,
    out: Float64Array,
) -> None:
    """Fill `out` from row num_done of each symbol on; state (S, 3) is count, total, weight and moves along."""
    for s in range(starts.size - 1):
        count, total, weight = state[s, 0], state[s, 1], state[s, 2]
        for i in range(starts[s] + num_done[s], starts[s + 1]):
            if not math.isnan(x[i]):
                count += 1.0
                total = total * (1.0 - alpha) + x[i]
                weight = weight * (1.0 - alpha) + 1.0
            out[i] = total / weight if count >= min_count else math.nan
        state[s, 0], state[s, 1], state[s, 2] = count, total, weight


@njit(cache=True)
def cumulative_on(x: Float64Array, starts: Int64Array, num_done: Int64Array, state: Float64Array, out: Float64Array) -> None:
    """Fill `out` from row num_done of each symbol on; state (S, 1) is the sum."""
    for s in range(starts.size - 1):
        total = state[s, 0]
        for i in range(starts[s] + num_done[s], starts[s + 1]):
            if not math.isnan(x[i]):
                total += x[i]
            out[i] = total
        state[s, 0] = total


@njit(cache=True)
def follow_on(
    x: Float64Array, step: Float64Array, starts: Int64Array, num_done: Int64Array, state: Float64Array, out: Float64Array
) -> None:
    """Fill `out` from row num_done of each symbol on; state (S, 1) is y."""
    for s in range(starts.size - 1):
        y = state[s, 0]
        for i in range(starts[s] + num_done[s], starts[s + 1]):
            if not (math.isnan(x[i]) or math.isnan(step[i])):
                y = x[i] if math.isnan(y) else y + step[i] * (x[i] - y)
            out[i] = y
        state[s, 0] = y
