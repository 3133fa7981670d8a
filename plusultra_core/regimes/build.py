"""State of each bar: volatility, liquidity, rotation; 0 unknown, 1 low, 2 mid, 3 high.

A value is low or high by its rank among its own past (volatility, liquidity) or among the other symbols
of the same time (rotation). No band is fitted on what comes later.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from plusultra_core.arrays import Float64Array, Int8Array, Int64Array
from plusultra_core.errors import ConfigError, ContractError
from plusultra_core.regimes import kernels

STATES = ("unknown", "low", "mid", "high")
COLUMNS = ("volatility_state", "liquidity_state", "rotation_state")
_KEYS = ("symbol", "ts_ns", "known_ns")


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
class RegimesConfig:
    """Which feature is the measure of each state."""

    volatility: str
    """Feature that rises with volatility."""
    illiquidity: str
    """Feature that falls with liquidity; its rank is turned round."""
    rotation: str
    """Feature whose rank across the class at one time is the rotation state."""
    bands: BandsConfig
    rotation_min_symbols: int
    """Symbols that must have a value at one time before they are ranked."""

    def __post_init__(self) -> None:
        if self.rotation_min_symbols < 2:
            raise ConfigError(f"rotation_min_symbols: expected >= 2, found {self.rotation_min_symbols}")


def build(bars: pl.DataFrame, features: pl.DataFrame, cfg: RegimesConfig) -> pl.DataFrame:
    """Three states of every bar.

    Shapes  the rows of bars, in their order; states Int8.
    Looks   back only; rotation also at the symbols of the same ts_ns that are known by the row's known_ns.
    Raises  ContractError when a feature is missing or features and bars differ in their rows.
    """
    _check(bars, features, cfg)
    starts = _segments(features)
    low, high = cfg.bands.low, cfg.bands.high
    volatility = _rank(features, cfg.volatility, starts, cfg.bands)
    liquidity = 1.0 - _rank(features, cfg.illiquidity, starts, cfg.bands)
    rotation = _cross_rank(features, cfg.rotation, cfg.rotation_min_symbols)
    states = [pl.Series(name, _state(rank, low, high)) for name, rank in zip(COLUMNS, (volatility, liquidity, rotation), strict=True)]
    return features.select(_KEYS).hstack(states)


def transition_matrix(regimes: pl.DataFrame, column: str) -> Float64Array:
    """Share of steps from state i to state j between neighbouring bars of a symbol, (4, 4).

    A row of a state that never occurs before another bar is zero.
    """
    step = regimes.select(pl.col(column).shift(1).over("symbol").alias("before"), pl.col(column).alias("after")).drop_nulls()
    counts = np.zeros((len(STATES), len(STATES)))
    np.add.at(counts, (step["before"].to_numpy(), step["after"].to_numpy()), 1.0)
    total = counts.sum(axis=1, keepdims=True)
    shares: Float64Array = np.divide(counts, total, out=np.zeros_like(counts), where=total > 0)
    return shares


def summary(regimes: pl.DataFrame) -> pl.DataFrame:
    """Rows, share and mean dwell time in bars of each state.

    Columns: column, state, num_rows, share, dwell_bars (null for a state that does not occur).
    """
    parts = []
    for column in COLUMNS:
        runs = regimes.group_by("symbol", maintain_order=True).agg(pl.col(column).rle()).explode(column).unnest(column)
        dwell = runs.group_by("value").agg(pl.col("len").mean().alias("dwell_bars"), pl.col("len").sum().alias("num_rows"))
        states = pl.DataFrame({"value": range(len(STATES)), "state": STATES}, schema={"value": pl.Int8, "state": pl.String})
        table = states.join(dwell, on="value", how="left", maintain_order="left").select(
            pl.lit(column).alias("column"),
            "state",
            pl.col("num_rows").fill_null(0).cast(pl.Int64),
            (pl.col("num_rows").fill_null(0) / max(1, regimes.height)).alias("share"),
            "dwell_bars",
        )
        parts.append(table)
    return pl.concat(parts)


def _rank(features: pl.DataFrame, name: str, starts: Int64Array, bands: BandsConfig) -> Float64Array:
    value = features[name].to_numpy().astype(np.float64)
    window = bands.window_bars if bands.kind == "rolling" else max(1, features.height)
    return kernels.trailing_rank(value, starts, window, bands.min_count)


def _cross_rank(features: pl.DataFrame, name: str, min_symbols: int) -> Float64Array:
    ts_ns = features["ts_ns"].to_numpy()
    order = np.argsort(ts_ns, kind="stable")
    borders = np.flatnonzero(np.diff(ts_ns[order])) + 1
    starts = np.concatenate([[0], borders, [ts_ns.size]]).astype(np.int64)
    value = features[name].to_numpy().astype(np.float64)
    return kernels.cross_rank(value, features["known_ns"].to_numpy(), order, starts, min_symbols)


def _state(rank: Float64Array, low: float, high: float) -> Int8Array:
    known = np.where(rank < low, 1, np.where(rank < high, 2, 3))
    state: Int8Array = np.where(np.isnan(rank), 0, known).astype(np.int8)
    return state


def _segments(frame: pl.DataFrame) -> Int64Array:
    return np.concatenate([[0], np.cumsum(frame["symbol"].rle().struct.field("len").to_numpy())]).astype(np.int64)


def _check(bars: pl.DataFrame, features: pl.DataFrame, cfg: RegimesConfig) -> None:
    for name in (*_KEYS, cfg.volatility, cfg.illiquidity, cfg.rotation):
        if name not in features.columns:
            raise ContractError(f"features: column {name!r} is missing; regimes.yaml names it; build it in features.yaml")
    if not bars.select("symbol", "ts_ns").equals(features.select("symbol", "ts_ns")):
        raise ContractError(
            f"features: expected the {bars.height} rows of bars, found {features.height} rows or others; build features of these bars"
        )
