"""What stood beside each bar at its close: half the spread, the size quoted, the rate of the asset's currency.

Which columns of the dump say so is config (`spread`, `depth` and `exchange` of the market); what no column says stays null, and is
decided where orders are filled.
"""

from collections.abc import Sequence

import polars as pl

from plusultra_core.clock import NS_PER_HOUR
from plusultra_core.data.fx import quote_currency, rates_at, unit_rate
from plusultra_core.data.side_tables import as_of, value_at
from plusultra_core.errors import ContractError
from plusultra_core.market import MarketConfig, SpreadColumn

QUOTES = ("half_spread_bps", "depth", "fx")
"""Columns of the result that the panel holds."""
INDICATORS = "indicators"
_IN_BPS = {"bps": 1.0, "fraction": 1e4}


def build_quotes(
    bars: pl.DataFrame,
    assets: pl.DataFrame,
    indicators: pl.DataFrame,
    side_tables: pl.DataFrame,
    exchange_rates: pl.DataFrame,
    market: MarketConfig,
) -> pl.DataFrame:
    """One row a bar: half_spread_bps, depth, fx, currency.

    Shapes  frames of those names of one class; result: the rows of bars in their order, with symbol and ts_ns.
    Units   half_spread_bps basis points of the close; depth in adjusted units, as the bars' volume; fx account currency for one
            unit of the asset's currency.
    Looks   back: at rows known at the close of the bar, for as long as the config lets them count.
    NaN     null where nothing is quoted, or nothing fresh; a quote that is not positive is none.
    Raises  ContractError where an asset's currency has no rate at all: what it costs and earns could not be told.
    """
    keys = bars.select("symbol", known_ns="ts_ns")
    close = bars["close"] if "close" in bars.columns else bars["close_adj"]
    own = dict(zip(assets["symbol"], assets.select("symbol", "asset_class", "currency").iter_rows(), strict=True))
    currency = {symbol: quote_currency(*own[symbol]) for symbol in bars["symbol"].unique().sort().to_list()}
    _require_rates(currency, exchange_rates, market)
    return bars.select("symbol", "ts_ns").with_columns(
        half_spread_bps=_half_spread(keys, close, indicators, side_tables, market),
        depth=_depth(keys, close, bars, indicators, side_tables, market),
        fx=_rates(bars, currency, exchange_rates, market),
        currency=pl.col("symbol").replace_strict(currency, return_dtype=pl.String).fill_null(market.currency),
    )


def currencies_of(quotes: pl.DataFrame, market: MarketConfig) -> tuple[str, ...]:
    """Currency of each symbol in their order."""
    return tuple(quotes.group_by("symbol").agg(pl.col("currency").first()).sort("symbol")["currency"].to_list())


def _require_rates(currency: dict[str, str | None], exchange_rates: pl.DataFrame, market: MarketConfig) -> None:
    known = {*exchange_rates["currency"].unique(), None}
    lost = {
        symbol: name for symbol, name in currency.items() if name not in known and unit_rate(name, market.currency, market.exchange) is None
    }
    if lost:
        shown = ", ".join(f"{symbol} in {name}" for symbol, name in sorted(lost.items())[:5])
        raise ContractError(
            f"exchange_rates: no pair of the dump turns the currency of {len(lost)} symbols into {market.currency} ({shown}); "
            f"add the pair to the dump's forex class, or name the currency in exchange.at_par of configs/markets/{market.asset_class}.yaml"
        )


def _half_spread(
    keys: pl.DataFrame, close: pl.Series, indicators: pl.DataFrame, side_tables: pl.DataFrame, market: MarketConfig
) -> pl.Series:
    cfg = market.spread
    usable_ns = int(cfg.max_staleness_hours * NS_PER_HOUR)
    found = [_in_bps(keys, close, column, indicators, side_tables, usable_ns) for column in cfg.columns if cfg.source != "config"]
    quoted = _first([pl.select(pl.when(values > 0.0).then(values)).to_series() for values in found], len(keys))
    return quoted.clip(upper_bound=cfg.cap_bps).alias("half_spread_bps")


