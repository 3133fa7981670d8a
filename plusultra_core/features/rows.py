"""Bars as arrays, and what of the tables is refused before anything is computed."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from plusultra_core.arrays import Float32Array, Float64Array, Int64Array
from plusultra_core.errors import ContractError
from plusultra_core.features import sides
from plusultra_core.features.arrays import Columns, columns_of, runs
from plusultra_core.features.beside.joins import Keys, latest, num_not_rising
from plusultra_core.features.catalog import FeatureSpec
from plusultra_core.features.sides import AlternativeConfig

if TYPE_CHECKING:
    F = TypeVar("F", bound=Callable[..., object])

    def njit(*, cache: bool) -> Callable[[F], F]:
        """numba.njit, as a type checker should see it."""
else:
    from numba import njit

KEYS = ("symbol", "ts_ns", "known_ns")
READS = ("open_adj", "high_adj", "low_adj", "close_adj", "volume_adj", "gap_bars")
"""Columns of bars that features are made of, beside the keys."""
_SIDE_COLUMNS = ("table", "symbol", "field", "ts_ns", "known_ns", "value")
_INDICATOR_COLUMNS = ("symbol", "name", "ts_ns", "known_ns", "value")


@dataclass(frozen=True, slots=True)
class Bars:
    """Bars of a class: symbol s owns rows starts[s] to starts[s + 1]."""

    symbols: pl.Series
    """(S,)"""
    starts: Int64Array
    """(S + 1,)"""
    ts_ns: Int64Array
    known_ns: Int64Array
    """When all bars of the symbol so far were known."""
    values: Mapping[str, NDArray[Any]]
    """Each of READS, in double or as whole numbers, NaN where missing."""

    @property
    def num_rows(self) -> Int64Array:
        """Rows of each symbol."""
        return np.diff(self.starts)

    @property
    def keys(self) -> Keys:
        """What tables beside the bars are joined by."""
        return Keys(self.symbols, self.starts, self.known_ns)

    def at(self, symbols: Int64Array, starts: Int64Array, rows: Int64Array) -> "Bars":
        """Some rows of some symbols."""
        values = {name: value[rows] for name, value in self.values.items()}
        named = self.symbols if symbols.size == len(self.symbols) else self.symbols.gather(symbols)
        return Bars(named, starts, self.ts_ns[rows], self.known_ns[rows], values)


def bars_of(frame: pl.DataFrame) -> Bars:
    """Bars of a frame as arrays.

    Raises  ContractError when rows are out of order or twice.
    """
    symbols, starts = runs(frame.get_column("symbol"))
    ts_ns, known_ns = (frame.get_column(name).to_numpy() for name in KEYS[1:])
    num_wrong = (symbols.slice(1) < symbols.slice(0, max(len(symbols) - 1, 0))).sum() + num_not_rising(ts_ns, starts, True)
    if num_wrong:
        raise ContractError(f"bars: {num_wrong} rows out of order or twice; expected rising symbol, ts_ns; sort them")
    return Bars(symbols, starts, ts_ns, latest(known_ns, starts), Columns(frame, READS))


def keys_frame(bars: pl.DataFrame, known_ns: Int64Array) -> pl.DataFrame:
    """Keys of every bar; known_ns is when all bars of the symbol so far were known."""
    return pl.DataFrame([bars.get_column("symbol"), bars.get_column("ts_ns"), pl.Series("known_ns", known_ns)])


def frame_of(keys: pl.DataFrame, columns: Mapping[str, Float32Array]) -> pl.DataFrame:
    """Keys and columns as a frame, NaN as null, in the memory where the columns are."""
    return keys.hstack(columns_of(columns))


@njit(cache=True)
def store(value: Float64Array, starts: Int64Array, num_done: Int64Array, out: Float32Array) -> None:
    """Write each symbol's values after its first `num_done` as they are kept: in the precision of `out`, NaN where not finite there."""
    at = 0
    for s in range(num_done.size):
        first = starts[s] + num_done[s]
        for i in range(starts[s + 1] - first):
            out[at + i] = value[first + i]
            if not math.isfinite(out[at + i]):
                out[at + i] = math.nan
        at += starts[s + 1] - first


def check(
    bars: pl.DataFrame,
    indicators: pl.DataFrame,
    side_tables: pl.DataFrame,
    specs: Sequence[FeatureSpec],
    required: Sequence[str],
    included: Sequence[str],
    cfg: AlternativeConfig,
) -> None:
    """Raises ContractError when a column, a required table or the inputs of a feature asked for by name are missing."""
    for frame, name, columns in (
        (bars, "bars", KEYS + READS),
        (side_tables, "side_tables", _SIDE_COLUMNS),
        (indicators, "indicators", _INDICATOR_COLUMNS),
    ):
        found = frame.columns
        for column in columns:
            if column in found:
                continue
            if frame is bars:
                users = [spec.name for spec in specs if column in spec.inputs]
                raise ContractError(f"bars: column {column!r} is missing; it is read by {users or 'every feature'}; build bars again")
            raise ContractError(f"{name}: column {column!r} is missing; expected {list(columns)}, found {found}")
    present = set(side_tables["table"].unique().to_list()) if required else set()
    for table in required:
        if table not in present:
            raise ContractError(f"side_tables: required table {table!r} is missing, found {sorted(present)}; add it or require less")
    for spec in specs:
        if spec.name in included and bars.height:
            _check_included(spec, bars, indicators, side_tables, cfg)


def _check_included(
    spec: FeatureSpec, bars: pl.DataFrame, indicators: pl.DataFrame, side_tables: pl.DataFrame, cfg: AlternativeConfig
) -> None:
    """A feature of a bundle may stay empty, as coverage says; one that was asked for by its name may not."""
    empty = [f"bars: {name}" for name in spec.inputs if name in bars.columns and not bars[name].count()]
    empty += [what for name in spec.sides if (what := sides.absent(name, side_tables, indicators, cfg))]
    if empty:
        raise ContractError(f"include: {spec.name!r} reads what has no value here ({'; '.join(empty)}); add it, or include less")
