"""Half the spread of every bar: as quoted, else as its bars betray it, else as the market's config says; and which of the three it was."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from plusultra_core.arrays import BoolArray, Float64Array, Int8Array
from plusultra_core.market import MarketConfig
from plusultra_core.simulation.liquidity.rolling import before, carry, rolling_mean
from plusultra_core.simulation.records import PROXY_DEPTH, PROXY_ESTIMATE, PROXY_SPREAD

_K = 3.0 - 2.0 * math.sqrt(2.0)


class Prices(NamedTuple):
    """Bars in the asset's own currency, (T, N); NaN where there is none, or none of open, high and low."""

    high: Float64Array
    low: Float64Array
    close: Float64Array


def roll(prices: Prices, num_bars: int) -> Float64Array:
    """Half spread from the bounce of closes: the root of minus the covariance of one log return with the next; 0 where they trend.

    Units   fraction of price.
    Source  Roll (1984), J. Finance 39: s = 2 sqrt(-cov).
    """
    log_close = np.log(prices.close)
    ret = log_close - before(log_close)
    last = before(np.where(np.isfinite(prices.close), ret, np.nan))
    both = np.isfinite(ret) & np.isfinite(last)
    least = num_bars // 2
    moments = [rolling_mean(np.where(both, x, np.nan), num_bars, least) for x in (ret * last, ret, last)]
    return np.sqrt(np.maximum(moments[1] * moments[2] - moments[0], 0.0))


def corwin_schultz(prices: Prices, num_bars: int) -> Float64Array:
    """Half spread from highs and lows: what a range of one bar has beyond its share of the range of two; negative pairs count as 0.

    Units   fraction of price.
    Source  Corwin and Schultz (2012), J. Finance 67: equations 14 and 18, ranges moved by the gap between two bars.
    """
    gap_up = np.maximum(prices.low - before(prices.close), 0.0)
    gap_down = np.maximum(before(prices.close) - prices.high, 0.0)
    high, low = prices.high - gap_up + gap_down, prices.low - gap_up + gap_down
    high_before, low_before = before(prices.high), before(prices.low)
    beta = np.log(high / low) ** 2 + np.log(high_before / low_before) ** 2
    gamma = np.log(np.maximum(high, high_before) / np.minimum(low, low_before)) ** 2
    alpha = (math.sqrt(2.0) - 1.0) * np.sqrt(beta) / _K - np.sqrt(gamma / _K)
    spread = 2.0 * np.expm1(alpha) / (1.0 + np.exp(alpha))
    return 0.5 * rolling_mean(np.maximum(spread, 0.0), num_bars, num_bars // 2)


def abdi_ranaldo(prices: Prices, num_bars: int) -> Float64Array:
    """Half spread from closes against the middles of their own and of the next bar's range.

    Units   fraction of price.
    Source  Abdi and Ranaldo (2017), Rev. Financial Studies 30: s = 2 sqrt(E[(c - m)(c - m')]), the mean taken before the root.
    """
    log_close, middle = np.log(prices.close), 0.5 * (np.log(prices.high) + np.log(prices.low))
    product = (before(log_close) - before(middle)) * (before(log_close) - middle)
    return np.sqrt(np.maximum(rolling_mean(product, num_bars, num_bars // 2), 0.0))


def by_volume(sigma: Float64Array, adv_ccy: Float64Array, ticket_ccy: float) -> Float64Array:
    """Half spread as the volatility of one trade: a bar's, over the root of the number of trades in it.

    Units   fraction of price.
    Source  Wyart, Bouchaud, Kockelkoren, Potters, Vettorazzo (2008), Quantitative Finance 8: spread proportional to it, here equal.
    """
    return sigma * np.sqrt(ticket_ccy / adv_ccy)


ESTIMATORS: Mapping[str, Callable[[Prices, int], Float64Array]] = {
    "roll": roll,
    "corwin_schultz": corwin_schultz,
    "abdi_ranaldo": abdi_ranaldo,
}


class Quotes(NamedTuple):
    """What an order decided at the close of a bar meets, (T, N); where there is no bar it is that of the last one."""

    half_spread_bps: Float64Array
    depth: Float64Array
    """inf where no size is quoted."""
    source: Int8Array
    """Bits of PROXIES."""


def build_quotes(
    quoted_bps: Float64Array, depth: Float64Array, prices: Prices, sigma: Float64Array, adv_ccy: Float64Array, market: MarketConfig
) -> Quotes:
    """Half spread and depth of every bar, and where they come from.

    Looks   back only: row t is made of rows <= t.
    NaN     in quoted_bps and depth where nothing is quoted; nowhere in the result.
    """
    cfg, floor = market.spread, market.costs.half_spread_bps
    here: BoolArray = np.isfinite(prices.close)
    quoted = here & np.isfinite(quoted_bps) & (cfg.source != "config")
    spread = np.where(quoted, np.clip(quoted_bps, 0.0, cfg.cap_bps), np.where(here, floor, np.nan))
    source = np.where(quoted, 0, PROXY_SPREAD)
    if cfg.source == "proxy":
        estimate = (
            by_volume(sigma, adv_ccy, cfg.ticket_ccy) if cfg.estimator == "adv" else ESTIMATORS[cfg.estimator](prices, cfg.window_bars)
        )
        guessed = here & ~quoted & np.isfinite(estimate)
        spread = np.where(guessed, np.clip(1e4 * estimate, floor, cfg.cap_bps), spread)
        source = np.where(guessed, PROXY_ESTIMATE, source)
    sized = here & np.isfinite(depth)
    source = np.where(here, source | np.where(sized, 0, PROXY_DEPTH), np.nan)
    last, seen = carry(source)
    size, _ = carry(np.where(sized, depth, np.where(here, 0.0, np.nan)))
    bits = np.where(seen, last, PROXY_SPREAD | PROXY_DEPTH).astype(np.int8)
    unsized = (bits & PROXY_DEPTH) > 0
    return Quotes(np.where(seen, carry(spread)[0], floor), np.where(unsized, np.inf, size), bits)
