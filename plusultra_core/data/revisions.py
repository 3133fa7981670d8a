"""What a snapshot says otherwise than the one before it of the same universe: rows revised, gone, new, come late; symbols new and gone.

A comparison is no part of a snapshot: the same dump gives the same bytes whatever was there before it.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from plusultra_core.artifacts import MANIFEST
from plusultra_core.clock import iso
from plusultra_core.data.gate.findings import Finding, Row, describe, plain
from plusultra_core.data.gate.schema import SHAPES, TableShape
from plusultra_core.data.gate.timestamps import to_ns
from plusultra_core.errors import ContractError

TABLES = "tables"
"""Folder of a snapshot with one Parquet file a table."""
SAME_UNIVERSE = 0.5
"""Two snapshots are of one universe when they share this part of the symbols that either has bars of."""
KINDS = ("revised", "column_gone", "gone", "late", "new", "symbol_gone", "symbol_new")
"""What can be said of rows: `late` ones are new and lie before the end of what was known of their symbol."""
SCHEMA = {
    "table": pl.String,
    "symbol": pl.String,
    "kind": pl.String,
    "num_rows": pl.Int64,
    "first_ts": pl.Int64,
    "last_ts": pl.Int64,
    "column": pl.String,
    "largest_change": pl.Float64,
}
_SLICE_ROWS = 2_000_000
_SAMPLES = 5
_SHOWN = {"new": "new", "late": "late", "revised": "revised", "gone": "gone", "symbol_new": "new", "symbol_gone": "gone"}
_AS_BEFORE = "the rows of the snapshot before, unchanged"
Frames = Mapping[str, pl.DataFrame]
Keys = Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class Revisions:
    """The comparison of two snapshots.

    `frame` has one row for each table, symbol, kind and, where rows were revised, column (SCHEMA; times in ns;
    `largest_change` is |now - before| / |before|, null where all were 0 before); `counts` are totals of `rows_*` and `symbols_*`.
    """

    frame: pl.DataFrame
    findings: tuple[Finding, ...]
    counts: dict[str, int]
    revised: dict[str, int]
    """Rows revised, in one column or several, by table."""

    def by_table(self) -> list[Row]:
        """New, late, revised and gone rows of each table in which there are any, for people."""
        rows = self.frame.group_by("table", "kind").agg(pl.col("num_rows").sum())
        found: dict[str, Row] = {table: {"table": table, **dict.fromkeys(_SHOWN.values(), 0)} for table in sorted(set(rows["table"]))}
        for table, kind, num_rows in rows.iter_rows():
            if kind in _SHOWN:
                found[table][_SHOWN[kind]] = self.revised[table] if kind == "revised" else num_rows
        return list(found.values())

    def changes(self, num_rows: int) -> list[Row]:
        """What was revised, is gone or came late, by table, symbol and column: the first rows, for people."""
        told = self.frame.filter(pl.col("kind") != "new").head(num_rows)
        return [
            {name: iso(value) if name in ("first_ts", "last_ts") and value is not None else value for name, value in row.items()}
            for row in told.to_dicts()
        ]


class _Pair(NamedTuple):
    """One table in both snapshots, rows of the same symbols, sorted by symbol and time; `group` is the symbol, or nothing."""

    table: str
    keys: tuple[str, ...]
    before: pl.DataFrame
    now: pl.DataFrame


def keys_of(shapes: Sequence[TableShape]) -> dict[str, tuple[str, ...]]:
    """Key columns of every table as the tables of a snapshot name them: those of the contract and those of a config."""
    found = {}
    for shape in (*SHAPES.values(), *shapes):
        named = {shape.time: "ts_ns", shape.known_at: "known_at_ns"}
        found[shape.table] = tuple(named.get(key, key) for key in shape.keys) or ("symbol",)
    return found


def find_previous(store: Path, current: Path) -> str | None:
    """Key of the snapshot in `store` that another is to be compared with: of the same universe, ending last of those not after it.

    Among equals the one that shares more symbols, then the greater key. None when there is no such snapshot.
    """
    own_symbols, own_last = _universe(current)
    best: tuple[int, float, str] | None = None
    for folder in sorted(store.iterdir()) if store.is_dir() else ():
        if folder.name == current.name or folder.name.startswith("."):  # what a process has under way, or a killed one left
            continue
        if not (folder / MANIFEST).exists() or not (folder / TABLES / "assets.parquet").exists():
            continue
        symbols, last = _universe(folder)
        shared = len(symbols & own_symbols) / max(1, len(symbols | own_symbols))
        if shared >= SAME_UNIVERSE and last <= own_last:
            best = max(best or (last, shared, folder.name), (last, shared, folder.name))
    return best[2] if best else None


def compare(previous: Path, current: Path, shapes: Sequence[TableShape]) -> Revisions:
    """Compare the tables of two snapshot directories; `shapes` are those of the tables that only the config knows.

    Raises  ContractError when a directory has no tables.
    """
    for path in (previous, current):
        if not (path / TABLES).is_dir():
            raise ContractError(f"{path.name}: expected a snapshot with {TABLES}/, found none; take the snapshot again")
    keys = keys_of(shapes)
    unchanged = _same_files(previous, current)
    names = sorted({path.stem for folder in (previous, current) for path in (folder / TABLES).glob("*.parquet")})
    pairs = (pair for name in names if name not in unchanged for pair in _slices(name, keys, previous / TABLES, current / TABLES))
    return _compare(pairs)


def since_previous(store: Path, current: Path, shapes: Sequence[TableShape]) -> tuple[str, Revisions] | None:
    """What a snapshot says otherwise than the one in `store` that it follows, with that one's key; None for the first of its universe."""
    previous = find_previous(store, current)
    return None if previous is None else (previous, compare(store / previous, current, shapes))