def _in_bps(
    keys: pl.DataFrame, close: pl.Series, column: SpreadColumn, indicators: pl.DataFrame, side_tables: pl.DataFrame, usable_ns: int
) -> pl.Series:
    """Half the spread that one column quotes, basis points."""
    if column.ask_field is not None:
        names, fields = (_both(rows, column, name) for rows, name in ((indicators, "name"), (side_tables, "field")))
        return _quoted(keys, column.table, column.field, names, fields, usable_ns)
    value = _quoted(keys, column.table, column.field, indicators, side_tables, usable_ns)
    whole = value if column.half else value / 2.0
    return whole / close * 1e4 if column.unit == "price" else whole * _IN_BPS[column.unit]


def _both(rows: pl.DataFrame, column: SpreadColumn, name: str) -> pl.DataFrame:
    """Half the spread in basis points where bid and ask stand in one row of the dump: an ask of another time is none of this bid's."""
    keys = ["symbol", "ts_ns", "known_ns"]
    mine = rows if "table" not in rows.columns else rows.filter(pl.col("table") == column.table)
    asked = mine.filter(pl.col(name) == column.ask_field).select(*keys, ask="value").unique(keys, keep="last", maintain_order=True)
    both = mine.filter(pl.col(name) == column.field).join(asked, on=keys, nulls_equal=True, maintain_order="left")
    return both.with_columns(value=(pl.col("ask") - pl.col("value")) / (pl.col("ask") + pl.col("value")) * 1e4).drop("ask")


def _depth(
    keys: pl.DataFrame, close: pl.Series, bars: pl.DataFrame, indicators: pl.DataFrame, side_tables: pl.DataFrame, market: MarketConfig
) -> pl.Series:
    usable_ns = int(market.depth.max_staleness_hours * NS_PER_HOUR)
    found = []
    for column in market.depth.columns:
        size = _quoted(keys, column.table, column.field, indicators, side_tables, usable_ns)
        size = size / close if column.unit == "money" else size
        found.append(pl.select(pl.when(size > 0.0).then(size)).to_series())
    least = pl.select(pl.min_horizontal(*found)).to_series() if found else _first([], len(keys))
    return (least / bars["adj_factor"] if "adj_factor" in bars.columns else least).alias("depth")


def _quoted(keys: pl.DataFrame, table: str, field: str, indicators: pl.DataFrame, side_tables: pl.DataFrame, usable_ns: int) -> pl.Series:
    """The finite value known at each key, not older than `usable_ns`."""
    if table == INDICATORS:
        rows = indicators.filter((pl.col("name") == field) & pl.col("value").is_finite())
        return as_of(keys, rows.select("symbol", "ts_ns", "known_ns", "value"), True, usable_ns)["value"]
    return value_at(keys, side_tables.filter(pl.col("value").is_finite()), table, field, usable_ns)


def _first(found: Sequence[pl.Series], height: int) -> pl.Series:
    none = pl.Series([None], dtype=pl.Float64).new_from_index(0, height)
    return pl.select(pl.coalesce(*found, none)).to_series()


def _rates(bars: pl.DataFrame, currency: dict[str, str | None], exchange_rates: pl.DataFrame, market: MarketConfig) -> pl.Series:
    """The rate of each bar's currency at its close."""
    named = bars.select("ts_ns", currency=pl.col("symbol").replace_strict(currency, return_dtype=pl.String)).with_row_index("row")
    parts = []
    for (name,), rows in named.group_by("currency", maintain_order=True):
        code = None if name is None else str(name)
        parts.append(rows.select("row", fx=rates_at(rows["ts_ns"], code, exchange_rates, market.currency, market.exchange)))
    return pl.concat(parts).sort("row")["fx"]
