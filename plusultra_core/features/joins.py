"""Which row of a table beside the bars counted at each bar: the rule of `data.side_tables.as_of`, in one pass.

Bars lie symbol after symbol with rising known_ns; rows are put in the order (symbol, known_ns, ts_ns) once, and
walked along with the bars. And whether such a table still says what it said, compared where its values lie.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import polars as pl

from plusultra_core.arrays import BoolArray, Float64Array, Int64Array

if TYPE_CHECKING:
    F = TypeVar("F", bound=Callable[..., object])

    def njit(*, cache: bool) -> Callable[[F], F]:
        """numba.njit, as a type checker should see it."""
else:
    from numba import njit

NEVER_NS = np.iinfo(np.int64).max
_INLINE = 12  # bytes of a text that lie in its view: a longer one has four there, and where all of them are
_LOW = 0xFFFFFFFF


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


def own_rows(keys: Keys, frame: pl.DataFrame) -> Rows:
    """Rows with a value that belong to a symbol of the keys, in the order of the symbols."""
    runs = frame.select(pl.col("symbol").rle()).unnest("symbol")  # most tables lie symbol after symbol
    place = runs["value"].cast(pl.Enum(keys.symbols), strict=False).to_physical().cast(pl.Int64).fill_null(-1).to_numpy()
    owner = np.repeat(place, runs["len"].to_numpy())
    if frame["value"].null_count() or (place < 0).any():
        there = (owner >= 0) & frame["value"].is_not_null().to_numpy()
        frame, owner = frame.filter(there), owner[there]
    return _ordered(owner, frame, len(keys.symbols))


def wide_rows(frame: pl.DataFrame) -> Rows:
    """Rows with a value, whatever their symbol, as one series for every symbol."""
    frame = frame.filter(pl.col("value").is_not_null()) if frame["value"].null_count() else frame
    return _ordered(np.zeros(frame.height, dtype=np.int64), frame, 1)


def _ordered(owner: Int64Array, frame: pl.DataFrame, num_owners: int) -> Rows:
    ts_ns, known_ns = frame["ts_ns"].to_numpy(), frame["known_ns"].to_numpy()
    expires_ns = np.full(frame.height, NEVER_NS)
    if "expires_ns" in frame.columns and frame["expires_ns"].null_count() < frame.height:
        expires_ns = frame["expires_ns"].fill_null(NEVER_NS).to_numpy()
    columns = [ts_ns, known_ns, expires_ns, frame["value"].cast(pl.Float64).to_numpy()]
    if not in_order(owner, known_ns, ts_ns):
        order = np.lexsort((ts_ns, known_ns, owner))
        owner, columns = owner[order], [column[order] for column in columns]
    return Rows(np.searchsorted(owner, np.arange(num_owners + 1)).astype(np.int64), *columns)


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


def still_counting(keys: Keys, frame: pl.DataFrame, max_staleness_ns: int) -> pl.DataFrame:
    """Rows without those of symbols that count at no key: too old for the first one, and of earlier times than all known since.

    A row that goes could only have been displaced by those that stay, so that `newest` finds the same without it.
    """
    since_ns = int(keys.known_ns.min(initial=NEVER_NS)) - max_staleness_ns
    late, own = frame["known_ns"] >= since_ns, frame["symbol"].is_not_null()
    if late.all():
        return frame
    first_ns = frame["ts_ns"].filter(late & own).min()
    return frame.filter(late | ~own if first_ns is None else late | ~own | (frame["ts_ns"] >= first_ns))


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


class _Texts(NamedTuple):
    """A column of texts as Arrow lays it out."""

    views: Int64Array
    """(2 N,), in 32 bits each: length, and the text; or length, its first four bytes, buffer, place there."""
    content: Any
    """uint8, all buffers end to end."""
    begin: Int64Array
    """Where each buffer begins."""
    there: BoolArray
    """(N,), or empty where nothing is null; the view of a null may say anything."""


def same_until(old: pl.DataFrame, new: pl.DataFrame, end_ns: int) -> bool:
    """Whether both have the same rows known by then, in whatever order."""
    if old.schema != new.schema:
        return False
    old_known, new_known = (frame["known_ns"] <= end_ns for frame in (old, new))
    if old_known.sum() != new_known.sum():
        return False
    old = old if old_known.all() else old.filter(old_known)
    if _same_in_order(old, new, new_known):
        return True
    new = new.filter(new_known)
    return old.sort(old.columns).equals(new.sort(new.columns))


def _same_in_order(old: pl.DataFrame, new: pl.DataFrame, known: pl.Series) -> bool:
    """Whether the rows of `new` that are known are those of `old`."""
    bounded = np.concatenate([[False], known.to_numpy(), [False]])
    edges = np.flatnonzero(bounded[1:] != bounded[:-1])
    first, lengths = edges[::2], edges[1::2] - edges[::2]
    same = np.ones(first.size, dtype=np.bool_)
    for name, dtype in old.schema.items():
        one, two = old[name], new[name]
        if one.null_count() == one.len() and two.null_count() == two.len():
            continue
        if not (dtype.is_numeric() or dtype == pl.String):
            if not one.equals(two.filter(known), null_equal=True):
                return False
            continue
        if one.null_count() or two.null_count():
            if not one.is_null().equals(two.is_null().filter(known)):
                return False
            one, two = (one, two) if dtype == pl.String else (one.fill_null(0), two.fill_null(0))
        mark_changed(one, np.cumsum(lengths) - lengths, two, first, lengths, same)
    return bool(same.all())


def mark_changed(
    old: pl.Series, old_first: Int64Array, new: pl.Series, new_first: Int64Array, num_rows: Int64Array, same: BoolArray
) -> None:
    """Clear `same` of each run whose `num_rows` rows from old_first are not, bit for bit, those from new_first.

    Both columns are numbers, a missing one NaN, or both are texts whose nulls are at the same rows.
    """
    if old.dtype == pl.String:
        mark_changed_texts(*_texts(old), old_first, *_texts(new), new_first, num_rows, same)
    else:
        mark_changed_bits(_bits(old), old_first, _bits(new), new_first, num_rows, same)


def _bits(column: pl.Series) -> Int64Array:
    """Values as integers that are equal where the values are, to the last bit."""
    if column.dtype.is_float():
        return column.cast(pl.Float64).to_numpy().view(np.int64)
    return column.cast(pl.Int64).to_numpy()


def _texts(column: pl.Series) -> _Texts:
    there = column.is_not_null().to_numpy() if column.null_count() else np.zeros(0, dtype=np.bool_)
    array = column.rechunk().to_arrow(compat_level=pl.CompatLevel.newest())
    _, views, *parts = array.buffers()
    content = [np.frombuffer(part, dtype=np.uint8) for part in parts]
    begin = np.cumsum([0, *(part.size for part in content)])
    joined = content[0] if len(content) == 1 else np.concatenate([np.zeros(0, dtype=np.uint8), *content])
    return _Texts(np.frombuffer(views, dtype=np.int64)[2 * array.offset :], joined, begin, there)


@njit(cache=True)
def mark_changed_bits(
    old: Int64Array, old_first: Int64Array, new: Int64Array, new_first: Int64Array, num_rows: Int64Array, same: BoolArray
) -> None:
    """The kernel of `mark_changed` for numbers."""
    for s in range(num_rows.size):
        if same[s]:
            for i in range(num_rows[s]):
                if old[old_first[s] + i] != new[new_first[s] + i]:
                    same[s] = False
                    break


@njit(cache=True)
def mark_changed_texts(
    old: Int64Array,
    old_content: Any,
    old_begin: Int64Array,
    there: BoolArray,
    old_first: Int64Array,
    new: Int64Array,
    new_content: Any,
    new_begin: Int64Array,
    _: BoolArray,
    new_first: Int64Array,
    num_rows: Int64Array,
    same: BoolArray,
) -> None:
    """The kernel of `mark_changed` for texts; of long ones that lie in the same place as those of the row before, nothing is read again."""
    seen, old_seen, new_seen = 0, 0, 0
    for s in range(num_rows.size):
        i, j = 2 * old_first[s], 2 * new_first[s]
        end = i + 2 * num_rows[s] if same[s] else i
        while i < end:
            if there.size and not there[i // 2]:
                i, j = i + 2, j + 2
                continue
            head, one, two = old[i], old[i + 1], new[j + 1]
            num_bytes = head & _LOW
            if head != new[j] or (num_bytes <= _INLINE and one != two):
                same[s] = False
                break
            if num_bytes > _INLINE and (head != seen or one != old_seen or two != new_seen):
                old_at, new_at = old_begin[one & _LOW] + (one >> 32), new_begin[two & _LOW] + (two >> 32)
                for k in range(num_bytes):
                    same[s] &= old_content[old_at + k] == new_content[new_at + k]
                if not same[s]:
                    break
                seen, old_seen, new_seen = head, one, two
            i, j = i + 2, j + 2
