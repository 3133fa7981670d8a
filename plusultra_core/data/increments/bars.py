"""Bars of a longer history from those of a shorter one: rows that were there are taken over, new ones go on from the last.

The result is that of `build_bars`, to the last bit. A symbol whose rows, actions or facts are no longer what they were is
made whole; of the others the new rows alone, after the last row before, which brings the factor and the moment with it.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from plusultra_core.arrays import BoolArray, Int64Array
from plusultra_core.data.bars import BarsConfig, build_bars, finished, gathered
from plusultra_core.data.contract.runs import Runs
from plusultra_core.data.increments.unchanged import mark_changed
from plusultra_core.market import MarketConfig

CHEAP_ROWS = 300_000
"""Rows of a class up to which it costs less to make all bars than to find out which are new."""
_FACTS = ["symbol", "bar", "price_adjustment", "currency"]
_ACTIONS = ["symbol", "ts_ns", "known_ns", "action", "amount", "ratio", "currency"]
_READ = ("ts_ns", "known_ns", "open", "high", "low", "close", "volume")  # of the series; bars are made of nothing else
_BEFORE_ALL = np.iinfo(np.int64).min


@dataclass(frozen=True, slots=True)
class PreviousBars:
    """Bars that were built earlier with the same code, config and market, and what they were built from."""

    series: pl.DataFrame
    assets: pl.DataFrame
    corporate_actions: pl.DataFrame
    bars: pl.DataFrame


@dataclass(frozen=True, slots=True)
class ExtendedBars:
    """Bars, and how many of them were taken over."""

    bars: pl.DataFrame
    num_rows_taken: int
    num_symbols_taken: int


def extend_bars(
    previous: PreviousBars | None,
    series: pl.DataFrame,
    assets: pl.DataFrame,
    corporate_actions: pl.DataFrame,
    market: MarketConfig,
    cfg: BarsConfig,
) -> ExtendedBars:
    """What `build_bars` makes of these rows, taking over what it made of the rows before.

    Shapes  series sorted by symbol, ts_ns; result frame `bars`.
    Looks   back only, as build_bars does.
    """
    if previous is None or previous.bars.is_empty() or series.height < max(CHEAP_ROWS, 1) or series.schema != previous.series.schema:
        return ExtendedBars(build_bars(series, assets, corporate_actions, market, cfg), 0, 0)
    closed_ns, before_ns = int(series["ts_ns"].max()), int(previous.series["ts_ns"].max())  # type: ignore[arg-type]
    runs, bar_runs = Runs.of(series), Runs.of(previous.bars)
    begin = _anchors(previous, series, assets, corporate_actions, runs, bar_runs)
    if closed_ns < before_ns or not (begin >= 0).any():
        return ExtendedBars(build_bars(series, assets, corporate_actions, market, cfg), 0, 0)
    kept = [symbol for symbol, row in zip(runs.symbols, begin, strict=True) if row >= 0]
    last = previous.bars[(bar_runs.starts + bar_runs.lengths - 1)[bar_runs.place(kept)]]
    anchors_ns = dict(zip(kept, series["ts_ns"].to_numpy()[begin[begin >= 0]].tolist(), strict=True))
    actions = corporate_actions
    if actions.height:
        later = [ts_ns > anchors_ns.get(symbol, _BEFORE_ALL) for symbol, ts_ns in actions[["symbol", "ts_ns"]].iter_rows()]
        actions = actions.filter(pl.Series(later))
    rows = gathered(_tail(series, runs, begin, last), assets, actions, market, cfg, closed_ns)
    rows, is_new = _after(rows, last)
    new = finished(rows, market).filter(pl.Series(is_new))
    taken = int(bar_runs.lengths[bar_runs.place(kept)].sum())
    return ExtendedBars(_spliced(previous.bars, bar_runs, kept, new), taken, len(kept))


def _after(rows: pl.DataFrame, last: pl.DataFrame) -> tuple[pl.DataFrame, BoolArray]:
    """Rows that come after each symbol's last bar and that bar itself before them; and which of them come after."""
    ts_ns, ends_ns = rows["ts_ns"].to_numpy(), _ends(rows, last)
    is_last = ts_ns == ends_ns
    if is_last.sum() == last.height and (ts_ns >= ends_ns).all():  # on the grid: what the bar before it lacks is how late others were
        known_ns = rows["known_ns"].to_numpy().copy()
        known_ns[is_last] = last["known_ns"].to_numpy()
        return rows.with_columns(known_ns=pl.Series(known_ns)), ~is_last
    rows = pl.concat([last[rows.columns], rows.filter(pl.Series(ts_ns > ends_ns))]).sort("symbol", "ts_ns")
    return rows, rows["ts_ns"].to_numpy() > _ends(rows, last)


