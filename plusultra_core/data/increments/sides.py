"""Side tables of a later snapshot: the rows that were there, and among them those that came since."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import polars as pl

from plusultra_core.data.contract.frames import empty, sort
from plusultra_core.data.fx import RATES, build_rates
from plusultra_core.data.gate.ingest import versions_of
from plusultra_core.data.increments.files import is_short, kept, read_whole, stamp_of, unchanged
from plusultra_core.data.increments.pair import Pair, Span, cut, num_rows
from plusultra_core.data.increments.unchanged import text_runs
from plusultra_core.data.side_tables import SideTableConfig
from plusultra_core.data.tables import foreign_in, known, long_rows, money_beside, side_rows

_Runs = dict[str | None, Span]
"""Where the rows of each symbol lie."""


def extend_sides(pair: Pair, frame: pl.DataFrame) -> tuple[pl.DataFrame, int] | None:
    """The long frame of a class, and how many of its rows were there; a table that says otherwise of what was is made anew.

    None where all of it must be made: another class, or other money, decides what its rows are.
    """
    if pair.is_mixed and not pair.is_same_class:
        return None
    changed = [side for side in pair.source.cfg.side_tables if not _is_same(pair, side)]
    if not changed and not pair.is_mixed:
        return frame, frame.height
    fresh = _fresh(pair, changed) if pair.is_same_class else None
    if fresh is None and pair.is_mixed:
        return None
    if fresh is None:
        rest = frame.filter(~pl.col("table").is_in([side.table for side in changed]))
        made = side_rows(pair.source, pair.members["symbol"].to_list(), changed)
        return sort("side_tables", pl.concat([rest, made])), rest.height
    runs = {symbol: span for symbol, span in _runs(fresh).items() if symbol is None or symbol in pair.symbols}
    return _with_money(pair, frame, fresh, runs) if pair.is_mixed else (_merged(frame, fresh, runs), frame.height)


def _is_same(pair: Pair, side: SideTableConfig) -> bool:
    """Whether the rows of a side table that reach the class are those of the earlier snapshot."""
    versions = pair.versions(side.table)
    if versions is None:
        return False
    now, was = versions
    if not now and not was:
        return True
    if side.symbol_column is None or side.market_wide:
        return now == was and (side.symbol_column is None or pair.is_same_class)
    return pair.is_same_class and all(now.get(owner) == was.get(owner) for owner in ("", *pair.symbols))


def _fresh(pair: Pair, sides: Sequence[SideTableConfig]) -> pl.DataFrame | None:
    """What some side tables have beyond what they had, of every class, sorted; None where one says otherwise of what was."""
    stamps = tuple(stamp_of(pair.path(side.table)) for side in sides)
    folders = pair.old.folder, pair.source.folder, pair.stamps

    def made() -> pl.DataFrame | None:
        parts = [kept(("since", *folders, *one), partial(_since, pair, one[0])) for one in zip(sides, stamps, strict=True)]
        whole = [part for part in parts if part is not None]
        return sort("side_tables", pl.concat([empty("side_tables"), *whole])) if len(whole) == len(parts) else None

    return kept(("fresh", *folders, stamps, tuple(sides)), made)


def _since(pair: Pair, side: SideTableConfig) -> pl.DataFrame | None:
    """Rows of one table that came since, as rows of the long frame; None where an owner no longer begins with all that it had."""
    versions = pair.versions(side.table)
    if versions is None or set(versions[1]) - set(versions[0]):
        return None
    now, was = versions
    grown = [owner for owner in now if now[owner] != was.get(owner)]
    spans = [pair.spans[side.table][owner] for owner in grown]
    before = [num_rows(was[owner]) if owner in was else 0 for owner in grown]
    if any(num_before > num for num_before, (_, num) in zip(before, spans, strict=True)):
        return None
    path = pair.path(side.table)
    table = read_whole(path) if is_short(path) else pl.read_parquet(unchanged(path))
    then = cut(table, [(start, num) for (start, _), num in zip(spans, before, strict=True)])
    if versions_of(then, table.columns[0]) != {owner: was[owner] for owner in grown if owner in was}:
        return None
    rows = cut(table, [(start + num_before, num - num_before) for (start, num), num_before in zip(spans, before, strict=True)])
    symbols = [] if side.symbol_column is None else rows[side.symbol_column].drop_nulls().unique().cast(pl.String).to_list()
    return long_rows(known(rows.lazy(), side.lag_s), symbols, side)


def _with_money(pair: Pair, frame: pl.DataFrame, fresh: pl.DataFrame, runs: _Runs) -> tuple[pl.DataFrame, int] | None:
    """The same of a class in several currencies: what they were worth is asked again, of the pairs of the later snapshot."""
    series, spans = pair.whole("series", "series"), pair.spans.get("series", {})
    if series is None or pair.market is None:
        return None
    own, pairs = ([spans[symbol] for symbol in sorted(symbols) if symbol in spans] for symbols in (pair.symbols, pair.source.pairs()))
    first_ns = series["ts_ns"].gather([start for start, num in own if num]).min()
    rates = build_rates(foreign_in(pair.members, pair.market), cut(series, pairs), pair.market.currency, pair.market.exchange)
    money = money_beside(pair.members, rates, pair.market, first_ns)  # type: ignore[arg-type]
    symbols = _runs(frame)
    wide, told = frame.slice(*symbols.pop(None, (0, 0))), money.filter(pl.col("symbol").is_null())
    if not wide.filter(pl.col("table") == RATES).equals(told, null_equal=True):
        return None
    rest = cut(frame, symbols.values())
    plain = rest.filter(pl.col("table") != RATES)
    rated = money.filter(pl.col("symbol").is_not_null())
    if plain.is_empty() and set(runs) <= {None}:
        rated = rated if rated["symbol"].is_sorted() else sort("side_tables", rated)  # a symbol's rates lie as they became known
    else:
        rated = sort("side_tables", pl.concat([plain, rated, cut(fresh, [span for symbol, span in runs.items() if symbol is not None])]))
    wide_runs: _Runs = {symbol: span for symbol, span in runs.items() if symbol is None}
    return pl.concat([_merged(wide, fresh, wide_runs), rated], rechunk=True), wide.height + plain.height


def _runs(frame: pl.DataFrame) -> _Runs:
    symbol = frame["symbol"]
    if symbol.null_count() == frame.height:
        return {None: (0, frame.height)} if frame.height else {}
    if (found := text_runs(symbol)) is not None:
        symbols, starts = found[0].to_list(), found[1]
    else:
        runs = symbol.rle().struct.unnest()
        symbols, starts = runs["value"].to_list(), (runs["len"].cum_sum() - runs["len"]).to_numpy()
    lengths = np.diff(starts, append=frame.height)
    return dict(zip(symbols, zip(starts.tolist(), lengths.tolist(), strict=True), strict=True))


def _merged(frame: pl.DataFrame, fresh: pl.DataFrame, runs: _Runs) -> pl.DataFrame:
    """Rows of the long frame with runs of others among them: of each symbol, those before its first new time lie as they did."""
    if not runs:
        return frame
    old, times = _runs(frame), frame["ts_ns"].to_numpy()
    pieces: list[pl.DataFrame] = []
    done = 0
    for symbol in sorted({*old, *runs}, key=lambda symbol: (symbol is not None, symbol or "")):
        if symbol not in runs:
            continue
        rows = fresh.slice(*runs[symbol])
        start, num = old[symbol] if symbol in old else (_place(old, symbol, frame.height), 0)
        begin = start + int(np.searchsorted(times[start : start + num], rows["ts_ns"][0], side="left"))
        rest = frame.slice(begin, start + num - begin)
        pieces += [frame.slice(done, begin - done), rows if rest.is_empty() else sort("side_tables", pl.concat([rest, rows]))]
        done = start + num
    return pl.concat([*pieces, frame.slice(done)], rechunk=True)


def _place(old: _Runs, symbol: str | None, end: int) -> int:
    """Where the rows of a symbol that has none yet belong: before those of the next one."""
    if symbol is None:
        return 0
    return next((start for other, (start, _) in old.items() if other is not None and other > symbol), end)
