"""Which row of a table beside the bars counted at each bar: the rule of `data.side_tables.as_of`, in one pass.

Bars lie symbol after symbol with rising known_ns; rows are put in the order (symbol, known_ns, ts_ns) once, and
walked along with the bars.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from plusultra_core.arrays import BoolArray, Float64Array, Int64Array
from plusultra_core.data.fx import RATE_FIELD, RATES
from plusultra_core.features.arrays import kept, runs

if TYPE_CHECKING:
    F = TypeVar("F", bound=Callable[..., object])

    def njit(*, cache: bool) -> Callable[[F], F]:
        """numba.njit, as a type checker should see it."""
else:
    from numba import njit

T = TypeVar("T", bound=np.generic)
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
    """Empty where none expires."""
    value: Float64Array


def keys_of(frame: pl.DataFrame) -> Keys:
    """Keys of a frame with symbol and known_ns whose symbols lie together."""
    return Keys(*runs(frame.get_column("symbol")), frame.get_column("known_ns").to_numpy())


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
    if frame.get_column("value").null_count():
        frame = kept(frame, frame.get_column("value").is_not_null())
    if max_staleness_ns is not None and not (counting := _counting(keys, frame, max_staleness_ns)).all():
        frame = kept(frame, pl.Series(counting))
    expires = frame.get_column("expires_ns") if "expires_ns" in frame.columns else None
    expires_ns = None if expires is None or expires.null_count() == frame.height else expires.fill_null(NEVER_NS).to_numpy()
    ts_ns, known_ns = (frame.get_column(name).to_numpy() for name in ("ts_ns", "known_ns"))
    value = frame.get_column("value").cast(pl.Float64).to_numpy()
    return Beside(keys, frame, _owners(keys, frame.get_column("symbol")), ts_ns, known_ns, expires_ns, value)


def _owners(keys: Keys, column: pl.Series) -> Int64Array:
    if column.null_count() == len(column):
        return np.full(len(column), NOBODY)
    symbols, starts = runs(column)  # most tables lie symbol after symbol
    place = symbols.cast(pl.Enum(keys.symbols), strict=False).to_physical().cast(pl.Int64)
    owner = place.to_numpy()
    if place.null_count():
        owner = np.where(np.isnan(owner), STRANGER, owner).astype(np.int64)
    if symbols.null_count():
        owner = np.where(symbols.is_null().to_numpy(), NOBODY, owner)
    return np.repeat(owner, np.diff(starts))


def _counting(keys: Keys, frame: pl.DataFrame, max_staleness_ns: int) -> BoolArray:
    """Rows but for those that count at no key: too old for the first one, and of earlier times than all known since.

    A row that goes could only have been displaced by those that stay, rows with a symbol by such rows and those without,
    where they come first, by those without, so that `newest` finds the same without it.
    """
    symbol, since_ns = frame.get_column("symbol"), int(keys.known_ns.min(initial=NEVER_NS)) - max_staleness_ns
    ts_ns, known_ns = (frame.get_column(name).to_numpy() for name in ("ts_ns", "known_ns"))
    num = symbol.null_count() if symbol.head(symbol.null_count()).null_count() == symbol.null_count() else 0
    out = np.empty(ts_ns.size, dtype=np.bool_)
    for part in (slice(0, num), slice(num, None)):
        mark_counting(ts_ns[part], known_ns[part], since_ns, out[part])
    return out


@njit(cache=True)
def mark_counting(ts_ns: Int64Array, known_ns: Int64Array, since_ns: int, out: BoolArray) -> None:
    """Mark rows that were known since, and those of times no earlier than the first of such rows."""
    first_ns = NEVER_NS
    for i in range(ts_ns.size):
        first_ns = min(first_ns, ts_ns[i] if known_ns[i] >= since_ns else NEVER_NS)
    for i in range(ts_ns.size):
        out[i] = (known_ns[i] >= since_ns) | (ts_ns[i] >= first_ns)


def own_rows(table: Beside, rows: Int64Array, value: Float64Array | None = None) -> Rows:
    """Of some rows, which rise, those that belong to a symbol of the keys, in the order of the symbols; with other values, if given."""
    owner, value = picked(table.owner, rows), picked(table.value, rows) if value is None else value
    if (strange := owner < 0).any():
        rows, owner, value = rows[~strange], owner[~strange], value[~strange]
    return _ordered(owner, table, rows, len(table.keys.symbols), value)


def wide_rows(table: Beside, rows: Int64Array, value: Float64Array | None = None) -> Rows:
    """Some rows, which rise, whatever their symbol, as one series for every symbol; with other values, if given."""
    value = picked(table.value, rows) if value is None else value
    return _ordered(np.broadcast_to(np.int64(0), rows.size), table, rows, 1, value)


def aligned(table: Beside, rows: Int64Array, value: Float64Array, max_staleness_ns: int) -> Float64Array:
    """What counts at each key of the values of some rows, which rise: a symbol's own, else that of rows without symbol."""
    wide = picked(table.owner, rows) == NOBODY
    if wide.all():
        return _at(table.keys, wide_rows(table, rows, value), max_staleness_ns)
    out = _at(table.keys, own_rows(table, rows, value), max_staleness_ns)
    return fill(out, _at(table.keys, wide_rows(table, rows[wide], value[wide]), max_staleness_ns)) if wide.any() else out


