"""Bars of one asset class on the grid of the class, raw and adjusted, and what their history looks like."""

import warnings
from dataclasses import dataclass

import polars as pl

from plusultra_core.clock import NS_PER_DAY, bar_ns
from plusultra_core.data import corporate_actions as actions_of
from plusultra_core.data.contract import empty, sort
from plusultra_core.data.gate.timestamps import to_ns
from plusultra_core.errors import ConfigError, ContractError
from plusultra_core.market import MarketConfig

_WEEK_OFFSET_NS = 4 * NS_PER_DAY  # 1970-01-01 was a Thursday; weeks end on Monday 00:00 UTC


@dataclass(frozen=True, kw_only=True, slots=True)
class BarsConfig:
    """How series become bars."""

    as_of: str | None
    """Corporate actions known later are left out (`2017-06-30 00:00:00`, UTC); null: those of the dump."""

    def __post_init__(self) -> None:
        if self.as_of is not None:
            try:
                to_ns(pl.Series([self.as_of], dtype=pl.String), "as_of")
            except ContractError as error:
                raise ConfigError(str(error)) from error

    def as_of_ns(self) -> int | None:
        """The date in nanoseconds."""
        return None if self.as_of is None else int(to_ns(pl.Series([self.as_of]), "as_of")[0])


def build_bars(
    series: pl.DataFrame, assets: pl.DataFrame, corporate_actions: pl.DataFrame, market: MarketConfig, cfg: BarsConfig
) -> pl.DataFrame:
    """Bars on the class's grid: finer symbols resampled, coarser ones left out, splits and dividends applied forward.

    Shapes  frames `series`, `assets`, `corporate_actions` of one class; result frame `bars`.
    Looks   back only; a window that has not closed by the newest row of the class is no bar.
    NaN     close-only rows have null open, high and low; nothing is filled.
    """
    grid_ns = bar_ns(market.bar)
    known = {bar: bar_ns(bar) for bar in assets["bar"].unique()}
    lengths = assets.select("symbol", length_ns=pl.col("bar").replace_strict(known, return_dtype=pl.Int64))
    dated = series.join(lengths, on="symbol", maintain_order="left")
    native = dated.filter(pl.col("length_ns") == grid_ns).drop("length_ns")
    finer = dated.filter(pl.col("length_ns") < grid_ns).drop("length_ns")
    if finer.height:
        closed_ns = int(series["known_ns"].max())  # type: ignore[arg-type]
        native = pl.concat([native, resample(finer, market).filter(pl.col("ts_ns") <= closed_ns)])
    if native.is_empty():
        return empty("bars")
    bars = native.sort("symbol", "ts_ns")
    has_ohl = pl.all_horizontal(pl.col("open", "high", "low").is_not_null())
    bars = bars.with_columns(has_ohl=has_ohl, has_volume=pl.col("volume").is_not_null())
    bars = bars.with_columns(pl.when("has_ohl").then(pl.col(name)).alias(name) for name in ("open", "high", "low"))
    bars = actions_of.adjust(bars, corporate_actions, assets, cfg.as_of_ns())
    bars = bars.with_columns(
        *((pl.col(name) * pl.col("adj_factor")).alias(f"{name}_adj") for name in ("open", "high", "low", "close")),
        volume_adj=pl.col("volume") / pl.col("adj_factor"),
        gap_bars=_gap_bars(bars),
    )
    return sort("bars", bars.drop("vwap", "turnover"))


def resample(series: pl.DataFrame, market: MarketConfig) -> pl.DataFrame:
    """Rows finer than the grid, gathered into windows (previous end, end] stamped with their end.

    Open is the first, high the greatest, low the least, close the last; volume and turnover are sums,
    vwap is weighted by volume. Open, high and low are null where a row of the window has none.
    """
    ordered = series.sort("symbol", "ts_ns").with_columns(end_ns=_window_ends(series.sort("symbol", "ts_ns")["ts_ns"], market))
    every_ohl = pl.all_horizontal(pl.col("open", "high", "low").is_not_null()).all()
    weighted = (pl.col("vwap") * pl.col("volume")).sum() / pl.col("volume").sum()
    weighted_known = (pl.col("vwap").is_not_null() & pl.col("volume").is_not_null()).all() & (pl.col("volume").sum() > 0)
    windows = ordered.group_by("symbol", "end_ns", maintain_order=True).agg(
        pl.col("known_ns").max(),
        pl.when(every_ohl).then(pl.col("open").first()).alias("open"),
        pl.when(every_ohl).then(pl.col("high").max()).alias("high"),
        pl.when(every_ohl).then(pl.col("low").min()).alias("low"),
        pl.col("close").last(),
        pl.when(pl.col("volume").count() > 0).then(pl.col("volume").sum()).alias("volume"),
        pl.when(weighted_known).then(weighted).alias("vwap"),
        pl.when(pl.col("turnover").count() > 0).then(pl.col("turnover").sum()).alias("turnover"),
    )
    ended = windows.rename({"end_ns": "ts_ns"}).with_columns(known_ns=pl.max_horizontal("known_ns", "ts_ns"))
    return ended.select(empty("series").columns)


def _window_ends(ts_ns: pl.Series, market: MarketConfig) -> pl.Series:
    """End of the grid window that each time belongs to: multiples of the bar in UTC, or the session's close."""
    length_ns = bar_ns(market.bar)
    if length_ns < NS_PER_DAY or market.calendar in ("24/7", "24/5"):
        offset_ns = _WEEK_OFFSET_NS if length_ns % (7 * NS_PER_DAY) == 0 else 0
        return -(-(ts_ns - offset_ns) // length_ns) * length_ns + offset_ns
    if length_ns > NS_PER_DAY:
        raise ConfigError(f"{market.asset_class}.bar: resampling to {market.bar} sessions of {market.calendar} is not defined; use 1d")
    return _session_closes(ts_ns, market.calendar)


def _session_closes(ts_ns: pl.Series, calendar: str) -> pl.Series:
    """Close of the session during or before which each time lies; what comes after a close belongs to the next."""
    import exchange_calendars

    first, last = (pl.from_epoch(pl.Series([value]), time_unit="ns")[0] for value in (ts_ns.min(), ts_ns.max()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of pandas, about what exchange_calendars does inside
        sessions = exchange_calendars.get_calendar(calendar, start=first.date().isoformat(), end=f"{last.year + 1}-01-31")
    closes = pl.Series("close_ns", sessions.closes.dt.tz_convert(None).to_numpy().astype("datetime64[ns]").astype("int64"))
    return closes.gather(closes.search_sorted(ts_ns, side="left"))


def _gap_bars(bars: pl.DataFrame) -> pl.Series:
    """Bars of the class's grid missing since the symbol's bar before; 0 at its first."""
    grid = bars.select(pl.col("ts_ns").unique().sort())["ts_ns"]
    place = pl.DataFrame({"symbol": bars["symbol"], "place": grid.search_sorted(bars["ts_ns"]).cast(pl.Int32)})
    return place.select(
        ((pl.col("place") - pl.col("place").shift().over("symbol")) - 1).fill_null(0).cast(pl.Int32).alias("gap_bars")
    ).to_series()
