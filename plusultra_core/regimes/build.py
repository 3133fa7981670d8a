"""State of each bar, five ways: volatility, liquidity, rotation, trend, hidden Markov; 0 unknown, 1, 2, 3.

A value is low or high by its rank among its own past (volatility, liquidity) or among the other symbols of the same time
(rotation); a trend is entered and left at two bands; the Markov model is fitted on past windows. Nothing is fitted on what
comes later.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from plusultra_core.arrays import Float64Array, Int8Array, Int64Array
from plusultra_core.errors import ConfigError, ContractError
from plusultra_core.regimes import kernels, markov

COLUMNS = ("volatility_state", "liquidity_state", "rotation_state", "trend_state", "hmm_state")
_KEYS = ("symbol", "ts_ns", "known_ns")
_CODES = {2: (1, 3), 3: (1, 2, 3)}
_NO_SECTOR = -1


@dataclass(frozen=True, kw_only=True, slots=True)
class BandsConfig:
    """Where low ends and high begins, as shares of the past."""

    kind: Literal["expanding", "rolling"]
    window_bars: int
    """Bars of the past under `rolling`; unused, and 0, under `expanding`."""
    min_count: int
    """Values before a state is known."""
    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high < 1:
            raise ConfigError(f"bands: expected 0 < low < high < 1, found {self.low}, {self.high}")
        if self.min_count < 3:
            raise ConfigError(f"bands.min_count: expected >= 3, found {self.min_count}")
        if (self.kind == "rolling") != (self.window_bars >= self.min_count) or (self.kind == "expanding") != (self.window_bars == 0):
            raise ConfigError(f"bands.window_bars: expected >= min_count if rolling, 0 if expanding, found {self.window_bars}")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrendConfig:
    """When a trend begins and when it is over; two bands, so that a state does not flicker at one."""

    halflife_bars: float
    """Of the weights of the mean return."""
    min_count: int
    """Returns before a state is known."""
    enter: float
    """Standard errors of the mean return beyond which a trend begins."""
    leave: float
    """Standard errors within which it is over."""

    def __post_init__(self) -> None:
        if self.halflife_bars <= 0 or self.min_count < 2:
            raise ConfigError(f"trend: expected halflife_bars > 0 and min_count >= 2, found {self.halflife_bars}, {self.min_count}")
        if not 0 <= self.leave < self.enter:
            raise ConfigError(f"trend: expected 0 <= leave < enter, found {self.leave}, {self.enter}")


@dataclass(frozen=True, kw_only=True, slots=True)
class MarkovConfig:
    """The hidden Markov model of returns and when it is fitted."""

    num_states: Literal[2, 3]
    window_bars: int
    """Newest returns that a fit looks at."""
    refit_bars: int
    """Bars of the symbol from one fit to the next."""
    min_count: int
    """Returns before the first fit."""
    first_iterations: int
    """Steps of expectation maximisation of the first fit, which starts from a guess."""
    iterations: int
    """Steps of a later fit, which starts from the model before."""
    min_variance: float
    """Least variance of a state, as a share of the window's."""
    pseudo_count: float
    """Transitions added to each pair of states."""
    stay_count: float
    """Transitions added from each state to itself."""

    def __post_init__(self) -> None:
        if not 20 <= self.min_count <= self.window_bars or self.refit_bars < 1:
            found = f"{self.min_count}, {self.window_bars}, {self.refit_bars}"
            raise ConfigError(f"hmm: expected 20 <= min_count <= window_bars and refit_bars >= 1, found {found}")
        if self.first_iterations < 1 or self.iterations < 1:
            raise ConfigError(f"hmm: expected iterations >= 1, found {self.first_iterations}, {self.iterations}")
        if not 0 < self.min_variance < 0.25:
            raise ConfigError(f"hmm.min_variance: expected in (0, 0.25), found {self.min_variance}")
        if self.pseudo_count <= 0 or self.stay_count < 0:
            raise ConfigError(f"hmm: expected pseudo_count > 0 and stay_count >= 0, found {self.pseudo_count}, {self.stay_count}")


@dataclass(frozen=True, kw_only=True, slots=True)
class RegimesConfig:
    """Which feature is the measure of each state, and how states are told apart."""

    volatility: str
    """Feature that rises with volatility."""
    illiquidity: str
    """Feature that falls with liquidity; its rank is turned round."""
    rotation: str
    """Feature whose rank across the sector or the class at one time is the rotation state."""
    bands: BandsConfig
    rotation_within: Literal["class", "sector"]
    """Whom a symbol is ranked among; a sector with too few symbols at a time falls back on the class."""
    rotation_min_symbols: int
    """Symbols that must have a value at one time before they are ranked."""
    trend: TrendConfig
    hmm: MarkovConfig

    def __post_init__(self) -> None:
        if self.rotation_min_symbols < 2:
            raise ConfigError(f"rotation_min_symbols: expected >= 2, found {self.rotation_min_symbols}")


