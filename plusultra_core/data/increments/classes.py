"""Rows of one class out of a table of a snapshot that is short: made of all symbols once, and parted where it is asked for."""

from collections.abc import Callable, Hashable, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from plusultra_core.data.contract.runs import Runs
from plusultra_core.data.increments.files import is_short, kept, stamp_of


def rows_of(what: Hashable, paths: Sequence[Path], symbols: Sequence[str] | None, make: Callable[[], pl.DataFrame]) -> pl.DataFrame | None:
    """Rows of some symbols, in the order of the frame, and before them those of nobody; of all symbols, if none are named.

    `make` gives the frame of all symbols, sorted by symbol with nulls first; `what` names it and what it is made of beside the files.
    None where one of the files is too long to be read whole: then the rows of the class are better read by themselves.
    Raises  what `make` does.
    """
    stamps = [stamp_of(path) for path in paths]
    if not all(stamp is None or is_short(path) for path, stamp in zip(paths, stamps, strict=True)):
        return None
    key = (what, *zip(paths, stamps, strict=True))
    frame = kept(("all", *key), make)
    if symbols is None:
        return frame
    spans = kept(("spans", *key), lambda: _spans(frame))
    mine = spans.filter(pl.col("symbol").is_null() | pl.col("symbol").is_in(list(symbols)))
    start, length = mine["start"].to_numpy(), mine["length"].to_numpy()
    if not start.size:
        return frame.clear()
    begins = np.append(True, start[1:] != start[:-1] + length[:-1])  # what lies side by side is one piece
    first = np.flatnonzero(begins)
    pieces = [frame.slice(at, size) for at, size in zip(start[first].tolist(), np.add.reduceat(length, first).tolist(), strict=True)]
    return pieces[0] if len(pieces) == 1 else pl.concat(pieces, rechunk=True)


def _spans(frame: pl.DataFrame) -> pl.DataFrame:
    """Whose rows lie where."""
    runs = Runs.of(frame)
    return pl.DataFrame({"symbol": pl.Series(runs.symbols, dtype=pl.String), "start": runs.starts, "length": runs.lengths})
