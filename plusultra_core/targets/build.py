"""What came after each bar: vol-scaled returns, directions, triple barriers, uniqueness weights, meta-labels."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from plusultra_core.arrays import Float64Array, Int8Array, Int64Array
from plusultra_core.errors import ConfigError, ContractError
from plusultra_core.targets import kernels

DOWN, FLAT, UP = 0, 1, 2
_RULES = {"worst": kernels.WORST, "skip": kernels.SKIP, "open_distance": kernels.OPEN_DISTANCE}


@dataclass(frozen=True, kw_only=True, slots=True)
class MetaConfig:
    """The primary side, from past closes alone, and what acting on it costs."""

    side: Literal["momentum", "crossover"]
    """Sign of the return over `slow_bars`, or of a fast less a slow exponential mean of log closes."""
    fast_bars: int
    """Half-life of the fast mean under `crossover`; unused, and 0, under `momentum`."""
    slow_bars: int
    """Bars back, or half-life of the slow mean; as many must be there."""
    threshold: float
    """Within +- this the side is 0; units of sigma sqrt(slow_bars)."""
    cost_sigma: float
    """Cost of entering and leaving, units of sigma."""

    def __post_init__(self) -> None:
        if self.slow_bars < 2 or (self.side == "crossover") != (0 < self.fast_bars < self.slow_bars):
            raise ConfigError(f"meta: expected 0 < fast_bars < slow_bars if crossover, else 0, found {self.fast_bars}, {self.slow_bars}")
        if (self.side == "momentum") != (self.fast_bars == 0):
            raise ConfigError(f"meta.fast_bars: expected 0 if momentum, found {self.fast_bars}")
        if self.threshold < 0 or self.cost_sigma < 0:
            raise ConfigError(f"meta: expected threshold >= 0 and cost_sigma >= 0, found {self.threshold}, {self.cost_sigma}")


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetsConfig:
    """Horizons, the scale of returns, and the barriers."""

    horizons: tuple[int, ...]
    """Bars ahead, of the symbol."""
    sigma_halflife_bars: float
    """Half-life of the EWMA volatility that returns are scaled by."""
    sigma_min_count: int
    """Returns before that volatility is known."""
    direction_threshold: float
    """A scaled return within +- this is flat; units of sigma sqrt(horizon)."""
    barrier_horizon: int
    barrier_up: float
    """Upper barrier, units of sigma sqrt(barrier_horizon)."""
    barrier_down: float
    barrier_rule: Literal["worst", "skip", "open_distance"]
    """Where a position ends on a bar that spans both barriers: at its stop, nowhere (no label), at the one nearer to the open."""
    meta: MetaConfig

    def __post_init__(self) -> None:
        if not self.horizons or min(self.horizons) < 1 or list(self.horizons) != sorted(set(self.horizons)):
            raise ConfigError(f"horizons: expected rising numbers of bars >= 1, found {self.horizons}")
        if self.sigma_halflife_bars <= 0 or self.sigma_min_count < 2:
            raise ConfigError(f"sigma: expected halflife > 0 and min_count >= 2, found {self.sigma_halflife_bars}, {self.sigma_min_count}")
        if self.direction_threshold < 0:
            raise ConfigError(f"direction_threshold: expected >= 0, found {self.direction_threshold}")
        if self.barrier_horizon < 1 or self.barrier_up <= 0 or self.barrier_down <= 0:
            raise ConfigError("barriers: expected barrier_horizon >= 1, barrier_up > 0, barrier_down > 0")
        if self.meta.cost_sigma >= self.barrier_down * self.barrier_horizon**0.5:
            raise ConfigError(
                f"meta.cost_sigma: expected a cost within the stop, found {self.meta.cost_sigma}; the entry alone would stop it"
            )


def build(bars: pl.DataFrame, cfg: TargetsConfig) -> pl.DataFrame:
    """Targets of every bar.

    Shapes  the rows of bars, in their order.
    Units   ret_log_h log return; target_h = ret_log_h / (sigma sqrt(h)); sigma a bar, from returns to the bar only.
    Looks   ahead max(horizons, 2 barrier_horizon - 1) bars: never an input. sigma and meta_side look back only.
            known_ns is when the whole row is known.
    NaN     none: null at the last h bars of a symbol, and where sigma is unknown or 0; meta_label also where meta_side is 0.
    Raises  ContractError when a column is missing or bars are not sorted.
    """
    _check(bars)
    price = pl.col("close_adj").log()
    ret = price - price.shift(1).over("symbol")
    mean_square = (ret * ret).ewm_mean(half_life=cfg.sigma_halflife_bars, adjust=True, ignore_nulls=True, min_samples=cfg.sigma_min_count)
    # The weight of a label also counts labels that begin before it ends.
    farthest = max(*cfg.horizons, 2 * cfg.barrier_horizon - 1)
    out = bars.select(
        "symbol",
        "ts_ns",
        pl.max_horizontal(pl.col("known_ns").shift(-k).over("symbol") for k in range(farthest + 1)).alias("known_ns"),
        _sigma(mean_square).alias("sigma"),
        price.alias("price"),
    )
    for horizon in cfg.horizons:
        out = _add_horizon(out, horizon, cfg.direction_threshold)
    out = _add_side(out, cfg.meta)
    return _add_barriers(out.drop("price"), bars, cfg)


def _sigma(mean_square: pl.Expr) -> pl.Expr:
    root = mean_square.over("symbol").sqrt()
    return pl.when(root > 0).then(root)


def _add_horizon(frame: pl.DataFrame, horizon: int, threshold: float) -> pl.DataFrame:
    ret, target = pl.col(f"ret_log_{horizon}"), pl.col(f"target_{horizon}")
    frame = frame.with_columns(
        (pl.col("price").shift(-horizon).over("symbol") - pl.col("price")).alias(f"ret_log_{horizon}"),
        pl.col("ts_ns").shift(-horizon).over("symbol").alias(f"label_end_ns_{horizon}"),
    )
    frame = frame.with_columns((ret / (pl.col("sigma") * horizon**0.5)).alias(f"target_{horizon}"))
    side = pl.when(target > threshold).then(UP).when(target < -threshold).then(DOWN).otherwise(FLAT)
    frame = frame.with_columns(pl.when(target.is_not_null()).then(side).cast(pl.Int8).alias(f"direction_{horizon}"))
    end = frame.columns.index(f"label_end_ns_{horizon}")
    names = [*frame.columns[: end - 1], f"ret_log_{horizon}", f"target_{horizon}", f"direction_{horizon}", f"label_end_ns_{horizon}"]
    return frame.select(names)


def _add_side(frame: pl.DataFrame, cfg: MetaConfig) -> pl.DataFrame:
    """What a plain rule of past closes would hold: 1 long, -1 short, 0 nothing, null where it is not known."""
    price = pl.col("price")
    if cfg.side == "momentum":
        gap = price - price.shift(cfg.slow_bars).over("symbol")
    else:
        fast, slow = (price.ewm_mean(half_life=bars, adjust=True, min_samples=cfg.slow_bars) for bars in (cfg.fast_bars, cfg.slow_bars))
        gap = fast.over("symbol") - slow.over("symbol")
    strength = gap / (pl.col("sigma") * cfg.slow_bars**0.5)
    side = pl.when(strength > cfg.threshold).then(1).when(strength < -cfg.threshold).then(-1).otherwise(0)
    return frame.with_columns(pl.when(strength.is_not_null()).then(side).cast(pl.Int8).alias("meta_side"))


def _add_barriers(frame: pl.DataFrame, bars: pl.DataFrame, cfg: TargetsConfig) -> pl.DataFrame:
    starts = _segments(bars)
    open_, high, low, close = (_column(bars, name) for name in ("open_adj", "high_adj", "low_adj", "close_adj"))
    sigma = frame["sigma"].to_numpy().astype(np.float64)
    side: Int8Array = frame["meta_side"].fill_null(0).to_numpy()
    barriers = kernels.Barriers(cfg.barrier_horizon, cfg.barrier_up, cfg.barrier_down, 0.0, _RULES[cfg.barrier_rule])
    label, ret, end, ambiguous = kernels.triple_barrier(open_, high, low, close, sigma, np.ones_like(side), starts, barriers)
    costly = barriers._replace(cost=cfg.meta.cost_sigma)
    met, _, met_end, _ = kernels.triple_barrier(open_, high, low, close, sigma, side, starts, costly)
    known, judged = pl.Series(end >= 0), pl.Series(met_end >= 0)
    end_ns = bars["ts_ns"].to_numpy()[np.maximum(end, 0)] if bars.height else np.zeros(0, dtype=np.int64)
    values = pl.DataFrame(
        {
            "barrier_label": label,
            "barrier_ret": ret,
            "barrier_end_ns": end_ns,
            "barrier_ambiguous": ambiguous,
            "weight_uniqueness": kernels.average_uniqueness(end, starts),
            "meta_label": (met > 0).astype(np.int8),
        },
        schema_overrides={"barrier_label": pl.Int8, "barrier_end_ns": pl.Int64},
    )
    shown = {"barrier_ambiguous": known | values["barrier_ambiguous"], "meta_label": judged}
    masked = values.select(pl.when(shown.get(name, known)).then(pl.col(name)) for name in values.columns)
    return frame.drop("meta_side").hstack([*masked.drop("meta_label"), frame["meta_side"], masked["meta_label"]])


def summary(targets: pl.DataFrame, cfg: TargetsConfig) -> pl.DataFrame:
    """Rows, share of classes and spread of each horizon, and of the barriers (horizon 0).

    Columns: horizon, num_labels, share_down, share_flat, share_up, std (of the scaled target).
    """
    rows = []
    for horizon in (*cfg.horizons, 0):
        sides = targets[f"direction_{horizon}"] if horizon else targets["barrier_label"] + 1
        sides = sides.drop_nulls()
        shares = [int((sides == side).sum()) / max(1, sides.len()) for side in (DOWN, FLAT, UP)]
        spread = targets[f"target_{horizon}"].std() if horizon else None
        rows.append((horizon, sides.len(), *shares, spread))
    schema = ["horizon", "num_labels", "share_down", "share_flat", "share_up", "std"]
    return pl.DataFrame(rows, schema=schema, orient="row", schema_overrides={"std": pl.Float64})


def _column(bars: pl.DataFrame, name: str) -> Float64Array:
    return bars[name].cast(pl.Float64).to_numpy().astype(np.float64)


def _segments(frame: pl.DataFrame) -> Int64Array:
    return np.concatenate([[0], np.cumsum(frame["symbol"].rle().struct.field("len").to_numpy())]).astype(np.int64)


def _check(bars: pl.DataFrame) -> None:
    for column in ("symbol", "ts_ns", "known_ns", "open_adj", "high_adj", "low_adj", "close_adj"):
        if column not in bars.columns:
            raise ContractError(f"bars: column {column!r} is missing, found {bars.columns}; build bars again")
    same = pl.col("symbol") == pl.col("symbol").shift(1)
    disorder = (pl.col("symbol") < pl.col("symbol").shift(1)) | (same & (pl.col("ts_ns") <= pl.col("ts_ns").shift(1)))
    if num_rows := bars.select(disorder.sum()).item():
        raise ContractError(f"bars: {num_rows} rows out of order or twice; expected rising symbol, ts_ns; sort them")