def build(bars: pl.DataFrame, features: pl.DataFrame, assets: pl.DataFrame, cfg: RegimesConfig) -> pl.DataFrame:
    """Five states of every bar, and the filtered probability of the last.

    Shapes  the rows of bars, in their order; states Int8, hmm_prob Float32.
    Looks   back only; rotation also at the symbols of the same ts_ns that are known by the row's known_ns.
    NaN     none: hmm_prob is null where hmm_state is 0.
    Raises  ContractError when a feature is missing, features and bars differ in their rows, or a symbol is not of assets.
    """
    _check(bars, features, assets, cfg)
    starts = _segments(features)
    low, high = cfg.bands.low, cfg.bands.high
    volatility = _rank(features, cfg.volatility, starts, cfg.bands)
    liquidity = 1.0 - _rank(features, cfg.illiquidity, starts, cfg.bands)
    rotation = _cross_rank(features, assets, starts, cfg)
    price = np.log(bars["close_adj"].to_numpy().astype(np.float64))
    hmm, prob = _hmm(price, starts, cfg.hmm)
    states = (*(_state(rank, low, high) for rank in (volatility, liquidity, rotation)), _trend(price, starts, cfg.trend), hmm)
    columns = [pl.Series(name, state) for name, state in zip(COLUMNS, states, strict=True)]
    return features.select(_KEYS).hstack([*columns, pl.Series("hmm_prob", prob, nan_to_null=True).cast(pl.Float32)])


def _rank(features: pl.DataFrame, name: str, starts: Int64Array, bands: BandsConfig) -> Float64Array:
    window = bands.window_bars if bands.kind == "rolling" else max(1, features.height)
    return kernels.trailing_rank(_values(features, name), starts, window, bands.min_count)


def _cross_rank(features: pl.DataFrame, assets: pl.DataFrame, starts: Int64Array, cfg: RegimesConfig) -> Float64Array:
    """Rank within the sector where it has enough symbols, else within the class."""
    value, known_ns = _values(features, cfg.rotation), features["known_ns"].to_numpy()
    ts_ns = features["ts_ns"].to_numpy()
    sector = _sectors(features, assets, starts)
    grid_ns = features["ts_ns"].unique().sort().to_numpy()
    order, borders = kernels.by_time(ts_ns, grid_ns, starts, np.argsort(sector, kind="stable"))
    whole = kernels.cross_rank(value, known_ns, order, borders, cfg.rotation_min_symbols)
    if cfg.rotation_within == "class" or sector.max(initial=_NO_SECTOR) == _NO_SECTOR:
        return whole
    sector_R = np.repeat(sector, np.diff(starts))
    begins = np.diff(sector_R[order], prepend=_NO_SECTOR) != 0
    begins[borders[:-1]] = True
    parts = np.append(np.flatnonzero(begins), order.size)
    within = kernels.cross_rank(np.where(sector_R == _NO_SECTOR, np.nan, value), known_ns, order, parts, cfg.rotation_min_symbols)
    rank: Float64Array = np.where(np.isnan(within), whole, within)
    return rank


def _sectors(features: pl.DataFrame, assets: pl.DataFrame, starts: Int64Array) -> Int64Array:
    """Number of each symbol's sector; `_NO_SECTOR` where assets name none."""
    symbols = features["symbol"].gather(starts[:-1]).to_frame()
    sectors = symbols.join(assets.select("symbol", "sector"), on="symbol", how="left", maintain_order="left")["sector"]
    numbers: Int64Array = sectors.rank("dense").cast(pl.Int64).fill_null(_NO_SECTOR).to_numpy()
    return numbers


def _trend(price: Float64Array, starts: Int64Array, cfg: TrendConfig) -> Int8Array:
    alpha = 1.0 - 0.5 ** (1.0 / cfg.halflife_bars)
    return kernels.hysteresis(kernels.trend_strength(price, starts, alpha, cfg.min_count), starts, cfg.enter, cfg.leave)


def _hmm(price: Float64Array, starts: Int64Array, cfg: MarkovConfig) -> tuple[Int8Array, Float64Array]:
    fitting = markov.Fitting(
        window=cfg.window_bars,
        refit=cfg.refit_bars,
        min_count=cfg.min_count,
        first_iterations=cfg.first_iterations,
        iterations=cfg.iterations,
        min_variance=cfg.min_variance,
        pseudo_count=cfg.pseudo_count,
        stay_count=cfg.stay_count,
    )
    ret = np.diff(price, prepend=np.nan)
    ret[starts[:-1]] = np.nan
    return markov.filtered_states(ret, starts, _CODES[cfg.num_states], fitting)


def _state(rank: Float64Array, low: float, high: float) -> Int8Array:
    known = 1 + (rank >= low).astype(np.int8) + (rank >= high)
    state: Int8Array = np.where(np.isnan(rank), 0, known).astype(np.int8)
    return state


def _values(features: pl.DataFrame, name: str) -> Float64Array:
    return features[name].to_numpy().astype(np.float64)


def _segments(frame: pl.DataFrame) -> Int64Array:
    return np.concatenate([[0], np.cumsum(frame["symbol"].rle().struct.field("len").to_numpy())]).astype(np.int64)


def _check(bars: pl.DataFrame, features: pl.DataFrame, assets: pl.DataFrame, cfg: RegimesConfig) -> None:
    for name in (*_KEYS, cfg.volatility, cfg.illiquidity, cfg.rotation):
        if name not in features.columns:
            raise ContractError(f"features: column {name!r} is missing; regimes.yaml names it; build it in features.yaml")
    if "close_adj" not in bars.columns:
        raise ContractError(f"bars: column 'close_adj' is missing, found {bars.columns}; build bars again")
    if not bars.select("symbol", "ts_ns").equals(features.select("symbol", "ts_ns")):
        raise ContractError(
            f"features: expected the {bars.height} rows of bars, found {features.height} rows or others; build features of these bars"
        )
    if orphans := sorted(set(features["symbol"].unique()) - set(assets["symbol"])):
        raise ContractError(f"assets: {len(orphans)} symbols of features are missing, first {orphans[0]}; build assets of this snapshot")