def compare_frames(previous: Frames, current: Frames, keys: Keys) -> Revisions:
    """The same of tables in memory, sorted by symbol and ts_ns."""
    names = sorted({*previous, *current})
    blank = pl.DataFrame()
    return _compare(_pair(name, keys, previous.get(name, blank), current.get(name, blank)) for name in names)


def _universe(folder: Path) -> tuple[frozenset[str], int]:
    """Symbols with bars, and the last bar."""
    manifest = json.loads((folder / MANIFEST).read_bytes())
    without = {s for finding in manifest["findings"] if finding["code"] == "no_bars" for s in finding["symbols"]}
    symbols = pl.read_parquet(folder / TABLES / "assets.parquet", columns=["symbol"])["symbol"]
    if manifest["quarantined"]:  # the range is that of the dump: a bar of the year 2090 may be why a symbol was set aside
        last_ns = pl.scan_parquet(folder / TABLES / "series.parquet").select(pl.col("ts_ns").max()).collect().item()
    else:
        last_ns = to_ns(pl.Series([str(manifest["ranges"]["series"]["last"]).replace("T", " ")]), "ranges.series.last")[0]
    return frozenset(symbols) - without - {*manifest["quarantined"]}, int(last_ns)


def _same_files(previous: Path, current: Path) -> set[str]:
    """Tables whose files are the same, byte by byte."""
    files = [json.loads((path / MANIFEST).read_bytes())["files"] if (path / MANIFEST).exists() else {} for path in (previous, current)]
    return {Path(name).stem for name, entry in files[0].items() if name.startswith(f"{TABLES}/") and files[1].get(name) == entry}


def _pair(table: str, keys: Keys, before: pl.DataFrame, now: pl.DataFrame) -> _Pair:
    """Columns of both that can be compared, in one type; a table that one of the two lacks has no rows there."""
    before = now.clear() if before.width == 0 else before
    now = before.clear() if now.width == 0 else now
    unnamed = [name for name, dtype in before.schema.items() if not dtype.is_float()]
    own = tuple(key for key in keys.get(table, unnamed) if key in before.columns and key in now.columns)
    group = pl.col("symbol").cast(pl.String).fill_null("") if "symbol" in before.columns and "symbol" in now.columns else pl.lit("")
    cast = {name: dtype for name, dtype in before.schema.items() if name in now.columns and now.schema[name] != dtype}
    now = now.with_columns(pl.col(name).cast(dtype, strict=False) for name, dtype in cast.items())
    before, now = (frame.with_columns(group=group) for frame in (before, now))
    before, now = (frame if frame["group"].is_sorted() else frame.sort("group", maintain_order=True) for frame in (before, now))
    return _Pair(table, own, before, now)


