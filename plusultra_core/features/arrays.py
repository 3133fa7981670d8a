"""What a feature reads: the bars of a class as arrays, symbols end to end; and a frame of what features say."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from plusultra_core.arrays import Float32Array, Float64Array, Int64Array
from plusultra_core.data.increments.unchanged import text_runs
from plusultra_core.features import ranks
from plusultra_core.features.recursions import Recursions

T = TypeVar("T")
GROUP_ROWS = 8_192
_PIECE_ROWS = 65_536


class Waiting(NamedTuple):
    """Values that will be ranked when those of all symbols are there."""

    x: Float64Array
    min_count: int


@dataclass(frozen=True, slots=True)
class BarArrays:
    """What every feature function reads: the bars of a class, symbols end to end, NaN where missing.

    Prices and volume are adjusted. `side` holds the side-table columns as they were known at each bar.
    """

    starts: Int64Array
    times_ns: Int64Array
    """Moments of the class, rising, each once."""
    ts_ns: Int64Array
    known_ns: Int64Array
    """When all bars of the symbol so far were known: rises within a symbol."""
    calendar: str
    session_tz: str
    periods_per_year: float
    open: Float64Array
    high: Float64Array
    low: Float64Array
    close: Float64Array
    volume: Float64Array
    gap_bars: Float64Array
    side: dict[str, Float64Array]
    short: int
    medium: int
    long: int
    min_fraction: float
    ret: Float64Array
    """ret_log_1: log return since the symbol's previous bar."""
    sigma: Float64Array
    """EWMA volatility a bar, to this bar."""
    recursions: Recursions
    """What depends on all the past."""
    waiting: list[Waiting] | None = None
    """Where given, values to be ranked are put here."""
    shared: dict[str, Any] = field(default_factory=dict)
    """Work that several features of one family have in common, by name."""
    common: dict[str, Any] = field(default_factory=dict)
    """Work about the moments of the class, which groups of symbols have in common, by name."""

    @property
    def since(self) -> Int64Array:
        """Row of each symbol from which answers are new: for kernels whose answers are read at their own row alone."""
        return self.recursions.num_done

    def need(self, window: int) -> int:
        """Values that a window must hold before it answers."""
        return max(2, math.ceil(self.min_fraction * window))

    def once(self, name: str, make: Callable[[], T]) -> T:
        """What `make` gives, made once and kept under `name` until the family is done."""
        if name not in self.shared:
            self.shared[name] = make()
        kept: T = self.shared[name]
        return kept

    def of_moments(self, name: str, make: Callable[[], T]) -> T:
        """What `make` gives of times_ns, calendar and zone, made once for all groups of symbols."""
        if name not in self.common:
            self.common[name] = make()
        kept: T = self.common[name]
        return kept

    def ewma(self, name: str, x: Float64Array, alpha: float, min_count: int) -> Float64Array:
        """Exponentially weighted mean of all the past with normalised weights; `name` is unique within the catalogue.

        Looks   back over all the past of the symbol.
        NaN     before min_count values; a missing value leaves the mean as it is.
        """
        return self.recursions.ewma(name, x, alpha, min_count)

    def cumulative(self, name: str, x: Float64Array) -> Float64Array:
        """Running sum from the symbol's first bar; `name` is unique within the catalogue."""
        return self.recursions.cumulative(name, x)

    def follow(self, name: str, x: Float64Array, step: Float64Array) -> Float64Array:
        """y + step (x - y) from bar to bar: an average that paces itself; `name` is unique within the catalogue.

        Looks   back over all the past of the symbol.
        NaN     before the first bar with x and step; a missing value leaves y as it is.
        """
        return self.recursions.follow(name, x, step)

    def cross_rank(self, x: Float64Array, min_count: int) -> Float64Array:
        """Where x stands among the class's values at the same ts_ns, known by then, from -.5 to .5; equal ones count half.

        A feature that calls it is tagged `cross_section` and returns the answer as it is: where symbols are made
        in groups, x waits for those of the others, and the rank comes last.
        Looks   at the bar and its peers only.
        NaN     where x is missing or fewer than min_count values are there.
        """
        if self.waiting is not None:
            self.waiting.append(Waiting(x, min_count))
            return x
        at = self.once("moments", lambda: ranks.moments(self.ts_ns, self.known_ns, self.starts, self.times_ns))
        return ranks.cross_rank(x, at, min_count)


