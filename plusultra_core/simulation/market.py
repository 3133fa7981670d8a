"""The bars of a market as the kernel takes them; what the dump lacks comes from the market's config and is flagged."""

import math
from typing import Any

import numpy as np

from plusultra_core.arrays import BoolArray, Float64Array, Int64Array
from plusultra_core.clock import NS_PER_DAY
from plusultra_core.errors import ConfigError, ContractError
from plusultra_core.market import MarketConfig
from plusultra_core.simulation.liquidity.currency import conversion_bps, in_account
from plusultra_core.simulation.liquidity.rolling import carry, rolling_mean
from plusultra_core.simulation.liquidity.spread import Prices, build_quotes
from plusultra_core.simulation.records import PROXY_OPEN, PROXY_RANGE, PROXY_SIGMA, PROXY_VOLUME, MarketArrays

HALF_RANGE_SIGMAS = math.sqrt(8.0 / math.pi) / 2.0
"""Half the expected range of a Brownian motion, in its standard deviations."""
BARS = ("open", "high", "low", "close", "volume", "funding", "half_spread_bps", "depth", "fx")
"""What `market_arrays` takes of a panel, each (N, T)."""
_WIDE = ("open", "high", "low", "close", "volume", "funding", "sigma", "adv_ccy", "half_spread_bps", "dividend", "translation", "proxy")
_ADV_FLOOR = 1e-6
"""Least average notional, as a part of the fallback: keeps q / V finite where an asset does not trade."""


_LEAST = {
    **dict.fromkeys(("volume", "sigma", "half_spread_bps"), 0.0),
    **dict.fromkeys(("funding", "dividend", "translation"), -np.inf),
    "adv_ccy": np.nextafter(0.0, 1.0),
}


def market_arrays(
    ts_ns_T: Int64Array,
    bars_NT: dict[str, Float64Array],
    sigma_NT: Float64Array,
    tradable_NT: BoolArray,
    market: MarketConfig,
    adv_bars: int,
    fallback_sigma: float,
) -> MarketArrays:
    """Arrays (N, T) of a panel as the time-major market of the kernel.

    `bars_NT` holds open, high, low, close, volume and funding, and where they are known half_spread_bps and depth (NaN where
    nothing is quoted) and fx (account currency for one unit of the asset's; a bar without a rate is not traded). Prices become
    money of the account (`liquidity/currency.py`). A bar without volume is given the average notional of the last `adv_bars`
    bars, before any the market's fallback; a bar without a range gets one from sigma; sigma is carried forward, before any it is
    `fallback_sigma`; a bar without a quoted spread gets it as `market.spread` says (`liquidity/spread.py`).
    Looks   back only: row t is made of rows <= t.
    NaN     prices where there is no bar, open where the bar has none; nowhere else.
    Raises  ContractError for prices that are not positive and finite, high < low, or negative volume.
    """
    rate = bars_NT["fx"].T if "fx" in bars_NT else np.ones(tradable_NT.T.shape)
    tradable = np.ascontiguousarray(tradable_NT.T & np.isfinite(rate))
    rate = np.where(tradable, rate, np.nan)
    raw = {name: np.where(tradable, array.T, np.nan) for name, array in bars_NT.items()}
    _check(raw, tradable)
    close = raw["close"]
    sigma, known = carry(np.where(sigma_NT.T > 0, sigma_NT.T, np.nan))
    sigma = np.where(known, sigma, fallback_sigma)
    ranged = np.isfinite(raw["high"]) & np.isfinite(raw["low"])
    high = np.where(ranged, raw["high"], close * np.exp(HALF_RANGE_SIGMAS * sigma))
    low = np.where(ranged, raw["low"], close * np.exp(-HALF_RANGE_SIGMAS * sigma))
    margin = market.exchange.settlement == "margin"
    money = in_account(raw["open"], high, low, close, rate, margin)
    volume, adv = _volumes(raw["volume"], money.close, market.fallback_adv_ccy, adv_bars)
    exchange_bps = conversion_bps(rate, 0.0 if margin else market.exchange.cost_bps)
    none = np.full(tradable.shape, np.nan)
    prices = Prices(raw["high"], raw["low"], close)
    quotes = build_quotes(raw.get("half_spread_bps", none), raw.get("depth", none), prices, sigma, adv, market)
    lacks = (
        (PROXY_SIGMA, ~known),
        (PROXY_RANGE, ~ranged),
        (PROXY_OPEN, ~np.isfinite(raw["open"])),
        (PROXY_VOLUME, ~np.isfinite(raw["volume"])),
    )
    met = np.concatenate((quotes.source[:1], quotes.source[:-1]))  # by the bar that comes
    proxy = sum((np.where(lacking, bit, 0) for bit, lacking in lacks), met.astype(np.int64))
    return MarketArrays(
        ts_ns=np.ascontiguousarray(ts_ns_T, dtype=np.int64),
        open=np.ascontiguousarray(money.open),
        high=np.ascontiguousarray(money.high),
        low=np.ascontiguousarray(money.low),
        close=np.ascontiguousarray(money.close),
        volume=np.ascontiguousarray(volume),
        funding=np.ascontiguousarray(np.where(np.isnan(bars_NT["funding"].T), 0.0, bars_NT["funding"].T)),
        sigma=np.ascontiguousarray(sigma),
        adv_ccy=np.ascontiguousarray(adv),
        half_spread_bps=np.ascontiguousarray(quotes.half_spread_bps + exchange_bps),
        tradable=tradable,
        proxy=np.where(tradable, proxy, 0).astype(np.int8),
        **plain_terms(ts_ns_T, tradable.shape[1]) | foreign_terms(money.translation, exchange_bps, margin),
    )._replace(depth=quotes.depth)


