"""The bars of a market as the kernel takes them; what the dump lacks comes from the market's config and is flagged."""

import math
from typing import Any

import numpy as np

from plusultra_core.arrays import BoolArray, Float64Array, Int8Array, Int64Array
from plusultra_core.clock import NS_PER_DAY
from plusultra_core.errors import ContractError
from plusultra_core.market import MarketConfig
from plusultra_core.simulation.records import PROXY_DEPTH, PROXY_OPEN, PROXY_RANGE, PROXY_SIGMA, PROXY_SPREAD, PROXY_VOLUME, MarketArrays

HALF_RANGE_SIGMAS = math.sqrt(8.0 / math.pi) / 2.0
"""Half the expected range of a Brownian motion, in its standard deviations."""
BARS = ("open", "high", "low", "close", "volume", "funding")
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

    `bars_NT` holds open, high, low, close, volume and funding. A bar without volume is given the average
    notional of the last `adv_bars` bars, before any the market's fallback; a bar without a range gets one
    from sigma; sigma is carried forward, before any it is `fallback_sigma`.
    Looks   back only: row t is made of rows <= t.
    NaN     prices where there is no bar, open where the bar has none; nowhere else.
    Raises  ContractError for prices that are not positive and finite, high < low, or negative volume.
    """
    tradable = np.ascontiguousarray(tradable_NT.T)
    raw = {name: np.where(tradable, array.T, np.nan) for name, array in bars_NT.items()}
    _check(raw, tradable)
    proxy: Int8Array = np.where(tradable, PROXY_SPREAD | PROXY_DEPTH, 0).astype(np.int8)
    close = raw["close"]
    sigma, known = _carry(np.where(sigma_NT.T > 0, sigma_NT.T, np.nan))
    sigma = np.where(known, sigma, fallback_sigma)
    proxy |= np.where(tradable & ~known, PROXY_SIGMA, 0).astype(np.int8)
    half_range = HALF_RANGE_SIGMAS * sigma
    ranged = np.isfinite(raw["high"]) & np.isfinite(raw["low"])
    proxy |= np.where(tradable & ~ranged, PROXY_RANGE, 0).astype(np.int8)
    proxy |= np.where(tradable & ~np.isfinite(raw["open"]), PROXY_OPEN, 0).astype(np.int8)
    high = np.where(ranged, raw["high"], close * np.exp(half_range))
    low = np.where(ranged, raw["low"], close * np.exp(-half_range))
    mean = _rolling_mean(raw["volume"] * close, adv_bars)
    adv = np.maximum(np.where(np.isnan(mean), market.fallback_adv_ccy, mean), _ADV_FLOOR * market.fallback_adv_ccy)
    voluminous = np.isfinite(raw["volume"])
    proxy |= np.where(tradable & ~voluminous, PROXY_VOLUME, 0).astype(np.int8)
    volume = np.where(voluminous, raw["volume"], np.where(tradable, adv / close, 0.0))
    half_spread = np.full(tradable.shape, float(market.costs.half_spread_bps))
    return MarketArrays(
        ts_ns=np.ascontiguousarray(ts_ns_T, dtype=np.int64),
        open=np.ascontiguousarray(raw["open"]),
        high=np.ascontiguousarray(high),
        low=np.ascontiguousarray(low),
        close=np.ascontiguousarray(close),
        volume=np.ascontiguousarray(volume),
        funding=np.ascontiguousarray(np.nan_to_num(bars_NT["funding"].T, nan=0.0)),
        sigma=np.ascontiguousarray(sigma),
        adv_ccy=np.ascontiguousarray(adv),
        half_spread_bps=half_spread,
        tradable=tradable,
        proxy=proxy,
        **plain_terms(ts_ns_T, tradable.shape[1]),
    )


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

    `tick_N` is in quoted prices. Volume is taken to count contracts already; the average notional follows the prices.
    """
    priced = {name: getattr(market, name) * multiplier_N for name in ("open", "high", "low", "close", "dividend", "adv_ccy")}
    return market._replace(**priced, lot=lot_N.astype(np.float64), tick=tick_N * multiplier_N)


def with_delisting(market: MarketArrays, end_N: Int64Array, terminal_ret_N: Float64Array) -> MarketArrays:
    """The market without the bars of an asset from bar end_N on (T: it lives on); who holds it then gets the terminal return."""
    gone = np.arange(market.ts_ns.size)[:, None] >= end_N
    prices = {name: np.where(gone, np.nan, getattr(market, name)) for name in ("open", "high", "low", "close")}
    still = {name: np.where(gone, 0.0, getattr(market, name)) for name in ("volume", "funding", "dividend")}
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


def last_close(market: MarketArrays) -> Float64Array:
    """Close of the last bar at or before each time; NaN before the first, and once the asset is delisted.

    Shapes  result (T, N).
    """
    listed = np.arange(market.ts_ns.size)[:, None] < market.end
    close: Float64Array = np.where(listed, _carry(market.close)[0], np.nan)
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


def _carry(values: Float64Array) -> tuple[Float64Array, BoolArray]:
    """The last finite value at or before each row, and whether there is one."""
    rows = np.arange(values.shape[0])[:, None]
    last = np.maximum.accumulate(np.where(np.isfinite(values), rows, -1), axis=0)
    carried = np.take_along_axis(values, np.maximum(last, 0), axis=0)
    return np.where(last >= 0, carried, np.nan), last >= 0


def _rolling_mean(values: Float64Array, num_bars: int) -> Float64Array:
    """Mean of the finite values among the last `num_bars` rows; NaN where there is none."""
    finite = np.isfinite(values)
    zero = np.zeros((1, values.shape[1]))
    total = np.concatenate((zero, np.cumsum(np.where(finite, values, 0.0), axis=0)))
    count = np.concatenate((zero, np.cumsum(finite, axis=0, dtype=np.float64)))
    start = np.maximum(np.arange(values.shape[0]) + 1 - num_bars, 0)
    num = count[1:] - count[start]
    mean = np.maximum(total[1:] - total[start], 0.0) / np.maximum(num, 1.0)
    return np.where(num > 0, mean, np.nan)