def _anchors(
    previous: PreviousBars, series: pl.DataFrame, assets: pl.DataFrame, actions: pl.DataFrame, runs: Runs, bar_runs: Runs
) -> Int64Array:
    """Row of each symbol at which its last bar ended, -1 for symbols that are made whole."""
    old_runs = Runs.of(previous.series)
    old_place, bar_place = old_runs.place(runs.symbols), bar_runs.place(runs.symbols)
    num_old = np.where(old_place >= 0, old_runs.lengths[old_place], 0)
    same: BoolArray = (old_place >= 0) & (bar_place >= 0) & (num_old <= runs.lengths)
    if not assets.equals(previous.assets):
        facts, old_facts = ({row[0]: row for row in frame[_FACTS].iter_rows()} for frame in (assets, previous.assets))
        same &= np.array([facts.get(symbol) == old_facts.get(symbol) for symbol in runs.symbols], dtype=np.bool_)
    for name in _READ:
        mark_changed(previous.series[name], old_runs.starts[old_place], series[name], runs.starts, num_old, same)
    last_ns = previous.bars["ts_ns"].to_numpy()[(bar_runs.starts + bar_runs.lengths - 1)[bar_place]]
    ts_ns = series["ts_ns"].to_numpy()
    begin = np.array(
        [
            start + np.searchsorted(ts_ns[start : start + num], end_ns, side="right") - 1 if alike else -1
            for start, num, end_ns, alike in zip(runs.starts, runs.lengths, last_ns, same, strict=True)
        ],
        dtype=np.int64,
    )
    begin[(begin < runs.starts) | (begin - runs.starts >= num_old)] = -1  # the last bar gathers rows that came since
    if not actions.equals(previous.corporate_actions):
        anchors_ns = dict(zip(runs.symbols, ts_ns[begin].tolist(), strict=True))
        for symbol in _other_actions(previous.corporate_actions, actions, anchors_ns):
            begin[runs.symbols.index(symbol)] = -1
    return begin


def _other_actions(old: pl.DataFrame, new: pl.DataFrame, anchors_ns: dict[str, int]) -> set[str]:
    """Symbols whose actions until their anchor are not those that they were."""

    def until(frame: pl.DataFrame) -> set[tuple[object, ...]]:
        return {row for row in frame[_ACTIONS].iter_rows() if row[0] in anchors_ns and row[1] <= anchors_ns[row[0]]}

    return {str(row[0]) for row in until(old) ^ until(new)}


def _tail(series: pl.DataFrame, runs: Runs, begin: Int64Array, last: pl.DataFrame) -> pl.DataFrame:
    """Of each symbol the rows from its anchor on, or all; the anchor brings the factor of the last bar with it."""
    first = np.where(begin >= 0, begin, runs.starts)
    lengths = runs.starts + runs.lengths - first
    ends = np.cumsum(lengths)
    rows = np.arange(ends[-1]) + np.repeat(first - (ends - lengths), lengths)
    carried = np.full(rows.size, np.nan)
    carried[ends - lengths] = 1.0
    carried[(ends - lengths)[begin >= 0]] = last["adj_factor"].to_numpy()
    tail: pl.DataFrame = series[rows]
    return tail.hstack([pl.Series("carried", carried)])


def _ends(rows: pl.DataFrame, last: pl.DataFrame) -> Int64Array:
    """Of each row the time of its symbol's last bar, or before all times."""
    runs = Runs.of(rows)
    ends = dict(zip(last["symbol"].to_list(), last["ts_ns"].to_list(), strict=True))
    return np.repeat(np.array([ends.get(symbol, _BEFORE_ALL) for symbol in runs.symbols], dtype=np.int64), runs.lengths)


def _spliced(old: pl.DataFrame, runs: Runs, kept: list[str], new: pl.DataFrame) -> pl.DataFrame:
    """Of each symbol the bars before, then the new ones."""
    new_runs = Runs.of(new)
    heads, tails = runs.place(symbols := sorted({*kept, *new_runs.symbols})), new_runs.place(symbols)
    taken = set(kept)
    pieces = []
    for symbol, i, j in zip(symbols, heads.tolist(), tails.tolist(), strict=True):
        pieces += [old.slice(int(runs.starts[i]), int(runs.lengths[i]))] if symbol in taken else []
        pieces += [new.slice(int(new_runs.starts[j]), int(new_runs.lengths[j]))] if j >= 0 else []
    return pl.concat(pieces, rechunk=True)
