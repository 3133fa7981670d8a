"""Whether a table still says what it said: rows compared where their values lie, to the last bit."""

from collections.abc import Callable
from operator import eq
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import polars as pl

from plusultra_core.arrays import BoolArray, Int64Array

if TYPE_CHECKING:
    F = TypeVar("F", bound=Callable[..., object])

    def njit(*, cache: bool) -> Callable[[F], F]:
        """numba.njit, as a type checker should see it."""
else:
    from numba import njit

_INLINE = 12  # bytes of a text that lie in its view: a longer one has four there, and where all of them are
_LOW = 0xFFFFFFFF
_FEW = 8  # rows a run, at least, where texts are looked for by where they lie
_SEEN = 64  # places of long texts that are remembered
_SINGLY = 32  # texts that are taken one by one
_BLOCK = 512  # numbers compared at a time


class _Texts(NamedTuple):
    """A column of texts as Arrow lays it out."""

    views: Int64Array
    """(2 N,), in 32 bits each: length, and the text; or length, its first four bytes, buffer, place there; of a null anything."""
    content: Any
    """uint8, all buffers end to end."""
    begin: Int64Array
    """Where each buffer begins."""


def same_until(old: pl.DataFrame, new: pl.DataFrame, end_ns: int) -> bool:
    """Whether both have the same rows known by then, in whatever order."""
    if old is new:
        return True
    if old.schema != new.schema:
        return False
    old_known, new_known = (frame.get_column("known_ns").to_numpy() <= end_ns for frame in (old, new))
    num_rows = np.count_nonzero(old_known)
    if num_rows != np.count_nonzero(new_known):
        return False
    if num_rows < old.height:
        old = pl.DataFrame([column.filter(pl.Series(old_known)) for column in old.get_columns()])  # without a query
    if _same_in_order(old, new, new_known):
        return True
    new = new.filter(pl.Series(new_known))
    return old.sort(old.columns).equals(new.sort(new.columns))


def _same_in_order(old: pl.DataFrame, new: pl.DataFrame, known: BoolArray) -> bool:
    """Whether the rows of `new` that are known are those of `old`, compared where they lie."""
    bounded = np.concatenate([[False], known, [False]])
    edges = np.flatnonzero(bounded[1:] != bounded[:-1])
    first, lengths = edges[::2], edges[1::2] - edges[::2]
    same = np.ones(first.size, dtype=np.bool_)
    for name in old.columns:
        one, two = old.get_column(name), new.get_column(name)
        if one.null_count() == one.len() and two.null_count() == two.len():
            continue
        if one.null_count() or two.null_count():
            if not one.is_null().equals(two.is_null().filter(pl.Series(known))):
                return False
            one, two = (one, two) if one.dtype == pl.String else (one.fill_null(0), two.fill_null(0))
        mark_changed(one, np.cumsum(lengths) - lengths, two, first, lengths, same)
        if not same.all():
            return False
    return True


def mark_changed(
    old: pl.Series, old_first: Int64Array, new: pl.Series, new_first: Int64Array, num_rows: Int64Array, same: BoolArray
) -> None:
    """Clear `same` of each run whose `num_rows` rows from old_first are not, bit for bit, those from new_first.

    Both columns are numbers, a missing one NaN, or both are texts whose nulls are at the same rows.
    """
    if old.dtype == pl.String:
        there = old.is_not_null().to_numpy() if old.null_count() else np.zeros(0, dtype=np.bool_)
        mark_changed_texts(*_texts(old), there, old_first, *_texts(new), new_first, num_rows, same)
    else:
        mark_changed_bits(_bits(old), old_first, _bits(new), new_first, num_rows, same)


def _bits(column: pl.Series) -> Int64Array:
    """Values as integers that are equal where the values are, to the last bit."""
    if column.dtype.is_float():
        return (column if column.dtype == pl.Float64 else column.cast(pl.Float64)).to_numpy().view(np.int64)
    return (column if column.dtype == pl.Int64 else column.cast(pl.Int64)).to_numpy()


