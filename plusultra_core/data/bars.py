"""Bars of one asset class on the grid of the class, raw and adjusted, and what their history looks like."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from plusultra_core.arrays import Float64Array
from plusultra_core.clock import bar_ns
from plusultra_core.data import corporate_actions as actions_of
from plusultra_core.data.calendars import gap_bars
from plusultra_core.data.contract.frames import empty
from plusultra_core.data.contract.runs import Runs
from plusultra_core.data.gate.timestamps import to_ns
from plusultra_core.data.resampling import in_order, resample
from plusultra_core.data.universe import currencies
from plusultra_core.errors import ConfigError, ContractError
from plusultra_core.market import MarketConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class BarsConfig:
    """How series become bars."""

    as_of: str | None
    """Corporate actions known later are left out (`2017-06-30 00:00:00`, UTC); null: those of the dump."""
    adjustment: actions_of.Adjustment
    """raw, split or total_return: how far prices and volume are adjusted, always forward."""

    def __post_init__(self) -> None:
        if self.as_of is not None:
            try:
                to_ns(pl.Series([self.as_of], dtype=pl.String), "as_of")
            except ContractError as error:
                raise ConfigError(str(error)) from error

    def as_of_ns(self) -> int | None:
        """The date in nanoseconds."""
        return None if self.as_of is None else int(to_ns(pl.Series([self.as_of]), "as_of")[0])


_COLUMNS = empty("bars").columns


def build_bars(
    series: pl.DataFrame, assets: pl.DataFrame, corporate_actions: pl.DataFrame, market: MarketConfig, cfg: BarsConfig
) -> pl.DataFrame:
    """Bars on the class's grid: rows adjusted forward, finer symbols resampled, coarser ones left out, gaps counted.

    Rows are adjusted before they are gathered: in a window that a split falls into, each row has its own factor, and
    `adj_factor` of the bar is that of its close. A bar is known once all bars of its symbol before it are: whoever reads
    it reads what happened since, and one that comes late holds up those behind it.

    Shapes  frames `series`, `assets`, `corporate_actions` of one class; result frame `bars`.
    Looks   back only; a window that has not closed by the newest row of the class is no bar.
    NaN     close-only rows have null open, high and low; nothing is filled.
    """
    if series.is_empty():
        return empty("bars")
    closed_ns = int(series["ts_ns"].max())  # type: ignore[arg-type]
    return finished(gathered(in_order(series), assets, corporate_actions, market, cfg, closed_ns), market)


def gathered(
    series: pl.DataFrame, assets: pl.DataFrame, corporate_actions: pl.DataFrame, market: MarketConfig, cfg: BarsConfig, closed_ns: int
) -> pl.DataFrame:
    """Rows on the class's grid with their adjusted twins, sorted by symbol and time; windows that end after `closed_ns` are left out.

    Shapes  series sorted by symbol, ts_ns.

    A column `carried` of the series has, in each symbol's first row, the factor with which it begins.
    """
    grid_ns = bar_ns(market.bar)
    lengths = [(symbol, bar_ns(bar)) for symbol, bar in zip(assets["symbol"].to_list(), assets["bar"].to_list(), strict=True)]
    coarse = [symbol for symbol, length_ns in lengths if length_ns > grid_ns]
    finer = {symbol for symbol, length_ns in lengths if length_ns < grid_ns}
    rows = series[[name for name in series.columns if name not in ("vwap", "turnover")]].rechunk()
    rows = rows.filter(~pl.col("symbol").is_in(coarse)) if coarse else rows
    rows = _adjusted(rows, corporate_actions, assets, cfg)
    if not finer or rows.is_empty():
        return rows
    runs = Runs.of(rows)
    if finer.issuperset(runs.symbols):
        return resample(rows, market, closed_ns)
    apart = {symbol: rows.slice(*span) for symbol, *span in zip(runs.symbols, runs.starts.tolist(), runs.lengths.tolist(), strict=True)}
    made = resample(pl.concat([apart.pop(symbol) for symbol in runs.symbols if symbol in finer] or [rows.clear()]), market, closed_ns)
    runs = Runs.of(made)
    apart |= {symbol: made.slice(*span) for symbol, *span in zip(runs.symbols, runs.starts.tolist(), runs.lengths.tolist(), strict=True)}
    return pl.concat([apart[symbol] for symbol in sorted(apart)] or [made], rechunk=True)


def finished(bars: pl.DataFrame, market: MarketConfig) -> pl.DataFrame:
    """Bars with what is said of them beside their neighbours: gaps, and when all bars so far were known."""
    if bars.is_empty():
        return empty("bars")
    told = [
        pl.Series("has_ohl", ~np.isnan(bars["open"].to_numpy())),
        pl.Series("has_volume", ~np.isnan(bars["volume"].to_numpy())),
        gap_bars(bars, market),
    ]
    return _known_so_far(bars).hstack(told)[_COLUMNS]


def _known_so_far(bars: pl.DataFrame) -> pl.DataFrame:
    """Bars with the time at which all of their symbol's so far were known; as they are, where none came late."""
    known_ns, ts_ns = bars["known_ns"].to_numpy(), bars["ts_ns"].to_numpy()
    falls = (known_ns[1:] < known_ns[:-1]) & (ts_ns[1:] >= ts_ns[:-1])  # elsewhere another symbol begins, or it does no harm
    return bars.with_columns(pl.col("known_ns").cum_max().over("symbol")) if falls.any() else bars


