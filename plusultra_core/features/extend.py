"""Features of a longer history from those of a shorter one: a new day costs about a day.

The result is that of `build`, to the last bit. Rows of a symbol whose history is unchanged are taken over; its
new rows are computed from a start a little way back, where sliding sums are made anew and recursions go on from
the state that the earlier build left. Symbols whose history changed, and new ones, are built whole.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from plusultra_core.arrays import BoolArray, Float32Array, Int64Array
from plusultra_core.data.increments.unchanged import mark_changed_bits, same_until
from plusultra_core.errors import ContractError
from plusultra_core.features.arrays import numbers, runs, short_columns_of
from plusultra_core.features.build import ACROSS, FeaturesConfig, Span, WindowsConfig, chosen_specs, compute, span_of
from plusultra_core.features.kernels import BLOCK
from plusultra_core.features.recursions import State, Trace, laid
from plusultra_core.features.rows import KEYS, READS, Bars, bars_of, check, frame_of, keys_frame
from plusultra_core.market import MarketConfig


@dataclass(frozen=True, slots=True)
class Previous:
    """An earlier build with the same code, config and market: what it read, what it made."""

    bars: pl.DataFrame
    indicators: pl.DataFrame
    side_tables: pl.DataFrame
    features: pl.DataFrame
    state: State


@dataclass(frozen=True, slots=True)
class Extended:
    """Features, the state for the next time, and what was taken over."""

    features: pl.DataFrame
    state: State
    num_symbols_taken: int
    num_rows_taken: int
    num_rows_computed: int
    """Rows that were computed, those on the way to new ones among them."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is taken over. Arrays are (S,), over the symbols of the new bars."""

    starts: Int64Array
    """(S + 1,)"""
    taken: Int64Array
    """Rows taken over: all that there were, or none."""
    begin: Int64Array
    """First row that is computed."""
    old_place: Int64Array
    """Place of the symbol among the earlier ones."""
    old_starts: Int64Array
    """Where the earlier symbols begin."""
    late: bool
    """Whether a moment that was there has other symbols now."""

    @property
    def num_rows(self) -> Int64Array:
        """Rows of each symbol."""
        return np.diff(self.starts)

    @property
    def open(self) -> BoolArray:
        """Symbols of which something is computed."""
        return self.begin < self.num_rows


def tail_start(num_rows: Int64Array, windows: WindowsConfig) -> Int64Array:
    """Row from which a symbol of so many rows is computed again when it grows.

    Sums are made anew where the block of the first new row begins, so that the longest window before that row must be there,
    and a medium one before the block before it, for a mean of three of a mean of three. What is counted row by row reaches as far
    as the longest window over triples of returns.
    """
    block = num_rows // BLOCK * BLOCK
    first = np.minimum(block - max(windows.long, windows.medium + BLOCK + 2), num_rows - windows.long - 2)
    return np.maximum(first, 0) // BLOCK * BLOCK


def extend(
    previous: Previous | None,
    bars: pl.DataFrame,
    indicators: pl.DataFrame,
    side_tables: pl.DataFrame,
    market: MarketConfig,
    cfg: FeaturesConfig,
) -> Extended:
    """What `build` says of these bars, taking over what an earlier build with the same code, config and market said.

    Shapes  features: the rows of bars, in their order.
    Looks   back only, as build does.
    Raises  as build does; ContractError when state or features are not those of such a build.
    """
    specs = chosen_specs(cfg)
    check(bars, indicators, side_tables, specs, cfg.required_tables, cfg.include, cfg.alternative)
    rows = bars_of(bars)
    plan = _plan(previous, rows, indicators, side_tables, cfg.windows)
    span = _span(plan, previous, rows, cfg.windows)
    across = [spec for spec in specs if plan.late and ACROSS in spec.tags]
    made = compute(span, indicators, side_tables, market, cfg, [spec for spec in specs if not (plan.late and ACROSS in spec.tags)])
    names = [*dict.fromkeys([*(spec.name for spec in specs), *made.columns])]
    keys = keys_frame(bars, rows.known_ns)
    if previous is None or not plan.taken.any():
        features = frame_of(keys, made.columns)
    elif {*names, *KEYS} != set(previous.features.columns):
        return extend(None, bars, indicators, side_tables, market, cfg)
    else:
        features = _spliced(plan, previous, keys, made.columns)
    if across:
        whole = compute(span_of(rows), indicators, side_tables, market, cfg, across)
        features = features.with_columns(frame_of(keys, whole.columns).drop(KEYS))
    return Extended(
        features=features if features.columns == [*KEYS, *names] else features.select(*KEYS, *names),
        state=_state(plan, previous, rows, made.traces, cfg.windows),
        num_symbols_taken=int((plan.taken > 0).sum()),
        num_rows_taken=int(plan.taken.sum()),
        num_rows_computed=span.bars.ts_ns.size,
    )


