"""Which row of a table beside the bars counted at each bar: the rule of `data.side_tables.as_of`, in one pass.

Bars lie symbol after symbol with rising known_ns; rows are put in the order (symbol, known_ns, ts_ns) once, and
walked along with the bars.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
import polars as pl

from plusultra_core.arrays import BoolArray, Float64Array, Int64Array
from plusultra_core.data.fx import RATE_FIELD, RATES

if TYPE_CHECKING:
    F = TypeVar("F", bound=Callable[..., object])

    def njit(*, cache: bool) -> Callable[[F], F]:
        """numba.njit, as a type checker should see it."""
else:
    from numba import njit

NEVER_NS = np.iinfo(np.int64).max
NOBODY, STRANGER = -1, -2
MONEY = "money"
"""Side column that is always there."""


class Keys(NamedTuple):
    """The bars: symbol s owns rows starts[s] to starts[s + 1], known_ns rises within each."""

    symbols: pl.Series
    starts: Int64Array
    known_ns: Int64Array


class Rows(NamedTuple):
    """One series beside the bars, of each symbol in the order known_ns, ts_ns; one run alone serves every symbol."""

    starts: Int64Array
    ts_ns: Int64Array
    known_ns: Int64Array
    expires_ns: Int64Array
    value: Float64Array


def keys_of(frame: pl.DataFrame) -> Keys:
    """Keys of a frame with symbol and known_ns whose symbols lie together."""
    lengths = frame.select(pl.col("symbol").rle().struct.field("len"))["len"].to_numpy() if frame.height else np.zeros(0)
    starts = np.append(0, np.cumsum(lengths)).astype(np.int64)
    return Keys(frame["symbol"].gather(starts[:-1]), starts, frame["known_ns"].to_numpy())


class Beside(NamedTuple):
    """A table beside the bars, those of its rows that may count, as arrays: (N,) each."""

    keys: Keys
    frame: pl.DataFrame
    owner: Int64Array
    """Place of the row's symbol among those of the keys, NOBODY for a row without symbol, STRANGER for another's."""
    ts_ns: Int64Array
    known_ns: Int64Array
    expires_ns: Int64Array | None
    value: Float64Array


def beside(keys: Keys, frame: pl.DataFrame, max_staleness_ns: int | None) -> Beside:
    """The rows with a value of one table or several that can count at the keys within that age (null: at any)."""
    if frame["value"].null_count():
        frame = frame.filter(pl.col("value").is_not_null())
    if max_staleness_ns is not None and not (counting := _counting(keys, frame, max_staleness_ns)).all():
        frame = frame.filter(pl.Series(counting))
    runs = frame["symbol"].rle()  # most tables lie symbol after symbol
    symbols = runs.struct.field("value")
    place = symbols.cast(pl.Enum(keys.symbols), strict=False).to_physical().cast(pl.Int64).fill_null(STRANGER).to_numpy()
    if symbols.null_count():
        place = np.where(symbols.is_null().to_numpy(), NOBODY, place)
    expires_ns = None
    if "expires_ns" in frame.columns and frame["expires_ns"].null_count() < frame.height:
        expires_ns = frame["expires_ns"].fill_null(NEVER_NS).to_numpy()
    value = frame["value"] if frame["value"].dtype == pl.Float64 else frame["value"].cast(pl.Float64)
    owner = np.repeat(place, runs.struct.field("len").to_numpy())
    return Beside(keys, frame, owner, frame["ts_ns"].to_numpy(), frame["known_ns"].to_numpy(), expires_ns, value.to_numpy())


def _counting(keys: Keys, frame: pl.DataFrame, max_staleness_ns: int) -> BoolArray:
    """Rows but for those of symbols that count at no key: too old for the first one, and of earlier times than all known since.

    A row that goes could only have been displaced by those that stay, so that `newest` finds the same without it.
    """
    late: BoolArray = frame["known_ns"].to_numpy() >= int(keys.known_ns.min(initial=NEVER_NS)) - max_staleness_ns
    if late.all():
        return late
    ts_ns = frame["ts_ns"].to_numpy()
    own: BoolArray = frame["symbol"].is_not_null().to_numpy() if frame["symbol"].null_count() else np.ones(frame.height, dtype=np.bool_)
    recent: BoolArray = ts_ns >= ts_ns[late & own].min(initial=NEVER_NS)
    return late | ~own | recent


def own_rows(table: Beside, rows: Int64Array, scale: float = 1.0) -> Rows:
    """Of some rows those that belong to a symbol of the keys, in the order of the symbols; values times `scale`."""
    owner = table.owner[rows]
    if (owner < 0).any():
        rows, owner = rows[owner >= 0], owner[owner >= 0]
    return _ordered(owner, table, rows, len(table.keys.symbols), scale)


def wide_rows(table: Beside, rows: Int64Array, scale: float = 1.0) -> Rows:
    """Some rows, whatever their symbol, as one series for every symbol; values times `scale`."""
    return _ordered(np.zeros(rows.size, dtype=np.int64), table, rows, 1, scale)


def aligned(table: Beside, rows: Int64Array, scale: float, max_staleness_ns: int) -> Float64Array:
    """The value of some rows that counts at each key: a symbol's own, else that of rows without symbol."""
    wide = table.owner[rows] == NOBODY
    if wide.all():
        return _at(table.keys, wide_rows(table, rows, scale), max_staleness_ns)
    out = _at(table.keys, own_rows(table, rows, scale), max_staleness_ns)
    return fill(out, _at(table.keys, wide_rows(table, rows[wide], scale), max_staleness_ns)) if wide.any() else out