def foreign_terms(translation: Float64Array, exchange_bps: Float64Array, margin: bool) -> dict[str, Any]:
    """Terms of assets quoted abroad: where only results are exchanged, the translation of what is held is given back bar by bar."""
    return {
        "dividend": np.ascontiguousarray(0.0 - translation) if margin else np.zeros(translation.shape),
        "translation": np.ascontiguousarray(translation),
        "conversion_bps": exchange_bps,
        "margined": np.full(translation.shape[1], margin),
    }


def _volumes(volume: Float64Array, close: Float64Array, fallback_ccy: float, num_bars: int) -> tuple[Float64Array, Float64Array]:
    """Units that a bar trades, and the average notional of the last bars, both made up where the dump has no volume."""
    mean = np.maximum(rolling_mean(volume * close, num_bars), 0.0)
    adv = np.maximum(np.where(np.isnan(mean), fallback_ccy, mean), _ADV_FLOOR * fallback_ccy)
    return np.where(np.isfinite(volume), volume, np.where(np.isfinite(close), adv / close, 0.0)), adv


def plain_terms(ts_ns_T: Int64Array, num_assets: int) -> dict[str, Any]:
    """Terms of assets of which nothing is known: any quantity at any price, no dividends, listed for ever, no depth quoted, the account's
    own currency; days end at midnight UTC."""
    day_T = (np.asarray(ts_ns_T) - 1) // NS_PER_DAY
    return {
        "dividend": np.zeros((len(ts_ns_T), num_assets)),
        "lot": np.zeros(num_assets),
        "tick": np.zeros(num_assets),
        "end": np.full(num_assets, len(ts_ns_T), dtype=np.int64),
        "terminal_ret": np.zeros(num_assets),
        "session_end": np.append(day_T[1:] != day_T[:-1], True),
        "depth": np.full((len(ts_ns_T), num_assets), np.inf),
        "translation": np.zeros((len(ts_ns_T), num_assets)),
        "conversion_bps": np.zeros(num_assets),
        "margined": np.zeros(num_assets, np.bool_),
    }


def with_terms(market: MarketArrays, lot_N: Float64Array, tick_N: Float64Array, multiplier_N: Float64Array) -> MarketArrays:
    """The market in contracts: prices become money per contract, so that quantity x price is notional everywhere.

    `tick_N` is in the prices that the market holds. Volume is taken to count contracts already; the average notional follows the prices.
    Raises  ContractError for ticks of assets quoted abroad: in account money they are another one at every bar.
    """
    abroad_N = (tick_N > 0.0) & (market.translation != 0.0).any(axis=0)
    if abroad_N.any():
        raise ContractError(f"market.tick: {int(abroad_N.sum())} assets are quoted abroad, their ticks are no fixed money; give them 0")
    priced = {name: getattr(market, name) * multiplier_N for name in ("open", "high", "low", "close", "dividend", "translation", "adv_ccy")}
    return market._replace(**priced, lot=lot_N.astype(np.float64), tick=tick_N * multiplier_N)