def _fresh(starts: Int64Array) -> _Plan:
    """Nothing is taken over."""
    none = np.zeros(starts.size - 1, dtype=np.int64)
    return _Plan(starts=starts, taken=none, begin=none, old_place=none, old_starts=np.zeros(1, dtype=np.int64), late=False)


def _plan(previous: Previous | None, rows: Bars, indicators: pl.DataFrame, side_tables: pl.DataFrame, windows: WindowsConfig) -> _Plan:
    fresh = _fresh(rows.starts)
    if previous is None or previous.bars.is_empty() or not rows.ts_ns.size:
        return fresh
    symbols, old_starts = runs(previous.bars.get_column("symbol"))
    old_ts_ns = previous.bars.get_column("ts_ns").to_numpy()
    old_known_ns = previous.features.get_column("known_ns").to_numpy()
    _check_rows(previous.features, symbols, old_starts, old_ts_ns)
    end_ns, last_ns = (int(times[old_starts[1:] - 1].max()) for times in (old_known_ns, old_ts_ns))  # both rise within a symbol
    if not (same_until(previous.indicators, indicators, end_ns) and same_until(previous.side_tables, side_tables, end_ns)):
        return fresh
    place = {symbol: i for i, symbol in enumerate(symbols.to_list())}
    old_place = np.array([place.get(symbol, -1) for symbol in rows.symbols.to_list()], dtype=np.int64)
    num_old = np.where(old_place >= 0, np.diff(old_starts)[old_place], 0)
    same: BoolArray = (num_old > 0) & (num_old <= rows.num_rows)
    pairs = [(old_ts_ns, rows.ts_ns), (old_known_ns, rows.known_ns)]
    pairs += [(numbers(previous.bars.get_column(name)), rows.values[name]) for name in READS]
    for old, new in pairs:
        if old.dtype != new.dtype:
            return fresh
        bits = np.dtype(f"i{old.itemsize}")
        mark_changed_bits(old.view(bits), old_starts[old_place], new.view(bits), rows.starts[:-1], num_old, same)
    taken = np.where(same, num_old, 0)
    begin = np.where(taken == rows.num_rows, taken, tail_start(taken, windows))
    new_ns = rows.ts_ns[(rows.starts[:-1] + taken)[taken < rows.num_rows]]
    gone = np.setdiff1d(np.arange(old_starts.size - 1), old_place[taken > 0]).size > 0
    late = gone or bool((new_ns <= last_ns).any())
    return _Plan(rows.starts, taken, begin, old_place, old_starts, bool(taken.any()) and late)


def _check_rows(features: pl.DataFrame, symbols: pl.Series, starts: Int64Array, ts_ns: Int64Array) -> None:
    """Raises ContractError where features begin or end a symbol elsewhere than the bars that they are said to be made of."""
    edges = np.stack([starts[:-1], starts[1:] - 1], axis=1).ravel()
    if features.height == ts_ns.size:
        owner, times_ns = features.get_column("symbol"), features.get_column("ts_ns").to_numpy()
        if [owner[at] for at in starts[:-1].tolist()] == symbols.to_list() and np.array_equal(times_ns[edges], ts_ns[edges]):
            return
    raise ContractError("features: expected the rows of the earlier bars, found others; build features whole")