def money(keys: Keys, side: pl.DataFrame) -> Float64Array:
    """Account currency for one unit of that of the symbol's price, as known at each bar; 1 where the class is in the account's alone."""
    rows = side.filter(pl.col("table") == RATES)
    if rows.is_empty():
        return np.broadcast_to(1.0, keys.known_ns.size)  # takes no memory
    table = beside(keys, rows.filter(pl.col("field") == RATE_FIELD), None)
    return aligned(table, np.arange(table.owner.size), 1.0, NEVER_NS)


def _at(keys: Keys, rows: Rows, max_staleness_ns: int) -> Float64Array:
    return take(rows.value, newest(keys, rows, max_staleness_ns))


def _ordered(owner: Int64Array, table: Beside, rows: Int64Array, num_owners: int, scale: float) -> Rows:
    whole = rows.size == table.owner.size  # then they are all of it, as they lie
    ts_ns, known_ns = (x if whole else x[rows] for x in (table.ts_ns, table.known_ns))
    value = table.value if whole else table.value[rows]
    expires_ns = np.full(rows.size, NEVER_NS) if table.expires_ns is None else table.expires_ns[rows]
    value = value if scale == 1.0 else value * scale
    if not in_order(owner, known_ns, ts_ns):
        order = np.lexsort((ts_ns, known_ns, owner))
        owner, ts_ns, known_ns, expires_ns = (x[order] for x in (owner, ts_ns, known_ns, expires_ns))
        value = value[order]
    return Rows(np.searchsorted(owner, np.arange(num_owners + 1)).astype(np.int64), ts_ns, known_ns, expires_ns, value)


@njit(cache=True)
def in_order(owner: Int64Array, known_ns: Int64Array, ts_ns: Int64Array) -> bool:
    """Whether rows rise by owner, known_ns, ts_ns; equal ones may follow each other."""
    for i in range(1, owner.size):
        if owner[i] != owner[i - 1]:
            if owner[i] < owner[i - 1]:
                return False
        elif known_ns[i] != known_ns[i - 1]:
            if known_ns[i] < known_ns[i - 1]:
                return False
        elif ts_ns[i] < ts_ns[i - 1]:
            return False
    return True


def newest(keys: Keys, rows: Rows, max_staleness_ns: int) -> Int64Array:
    """Place among the rows of the one that counts at each key; -1 where nothing is known, or it is too old by then.

    Looks   back: known_ns of the row <= known_ns of the key.
    """
    return walk(keys.starts, keys.known_ns, rows.starts, rows.ts_ns, rows.known_ns, rows.expires_ns, max_staleness_ns)


