"""Bars that the calendar of a class has and its symbols lack."""

from collections.abc import Mapping

import numpy as np
import polars as pl

from plusultra_core.clock import bar_ns, iso
from plusultra_core.data.calendars import gap_bars, recorded, window_keys
from plusultra_core.data.contract.runs import Runs
from plusultra_core.errors import ConfigError
from plusultra_core.market import MarketConfig

_DAYS = 3  # missing bars that are named, of each symbol
_TOLD = {"symbol": pl.String, "missing": pl.Int64, "of": pl.Int64, "first": pl.String}


def missing_bars(
    bars: pl.DataFrame, symbols: pl.DataFrame, assets: pl.DataFrame, markets: Mapping[str, MarketConfig], bar_tolerance_frac: float
) -> pl.DataFrame:
    """Symbols on the grid of their class that lack bars which its calendar has, between their own first and last.

    Shapes  bars: symbol, ts_ns, sorted; symbols: symbol, num_bars, step_ns, in the order of bars; result: symbol, missing, of, first.
    """
    found = [pl.DataFrame(schema=_TOLD)]
    num_bars = symbols["num_bars"].cast(pl.Int64)
    placed = symbols.select("symbol", "step_ns", start=num_bars.cum_sum() - num_bars, num_bars=num_bars)
    stepped = assets.select("symbol", "asset_class", "bar").join(placed, on="symbol").sort("symbol")
    rows = bars.select("symbol", "ts_ns")
    for asset_class in stepped["asset_class"].unique(maintain_order=True).to_list():
        market = markets.get(asset_class)
        if market is None:
            continue
        length_ns = bar_ns(market.bar)
        is_near = (pl.col("step_ns") - length_ns).abs() <= bar_tolerance_frac * length_ns
        is_mine = (pl.col("asset_class") == asset_class) & (pl.col("bar").fill_null(market.bar) == market.bar) & is_near
        mine = stepped.filter(is_mine).unique("symbol", maintain_order=True)
        try:
            found.append(_lacking(_holed(rows, mine, market), market))
        except ConfigError:  # a calendar does not reach to where a dump may: then nobody knows what is missing
            continue
    return pl.concat(found).sort("symbol")


def _holed(bars: pl.DataFrame, members: pl.DataFrame, market: MarketConfig) -> pl.DataFrame:
    """Bars of those members that skip a window of the calendar between two of theirs: few, so that the audit of the others is saved."""
    own = [bars.slice(start, length) for start, length in members.select("start", "num_bars").iter_rows()]
    if not own:
        return bars.clear()
    lengths = members["num_bars"].to_numpy()
    skips = np.add.reduceat(gap_bars(pl.concat(own), market).to_numpy() > 0, np.cumsum(lengths) - lengths)
    return pl.concat([bars.clear(), *(rows for rows, skipped in zip(own, skips.tolist(), strict=True) if skipped)])


def _lacking(bars: pl.DataFrame, market: MarketConfig) -> pl.DataFrame:
    """What `audit_gaps` says of windows that symbols skip: how many, of how many, and the first of them."""
    bars, known = recorded(bars, market) if bars.height else (bars, bars)
    if bars.is_empty():
        return pl.DataFrame(schema=_TOLD)
    required = known.filter("required")
    keys, runs = window_keys(bars["ts_ns"], market).to_numpy(), Runs.of(bars)
    reached, through = (np.searchsorted(required["key"].to_numpy(), keys, side=side) for side in ("left", "right"))
    skipped = np.append(0, through[:-1])
    skipped[runs.starts] = reached[runs.starts]
    lost = np.cumsum(np.maximum(reached - skipped, 0))
    before = np.append(0, lost)[runs.starts]
    missing = lost[runs.ends - 1] - before
    ends_ns, first = required["end_ns"].to_list(), []
    for symbol in np.flatnonzero(missing):
        numbers = before[symbol] + np.arange(min(_DAYS, missing[symbol]))
        row = np.searchsorted(lost, numbers, side="right")
        first.append(" ".join(iso(ends_ns[place]) for place in reached[row] - (lost[row] - numbers)))
    told = {"symbol": runs.symbols, "missing": missing, "of": through[runs.ends - 1] - reached[runs.starts]}
    lacking = pl.DataFrame(told, schema_overrides={"symbol": pl.String}).filter(pl.Series(missing > 0))
    return lacking.with_columns(pl.Series("first", first, dtype=pl.String))
