"""Judges of time: does any value know its own future?

They call a builder again on inputs whose future is cut off, or replaced by noise, and compare what it
says about the past. They know nothing of what is built and run on every materialisation.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl

from plusultra_core.arrays import Float64Array, Int64Array
from plusultra_core.clock import iso
from plusultra_core.errors import ConfigError, ContractError, LookaheadError

Frames = Mapping[str, pl.DataFrame]
Builder = Callable[[dict[str, pl.DataFrame]], pl.DataFrame]

TOLERANCE = 1e-12
"""Relative; sums may be taken in another order, nothing more."""

_PRICES = frozenset({"open", "high", "low", "close", "vwap", "open_adj", "high_adj", "low_adj", "close_adj"})
_NOISE = 0.3
_EARLIEST, _LATEST = 0.3, 0.98  # cuts lie in this range of the distinct times: builders need a past, the judge a future


@dataclass(frozen=True, slots=True)
class LeakReport:
    """How much a clean check has looked at."""

    cuts_ns: tuple[int, ...]
    num_rows: int
    num_columns: int


class Intervals(NamedTuple):
    """Closed intervals [first input, label end] of samples, UTC nanoseconds (or grid indices), each (N,)."""

    start: Int64Array
    end: Int64Array


class NullReport(NamedTuple):
    """Pooled information coefficient and its standard error under the null."""

    ic: float
    se: float


def check_truncation(build: Builder, inputs: Frames, num_cuts: int, seed: int, max_symbols: int | None = None) -> LeakReport:
    """Rows known by a cut are the same when everything known later is cut from the inputs.

    Inputs are cut by `known_ns` (`ts_ns` where there is none; a frame with neither stays whole). Rows of the result
    count as known at `known_ns`, else `ts_ns`; a column that the cut takes away must be empty before it. NaN equals NaN
    and null; numbers agree to 1e-12 relative. A leak shows only where it bites at a cut: more cuts find rarer ones.

    Raises  LookaheadError naming column, symbol, time and both values; ContractError where the result has no ts_ns.
    """

    def cut_off(frame: pl.DataFrame, cut_ns: int) -> pl.DataFrame:
        when = _when(frame)
        return frame if when is None else frame.filter(pl.col(when) <= cut_ns)

    return _check(build, inputs, num_cuts, seed, max_symbols, cut_off, "is cut off")


def check_poison(build: Builder, inputs: Frames, num_cuts: int, seed: int, max_symbols: int | None = None) -> LeakReport:
    """Rows known by a cut are the same when everything known later is replaced by noise.

    After the cut the values of an input are dealt out anew among rows of the same text keys (keys and times stay) and each
    float is multiplied by a random factor between about .4 and 2.5, one for all prices of a bar: high stays above low,
    a dividend below its price.

    Raises  as `check_truncation`.
    """

    def poisoned(frame: pl.DataFrame, cut_ns: int) -> pl.DataFrame:
        return _poison(frame, cut_ns, np.random.default_rng([seed, cut_ns & 0xFFFFFFFF]))

    return _check(build, inputs, num_cuts, seed, max_symbols, poisoned, "is replaced by noise")


def check_overlap(spans: Mapping[str, Intervals]) -> int:
    """Samples of different spans (train, valid, test) never share a moment. Returns how many samples were looked at.

    Raises  LookaheadError naming both spans and the two intervals; ContractError where an interval ends before it starts.
    """
    names = sorted(spans)
    for name in names:
        start, end = spans[name]
        if start.shape != end.shape or bool((end < start).any()):
            raise ContractError(f"{name}: expected intervals that end after they start, one end a start; build them again")
    for i, left in enumerate(names):
        for right in names[i + 1 :]:
            _check_pair(left, spans[left], right, spans[right])
    return sum(spans[name].start.size for name in names)


def null_ic(prediction_TN: Float64Array, target_TN: Float64Array, num_shifts: int, seed: int) -> NullReport:
    """Pooled information coefficient, and its spread when the targets are turned round in time.

    Turning (a circular shift of all assets together) keeps overlap of horizons and correlation between assets, so the
    standard error is right where 1 / sqrt(n) is far too small.

    Shapes  (T, N); result two numbers.
    NaN     a cell with NaN on either side is left out.
    """
    num_times = prediction_TN.shape[0]
    if prediction_TN.shape != target_TN.shape or num_times < 20 or num_shifts < 10:
        raise ConfigError(
            f"null_ic: expected two (T, N) arrays of 20 times and 10 shifts at least, found {prediction_TN.shape}, {num_shifts}"
        )
    shifts = np.random.default_rng(seed).integers(num_times // 10 + 1, num_times - num_times // 10, num_shifts)
    turned = [_pooled_ic(prediction_TN, np.roll(target_TN, int(shift), axis=0)) for shift in shifts]
    return NullReport(ic=_pooled_ic(prediction_TN, target_TN), se=float(np.std(turned)))


def check_shuffled_null(prediction_TN: Float64Array, target_TN: Float64Array, num_shifts: int, seed: int, num_se: float) -> NullReport:
    """Predictions of a model trained on shuffled targets know nothing: their pooled IC lies within `num_se` standard errors of 0.

    Give the out-of-sample predictions of a model fitted to shuffled targets, and the shuffled targets it never saw.

    Raises  LookaheadError when it does not: the model has seen what it is judged by.
    """
    report = null_ic(prediction_TN, target_TN, num_shifts, seed)
    if not abs(report.ic) <= num_se * report.se:
        raise LookaheadError(
            f"shuffled null: expected an IC within {num_se:g} standard errors ({num_se * report.se:.4f}) of 0, found {report.ic:.4f}; "
            "the model has seen these targets: look at splits, scalers and feature selection"
        )
    return report


def _check(
    build: Builder,
    inputs: Frames,
    num_cuts: int,
    seed: int,
    max_symbols: int | None,
    change: Callable[[pl.DataFrame, int], pl.DataFrame],
    what: str,
) -> LeakReport:
    chosen = _restrict(inputs, max_symbols, seed)
    whole = build(dict(chosen))
    when = _when(whole)
    if when is None or "ts_ns" not in whole.columns:
        raise ContractError(f"result: expected a column ts_ns, found {whole.columns}; build rows with a time")
    cuts = _cuts(whole[when], [frame[name] for frame in chosen.values() if (name := _when(frame))], num_cuts, seed)
    num_rows = 0
    for cut_ns in cuts:
        again = build({name: change(frame, cut_ns) for name, frame in chosen.items()})
        num_rows += _compare(whole, again, cut_ns, f"when everything after {iso(cut_ns)} {what}")
    return LeakReport(cuts_ns=cuts, num_rows=num_rows, num_columns=len(_values(whole)))


def _when(frame: pl.DataFrame) -> str | None:
    return next((name for name in ("known_ns", "ts_ns") if name in frame.columns), None)


def _restrict(inputs: Frames, max_symbols: int | None, seed: int) -> dict[str, pl.DataFrame]:
    """Frames with at most so many symbols each, the same for the same seed; rows without a symbol stay.

    Symbols of most frames come first: one without corporate actions would show nothing of how they are applied.
    """
    if max_symbols is None:
        return dict(inputs)
    members = [set(frame["symbol"].drop_nulls().unique().to_list()) for frame in inputs.values() if "symbol" in frame.columns]
    found = sorted({symbol for names in members for symbol in names})
    drawn = np.random.default_rng(seed).permutation(len(found)).tolist()
    rank = {symbol: (-sum(symbol in names for names in members), place) for symbol, place in zip(found, drawn, strict=True)}

    def few(frame: pl.DataFrame) -> pl.DataFrame:
        if "symbol" not in frame.columns:
            return frame
        kept = sorted(frame["symbol"].drop_nulls().unique().to_list(), key=rank.__getitem__)[:max_symbols]
        return frame.filter(pl.col("symbol").is_null() | pl.col("symbol").is_in(kept))

    return {name: few(frame) for name, frame in inputs.items()}


def _cuts(times: pl.Series, given: Sequence[pl.Series], num_cuts: int, seed: int) -> tuple[int, ...]:
    """Some distinct times of the result at which an input arrived too; the last of the range is always among them.

    Between arrivals a builder cannot know that time has passed: whether its last coarse bar has closed, for one.
    """
    distinct = times.drop_nulls().unique().sort()
    if given:
        distinct = distinct.filter(distinct.is_in(pl.concat([series.cast(pl.Int64) for series in given]).unique().implode()))
    first, last = int(_EARLIEST * len(distinct)), min(int(_LATEST * len(distinct)), len(distinct) - 2)
    if num_cuts < 1 or last < first:
        raise ConfigError(f"num_cuts: expected >= 1 and at least 4 distinct times, found {num_cuts} and {len(distinct)}")
    drawn = np.random.default_rng(seed).integers(first, last + 1, num_cuts - 1)
    return tuple(int(distinct[int(i)]) for i in sorted({last, *drawn.tolist()}))


def _keys(frame: pl.DataFrame) -> list[str]:
    """Text columns and ts_ns: what a row is about."""
    return [name for name, kind in frame.schema.items() if name == "ts_ns" or kind in (pl.String, pl.Categorical)]


def _values(frame: pl.DataFrame) -> list[str]:
    keys = set(_keys(frame))
    return [name for name in frame.columns if name not in keys]


def _compare(whole: pl.DataFrame, again: pl.DataFrame, cut_ns: int, how: str) -> int:
    """Rows compared. Raises LookaheadError at the first column that moves."""
    keys, values, when = _keys(whole), _values(whole), _when(whole) or "ts_ns"
    missing = {name: kind for name, kind in whole.schema.items() if name not in again.columns and name not in keys}
    again = again.with_columns(pl.lit(None, kind).alias(name) for name, kind in missing.items())
    if moved := sorted(set(whole.schema.items()) ^ set(again.schema.items()), key=str):
        raise LookaheadError(f"columns: expected the same columns {how}, found {moved}; a column depends on the future")
    past = whole.filter((pl.col(when) <= cut_ns) & (pl.col("ts_ns") <= cut_ns))
    late = again.filter((pl.col(when) <= cut_ns) & (pl.col("ts_ns") <= cut_ns)).join(whole, on=keys, how="anti", nulls_equal=True)
    lost = past.join(again, on=keys, how="anti", nulls_equal=True)
    for rows, found in ((lost, "no such row"), (late, "a row that the full build does not have")):
        if rows.height:
            raise LookaheadError(f"{_row(rows, keys)}: expected the same rows {how}, found {found}; which rows exist depends on the future")
    both = past.join(again, on=keys, how="inner", nulls_equal=True, suffix="|again", maintain_order="left")
    if both.height != past.height:
        raise ContractError(f"result: expected one row for each of {keys}, found {both.height - past.height} repeated; drop them")
    flags = both.select(_differs(name, whole.schema[name]).alias(name) for name in values)
    for name, bad in zip(values, flags.select(pl.all().any()).row(0), strict=True):
        if bad:
            row = both.filter(flags[name])
            raise LookaheadError(
                f"{name}: {_row(row, keys)}: expected {row[name][0]}, found {row[f'{name}|again'][0]} {how}; the value knows its "
                "future: look for a negative shift, a fit over the whole span, a join on ts_ns where known_ns is meant"
            )
    return both.height


def _differs(name: str, kind: pl.DataType) -> pl.Expr:
    one, two = pl.col(name), pl.col(f"{name}|again")
    if kind not in (pl.Float64, pl.Float32):
        return one.ne_missing(two)
    one, two = one.fill_nan(None), two.fill_nan(None)
    scale = pl.max_horizontal(pl.lit(1.0), one.abs(), two.abs())
    near = (one == two) | ((one - two).abs() <= TOLERANCE * scale)
    return pl.when(one.is_null() | two.is_null()).then(one.is_null() != two.is_null()).otherwise(~near)


def _row(rows: pl.DataFrame, keys: Sequence[str]) -> str:
    """The first of some rows, for a person."""
    first = rows.sort("ts_ns", maintain_order=True).row(0, named=True)
    return " ".join(iso(first[key]) if key == "ts_ns" else str(first[key]) for key in keys)


def _poison(frame: pl.DataFrame, cut_ns: int, rng: np.random.Generator) -> pl.DataFrame:
    when = _when(frame)
    if when is None:
        return frame
    numbered = frame.with_row_index("|row")
    after = numbered.filter(pl.col(when) > cut_ns)
    fixed = {*_keys(frame), *(name for name in frame.columns if name.endswith("_ns"))}
    free = [name for name in frame.columns if name not in fixed]
    if not free:
        return frame
    groups = after.select(name for name in _keys(frame) if name != "ts_ns")
    group = groups.to_struct().rank("dense").to_numpy() if groups.width else np.zeros(after.height)
    source = np.empty(after.height, dtype=np.int64)
    source[np.argsort(group, kind="stable")] = np.lexsort((rng.random(after.height), group))
    dealt = after.select(free)[source]
    one_a_bar = pl.Series(np.exp(_NOISE * rng.standard_normal(after.height)))
    noisy = [
        dealt[name] * (one_a_bar if name in _PRICES else pl.Series(np.exp(_NOISE * rng.standard_normal(after.height))))
        for name in free
        if frame.schema[name].is_float()
    ]
    after = after.with_columns(dealt.with_columns(noisy).get_columns())
    return pl.concat([numbered.filter(pl.col(when) <= cut_ns), after]).sort("|row").drop("|row")


def _check_pair(left: str, a: Intervals, right: str, b: Intervals) -> None:
    """Sort the right by start; of those that start by the end of a left one, the latest end must lie before its start."""
    if not a.start.size or not b.start.size:
        return
    order = np.argsort(b.start, kind="stable")
    latest = np.maximum.accumulate(b.end[order])
    count = np.searchsorted(b.start[order], a.end, side="right")
    meets = (count > 0) & (latest[np.maximum(count - 1, 0)] >= a.start)
    if meets.any():
        i = int(np.argmax(meets))
        j = int(order[np.argmax(b.end[order][: count[i]] >= a.start[i])])
        raise LookaheadError(
            f"{left} and {right}: {int(meets.sum())} samples overlap, the first [{a.start[i]}, {a.end[i]}] meets "
            f"[{b.start[j]}, {b.end[j]}]; allowed 0; widen the purge"
        )


def _pooled_ic(prediction_TN: Float64Array, target_TN: Float64Array) -> float:
    sure = np.isfinite(prediction_TN) & np.isfinite(target_TN)
    a, b = prediction_TN[sure], target_TN[sure]
    if a.size < 2 or a.std() == 0 or b.std() == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])
