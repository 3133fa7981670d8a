"""What every frame between the stations is: columns, types, ranges, order, keys; declared as plain data."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import polars as pl

from plusultra_core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Col:
    """One column: its type and what its values may be."""

    dtype: pl.DataType | type[pl.DataType]
    nullable: bool = False
    above: float | None = None
    least: float | None = None
    most: float | None = None
    options: tuple[object, ...] = ()
    nan_allowed: bool = False


@dataclass(frozen=True, slots=True)
class FrameSpec:
    """One frame: its columns, families of columns by pattern, its order, and whether rows know their time."""

    columns: dict[str, Col]
    patterns: dict[str, Col] = field(default_factory=dict)
    order: tuple[str, ...] = ("symbol", "ts_ns")
    ties: tuple[str, ...] = ()
    """Columns that settle the order of rows with equal keys."""
    known_after_ts: bool = True


_TEXT = Col(pl.String)
_TEXT_OR_NULL = Col(pl.String, nullable=True)
_NS = Col(pl.Int64)
_VALUE = Col(pl.Float64, nullable=True)
_ANY_FLOAT = Col(pl.Float64, nullable=True, nan_allowed=True)
_SINGLE = Col(pl.Float32, nullable=True, nan_allowed=True)
_PRICE = Col(pl.Float64, above=0.0)
_PRICE_OR_NULL = Col(pl.Float64, nullable=True, above=0.0)
_AMOUNT_OR_NULL = Col(pl.Float64, nullable=True, least=0.0)
_FLAG = Col(pl.Boolean)
_PROBABILITY = Col(pl.Float64, least=0.0, most=1.0)
_STATE = Col(pl.Int8, options=(0, 1, 2, 3))
_KEYS = {"symbol": _TEXT, "ts_ns": _NS, "known_ns": _NS}
_CLASSES = ("equity", "etf", "index", "forex", "crypto", "crypto_perpetual", "commodity", "volatility_index", "other")

FRAMES: dict[str, FrameSpec] = {
    "assets": FrameSpec(
        {
            "asset_id": _NS,
            "symbol": _TEXT,
            "sector": _TEXT_OR_NULL,
            "currency": _TEXT_OR_NULL,
            "exchange": _TEXT_OR_NULL,
            "asset_class": Col(pl.String, options=_CLASSES),
            "bar": _TEXT,
            "price_adjustment": Col(pl.String, options=("none", "split", "split+dividend")),
            "metadata": _TEXT_OR_NULL,
        },
        order=("symbol",),
        known_after_ts=False,
    ),
    "series": FrameSpec(
        {**_KEYS, "open": _PRICE_OR_NULL, "high": _PRICE_OR_NULL, "low": _PRICE_OR_NULL, "close": _PRICE}
        | {"volume": _AMOUNT_OR_NULL, "vwap": _PRICE_OR_NULL, "turnover": _AMOUNT_OR_NULL}
    ),
    "indicators": FrameSpec(
        {"symbol": _TEXT, "name": _TEXT, "ts_ns": _NS, "known_ns": _NS, "value": _VALUE}, order=("symbol", "ts_ns", "name", "known_ns")
    ),
    "benchmarks": FrameSpec({**_KEYS, "ret_simple": _VALUE, "level": _PRICE_OR_NULL}),
    "trades": FrameSpec(
        {"trade_id": _NS, "ts_ns": _NS, "known_ns": _NS, "symbol": _TEXT, "side": Col(pl.String, options=("long", "short", "flat"))}
        | {"size": Col(pl.Float64, least=0.0), "price": _PRICE, "fees": _VALUE, "slippage_bps": _VALUE, "pnl": _VALUE},
        order=("symbol", "ts_ns", "trade_id"),
    ),
    "side_tables": FrameSpec(
        {"table": _TEXT, "symbol": _TEXT_OR_NULL, "field": _TEXT, "ts_ns": _NS, "known_ns": _NS}
        | {"expires_ns": Col(pl.Int64, nullable=True), "value": Col(pl.Float64)},
        order=("symbol", "ts_ns", "table", "field", "known_ns"),
        ties=("expires_ns", "value"),  # a stated known_at may be the time and the lag that another row goes by
        known_after_ts=False,
    ),
    "corporate_actions": FrameSpec(
        {
            **_KEYS,
            "action": Col(pl.String, options=("split", "dividend")),
            "amount": _PRICE_OR_NULL,
            "ratio": _PRICE_OR_NULL,
            "currency": _TEXT_OR_NULL,
        },
        order=("symbol", "ts_ns", "action"),
        known_after_ts=False,
    ),
    "exchange_rates": FrameSpec(
        {"currency": _TEXT, "ts_ns": _NS, "known_ns": _NS, "expires_ns": _NS, "rate": Col(pl.Float64, above=0.0)},
        order=("currency", "ts_ns"),
    ),
    "bars": FrameSpec(
        {**_KEYS, "open": _PRICE_OR_NULL, "high": _PRICE_OR_NULL, "low": _PRICE_OR_NULL, "close": _PRICE, "volume": _AMOUNT_OR_NULL}
        | {
            "open_adj": _PRICE_OR_NULL,
            "high_adj": _PRICE_OR_NULL,
            "low_adj": _PRICE_OR_NULL,
            "close_adj": _PRICE,
            "volume_adj": _AMOUNT_OR_NULL,
        }
        | {"adj_factor": _PRICE, "gap_bars": Col(pl.Int32, least=0), "has_ohl": _FLAG, "has_volume": _FLAG}
    ),
    "features": FrameSpec(dict(_KEYS), patterns={r"[a-z][a-z0-9_]*": _SINGLE}),
    "regimes": FrameSpec(
        {**_KEYS, "volatility_state": _STATE, "liquidity_state": _STATE, "rotation_state": _STATE, "trend_state": _STATE}
        | {"hmm_state": _STATE, "hmm_prob": Col(pl.Float32, nullable=True, least=0.0, most=1.0)}
    ),
    "targets": FrameSpec(
        {**_KEYS, "sigma": _ANY_FLOAT, "barrier_label": Col(pl.Int8, nullable=True, options=(-1, 0, 1)), "barrier_ret": _ANY_FLOAT}
        | {
            "barrier_end_ns": Col(pl.Int64, nullable=True),
            "barrier_ambiguous": Col(pl.Boolean, nullable=True),
            "weight_uniqueness": _ANY_FLOAT,
            "meta_side": Col(pl.Int8, nullable=True, options=(-1, 0, 1)),
            "meta_label": Col(pl.Int8, nullable=True, options=(0, 1)),
        },
        patterns={
            r"ret_log_\d+": _ANY_FLOAT,
            r"target_\d+": _ANY_FLOAT,
            r"direction_\d+": Col(pl.Int8, nullable=True, options=(0, 1, 2)),
            r"label_end_ns_\d+": Col(pl.Int64, nullable=True),
        },
    ),
    "view": FrameSpec(
        {"symbol": _TEXT_OR_NULL, "ts_ns": _NS, "known_ns": _NS, "feature": _TEXT, "value": _ANY_FLOAT}
        | {"staleness_ns": Col(pl.Int64, nullable=True, least=0), "source_class": _TEXT},
        order=("feature", "symbol", "ts_ns"),
        known_after_ts=False,
    ),
    "forecasts": FrameSpec(
        {**_KEYS, "fold": Col(pl.Int32, least=0), "split": Col(pl.String, options=("train", "valid", "test")), "model": _TEXT}
        | {
            "horizon": Col(pl.Int32, least=1),
            "p_down": _PROBABILITY,
            "p_flat": _PROBABILITY,
            "p_up": _PROBABILITY,
            "confidence": _PROBABILITY,
        }
        | {"sigma": _PRICE, "y": _ANY_FLOAT, "ret_log": _ANY_FLOAT, "direction": Col(pl.Int8, nullable=True, options=(-1, 0, 1, 2))}
        | {"label_end_ns": Col(pl.Int64, nullable=True)},
        patterns={r"q_\d{2,3}": Col(pl.Float64)},
        order=("model", "symbol", "ts_ns", "horizon"),
    ),
}
"""Every frame by its name."""


def empty(name: str) -> pl.DataFrame:
    """A frame of that name without rows."""
    return pl.DataFrame(schema={column: col.dtype for column, col in spec_of(name).columns.items()})


def spec_of(name: str) -> FrameSpec:
    """The declaration of a frame.

    Raises  ConfigError for an unknown name.
    """
    if name not in FRAMES:
        raise ConfigError(f"frame: expected one of {sorted(FRAMES)}, found {name!r}")
    return FRAMES[name]


def key_columns(name: str, frame: pl.DataFrame, column: str) -> list[str]:
    """The keys of a frame and one more column, to show a row by."""
    return [key for key in dict.fromkeys((*spec_of(name).order, column)) if key in frame.columns]


def sort(name: str, frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with the columns of its contract first, sorted by its keys; the same for its rows in any order."""
    spec = spec_of(name)
    rest: Sequence[str] = [column for column in frame.columns if column not in spec.columns]
    return frame.select(*spec.columns, *rest).sort(*spec.order, *spec.ties, nulls_last=False)
