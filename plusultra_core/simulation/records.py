"""The words of the ledger: status and reason codes, the arrays of a market, of accounts and of one step."""

import math
from typing import Any, Final, NamedTuple

import numpy as np

from plusultra_core.arrays import BoolArray, Float64Array, Int8Array, Int64Array
from plusultra_core.guardrails.limits import GUARD_REASONS

NO_ORDER: Final = 0
FILLED: Final = 1
PARTIAL: Final = 2
CARRIED: Final = 3
CANCELLED: Final = 4
REJECTED: Final = 5
STATUSES: Final = {
    NO_ORDER: "none",
    FILLED: "filled",
    PARTIAL: "partial",
    CARRIED: "carried",
    CANCELLED: "cancelled",
    REJECTED: "rejected",
}

TOO_SMALL: Final = 32
NO_PRICE: Final = 33
IN_FLIGHT: Final = 34
NO_BAR: Final = 35
NO_VOLUME: Final = 36
CAPACITY: Final = 37
CAPITAL: Final = 38
NOT_TRADED_THROUGH: Final = 39
REPLACED: Final = 40
LIQUIDATED: Final = 41
EXPIRED: Final = 42
DELISTED: Final = 43
REASONS: Final = {
    **GUARD_REASONS,
    TOO_SMALL: "too_small",
    NO_PRICE: "no_price",
    IN_FLIGHT: "in_flight",
    NO_BAR: "no_bar",
    NO_VOLUME: "no_volume",
    CAPACITY: "capacity",
    CAPITAL: "capital",
    NOT_TRADED_THROUGH: "not_traded_through",
    REPLACED: "replaced",
    LIQUIDATED: "liquidated",
    EXPIRED: "expired",
    DELISTED: "delisted",
}

BAR_ONLY: Final = 0
DAY: Final = 1
GTC: Final = 2
IOC: Final = 3
TIMES_IN_FORCE: Final = {"bar": BAR_ONLY, "day": DAY, "gtc": GTC, "ioc": IOC}


PROXY_VOLUME: Final = 1
PROXY_OPEN: Final = 2
PROXY_RANGE: Final = 4
PROXY_SIGMA: Final = 8
PROXY_SPREAD: Final = 16
PROXY_ESTIMATE: Final = 32
PROXY_DEPTH: Final = 64
PROXIES: Final = {
    PROXY_VOLUME: "volume",
    PROXY_OPEN: "open",
    PROXY_RANGE: "range",
    PROXY_SIGMA: "sigma",
    PROXY_SPREAD: "spread",
    PROXY_ESTIMATE: "spread_estimate",
    PROXY_DEPTH: "depth",
}
"""`spread`: the half spread is the config's; `spread_estimate`: it is estimated from bars; neither: it was quoted. `depth`: no size was
quoted, the volume of the bar alone bounds a fill."""

COSTS: Final = ("spread", "impact", "latency_drift", "fees", "funding", "borrow")
"""Equity change = price_pnl minus the sum of these; fees hold the liquidation loss."""


class MarketArrays(NamedTuple):
    """Bars of N assets on one grid, time-major. A bar that is not tradable holds NaN prices and zero volume."""

    ts_ns: Int64Array
    """(T,) close of the bar, UTC."""
    open: Float64Array
    """(T, N) NaN where the bar has none."""
    high: Float64Array
    low: Float64Array
    close: Float64Array
    volume: Float64Array
    """(T, N) units of the asset; never NaN."""
    funding: Float64Array
    """(T, N) sum of the funding rates in (t - 1, t], fraction of notional; longs pay when > 0."""
    sigma: Float64Array
    """(T, N) causal volatility of log returns per bar."""
    adv_ccy: Float64Array
    """(T, N) causal average notional traded per bar."""
    half_spread_bps: Float64Array
    """(T, N) at the close of the bar: what an order decided there meets in the next one."""
    dividend: Float64Array
    """(T, N) cash for one unit held at the close before; zero where bars are adjusted for it."""
    lot: Float64Array
    """(N,) least unit of an order; 0: any quantity."""
    tick: Float64Array
    """(N,) step of limit prices, and twice the least half spread; 0: none."""
    end: Int64Array
    """(N,) first bar at which the asset is listed no more; T where it lives on."""
    terminal_ret: Float64Array
    """(N,) simple return that a holder gets from the last close when it is delisted."""
    session_end: BoolArray
    """(T,) whether orders of the day end with this bar."""
    tradable: BoolArray
    """(T, N) whether the asset has a bar."""
    proxy: Int8Array
    """(T, N) bits of PROXIES: what of this bar comes from the market's config, not from the dump."""
    depth: Float64Array
    """(T, N) units quoted at the close of the bar, the most that an order takes in the next one; inf where none are quoted."""
    translation: Float64Array
    """(T, N) change of a unit's value since its bar before that is the exchange rate's alone, account currency."""
    conversion_bps: Float64Array
    """(N,) part of the half spread that is paid for exchanging the money, not to the asset's market."""
    margined: BoolArray
    """(N,) only results are exchanged, not the notional: the translation of a position is given back."""


