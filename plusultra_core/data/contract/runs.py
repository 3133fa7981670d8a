"""Whose rows lie where in a frame that is sorted by symbol."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from plusultra_core.arrays import Int64Array
from plusultra_core.data.increments.unchanged import text_runs


@dataclass(frozen=True, slots=True)
class Runs:
    """Rows of one symbol that lie together: whose they are, where they begin, and how many there are."""

    symbols: list[str]
    starts: Int64Array
    lengths: Int64Array

    @classmethod
    def of(cls, frame: pl.DataFrame) -> "Runs":
        """The runs of a frame's `symbol`; one that comes again later has several."""
        column = frame.get_column("symbol")
        if column.len() and not column.null_count() and column[0] == column[-1] and (column == column[0]).all():
            return cls([column[0]], np.zeros(1, dtype=np.int64), np.array([column.len()], dtype=np.int64))
        if (found := text_runs(column)) is not None:
            return cls(found[0].to_list(), found[1], np.diff(found[1], append=column.len()))
        runs = column.rle().struct.unnest()
        lengths = runs["len"].to_numpy().astype(np.int64)
        return cls(runs["value"].to_list(), np.cumsum(lengths) - lengths, lengths)

    @property
    def ends(self) -> Int64Array:
        """The row after the last of each."""
        return self.starts + self.lengths

    def place(self, symbols: Sequence[str]) -> Int64Array:
        """Where each symbol stands, -1 for those that are not there."""
        places = {symbol: i for i, symbol in enumerate(self.symbols)}
        return np.array([places.get(symbol, -1) for symbol in symbols], dtype=np.int64)