def with_delisting(market: MarketArrays, end_N: Int64Array, terminal_ret_N: Float64Array) -> MarketArrays:
    """The market without the bars of an asset from bar end_N on (T: it lives on); who holds it then gets the terminal return."""
    gone = np.arange(market.ts_ns.size)[:, None] >= end_N
    prices = {name: np.where(gone, np.nan, getattr(market, name)) for name in ("open", "high", "low", "close")}
    still = {name: np.where(gone, 0.0, getattr(market, name)) for name in ("volume", "funding", "dividend", "translation")}
    return market._replace(**prices, **still, tradable=market.tradable & ~gone, end=end_N.astype(np.int64), terminal_ret=terminal_ret_N)


def check_market(market: MarketArrays) -> None:
    """What the kernel relies on.

    Raises  ContractError naming the first array that would make it read or compute nonsense.
    """
    shape = market.tradable.shape
    if market.ts_ns.shape != shape[:1] or shape[0] < 2 or np.any(np.diff(market.ts_ns) <= 0):
        raise ContractError("market.ts_ns: expected at least two strictly increasing times; give a longer span")
    for name in _WIDE:
        array = getattr(market, name)
        if array.shape != shape or not array.flags.c_contiguous:
            raise ContractError(f"market.{name}: expected a C-contiguous array of {shape}, found {array.shape}")
    here = market.tradable
    for name in ("close", "high", "low"):
        values = getattr(market, name)[here]
        if not (np.isfinite(values) & (values > 0)).all():
            raise ContractError(f"market.{name}: expected positive finite prices where the asset trades; build it with market_arrays")
    for name, least in _LEAST.items():
        array = getattr(market, name)
        if not (np.isfinite(array) & (array >= least)).all():
            raise ContractError(f"market.{name}: expected finite values >= {least:g}; build it with market_arrays")
    if market.depth.shape != shape or not (market.depth >= 0).all():
        raise ContractError(f"market.depth: expected {shape} values >= 0, inf where none is quoted; build it with market_arrays")
    for name, least in (("lot", 0.0), ("tick", 0.0), ("terminal_ret", -1.0), ("end", 1), ("conversion_bps", 0.0), ("margined", 0)):
        array = getattr(market, name)
        if array.shape != shape[1:] or not (np.isfinite(array) & (array >= least)).all():
            raise ContractError(f"market.{name}: expected {shape[1]} finite values >= {least:g}")
    if market.session_end.shape != shape[:1]:
        raise ContractError(f"market.session_end: expected {shape[0]} values, found {market.session_end.shape}")
    if np.any(here & (np.arange(shape[0])[:, None] >= market.end)):
        raise ContractError("market.end: an asset has bars after it was delisted; allowed 0; build it with with_delisting")


def check_orders(market: MarketArrays, order_type: str) -> None:
    """That resting orders can be told to fill.

    Raises  ConfigError for limit orders in assets of which only results are exchanged: their bars are translated at the rate of the
            close, so that the way to a limit would tell of a close to come; dollars in yen would always be bought below it.
    """
    moved_N = market.margined & (market.translation != 0.0).any(axis=0)
    if order_type == "limit" and moved_N.any():
        raise ConfigError(
            f"simulation.order_type: limit orders in {int(moved_N.sum())} assets quoted abroad, settled in margin; expected market orders: "
            "set order_type to market, or exchange.settlement of the market to cash"
        )


def last_close(market: MarketArrays) -> Float64Array:
    """Close of the last bar at or before each time; NaN before the first, and once the asset is delisted.

    Shapes  result (T, N).
    """
    listed = np.arange(market.ts_ns.size)[:, None] < market.end
    close: Float64Array = np.where(listed, carry(market.close)[0], np.nan)
    return close


def _check(raw: dict[str, Float64Array], tradable: BoolArray) -> None:
    for name in ("open", "high", "low", "close"):
        found = raw[name][tradable]
        bad = (found <= 0) | np.isinf(found) | (np.isnan(found) if name == "close" else False)
        if bad.any():
            raise ContractError(f"bars.{name}: {int(bad.sum())} prices are not positive and finite; allowed 0; build the bars again")
    if np.any(raw["high"] < raw["low"]):
        raise ContractError(f"bars.high: below low in {int(np.sum(raw['high'] < raw['low']))} bars; allowed 0; build the bars again")
    if np.any(raw["volume"] < 0):
        raise ContractError(f"bars.volume: negative in {int(np.sum(raw['volume'] < 0))} bars; allowed 0; build the bars again")
    if endless := int(np.isinf(raw["funding"]).sum()):
        raise ContractError(f"bars.funding: {endless} rates are not finite; allowed 0; build the bars again")