def _span(plan: _Plan, previous: Previous | None, rows: Bars, windows: WindowsConfig) -> Span:
    """The rows to compute, with what the recursions said before at those that are on the way only."""
    if previous is None or not plan.taken.any():
        return replace(span_of(rows), keep=tail_start(plan.num_rows, windows))
    symbols = np.flatnonzero(plan.open)
    begin, rest, place = plan.begin[symbols], (plan.num_rows - plan.begin)[symbols], plan.old_place[symbols]
    starts = np.append(0, np.cumsum(rest))
    some = np.arange(starts[-1]) + np.repeat(plan.starts[symbols] + begin - starts[:-1], rest)
    num_done = np.where(plan.taken[symbols] > 0, plan.taken[symbols] - begin, 0)
    state = previous.state
    if not np.array_equal(np.diff(state.starts)[place][num_done > 0], num_done[num_done > 0]):
        raise ContractError("state: expected the last rows of each symbol as these windows keep them, found others; build features whole")
    keep = (tail_start(plan.num_rows, windows) - plan.begin)[symbols]
    before = {}
    for name, trace in state.traces.items():
        before[name] = Trace(laid(trace.values, state.starts[place], starts, num_done), trace.state[place])
    return Span(rows.at(symbols, starts, some), num_done, before, keep)


def _spliced(plan: _Plan, previous: Previous, keys: pl.DataFrame, made: dict[str, Float32Array]) -> pl.DataFrame:
    """Of each symbol the earlier rows, in the memory where they are, then the new ones of those made."""
    num_new = plan.num_rows - plan.taken
    ends = np.cumsum(num_new)
    new = short_columns_of(made)
    there = previous.features.columns[len(KEYS) :] == new.columns
    old = pl.DataFrame(previous.features.get_columns()[len(KEYS) :]) if there else previous.features.select(new.columns)
    frames, columns = (old, new), old.clear()
    for frame, first, num in _pieces(plan.old_starts[plan.old_place], plan.taken, ends - num_new, num_new):
        columns.vstack(frames[frame].slice(first, num), in_place=True)
    return keys.hstack(columns)


def _pieces(old_first: Int64Array, taken: Int64Array, new_first: Int64Array, num_new: Int64Array) -> Iterator[tuple[int, int, int]]:
    """Where rows of each symbol come from, old ones (0) then new ones (1), those that lie side by side as one piece."""
    pieces = np.stack([old_first, taken, new_first, num_new], axis=1).reshape(-1, 2)
    frames = np.arange(len(pieces)) % 2
    there = pieces[:, 1] > 0
    pieces, frames = pieces[there], frames[there]
    follows = (frames[1:] == frames[:-1]) & (pieces[1:, 0] == pieces[:-1].sum(axis=1))
    begin = np.flatnonzero(np.append(True, ~follows)[: len(pieces)])
    lengths = np.add.reduceat(pieces[:, 1], begin) if begin.size else begin
    yield from zip(frames[begin].tolist(), pieces[begin, 0].tolist(), lengths.tolist(), strict=True)


def _state(plan: _Plan, previous: Previous | None, rows: Bars, traces: dict[str, Trace], windows: WindowsConfig) -> State:
    """The last rows and the state of every recursion after these bars; symbols without new rows keep theirs."""
    kept = plan.num_rows - tail_start(plan.num_rows, windows)
    starts, still = np.append(0, np.cumsum(kept)), ~plan.open
    symbols = tuple(rows.symbols.to_list())
    if previous is None or not still.any():
        return State(symbols, starts, traces)
    old, place, from_old = previous.state, plan.old_place[still], np.repeat(still, kept)
    source = np.flatnonzero(from_old) + np.repeat(old.starts[place] - starts[:-1][still], kept[still])
    joined = {}
    for name, like in old.traces.items():
        values, after = np.empty(int(starts[-1])), np.empty((still.size, like.state.shape[1]))
        values[from_old], after[still] = like.values[source], like.state[place]
        if plan.open.any():
            values[~from_old], after[plan.open] = traces[name].values, traces[name].state
        joined[name] = Trace(values, after)
    return State(symbols, starts, joined)