def picked(x: NDArray[T], rows: Int64Array) -> NDArray[T]:
    """Values of rows that rise, in the memory where they are if the rows lie together."""
    together = rows.size and rows[-1] - rows[0] + 1 == rows.size
    return x[rows[0] : rows[-1] + 1] if together else x[rows]


def money(keys: Keys, side: pl.DataFrame) -> Float64Array:
    """Account currency for one unit of that of the symbol's price, as known at each bar; 1 where the class is in the account's alone."""
    mine = side.get_column("table") == RATES
    if not mine.any():
        return np.broadcast_to(1.0, keys.known_ns.size)  # takes no memory
    table = beside(keys, kept(side, mine & (side.get_column("field") == RATE_FIELD)), None)
    return aligned(table, np.arange(table.owner.size), table.value, NEVER_NS)


def _at(keys: Keys, rows: Rows, max_staleness_ns: int) -> Float64Array:
    return take(rows.value, newest(keys, rows, max_staleness_ns))


def _ordered(owner: Int64Array, table: Beside, rows: Int64Array, num_owners: int, value: Float64Array) -> Rows:
    ts_ns, known_ns = picked(table.ts_ns, rows), picked(table.known_ns, rows)
    expires_ns = np.zeros(0, dtype=np.int64) if table.expires_ns is None else picked(table.expires_ns, rows)
    if not in_order(owner, known_ns, ts_ns):
        order = np.lexsort((ts_ns, known_ns, owner))
        owner, ts_ns, known_ns = (x[order] for x in (owner, ts_ns, known_ns))
        value = value[order]
        expires_ns = expires_ns[order] if expires_ns.size else expires_ns
    starts = np.array([0, rows.size]) if num_owners == 1 else np.searchsorted(owner, np.arange(num_owners + 1))
    return Rows(starts.astype(np.int64), ts_ns, known_ns, expires_ns, value)


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
    shared = row_starts.size == 2
    counts = np.empty(row_ts_ns.size if shared else 0, dtype=np.int64)  # after each row, which one counts
    best = 0
    for j in range(counts.size):
        best = j if row_ts_ns[j] >= row_ts_ns[best] else best
        counts[j] = best
    for s in range(starts.size - 1):
        if starts[s] == starts[s + 1]:
            continue
        r = 0 if shared else s
        first, last = row_starts[r], row_starts[r + 1]
        j, best = first, first
        if shared:
            j += np.searchsorted(row_known_ns[first:last], known_ns[starts[s]], side="right")
            best = counts[j - 1] if j > first else first
        for i in range(starts[s], starts[s + 1]):
            while j < last and row_known_ns[j] <= known_ns[i]:
                best = j if row_ts_ns[j] >= row_ts_ns[best] else best
                j += 1
            if j > first and known_ns[i] - row_known_ns[best] <= max_staleness_ns:
                out[i] = best if not expires_ns.size or known_ns[i] <= expires_ns[best] else -1
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


def latest(known_ns: Int64Array, starts: Int64Array) -> Int64Array:
    """The latest of each symbol's values so far; the values themselves where none is before the one before it."""
    return latest_on(known_ns, starts) if num_not_rising(known_ns, starts, False) else known_ns


@njit(cache=True)
def latest_on(known_ns: Int64Array, starts: Int64Array) -> Int64Array:
    """The kernel of `latest`."""
    out = known_ns.copy()
    for s in range(starts.size - 1):
        for i in range(starts[s] + 1, starts[s + 1]):
            out[i] = max(out[i], out[i - 1])
    return out


@njit(cache=True)
def num_not_rising(x: Int64Array, starts: Int64Array, strictly: bool) -> int:
    """Rows whose value is below that of the symbol's row before or, where they have to rise strictly, the same."""
    num = 0
    for s in range(starts.size - 1):
        mine = x[starts[s] : starts[s + 1]]
        for i in range(1, mine.size):
            num += (mine[i] < mine[i - 1]) | (strictly & (mine[i] == mine[i - 1]))
    return num


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
