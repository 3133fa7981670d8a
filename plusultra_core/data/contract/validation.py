"""Whether a frame is what its name says.

pandera is imported when the first frame is validated, because importing it costs seconds that nobody should pay
who only loads definitions.
"""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import polars as pl

from plusultra_core.clock import iso
from plusultra_core.data.contract.frames import Col, FrameSpec, key_columns, spec_of
from plusultra_core.data.contract.meanings import meaning_of
from plusultra_core.errors import ContractError

_SLICE_ROWS = 1_000_000
"""Rows looked at together, so that memory does not grow with the frame."""


def validate(name: str, frame: pl.DataFrame, assets: pl.DataFrame | None = None, bars: pl.DataFrame | None = None) -> pl.DataFrame:
    """The frame itself when it is what its name says.

    With `assets` every symbol must be one of its; with `bars` the rows must be those of the bars, no more and no fewer.
    Raises  ContractError naming frame, column, first rows, what was expected; ConfigError for an unknown name.
    """
    spec = spec_of(name)
    if isinstance(frame, pl.LazyFrame):
        raise ContractError(f"{name}: expected a collected frame, found a lazy one, of which only the schema would be checked; collect it")
    _check_columns(name, spec, frame)
    if frame.height > _SLICE_ROWS or _dtypes_off(spec, frame) or (frame.height and _is_wrong(name, spec, frame)):
        _refuse_what_is_wrong(name, spec, frame)
    if assets is not None:
        orphan = pl.col("symbol").is_not_null() & ~pl.col("symbol").is_in(assets["symbol"].to_list())
        _refuse(name, "symbol", frame, orphan, "a symbol of assets")
    if bars is not None and not frame.select("symbol", "ts_ns").equals(bars.select("symbol", "ts_ns")):
        raise ContractError(
            f"{name}: expected the {bars.height} rows (symbol, ts_ns) of bars, found {frame.height} others; build it from these bars"
        )
    return frame


def _refuse_what_is_wrong(name: str, spec: FrameSpec, frame: pl.DataFrame) -> None:
    """Raise what is wrong with the rows of a frame, if anything: rule by rule, and slice by slice where it is long."""
    if odd := [part for part in frame.iter_slices(_SLICE_ROWS) if _dtypes_off(spec, part) or _any(part, list(_breaks(spec, part)))]:
        _check_values(name, odd)
    _refuse(name, spec.order[0], frame, _unordered(spec, frame), f"rows sorted by {', '.join(spec.order)}, each key once")
    if spec.known_after_ts:
        _refuse(name, "known_ns", frame, _EARLY, "known_ns >= ts_ns: nothing is known before it happened")
    if name == "bars":
        for column, wrong, expected in _WRONG_BARS:
            _refuse("bars", column, frame, wrong, expected)


def _check_columns(name: str, spec: FrameSpec, frame: pl.DataFrame) -> None:
    if missing := [column for column in spec.columns if column not in frame.columns]:
        raise ContractError(f"{name}.{missing[0]}: the column is missing; expected {', '.join(spec.columns)}; build the frame with it")
    for column in frame.columns:
        if column not in spec.columns and not any(re.fullmatch(pattern, column) for pattern in spec.patterns):
            raise ContractError(f"{name}.{column}: unknown column; expected {', '.join((*spec.columns, *spec.patterns))}; drop it")


@lru_cache(maxsize=64)
def schema(name: str, columns: tuple[str, ...]) -> Any:
    """The pandera schema of a frame with these columns, made once."""
    import pandera.polars as pa

    def column(key: str, col: Col) -> Any:
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
        unit, sense = meaning_of(key) or ("", None)
        return pa.Column(col.dtype, checks=checks, nullable=col.nullable, description=sense, metadata={"unit": unit})

    spec = spec_of(name)
    return pa.DataFrameSchema({key: column(key, _column_spec(spec, key)) for key in columns}, strict=True, name=name)


def _column_spec(spec: FrameSpec, column: str) -> Col:
    if column in spec.columns:
        return spec.columns[column]
    return next(col for pattern, col in spec.patterns.items() if re.fullmatch(pattern, column))


def _is_finite(data: Any) -> pl.LazyFrame:
    checked: pl.LazyFrame = data.lazyframe.select(pl.col(data.key).is_finite())
    return checked


def _dtypes_off(spec: FrameSpec, frame: pl.DataFrame) -> bool:
    """Whether a column is of another type than it should be, or has nulls where it may not."""
    found = [(_column_spec(spec, column.name), column) for column in frame.get_columns()]
    return any(column.dtype != col.dtype or (not col.nullable and column.null_count() > 0) for col, column in found)