def _slices(table: str, keys: Keys, previous: Path, current: Path) -> Iterator[_Pair]:
    """One table, some millions of rows at a time: whole symbols, which lie together in both files."""
    scans = [pl.scan_parquet(path) if path.exists() else None for path in (previous / f"{table}.parquet", current / f"{table}.parquet")]
    schemas = [scan.collect_schema() if scan is not None else None for scan in scans]
    if any(schema is not None and "symbol" not in schema for schema in schemas):
        yield _pair(table, keys, *(scan.collect() if scan is not None else pl.DataFrame() for scan in scans))
        return
    counts = [
        (scan.select("symbol").collect() if scan is not None else pl.DataFrame(schema={"symbol": pl.String}))
        .group_by("symbol")
        .len(name)
        .with_columns(pl.col(name).cast(pl.Int64))
        for scan, name in zip(scans, ("before", "now"), strict=True)
    ]
    both = counts[0].join(counts[1], on="symbol", how="full", coalesce=True, nulls_equal=True).fill_null(0).sort("symbol")
    ends = both.select(pl.col("before", "now").cum_sum())
    piece = ((ends["before"] + ends["now"]) // _SLICE_ROWS).rle().struct.field("len").cum_sum()
    at = [0, 0]
    for last in piece:
        until = [int(ends[name][last - 1]) for name in ("before", "now")]
        cut = [scan.slice(a, b - a).collect() if scan is not None else pl.DataFrame() for scan, a, b in zip(scans, at, until, strict=True)]
        yield _pair(table, keys, *cut)
        at = until


def _compare(pairs: Iterator[_Pair]) -> Revisions:
    frames, samples = [pl.DataFrame(schema=SCHEMA)], dict[tuple[str, str], list[Row]]()
    revised: dict[str, int] = {}
    for pair in pairs:
        changes, shown, num_revised = _compare_pair(pair)
        frames.append(changes)
        revised[pair.table] = revised.get(pair.table, 0) + num_revised
        for kind, rows in shown.items():
            samples.setdefault((pair.table, kind), []).extend(rows)
    frame = pl.concat(frames).sort("table", pl.col("kind").replace_strict(KINDS, range(len(KINDS))), "symbol", "column")
    return Revisions(frame, tuple(_tell(frame, revised, samples)), _count(frame, revised), revised)


def _compare_pair(pair: _Pair) -> tuple[pl.DataFrame, dict[str, list[Row]], int]:
    """Changes of one table, first rows of each kind, and how many rows were revised (in one column or several)."""
    before, now = pair.before, pair.now
    settled, tail = _settled(pair)
    left = before.with_row_index("i").filter(~pl.col("group").is_in(settled.implode()))
    right = now.with_row_index("j").filter(~pl.col("group").is_in(settled.implode()))
    keys = list(pair.keys)
    matched = left.select("i", *keys).join(right.select("j", *keys), on=keys, how="inner", nulls_equal=True).sort("i")
    gone = before[left.filter(~pl.col("i").is_in(matched["i"].implode()))["i"]]
    extra = now[pl.concat([tail, right.filter(~pl.col("j").is_in(matched["j"].implode()))["j"]]).sort()]
    extra = extra.with_columns(late=_late(pair, extra))
    changed, shown, num_revised = _revised(pair, matched)
    lost = [name for name in before.columns if name not in now.columns and before[name].count()]
    dropped = [_by_symbol(pair.table, "column_gone", before.filter(pl.col(name).is_not_null()), name) for name in lost]
    names = ("symbol_gone", "symbol_new", "symbol_new") if pair.table == "assets" else ("gone", "late", "new")
    parts = {"gone": gone, "late": extra.filter("late"), "new": extra.filter(~pl.col("late"))}
    told = [_by_symbol(pair.table, kind, rows) for kind, rows in zip(names, parts.values(), strict=True)]
    shown |= {kind: _sample(rows, pair.keys) for kind, rows in parts.items()}
    return pl.concat([*changed, *dropped, *told]), shown, num_revised


def _settled(pair: _Pair) -> tuple[pl.Series, pl.Series]:
    """Symbols that begin with all they had, row by row and bit by bit, and the places of what they have since."""
    runs = [
        frame.group_by("group", maintain_order=True)
        .agg(num=pl.len().cast(pl.Int64))
        .with_columns(start=pl.col("num").cum_sum() - pl.col("num"))
        for frame in (pair.before, pair.now)
    ]
    both = runs[0].join(runs[1], on="group", suffix="_now", maintain_order="left").filter(pl.col("num") <= pl.col("num_now"))
    if both.is_empty() or set(pair.before.columns) - set(pair.now.columns):
        return pl.Series(dtype=pl.String), pl.Series(dtype=pl.UInt32)
    old, head = _ranges(both["start"], both["num"]), _ranges(both["start_now"], both["num"])
    whole = len(old) == pair.before.height
    equal = np.ones(len(old), dtype=bool)
    for name in pair.before.columns:
        column = pair.before[name] if whole else pair.before[name].gather(old)
        equal &= column.eq_missing(pair.now[name].gather(head)).to_numpy()
    starts = (both["num"].cum_sum() - both["num"]).to_numpy()
    same = both.filter(pl.Series(np.logical_and.reduceat(equal, starts)))
    tail = _ranges(same["start_now"] + same["num"], same["num_now"] - same["num"])
    return same["group"], pl.Series(tail, dtype=pl.UInt32)


def _late(pair: _Pair, extra: pl.DataFrame) -> pl.Series:
    """Whether a new row could have been known before: not after the newest row of its series, by `known_at` where there is one.

    A series is a symbol, and a name where the table has several.
    """
    if "ts_ns" not in pair.before.columns or extra.is_empty():
        return pl.repeat(False, extra.height, eager=True)
    time = pl.coalesce(*(name for name in ("known_at_ns", "ts_ns") if name in pair.before.columns and name in extra.columns))
    named = [key for key in pair.keys if key not in ("ts_ns", "known_at_ns")]
    series = named if named and "ts_ns" in pair.keys else ["group"]
    until = pair.before.group_by(series).agg(until_ns=time.max())
    known = extra.select(*series, time_ns=time).join(until, on=series, how="left", nulls_equal=True, maintain_order="left")
    return (known["time_ns"] <= known["until_ns"]).fill_null(False)


def _ranges(starts: pl.Series, lengths: pl.Series) -> np.ndarray:
    """Places start, start + 1, ... of every range, one after the other."""
    first, count = starts.to_numpy(), lengths.to_numpy()
    return np.repeat(first - (np.cumsum(count) - count), count) + np.arange(count.sum())


def _revised(pair: _Pair, matched: pl.DataFrame) -> tuple[list[pl.DataFrame], dict[str, list[Row]], int]:
    """Rows of the same key and other values, by symbol and column."""
    left, right = pair.before[matched["i"]], pair.now[matched["j"]]
    any_changed = np.zeros(matched.height, dtype=bool)
    frames, shown = [], list[Row]()
    for name in left.columns:
        if name in pair.keys or name == "group" or name not in right.columns:
            continue
        other = ~left[name].eq_missing(right[name])
        if not other.any():
            continue
        any_changed |= other.to_numpy()
        was, is_now = left.filter(other), right.filter(other)[name]
        size = (
            ((is_now - was[name]) / was[name]).abs() if was[name].dtype.is_numeric() else pl.Series([None] * was.height, dtype=pl.Float64)
        )
        frames.append(_by_symbol(pair.table, "revised", was.with_columns(size=size.cast(pl.Float64)), name))
        pairs = zip(_sample(was, pair.keys), was[name].head(_SAMPLES), is_now.head(_SAMPLES), strict=True)
        shown += [{**row, "column": name, "was": plain(old), "now": plain(new)} for row, old, new in pairs]
    return frames, {"revised": shown}, int(any_changed.sum())


def _by_symbol(table: str, kind: str, rows: pl.DataFrame, column: str | None = None) -> pl.DataFrame:
    time = pl.col("ts_ns") if "ts_ns" in rows.columns else pl.lit(None, pl.Int64)
    size = pl.col("size").filter(pl.col("size").is_finite()).max() if "size" in rows.columns else pl.lit(None, pl.Float64)
    found = rows.group_by("group", maintain_order=True).agg(
        num_rows=pl.len().cast(pl.Int64), first_ts=time.min(), last_ts=time.max(), largest_change=size
    )
    symbol = pl.when(pl.col("group") != "").then("group")
    said = {"table": pl.lit(table), "symbol": symbol, "kind": pl.lit(kind), "column": pl.lit(column, pl.String)}
    return found.select(*(said[name].alias(name) if name in said else pl.col(name) for name in SCHEMA))


def _sample(rows: pl.DataFrame, keys: Sequence[str]) -> list[Row]:
    """Keys of the first rows, times as people read them."""
    return [
        {name: iso(value) if name in ("ts_ns", "known_at_ns") and value is not None else plain(value) for name, value in row.items()}
        for row in rows.select(*keys).head(_SAMPLES).to_dicts()
    ]


def _count(frame: pl.DataFrame, revised: Mapping[str, int]) -> dict[str, int]:
    total = dict(frame.group_by("kind").agg(pl.col("num_rows").sum()).iter_rows())
    symbols = {f"symbols_{name}": int(total.get(f"symbol_{name}", 0)) for name in ("new", "gone")}
    rows = {f"rows_{name}": int(total.get(name, 0)) for name in ("new", "late", "gone")}
    return {**rows, "rows_revised": sum(revised.values()), **symbols}


def _tell(frame: pl.DataFrame, revised: Mapping[str, int], samples: Mapping[tuple[str, str], list[Row]]) -> list[Finding]:
    """Findings by table and kind; rows of a symbol that is gone are told of with the symbol, rows after the old end are news."""
    departed = frame.filter(pl.col("kind") == "symbol_gone")["symbol"].implode()
    spoken = frame.filter((pl.col("kind") != "new") & ~((pl.col("kind") == "gone") & pl.col("symbol").is_in(departed).fill_null(False)))
    findings = []
    for (table, kind), found in spoken.group_by("table", "kind", maintain_order=True):
        code, column, expected, remedy = _WORDS[str(kind)]
        sampled = {"symbol_gone": "gone", "symbol_new": "new"}.get(str(kind), str(kind))
        symbols = tuple(found["symbol"].drop_nulls().unique().sort().to_list())
        rows = tuple(row for row in samples.get((str(table), sampled), []) if row.get("symbol") is None or row["symbol"] in symbols)
        count = revised[str(table)] if kind == "revised" else int(found["num_rows"].sum())
        names = ", ".join(found["column"].drop_nulls().unique().sort().to_list()) or column
        message = describe(f"{table}.{names}" if names else str(table), count, rows[:_SAMPLES], expected, remedy)
        findings.append(Finding("warning", code, str(table), names, message, rows[:_SAMPLES], symbols))
    return findings


_WORDS: Mapping[str, tuple[str, str | None, str, str]] = {
    "revised": ("history_revised", None, _AS_BEFORE, "see whether the source restated them; features of these symbols are made anew"),
    "column_gone": ("history_revised", None, "the columns of the snapshot before", "export the column again"),
    "late": ("history_revised", None, "new rows after those of the snapshot before", "filled in later; say so by known_at"),
    "gone": ("rows_gone", None, _AS_BEFORE, "export the whole history"),
    "symbol_gone": ("symbols_gone", "symbol", "the symbols of the snapshot before", "keep those that were delisted"),
    "symbol_new": ("symbols_new", "symbol", "the symbols of the snapshot before", "nothing, if they were listed since"),
}