class Accounts(NamedTuple):
    """E accounts of A slots each; slot a of account e trades column asset_EA[e, a] of the market."""

    stream_E: Int64Array
    """Name of the account in the random stream; goes with the account wherever it stands in the batch."""
    asset_EA: Int64Array
    key_EA: Int64Array
    """What the draws of the slot begin with; made of the seed, the stream and the asset."""
    t_E: Int64Array
    """Bar of the next decision."""
    capital_E: Float64Array
    cash_E: Float64Array
    equity_E: Float64Array
    peak_E: Float64Array
    guard_E: Int8Array
    done_E: BoolArray
    """Liquidated; nothing happens any more."""
    position_EA: Float64Array
    mark_EA: Float64Array
    """Last close known; NaN before the first bar."""
    weight_EA: Float64Array
    """position x mark / equity."""
    working_EA: Float64Array
    """Signed quantity of the working order that is not filled yet."""
    limit_EA: Float64Array
    """Limit price of the working order; NaN for market orders."""
    arrival_EA: Int64Array
    """When the working order meets the market."""
    decision_EA: Int64Array
    """Bar at whose close the working order was decided; -1 where there is none."""
    fill_EA: Float64Array
    """Quantity filled in the last bar."""
    shift_EA: Float64Array
    """What is left of the push that the account's own fills gave the price, signed fraction."""
    pnl_EA: Float64Array
    """Result of the slot after all its costs since the start."""
    pnl_peak_EA: Float64Array


class Step(NamedTuple):
    """What happened between two closes, (E, A) each; money in account currency."""

    request: Float64Array
    target: Float64Array
    guard: Int8Array
    latency: Int64Array
    """Drawn for an order of this decision, ns."""
    decision: Int64Array
    arrival: Int64Array
    order: Float64Array
    fill: Float64Array
    price: Float64Array
    status: Int8Array
    reason: Int8Array
    position: Float64Array
    mark: Float64Array
    price_pnl: Float64Array
    spread: Float64Array
    impact: Float64Array
    latency_drift: Float64Array
    fees: Float64Array
    funding: Float64Array
    borrow: Float64Array
    liquidation: Float64Array
    """Of which fees: loss of a forced close against the bar's close, and its penalty."""


def lines(shape: tuple[int, ...] | int, dtype: type) -> Any:
    """Zeros that begin with a line of the cache, so that the kernel may stream whole lines into them."""
    size, width = math.prod(shape) if isinstance(shape, tuple) else shape, np.dtype(dtype).itemsize
    room = np.zeros(size * width + 64, dtype=np.uint8)
    first = -room.ctypes.data % 64
    return room[first : first + size * width].view(dtype).reshape(shape)


def empty_step(shape: tuple[int, ...], columns: tuple[str, ...] = Step._fields) -> Step:
    """Zeroed arrays of the given shape, (E, A) or (T, E, A); what is not among `columns` is empty, and the kernel leaves it out."""
    small, long = ("guard", "status", "reason"), ("latency", "decision", "arrival")
    dtypes = {**dict.fromkeys(small, np.int8), **dict.fromkeys(long, np.int64)}
    return Step(**{name: lines(shape if name in columns else 0, dtypes.get(name, np.float64)) for name in Step._fields})
