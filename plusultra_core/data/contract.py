"""What every frame between the stations is: columns, types, ranges, order, keys.

The frames are declared here as plain data; pandera is imported when the first frame is validated, because
importing it costs seconds that nobody should pay who only loads definitions.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import polars as pl

from plusultra_core.clock import iso
from plusultra_core.errors import ConfigError, ContractError


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
    return pl.DataFrame(schema={column: col.dtype for column, col in _spec(name).columns.items()})


def validate(name: str, frame: pl.DataFrame, assets: pl.DataFrame | None = None, bars: pl.DataFrame | None = None) -> pl.DataFrame:
    """The frame itself when it is what its name says.

    With `assets` every symbol must be one of its; with `bars` the rows must be those of the bars, no more and no fewer.
    Raises  ContractError naming frame, column, first rows, what was expected; ConfigError for an unknown name.
    """
    spec = _spec(name)
    if isinstance(frame, pl.LazyFrame):
        raise ContractError(f"{name}: expected a collected frame, found a lazy one, of which only the schema would be checked; collect it")
    _check_columns(name, spec, frame)
    if not _holds(spec, frame):
        _check_values(name, frame)
    _check_order(name, spec, frame)
    if spec.known_after_ts:
        early = frame.filter(pl.col("known_ns") < pl.col("ts_ns"))
        _refuse(name, "known_ns", early, "known_ns >= ts_ns: nothing is known before it happened")
    if name == "bars":
        _check_bars(frame)
    if assets is not None:
        orphans = frame.filter(pl.col("symbol").is_not_null() & ~pl.col("symbol").is_in(assets["symbol"].to_list()))
        _refuse(name, "symbol", orphans, "a symbol of assets")
    if bars is not None and not frame.select("symbol", "ts_ns").equals(bars.select("symbol", "ts_ns")):
        raise ContractError(
            f"{name}: expected the {bars.height} rows (symbol, ts_ns) of bars, found {frame.height} others; build it from these bars"
        )
    return frame


def _spec(name: str) -> FrameSpec:
    if name not in FRAMES:
        raise ConfigError(f"frame: expected one of {sorted(FRAMES)}, found {name!r}")
    return FRAMES[name]


def _check_columns(name: str, spec: FrameSpec, frame: pl.DataFrame) -> None:
    if missing := [column for column in spec.columns if column not in frame.columns]:
        raise ContractError(f"{name}.{missing[0]}: the column is missing; expected {', '.join(spec.columns)}; build the frame with it")
    for column in frame.columns:
        if column not in spec.columns and not any(re.fullmatch(pattern, column) for pattern in spec.patterns):
            raise ContractError(f"{name}.{column}: unknown column; expected {', '.join((*spec.columns, *spec.patterns))}; drop it")


@lru_cache(maxsize=64)
def _schema(name: str, columns: tuple[str, ...]) -> Any:
    """The pandera schema of a frame with these columns, made once."""
    import pandera.polars as pa

    def column(col: Col) -> Any:
        checks = []
        if col.above is not None:
            checks.append(pa.Check.gt(col.above))
        if col.least is not None:
            checks.append(pa.Check.ge(col.least))
        if col.most is not None:
            checks.append(pa.Check.le(col.most))
        if col.options:
            checks.append(pa.Check.isin(list(col.options)))
        if col.dtype == pl.Float64 and not col.nan_allowed:
            checks.append(pa.Check(_is_finite, error="finite"))
        return pa.Column(col.dtype, checks=checks, nullable=col.nullable)

    spec = _spec(name)
    return pa.DataFrameSchema({key: column(_column_spec(spec, key)) for key in columns}, strict=True)


def _column_spec(spec: FrameSpec, column: str) -> Col:
    found = [col for pattern, col in spec.patterns.items() if re.fullmatch(pattern, column)]
    return spec.columns[column] if column in spec.columns else found[0]


def _is_finite(data: Any) -> pl.LazyFrame:
    checked: pl.LazyFrame = data.lazyframe.select(pl.col(data.key).is_finite())
    return checked


def _holds(spec: FrameSpec, frame: pl.DataFrame) -> bool:
    """Whether all values are what their columns say, in one look; pandera, which takes a look a column and rule, tells what is not."""
    broken = [pl.lit(False)]
    for column, dtype in frame.schema.items():
        col, value = _column_spec(spec, column), pl.col(column)
        if dtype != col.dtype or (frame[column].null_count() and not col.nullable):
            return False
        broken += [value <= col.above] if col.above is not None else []
        broken += [value < col.least] if col.least is not None else []
        broken += [value > col.most] if col.most is not None else []
        broken += [~value.is_in(list(col.options))] if col.options else []
        broken += [~value.is_finite()] if dtype == pl.Float64 and not col.nan_allowed else []
    return not any(frame.select(rule.any().alias(str(number)) for number, rule in enumerate(broken)).row(0))


def _check_values(name: str, frame: pl.DataFrame) -> None:
    from pandera.errors import SchemaErrors

    try:
        _schema(name, tuple(frame.columns)).validate(frame, lazy=True)
    except SchemaErrors as error:
        case = error.failure_cases.row(0, named=True)
        column, index = case["column"], case.get("index")
        row = (
            frame.select(key_columns(name, frame, column)).row(index, named=True)
            if isinstance(index, int)
            else {"found": case["failure_case"]}
        )
        more = len(error.failure_cases)
        raise ContractError(
            f"{name}.{column}: {more} failures, first ({_show(row)}); expected {case['check']}; fix what built it"
        ) from error


def key_columns(name: str, frame: pl.DataFrame, column: str) -> list[str]:
    """The keys of a frame and one more column, to show a row by."""
    return [key for key in dict.fromkeys((*_spec(name).order, column)) if key in frame.columns]


def _check_order(name: str, spec: FrameSpec, frame: pl.DataFrame) -> None:
    """Rows sorted by the keys, nulls first, no key twice."""
    rises = pl.lit(False)
    ties = pl.lit(True)
    for key in spec.order:
        now, before = pl.col(key), pl.col(key).shift()
        if frame[key].null_count():
            null_now, null_before = now.is_null(), before.is_null()
            equal = (now == before).fill_null(False) | (null_now & null_before)
            rises |= ties & ((now > before).fill_null(False) | (~null_now & null_before))
        else:
            equal = now == before
            rises |= ties & (now > before)
        ties &= equal
    wrong = frame.with_row_index("_row").filter(~rises.fill_null(False) & (pl.col("_row") > 0)).drop("_row")
    _refuse(name, spec.order[0], wrong, f"rows sorted by {', '.join(spec.order)}, each key once")


def _check_bars(frame: pl.DataFrame) -> None:
    all_there = pl.all_horizontal(pl.col("open", "high", "low").is_not_null())
    none_there = pl.all_horizontal(pl.col("open", "high", "low", "open_adj", "high_adj", "low_adj").is_null())
    _refuse(
        "bars",
        "has_ohl",
        frame.filter(~pl.when("has_ohl").then(all_there).otherwise(none_there)),
        "open, high and low where has_ohl says so",
    )
    _refuse("bars", "has_volume", frame.filter(pl.col("has_volume") != pl.col("volume").is_not_null()), "volume where has_volume says so")
    _refuse("bars", "high", frame.filter(pl.col("high") < pl.col("low")), "high >= low")


def _refuse(name: str, column: str, wrong: pl.DataFrame, expected: str) -> None:
    if wrong.height:
        row = wrong.select(key_columns(name, wrong, column)).row(0, named=True)
        raise ContractError(f"{name}.{column}: {wrong.height} rows, first ({_show(row)}); expected {expected}; fix what built it")


def _show(row: dict[str, Any]) -> str:
    return ", ".join(f"{key}={iso(value) if key.endswith('_ns') and isinstance(value, int) else repr(value)}" for key, value in row.items())


def sort(name: str, frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with the columns of its contract first, sorted by its keys."""
    spec = _spec(name)
    rest: Sequence[str] = [column for column in frame.columns if column not in spec.columns]
    return frame.select(*spec.columns, *rest).sort(spec.order, nulls_last=False)
