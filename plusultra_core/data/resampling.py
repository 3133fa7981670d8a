"""Finer rows gathered into the windows of the class's grid."""

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import polars as pl

from plusultra_core.arrays import Float64Array, Int64Array
from plusultra_core.data.calendars import window_ends
from plusultra_core.data.contract.runs import Runs
from plusultra_core.market import MarketConfig

_RANGES = (("open", "high", "low"), ("open_adj", "high_adj", "low_adj"))
_LAST = ("close", "close_adj", "adj_factor")
_SUMS = ("volume", "volume_adj", "turnover")


def resample(rows: pl.DataFrame, market: MarketConfig, closed_ns: int) -> pl.DataFrame:
    """Rows finer than the grid, gathered into windows (end before, end] stamped with their end.

    Open is the first, high the greatest, low the least, close the last; volume and turnover are sums; vwap is
    weighted by volume. Adjusted columns are gathered in the same way from rows that are adjusted already, so that
    a split inside a window does not tear its range. What ends after `closed_ns`, the newest time of the class, is no bar yet.

    Shapes  rows: symbol, ts_ns, known_ns and any of the prices and amounts of `series` and `bars`; the result has the same columns.
    Looks   at the rows of the window; known_ns is the latest of theirs and of the window's end.
    NaN     a missing open, high or low leaves the window without range, a missing amount without that sum: a part is not the whole.
    """
    if rows.is_empty():
        return rows
    rows = in_order(rows)
    end_ns = window_ends(rows["ts_ns"], market).to_numpy()
    if not (closed := end_ns <= closed_ns).all():
        rows, end_ns = rows.filter(pl.Series(closed)), end_ns[closed]
    if rows.is_empty():
        return rows
    begins = np.append(True, end_ns[1:] != end_ns[:-1])
    begins[Runs.of(rows).starts] = True
    first = np.flatnonzero(begins)
    known_ns = np.maximum(np.maximum.reduceat(rows["known_ns"].to_numpy(), first), end_ns[first])
    values = {name: rows[name].to_numpy() for name in rows.columns if name not in ("symbol", "ts_ns", "known_ns")}
    found: dict[str, Float64Array | Int64Array] = {"ts_ns": end_ns[first], "known_ns": known_ns}
    found |= {name: value[np.append(first[1:], len(value)) - 1] for name, value in values.items() if name in _LAST}
    found |= _prices(values, first) | _amounts(values, first)
    made = [pl.Series(name, found[name], nan_to_null=True) for name in rows.columns if name != "symbol"]
    return pl.DataFrame([rows["symbol"].gather(first), *made])[rows.columns]


def _prices(values: Mapping[str, Float64Array], first: Int64Array) -> dict[str, Float64Array]:
    """Open, high and low of each window; all three missing where one of a row is."""
    found: dict[str, Float64Array] = {}
    for names in _RANGES:
        if set(names) <= set(values):
            opens, highs, lows = (values[name] for name in names)
            torn = np.logical_or.reduceat(np.isnan(opens) | np.isnan(highs) | np.isnan(lows), first)
            ranges = opens[first], np.maximum.reduceat(highs, first), np.minimum.reduceat(lows, first)
            found |= {name: np.where(torn, np.nan, value) for name, value in zip(names, ranges, strict=True)}
    return found


def _amounts(values: Mapping[str, Float64Array], first: Int64Array) -> dict[str, Float64Array]:
    """Sums of each window, and its price weighted by volume; a sum depends on its rows alone, not on what is gathered beside them."""
    found = {name: np.add.reduceat(values[name], first) for name in _SUMS if name in values}
    if "vwap" in values:
        volume = np.add.reduceat(values["volume"] + 0.0 * values["vwap"], first)  # missing where a price is
        paid = np.add.reduceat(values["vwap"] * values["volume"], first)
        found["vwap"] = np.divide(paid, volume, out=np.full(first.size, np.nan), where=volume > 0)
    return found


def in_order(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows sorted by symbol and ts_ns: as they are, where they lie so."""
    runs, ts_ns = Runs.of(rows), rows["ts_ns"].to_numpy()
    falls = ts_ns[1:] < ts_ns[:-1]
    falls[runs.starts[1:] - 1] = False
    lies = all(one < other for one, other in pairwise(runs.symbols)) and not falls.any()
    return rows if lies else rows.sort("symbol", "ts_ns")