def _breaks(spec: FrameSpec, frame: pl.DataFrame) -> Iterator[pl.Expr]:
    """When a value is not what its column says; pandera, which takes a look a column and rule, tells what is not."""
    for column in frame.columns:
        col, value = _column_spec(spec, column), pl.col(column)
        if col.above is not None:
            yield value <= col.above
        if col.least is not None:
            yield value < col.least
        if col.most is not None:
            yield value > col.most
        if col.options:
            yield ~value.is_in(list(col.options))
        if col.dtype == pl.Float64 and not col.nan_allowed:
            yield ~value.is_finite()


def _is_wrong(name: str, spec: FrameSpec, frame: pl.DataFrame) -> bool:
    """Whether a value is not what its column says, or a row out of order or not what a bar says of itself: in one look."""
    early = [_EARLY] if spec.known_after_ts else []
    bars = [wrong for _, wrong, _ in _WRONG_BARS] if name == "bars" else []
    return _any(frame, [*_breaks(spec, frame), _unordered(spec, frame), *early, *bars])


def _any(frame: pl.DataFrame, rules: Sequence[pl.Expr]) -> bool:
    """Whether some rule is broken by some row."""
    return bool(rules) and frame.height > 0 and any(frame.select(rule.any().alias(str(number)) for number, rule in enumerate(rules)).row(0))


def _check_values(name: str, parts: Sequence[pl.DataFrame]) -> None:
    """Raise what pandera says of slices that do not hold: the first failure, and how many there are in all."""
    from pandera.errors import SchemaErrors

    first, found, more = None, parts[0], 0
    for part in parts:
        try:
            schema(name, tuple(part.columns)).validate(part, lazy=True)
        except SchemaErrors as error:
            cases = error.failure_cases
            first, found, more = (cases.row(0, named=True), part, len(cases)) if first is None else (first, found, more + len(cases))
            if not isinstance(first.get("index"), int):  # of a column as a whole: so it is in every slice
                break
    if first is None:
        return
    column, index = first["column"], first.get("index")
    keys = key_columns(name, found, column)
    row = found.select(keys).row(index, named=True) if isinstance(index, int) else {"found": first["failure_case"]}
    raise ContractError(f"{name}.{column}: {more} failures, first ({_show(row)}); expected {first['check']}; fix what built it")


def _unordered(spec: FrameSpec, frame: pl.DataFrame) -> pl.Expr:
    """Rows that do not come after the one before by the keys, nulls first, no key twice."""
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
    return ~rises.fill_null(False) & (pl.int_range(pl.len()) > 0)


_EARLY = pl.col("known_ns") < pl.col("ts_ns")
_ALL_THERE = pl.all_horizontal(pl.col("open", "high", "low").is_not_null())
_NONE_THERE = pl.all_horizontal(pl.col("open", "high", "low", "open_adj", "high_adj", "low_adj").is_null())
_WRONG_BARS = (
    ("has_ohl", ~pl.when("has_ohl").then(_ALL_THERE).otherwise(_NONE_THERE), "open, high and low where has_ohl says so"),
    ("has_volume", pl.col("has_volume") != pl.col("volume").is_not_null(), "volume where has_volume says so"),
    ("high", pl.col("high") < pl.col("low"), "high >= low"),
)
"""Of bars: the column, when a row is wrong, what is expected."""


def _refuse(name: str, column: str, frame: pl.DataFrame, wrong: pl.Expr, expected: str) -> None:
    """Raise where rows are wrong. Slices share a row with the one before, so that `wrong` may look at the row before its own."""
    count, first = 0, None
    for start in range(0, frame.height, _SLICE_ROWS):
        part = frame.slice(max(start - 1, 0), _SLICE_ROWS + min(start, 1))
        marks = part.select(wrong.fill_null(False)).to_series()
        marks = marks.slice(min(start, 1))
        if marks.any():
            count += int(marks.sum())
            first = start + int(marks.arg_true()[0]) if first is None else first
    if first is not None:
        row = frame.select(key_columns(name, frame, column)).row(first, named=True)
        raise ContractError(f"{name}.{column}: {count} rows, first ({_show(row)}); expected {expected}; fix what built it")


def _show(row: dict[str, Any]) -> str:
    return ", ".join(f"{key}={iso(value) if key.endswith('_ns') and isinstance(value, int) else repr(value)}" for key, value in row.items())