def groups(starts: Int64Array) -> Iterator[tuple[int, int]]:
    """Symbols in runs of about GROUP_ROWS rows."""
    first = 0
    while first < starts.size - 1:
        last = max(first + 1, int(np.searchsorted(starts, starts[first] + GROUP_ROWS, side="right")) - 1)
        yield first, last
        first = last


def runs(column: pl.Series) -> tuple[pl.Series, Int64Array]:
    """The values that a column runs through, and where each run begins; at the end its length."""
    if not len(column):
        return column, np.zeros(1, dtype=np.int64)
    if (texts := text_runs(column)) is not None:
        return texts[0], np.append(texts[1], len(column))
    found = column.rle().struct.unnest() if len(column) <= _PIECE_ROWS else _runs_of_pieces(column)
    return found.get_column("value"), np.append(0, np.cumsum(found.get_column("len").to_numpy())).astype(np.int64)


def _runs_of_pieces(column: pl.Series) -> pl.DataFrame:
    """Values and lengths of the runs of a long column, some rows at a time: the engine asks for several times their memory."""
    pieces = [column.slice(start, _PIECE_ROWS).rle().struct.unnest() for start in range(0, len(column), _PIECE_ROWS)]
    found = pl.concat(pieces, rechunk=True)
    value = found.get_column("value")
    begins = value.ne_missing(value.shift())
    begins[0] = True
    number = begins.cum_sum().to_numpy() - 1
    lengths = np.bincount(number, found.get_column("len").to_numpy()).astype(np.int64)
    return pl.DataFrame([value.filter(begins), pl.Series("len", lengths)])


class Columns(Mapping[str, NDArray[Any]]):
    """Columns of a frame as `numbers`, each made when it is asked for: a frame of several chunks is never there twice."""

    def __init__(self, frame: pl.DataFrame, names: Sequence[str]) -> None:
        self._columns = {name: frame.get_column(name) for name in names}

    def __getitem__(self, name: str) -> NDArray[Any]:
        return numbers(self._columns[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)

    def some(self, name: str, rows: slice) -> Float64Array:
        """Some rows of a column, in double."""
        return self._columns[name].slice(rows.start, rows.stop - rows.start).cast(pl.Float64).to_numpy(writable=True)


def numbers(column: pl.Series) -> NDArray[Any]:
    """Values of a column in double or, all there, as the whole numbers that they are; NaN where missing."""
    whole = column.dtype.is_integer() and not column.null_count()
    return column.to_numpy() if whole else column.cast(pl.Float64).to_numpy()


def kept(frame: pl.DataFrame, mask: pl.Series) -> pl.DataFrame:
    """Rows of a frame, without a query."""
    return pl.DataFrame([column.filter(mask) for column in frame.get_columns()])


def columns_of(columns: Mapping[str, Float32Array]) -> pl.DataFrame:
    """Columns as a frame, each in the memory where it is, NaN as null; equal patterns of nulls, and columns that are one array, are one."""
    masks, made = dict[bytes, bytes](), dict[int, pa.Array]()
    for value in columns.values():
        if id(value) not in made:
            made[id(value)] = _array(value, masks)
    return pl.DataFrame(pa.RecordBatch.from_arrays([made[id(value)] for value in columns.values()], names=list(columns)))


def short_columns_of(columns: Mapping[str, Float32Array]) -> pl.DataFrame:
    """Few rows of many columns as a frame, NaN as null: in one piece of memory, which costs less than one each."""
    if not columns:
        return pl.DataFrame()
    flat = pl.Series(_array(np.concatenate(list(columns.values())), {}))
    num_rows = len(flat) // len(columns)
    return pl.DataFrame([flat.slice(i * num_rows, num_rows).alias(name) for i, name in enumerate(columns)])


def _array(value: Float32Array, masks: dict[bytes, bytes]) -> pa.Array:
    missing = np.isnan(value)
    present = None
    if missing.any():
        bits = np.packbits(np.logical_not(missing, out=missing), bitorder="little").tobytes()
        present = pa.py_buffer(masks.setdefault(bits, bits))
    return pa.Array.from_buffers(pa.from_numpy_dtype(value.dtype), value.size, [present, pa.py_buffer(value)])