@njit(cache=True)
def walk(
    starts: Int64Array,
    known_ns: Int64Array,
    row_starts: Int64Array,
    row_ts_ns: Int64Array,
    row_known_ns: Int64Array,
    expires_ns: Int64Array,
    max_staleness_ns: int,
) -> Int64Array:
    """The kernel of `newest`; with one run of rows every symbol reads it."""
    out = np.full(known_ns.size, -1)
    counts = np.empty(row_ts_ns.size, dtype=np.int64)  # after each row, which one counts
    for r in range(row_starts.size - 1):
        best = row_starts[r]
        for j in range(row_starts[r], row_starts[r + 1]):
            best = j if row_ts_ns[j] >= row_ts_ns[best] else best
            counts[j] = best
    for s in range(starts.size - 1):
        r = s if row_starts.size > 2 else 0
        if starts[s] == starts[s + 1]:
            continue
        first, last = row_starts[r], row_starts[r + 1]
        j = first + np.searchsorted(row_known_ns[first:last], known_ns[starts[s]], side="right")
        for i in range(starts[s], starts[s + 1]):
            while j < last and row_known_ns[j] <= known_ns[i]:
                j += 1
            if j > first:
                at = counts[j - 1]
                if known_ns[i] - row_known_ns[at] <= max_staleness_ns and known_ns[i] <= expires_ns[at]:
                    out[i] = at
    return out


@njit(cache=True)
def lowest(place: Int64Array, starts: Int64Array, row_starts: Int64Array) -> Int64Array:
    """First place that each symbol's keys found, the end of its rows where they found none."""
    out = row_starts[1:].copy()
    for s in range(starts.size - 1):
        for i in range(starts[s], starts[s + 1]):
            if place[i] >= 0:
                out[s] = place[i]  # places rise with the keys
                break
    return out


@njit(cache=True)
def latest(known_ns: Int64Array, starts: Int64Array) -> Int64Array:
    """The latest of each symbol's values so far."""
    out = known_ns.copy()
    for s in range(starts.size - 1):
        for i in range(starts[s] + 1, starts[s + 1]):
            out[i] = max(out[i], out[i - 1])
    return out


@njit(cache=True)
def take(value: Float64Array, place: Int64Array) -> Float64Array:
    """Values at places, NaN at -1."""
    out = np.empty(place.size)
    for i in range(place.size):
        out[i] = value[place[i]] if place[i] >= 0 else math.nan
    return out


def fill(out: Float64Array, value: Float64Array) -> Float64Array:
    """The first, and the second where it is missing."""
    missing: BoolArray = np.isnan(out)
    return np.where(missing, value, out) if missing.any() else out


@njit(cache=True)
def surprises(
    event: Int64Array, ts_ns: Int64Array, known_ns: Int64Array, is_actual: BoolArray, value: Float64Array, min_count: int
) -> Float64Array:
    """Change of each actual value in root mean squares of the event's changes so far; NaN at other rows.

    Rows lie by event, known_ns, ts_ns; what they call the value before stands before the value. Without it that is what stood
    last when the row's time was news.
    """
    out = np.full(value.size, math.nan)
    newest, stood, last, num, total, told = 0, math.nan, math.nan, 0, 0.0, math.nan
    fresh = True
    for i in range(value.size):
        if i > 0 and event[i] != event[i - 1]:
            stood, last, num, total, fresh = math.nan, math.nan, 0, 0.0, True
        if not is_actual[i]:
            told = value[i]
            continue
        if i == 0 or is_actual[i - 1] or event[i] != event[i - 1] or known_ns[i] != known_ns[i - 1] or ts_ns[i] != ts_ns[i - 1]:
            told = math.nan
        news = fresh or ts_ns[i] > newest
        newest = ts_ns[i] if news else newest
        if news and not fresh:
            last = stood
        if ts_ns[i] >= newest:
            stood = value[i]
        fresh = False
        change = value[i] - (last if math.isnan(told) else told)
        if news and not math.isnan(change):
            num += 1
            total += change * change
        typical = math.sqrt(total / num) if num >= max(1, min_count) else math.nan
        if typical > 0.0:
            out[i] = change / typical
    return out