def _texts(column: pl.Series) -> _Texts:
    array = column.rechunk().to_arrow(compat_level=pl.CompatLevel.newest())
    _, views, *parts = array.buffers()
    content = [np.frombuffer(part, dtype=np.uint8) for part in parts]
    begin = np.cumsum([0, *(part.size for part in content)])
    joined = content[0] if len(content) == 1 else np.concatenate([np.zeros(0, dtype=np.uint8), *content])
    return _Texts(np.frombuffer(views, dtype=np.int64)[2 * array.offset : 2 * (array.offset + len(array))], joined, begin)


def text_runs(column: pl.Series) -> tuple[pl.Series, Int64Array] | None:
    """The texts that a column runs through, and where each run begins, from where they lie; nulls may come first.

    None where texts hardly run, or a null stands among them.
    """
    num = column.null_count()
    if column.dtype != pl.String or column.head(num).null_count() < num:
        return None
    views = _texts(column.slice(num)).views
    begin = np.empty(views.size // (2 * _FEW) + 1, dtype=np.int64)
    num_begin = moved(views, begin)
    if num_begin < 0:
        return None
    begin = np.append(np.zeros(min(num, 1), dtype=np.int64), begin[:num_begin] + num)
    texts = [column[at] for at in begin.tolist()] if begin.size <= _SINGLY else column.gather(begin).to_list()  # a query, which costs
    if any(map(eq, texts, texts[1:])):  # equal long texts may lie in several places
        kept = [i == 0 or texts[i] != texts[i - 1] for i in range(len(texts))]
        texts, begin = [text for text, keep in zip(texts, kept, strict=True) if keep], begin[np.array(kept)]
    return pl.Series(column.name, texts, dtype=pl.String), begin


@njit(cache=True)
def moved(views: Int64Array, out: Int64Array) -> int:
    """Fill `out` with the rows whose view is not that of the row before, and tell how many they are; -1 where it is full before."""
    if not views.size:
        return 0
    one, two, num = views[0], views[1], 1
    out[0] = 0
    for i in range(1, views.size // 2):
        if views[2 * i] != one or views[2 * i + 1] != two:
            if num == out.size:
                return -1
            one, two = views[2 * i], views[2 * i + 1]
            out[num] = i
            num += 1
    return num


@njit(cache=True)
def mark_changed_bits(
    old: Int64Array, old_first: Int64Array, new: Int64Array, new_first: Int64Array, num_rows: Int64Array, same: BoolArray
) -> None:
    """The kernel of `mark_changed` for numbers."""
    for s in range(num_rows.size):
        for begin in range(0, num_rows[s] if same[s] else 0, _BLOCK):
            end = min(begin + _BLOCK, num_rows[s])
            one, two = old[old_first[s] + begin : old_first[s] + end], new[new_first[s] + begin : new_first[s] + end]
            changed = one[0] ^ two[0]
            for i in range(1, one.size):
                changed |= one[i] ^ two[i]
            if changed:
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
    new_first: Int64Array,
    num_rows: Int64Array,
    same: BoolArray,
) -> None:
    """The kernel of `mark_changed` for texts; of long ones that lie where some before them lay, nothing is read again."""
    seen = np.zeros((_SEEN, 3), dtype=np.int64)
    for s in range(num_rows.size):
        before, after = old[2 * old_first[s] :], new[2 * new_first[s] :]
        for i in range(num_rows[s] if same[s] else 0):
            if there.size and not there[old_first[s] + i]:
                continue
            head, one, two = before[2 * i], before[2 * i + 1], after[2 * i + 1]
            num_bytes = head & _LOW
            if head != after[2 * i] or (num_bytes <= _INLINE and one != two):
                same[s] = False
                break
            place = (one >> 32) & (_SEEN - 1)
            if num_bytes > _INLINE and (seen[place, 0] != head or seen[place, 1] != one or seen[place, 2] != two):
                old_at, new_at = old_begin[one & _LOW] + (one >> 32), new_begin[two & _LOW] + (two >> 32)
                for k in range(num_bytes):
                    same[s] &= old_content[old_at + k] == new_content[new_at + k]
                if not same[s]:
                    break
                seen[place, 0], seen[place, 1], seen[place, 2] = head, one, two
