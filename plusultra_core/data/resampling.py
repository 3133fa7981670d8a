"""Finer rows gathered into the windows of the class's grid."""

import polars as pl

from plusultra_core.data.calendars import window_ends
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
    floats = [name for name, kind in rows.schema.items() if kind == pl.Float64]
    ordered = rows.sort("symbol", "ts_ns").with_columns(pl.col(floats).fill_nan(None))
    ordered = ordered.with_columns(end_ns=window_ends(ordered["ts_ns"], market)).filter(pl.col("end_ns") <= closed_ns)
    gathered = ordered.group_by("symbol", "end_ns", maintain_order=True).agg(pl.col("known_ns").max(), *_prices(rows), *_amounts(rows))
    stamped = gathered.rename({"end_ns": "ts_ns"}).with_columns(known_ns=pl.max_horizontal("known_ns", "ts_ns"))
    return stamped.select(rows.columns).cast(rows.schema)


def _prices(rows: pl.DataFrame) -> list[pl.Expr]:
    found = [pl.col(name).last() for name in _LAST if name in rows.columns]
    for names in _RANGES:
        if set(names) <= set(rows.columns):
            whole = pl.all_horizontal(pl.col(names).is_not_null()).all()
            first, most, least = (pl.col(name) for name in names)
            found += [
                pl.when(whole).then(value).alias(name) for name, value in zip(names, (first.first(), most.max(), least.min()), strict=True)
            ]
    return found


def _amounts(rows: pl.DataFrame) -> list[pl.Expr]:
    found = [pl.when(pl.col(name).is_not_null().all()).then(pl.col(name).sum()).alias(name) for name in _SUMS if name in rows.columns]
    if "vwap" in rows.columns:
        weighed = pl.all_horizontal(pl.col("vwap", "volume").is_not_null()).all() & (pl.col("volume").sum() > 0)
        mean = (pl.col("vwap") * pl.col("volume")).sum() / pl.col("volume").sum()
        found.append(pl.when(weighed).then(mean).alias("vwap"))
    return found
