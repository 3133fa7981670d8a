"""Columns of a view laid under each other in the order of the contract: no sort, and shared keys are not copied."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from plusultra_core.arrays import BoolArray, Float64Array, Int64Array

COLUMNS = ("symbol", "ts_ns", "known_ns", "feature", "value", "staleness_ns", "source_class")


@dataclass(frozen=True, slots=True)
class Rows:
    """What rows the columns of one kind stand on: every bar of the class, or every decision time of it."""

    symbol: pl.Series
    """Null throughout where a row holds for the whole class."""
    ts_ns: pl.Series
    known_ns: pl.Series
    constants: dict[tuple[str, int], pl.Series] = field(default_factory=dict)

    def constant(self, text: str, size: int) -> pl.Series:
        """The same text on every row, made once."""
        if (text, size) not in self.constants:
            self.constants[text, size] = pl.Series([text], dtype=pl.String).new_from_index(0, size)
        return self.constants[text, size]


@dataclass(frozen=True, slots=True)
class Column:
    """One feature of a view on its rows, NaN where it cannot be said."""

    feature: str
    source_class: str
    rows: Rows
    value: Float64Array
    staleness_ns: pl.Series
    """-1 in rows that are left out."""
    first: int = 0
    """Rows before this one are left out: nothing of the source was known."""
    last: int | None = None
    """Rows from this one on are left out: another column says them."""
    mask: BoolArray | None = None
    """Rows that stay, where those left out do not stand in front."""


def bar_rows(symbol: pl.Series, ts_ns: Int64Array, known_ns: Int64Array) -> Rows:
    """Every bar of a class."""
    return Rows(symbol.alias("symbol"), pl.Series("ts_ns", ts_ns), pl.Series("known_ns", known_ns))


def time_rows(grid: pl.DataFrame) -> Rows:
    """Every decision time of a class."""
    return Rows(pl.Series("symbol", [None], dtype=pl.String).new_from_index(0, grid.height), grid["ts_ns"], grid["known_ns"])


def long(columns: Sequence[Column]) -> pl.DataFrame:
    """The long frame, rising in feature, symbol, ts_ns.

    Columns of one feature follow each other in time.
    """
    ordered = sorted(columns, key=lambda column: (column.feature.encode(), column.first))
    return pl.concat([_long(column) for column in ordered], rechunk=False)


def _long(column: Column) -> pl.DataFrame:
    rows, kept = column.rows, slice(column.first, column.last)
    raw = column.value[kept]
    value = pl.Series("value", np.where(np.isfinite(raw), raw, np.nan), nan_to_null=True)
    size = value.len()
    frame = pl.DataFrame(
        [
            rows.symbol[kept],
            rows.ts_ns[kept],
            rows.known_ns[kept],
            rows.constant(column.feature, size).alias("feature"),
            value,
            column.staleness_ns[kept].alias("staleness_ns"),
            rows.constant(column.source_class, size).alias("source_class"),
        ]
    )
    return frame if column.mask is None else frame.filter(pl.Series(column.mask))