def _adjusted(rows: pl.DataFrame, corporate_actions: pl.DataFrame, assets: pl.DataFrame, cfg: BarsConfig) -> pl.DataFrame:
    """Rows with the adjusted twin of every price and of the volume; open, high and low only where all three are there."""
    values = {name: rows[name].to_numpy() for name in ("open", "high", "low", "close", "volume")}
    torn = np.isnan(values["open"]) | np.isnan(values["high"]) | np.isnan(values["low"])
    if torn.any():
        values |= {name: np.where(torn, np.nan, values[name]) for name in ("open", "high", "low")}
        rows = rows.with_columns(_series(name, values[name]) for name in ("open", "high", "low"))
    rows = actions_of.adjust(rows, corporate_actions, assets, cfg.as_of_ns(), cfg.adjustment)
    factor = rows["adj_factor"].to_numpy()
    prices = [_series(f"{name}_adj", values[name] * factor) for name in ("open", "high", "low", "close")]
    return rows.hstack([*prices, _series("volume_adj", values["volume"] / factor)])


def _series(name: str, values: Float64Array) -> pl.Series:
    return pl.Series(name, values, nan_to_null=True)


def remarks(assets: pl.DataFrame, market: MarketConfig, cfg: BarsConfig) -> dict[str, str]:
    """What whoever uses the bars of a class should know beside their gaps, a sentence each by its name; empty where all is plain.

    `coarser` (symbols left out), `currencies` (prices not in that of the account), `adjusted` (symbols that their source has
    adjusted further than `cfg.adjustment`).
    """
    told = {}
    coarse = [symbol for symbol, bar in assets.select("symbol", "bar").iter_rows() if bar_ns(bar) > bar_ns(market.bar)]
    if coarse:
        told["coarser"] = f"assets.bar: coarser than {market.bar} and left out of bars: {_listed(coarse)}; give the class a coarser bar"
    foreign = currencies(assets, market).filter("foreign")["symbol"].to_list()
    if foreign:
        told["currencies"] = (
            f"assets.currency: expected {market.currency}, that of the account, found others in {_listed(foreign)}; "
            "their bars are kept in their own currency and converted where they are traded"
        )
    if further := actions_of.beyond(assets, cfg.adjustment):
        told["adjusted"] = f"assets.price_adjustment: further than {cfg.adjustment} by their source: {_listed(further)}; kept as they are"
    return told


def _listed(symbols: list[str]) -> str:
    shown = ", ".join(sorted(symbols)[:5])
    return shown if len(symbols) <= 5 else f"{shown} and {len(symbols) - 5} more"
