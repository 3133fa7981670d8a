"""Judges of time: does any value know its own future?

They call a builder again on inputs whose future is cut off, or replaced by noise, and compare what it
says about the past. They know nothing of what is built and run on every materialisation.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl

from plusultra_core.clock import iso
from plusultra_core.errors import ConfigError, ContractError, LookaheadError

Frames = Mapping[str, pl.DataFrame]
Builder = Callable[[dict[str, pl.DataFrame]], pl.DataFrame]

TOLERANCE = 1e-12
"""Of the largest size in the column; sums may be taken in another order, nothing more."""

_PRICES = frozenset({"open", "high", "low", "close", "vwap", "open_adj", "high_adj", "low_adj", "close_adj"})
_NOISE = 0.3
_AGAIN = "the table is not what its builder makes of its inputs: materialise it again, without those that it goes on from"
_EARLIEST, _LATEST = 0.3, 0.98  # cuts lie in this range of the distinct times: builders need a past, the judge a future


@dataclass(frozen=True, slots=True)
class LeakReport:
    """How much a clean check has looked at."""

    cuts_ns: tuple[int, ...]
    num_rows: int
    num_columns: int
    blind: tuple[str, ...]
    """Columns that held no value in any row looked at: nothing is said about them."""


@dataclass(frozen=True, slots=True)
class Stretches:
    """Cuts drawn in few short pieces of the panel instead of all over it, so that a build costs little.

    A piece is a world of its own: of every series of every input it holds the last `num_past` rows before its first
    cut, and what became known in the `num_future` times after it. What needs a longer past is blind there.
    """

    num: int
    num_past: int
    num_future: int


class _Piece(NamedTuple):
    inputs: dict[str, pl.DataFrame]
    whole: pl.DataFrame
    cuts_ns: tuple[int, ...]


def check_truncation(
    build: Builder,
    inputs: Frames,
    num_cuts: int,
    seed: int,
    max_symbols: int | None = None,
    keep: Sequence[str] = (),
    stretches: Stretches | None = None,
) -> LeakReport:
    """Rows known by a cut are the same when everything known later is cut from the inputs.

    Inputs are cut by `known_ns` (`ts_ns` where there is none; a frame with neither stays whole). Rows of the result
    count as known at `known_ns`, else `ts_ns`; a column that the cut takes away must be empty before it. NaN equals NaN
    and null; numbers agree to 1e-12 of the largest of their column. A leak shows only where it bites at a cut: more cuts find rarer ones.
    Read backwards it is the check that appended rows change nothing: what is cut off is what the next dump brings.

    max_symbols  looks at that many symbols of each frame, those of `keep` first.
    stretches    looks at some pieces of the panel; else at all of it.

    Raises  LookaheadError naming column, symbol, time and both values; ContractError where the result has no ts_ns.
    """

    def cut_off(frame: pl.DataFrame, cut_ns: int) -> pl.DataFrame:
        when = _when(frame)
        return frame if when is None else frame.filter(pl.col(when) <= cut_ns)

    chosen = _restrict(inputs, max_symbols, keep, seed)
    return _check(build, _pieces(build, chosen, num_cuts, seed, stretches), cut_off, "is cut off")


def check_poison(
    build: Builder,
    inputs: Frames,
    num_cuts: int,
    seed: int,
    max_symbols: int | None = None,
    keep: Sequence[str] = (),
    stretches: Stretches | None = None,
) -> LeakReport:
    """Rows known by a cut are the same when everything known later is replaced by noise.

    After the cut the values of an input are dealt out anew among rows of the same text keys (keys and times stay) and each
    float is multiplied by a random factor between about .4 and 2.5, one for all prices of a bar: high stays above low,
    a dividend below its price.

    Raises  as `check_truncation`.
    """

    def poisoned(frame: pl.DataFrame, cut_ns: int) -> pl.DataFrame:
        return _poison(frame, cut_ns, np.random.default_rng([seed, cut_ns & 0xFFFFFFFF]))

    chosen = _restrict(inputs, max_symbols, keep, seed)
    return _check(build, _pieces(build, chosen, num_cuts, seed, stretches), poisoned, "is replaced by noise")


def check_stored(stored: pl.DataFrame, rebuilt: pl.DataFrame) -> int:
    """Rows of a stored table that a rebuild says alike, to the last bit: the other checks judge the builder, this binds the table to it.

    Shapes  rebuilt: all rows of some symbols, and some columns of the table.
    NaN     equal to NaN and null.
    Raises  LookaheadError naming column, row and both values.
    """
    keys = _keys(rebuilt)
    there = stored.filter(pl.col("symbol").is_in(rebuilt["symbol"].unique().implode())).select(rebuilt.columns)
    if not there.select(keys).equals(rebuilt.select(keys)):
        raise LookaheadError(
            f"rows: expected the {rebuilt.height} that its builder makes of these symbols, found {there.height} others; {_AGAIN}"
        )
    for name in _values(rebuilt):
        one, two = (column.fill_nan(None) if column.dtype.is_float() else column for column in (there[name], rebuilt[name]))
        if (other := one.ne_missing(two)).any():
            row = there.filter(other)
            raise LookaheadError(
                f"{name}: {_row(row, keys)}: expected {two.filter(other)[0]}, found {row[name][0]} as it is stored; {_AGAIN}"
            )
    return rebuilt.height


def _check(build: Builder, pieces: Iterable[_Piece], change: Callable[[pl.DataFrame, int], pl.DataFrame], what: str) -> LeakReport:
    seen: list[int] = []
    num_rows, columns, sighted = 0, dict[str, None](), set[str]()
    for inputs, whole, cuts in pieces:
        for cut_ns in cuts:
            again = build({name: change(frame, cut_ns) for name, frame in inputs.items()})
            num_rows += _compare(whole, again, cut_ns, f"when everything after {iso(cut_ns)} {what}")
        past = whole.filter(pl.col(_when(whole) or "ts_ns") <= max(cuts)).select(_values(whole))
        valued = past.select(pl.col(name).fill_nan(None) if kind.is_float() else name for name, kind in past.schema.items())
        sighted |= {column.name for column in valued if column.null_count() < column.len()}
        columns |= dict.fromkeys(valued.columns)
        seen += cuts
    return LeakReport(
        cuts_ns=tuple(sorted(seen)),
        num_rows=num_rows,
        num_columns=len(columns),
        blind=tuple(name for name in columns if name not in sighted),
    )


def _pieces(build: Builder, inputs: dict[str, pl.DataFrame], num_cuts: int, seed: int, stretches: Stretches | None) -> Iterator[_Piece]:
    """Inputs, what is built of them, and the cuts to make there."""
    arrivals = [frame[name].cast(pl.Int64) for frame in inputs.values() if (name := _when(frame))]
    if stretches is None:
        whole = _built(build, inputs)
        yield _Piece(inputs, whole, _cuts(whole[_when(whole) or "ts_ns"], arrivals, num_cuts, seed))
        return
    times = arrivals[0].drop_nulls().unique().sort() if arrivals else pl.Series([], dtype=pl.Int64)
    rng = np.random.default_rng(seed)
    first, last = _range(times, num_cuts)
    inside = max(1, min(stretches.num_future // 2, last - first + 1))
    starts = {last - inside + 1, *rng.integers(first, last - inside + 2, stretches.num - 1).tolist()}
    for start in sorted(starts):
        picked = rng.choice(inside, min(inside, -(-num_cuts // stretches.num)), replace=False)
        picked[0] = inside - 1 if start == last - inside + 1 and inside - 1 not in picked else picked[0]
        cuts = tuple(int(times[start + i]) for i in sorted(picked.tolist()))
        end_ns = int(times[min(start + stretches.num_future, len(times) - 1)])
        piece = {name: _shorten(frame, cuts[0], end_ns, stretches.num_past) for name, frame in inputs.items()}
        yield _Piece(piece, _built(build, piece), cuts)


def _built(build: Builder, inputs: Frames) -> pl.DataFrame:
    whole = build(dict(inputs))
    if "ts_ns" not in whole.columns:
        raise ContractError(f"result: expected a column ts_ns, found {whole.columns}; build rows with a time")
    if repeated := whole.height - whole.select(_keys(whole)).n_unique():
        raise ContractError(f"result: expected one row for each of {_keys(whole)}, found {repeated} repeated; drop them")
    return whole


def _shorten(frame: pl.DataFrame, cut_ns: int, end_ns: int, num_past: int) -> pl.DataFrame:
    """What was known by the end; of each series of rows no more than its last num_past by the cut."""
    when = _when(frame)
    if when is None:
        return frame
    frame = frame.filter(pl.col(when) <= end_ns)
    series = [name for name in _keys(frame) if name != "ts_ns"]
    before = pl.col(when) <= cut_ns
    later = before.cast(pl.Int64).cum_sum(reverse=True)
    return frame.filter(~before | ((later.over(series) if series else later) <= num_past))


def _when(frame: pl.DataFrame) -> str | None:
    return next((name for name in ("known_ns", "ts_ns") if name in frame.columns), None)


def _restrict(inputs: Frames, max_symbols: int | None, keep: Sequence[str], seed: int) -> dict[str, pl.DataFrame]:
    """Frames with at most so many symbols each, the same for the same seed; rows without a symbol stay.

    Symbols of `keep`, then those of most frames come first: one without corporate actions would show nothing of how they are applied.
    """
    if max_symbols is None:
        return dict(inputs)
    members = [set(frame["symbol"].drop_nulls().unique().to_list()) for frame in inputs.values() if "symbol" in frame.columns]
    found = sorted({symbol for names in members for symbol in names})
    drawn = np.random.default_rng(seed).permutation(len(found)).tolist()
    rank = {
        symbol: (symbol not in keep, -sum(symbol in names for names in members), place) for symbol, place in zip(found, drawn, strict=True)
    }

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
        distinct = distinct.filter(distinct.is_in(pl.concat(list(given)).unique().implode()))
    first, last = _range(distinct, num_cuts)
    drawn = np.random.default_rng(seed).integers(first, last + 1, num_cuts - 1)
    return tuple(int(distinct[int(i)]) for i in sorted({last, *drawn.tolist()}))


def _range(times: pl.Series, num_cuts: int) -> tuple[int, int]:
    """First and last place of a cut."""
    first, last = int(_EARLIEST * len(times)), min(int(_LATEST * len(times)), len(times) - 2)
    if num_cuts < 1 or last < first:
        raise ConfigError(f"num_cuts: expected >= 1 and at least 4 distinct times, found {num_cuts} and {len(times)}")
    return first, last


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
    past, now = (frame.filter((pl.col(when) <= cut_ns) & (pl.col("ts_ns") <= cut_ns)) for frame in (whole, again))
    if past.equals(now.select(past.columns)):
        return past.height
    late = now.join(whole, on=keys, how="anti", nulls_equal=True)
    lost = past.join(again, on=keys, how="anti", nulls_equal=True)
    for rows, found in ((lost, "no such row"), (late, "a row that the full build does not have")):
        if rows.height:
            raise LookaheadError(f"{_row(rows, keys)}: expected the same rows {how}, found {found}; which rows exist depends on the future")
    both = past.join(again, on=keys, how="inner", nulls_equal=True, suffix="|again", maintain_order="left")
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
    finite = one.is_finite() & two.is_finite()
    largest = pl.max_horizontal(value.abs().filter(finite).max() for value in (one, two))
    near = (one == two) | (finite & ((one - two).abs() <= TOLERANCE * largest))
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
        (dealt[name] * (one_a_bar if name in _PRICES else pl.Series(np.exp(_NOISE * rng.standard_normal(after.height))))).cast(
            frame.schema[name]
        )
        for name in free
        if frame.schema[name].is_float()
    ]
    after = after.with_columns(dealt.with_columns(noisy).get_columns())
    return pl.concat([numbered.filter(pl.col(when) <= cut_ns), after]).sort("|row").drop("|row")
