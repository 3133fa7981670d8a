"""Rows of a dump as typed columns, a block at a time; the rules on them, and tallies of the rows that break one.

A column of SQLite may hold anything. Each chunk of rows is tried as what its column should be, strictly; only a chunk that
refuses is looked at cell by cell.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from plusultra_core.arrays import Int64Array
from plusultra_core.data.gate.connection import quote
from plusultra_core.data.gate.findings import Finding, Level, ValidationConfig, describe, plain
from plusultra_core.data.gate.schema import TableShape

MAX_NUMBER = 1e300
"""Beyond it a number is taken for infinite."""
BLOCK_ROWS = 65_536
"""Rows judged together."""
BLOCK_BYTES = 64_000_000
"""Cells judged together, where they are long."""
RESERVED = ("ts_ns", "known_at_ns")
"""Columns that the tables of a snapshot have for themselves; those of a dump with these names are not read."""
QUARANTINE_ROWS = 10_000
"""Rows set aside for one rule of one table; beyond that they are only counted."""
_FETCH_ROWS = 512  # rows that are Python objects at a time: more of them fall out of the processor's cache
_UNREAD = ("metadata",)
_DTYPES = {str: pl.String, int: pl.Int64, float: pl.Float64, bytes: pl.Binary}

Cells = Sequence[object]


class Tally:
    """Rows that break one rule: how many, the first of them, and whose they are."""

    def __init__(self, keep: int) -> None:
        self.keep = keep
        self.count = 0
        self.places: Int64Array = np.empty(0, np.int64)
        """The first `keep` rows, counted from 0 in the order of the table."""
        self.symbols: set[str] = set()
        self.nameless = False
        """Some row has no symbol that is text."""

    def add(self, places: Int64Array, symbols: pl.Series | None) -> None:
        """Count some rows; `symbols` are theirs."""
        if not len(places):
            return
        self.count += len(places)
        self.places = np.sort(np.concatenate([self.places, places]))[: self.keep]
        if symbols is None or symbols.dtype != pl.String or symbols.null_count():
            self.nameless = True
        else:
            self.symbols.update(symbols.unique())

    def told(self) -> tuple[str, ...] | None:
        """Every symbol concerned, None where some row has none."""
        return None if self.nameless or not self.count else tuple(sorted(self.symbols))


NEVER = pl.lit(False)


@dataclass(frozen=True, slots=True)
class KeyRules:
    """What the keys of every table are checked against."""

    cfg: ValidationConfig
    now_ns: int
    symbols: frozenset[str]

    @property
    def keep(self) -> int:
        """Rows kept of each rule that is broken."""
        return self.cfg.sample_rows if self.cfg.mode == "strict" else max(QUARANTINE_ROWS, self.cfg.sample_rows)


@dataclass(slots=True)
class Broken:
    """One rule of a table, and the rows that break it."""

    code: str
    level: Level
    column: str
    expected: str
    tally: Tally
    holds: pl.Expr = NEVER
    """True for rows that break it."""
    by_symbol: bool = True

    def add(self, bad: pl.Series, places: pl.Series, symbols: pl.Series | None) -> None:
        """Count the rows of a block that break it."""
        self.tally.add(places.filter(bad).to_numpy().astype(np.int64), None if symbols is None else symbols.filter(bad))


@dataclass(slots=True)
class Reader:
    """One scan of one table. In columns of `not_numbers` no text is read as a number, because some of it is none."""

    shape: TableShape
    keep: int
    not_numbers: frozenset[str] = frozenset()
    keys: tuple[str, ...] = ()
    """Columns that say which row it is."""
    numbers: tuple[str, ...] = ()
    """Columns read as numbers."""
    columns: tuple[str, ...] = ()
    """Every column that is read, keys first."""
    kinds: dict[str, type] = field(default_factory=dict)
    """The type that each key column holds; none where it is empty."""
    mixed: set[str] = field(default_factory=set)
    """Key columns that hold several types."""
    odd: dict[str, Tally] = field(default_factory=dict)
    """Text and blobs in number columns."""
    spoiled: set[str] = field(default_factory=set)
    """Number columns with something that cannot be read as a number."""
    num_rows: int = 0

    def __post_init__(self) -> None:
        shape = self.shape
        named = (shape.time, shape.symbol, shape.known_at, *shape.keys)
        self.keys = tuple(dict.fromkeys(name for name in named if name is not None))
        self.kinds = dict.fromkeys(shape.integers, int)
        self.numbers = tuple(name for name in shape.numbers if name not in RESERVED)
        rest = (name for name in (*shape.required, *shape.optional) if name not in (*_UNREAD, *RESERVED))
        self.columns = tuple(dict.fromkeys((*self.keys, *self.numbers, *rest)))

    def query(self) -> str:
        """SQL for every row, as the table lies: an index may lie."""
        return f"SELECT {', '.join(map(quote, self.columns))} FROM {quote(self.shape.table)} NOT INDEXED"

    def blocks(self, db: sqlite3.Connection) -> Iterator[pl.DataFrame]:
        """The rows in the order of the table: number columns Float64, key columns what they hold, others text or null."""
        cursor = db.execute(self.query())
        while True:
            parts: dict[str, list[pl.Series]] = {name: [] for name in self.columns}
            start, size = self.num_rows, 0
            while self.num_rows < start + BLOCK_ROWS and size < BLOCK_BYTES and (rows := cursor.fetchmany(_FETCH_ROWS)):
                cells = dict(zip(self.columns, zip(*rows, strict=True), strict=True))
                for name in self.columns:
                    typed = self._typed(name, cells)
                    parts[name].append(typed)
                    size += 8 * len(typed) if name in self.numbers else int(typed.estimated_size())
                self.num_rows += len(rows)
            if self.num_rows == start:
                return
            yield pl.DataFrame([_join(pieces) for pieces in parts.values()])

    def fetch(self, db: sqlite3.Connection, places: Iterable[int]) -> dict[int, dict[str, object]]:
        """The cells of some rows as they stand in the dump; the table is scanned as far as the last of them."""
        wanted = np.unique(np.fromiter(places, np.int64))
        found: dict[int, dict[str, object]] = {}
        if not len(wanted):
            return found
        cursor = db.execute(f"{self.query()} LIMIT {wanted[-1] + 1}")
        start = 0
        while rows := cursor.fetchmany(_FETCH_ROWS):
            here = wanted[np.searchsorted(wanted, start) : np.searchsorted(wanted, start + len(rows))]
            found |= {int(place): dict(zip(self.columns, rows[place - start], strict=True)) for place in here}
            start += len(rows)
        return found

    def _typed(self, name: str, cells: Mapping[str, Cells]) -> pl.Series:
        values = cells[name]
        number = name in self.numbers
        kind = float if number else self.kinds.get(name, str)
        try:
            typed = pl.Series(name, values, dtype=_DTYPES[kind], strict=True)
        except TypeError:
            if number:
                return self._odd_numbers(name, cells)
            return self._odd_keys(name, values) if name in self.keys else _texts(name, values)
        if name not in self.kinds and typed.null_count() < len(typed):
            self.kinds[name] = kind
        return typed

    def _odd_keys(self, name: str, values: Cells) -> pl.Series:
        """A chunk of a key column that is not of the type that was expected."""
        found = {type(value) for value in values if value is not None}
        found |= {self.kinds[name]} if name in self.kinds else set()
        if len(found) > 1:
            self.mixed.add(name)
            return _texts(name, values)
        self.kinds[name] = found.pop()
        return pl.Series(name, values, dtype=_DTYPES[self.kinds[name]], strict=True)

    def _odd_numbers(self, name: str, cells: Mapping[str, Cells]) -> pl.Series:
        """Numbers among which there is text or a blob; what is no number counts as larger than all, as in SQLite."""
        values = cells[name]
        number = pl.Series([value if isinstance(value, int | float) else None for value in values], dtype=pl.Float64, strict=True)
        odd = pl.Series([isinstance(value, str | bytes) for value in values], dtype=pl.Boolean)
        read = _texts(name, values).cast(pl.Float64, strict=False)
        good = read.is_finite().fill_null(False)
        if (odd & ~good).any():
            self.spoiled.add(name)
        symbols = _texts("symbol", cells[self.shape.symbol]).filter(odd) if self.shape.symbol else None
        places = self.num_rows + odd.arg_true().to_numpy().astype(np.int64)
        self.odd.setdefault(name, Tally(self.keep)).add(places, symbols)
        frame = pl.DataFrame({"number": number, "odd": odd, "read": read, "good": good & (name not in self.not_numbers)})
        value = pl.when("good").then("read").when("odd").then(float("inf")).otherwise("number")
        return frame.select(value.alias(name)).to_series()


def _texts(name: str, values: Cells) -> pl.Series:
    """What of the values is text."""
    try:
        return pl.Series(name, values, dtype=pl.String, strict=True)
    except TypeError:
        return pl.Series(name, [value if isinstance(value, str) else None for value in values], dtype=pl.String)


def _join(pieces: Sequence[pl.Series]) -> pl.Series:
    """Pieces of a column as one; a piece without values takes the type of the others."""
    dtypes = {piece.dtype for piece in pieces if piece.null_count() < len(piece)}
    if len(dtypes) > 1:  # a key column that turned out to be mixed: it is told of, and not used
        dtypes = {pl.String()}
    dtype = dtypes.pop() if dtypes else pieces[0].dtype
    return pl.concat([piece if piece.dtype == dtype else piece.cast(dtype, strict=False) for piece in pieces], rechunk=True)


def number_rules(reader: Reader) -> list[tuple[str, Level, str, str, pl.Expr]]:
    """Code, level, column, what is expected, and when it is broken."""
    shape = reader.shape
    rules: list[tuple[str, Level, str, str, pl.Expr]] = []
    rules += [(rule.code, rule.level, rule.column, rule.expected, pl.sql_expr(rule.predicate)) for rule in shape.rules]
    for column in reader.numbers:
        value = pl.col(column)
        rules.append(("not_finite", "error", column, "a finite number", value >= MAX_NUMBER))
        if column in shape.positive:
            rules.append(("not_positive", "error", column, "> 0", value <= 0))
        elif column in shape.nonnegative:
            rules.append(("negative", "error", column, ">= 0", value < 0))
        else:
            rules.append(("not_finite", "error", column, "a finite number", value <= -MAX_NUMBER))
    if shape.table == "series":
        if {"high", "low"} <= set(shape.positive):
            rules.append(("high_below_low", "error", "high", "high >= low", pl.col("high") < pl.col("low")))
        for column in ("open", "close"):
            sides = [pl.col(column) > pl.col("high")] if "high" in shape.positive else []
            sides += [pl.col(column) < pl.col("low")] if "low" in shape.positive else []
            if sides and column in shape.positive:
                rules.append(("outside_range", "warning", column, f"low <= {column} <= high", pl.any_horizontal(sides)))
    return rules


def mixed_types(db: sqlite3.Connection, reader: Reader, sample_rows: int) -> Finding:
    """The first key column that holds several types, or another than it must, and the rows of the rarer ones."""
    shape = reader.shape
    name = next(name for name in reader.keys if name in reader.mixed)
    column, table = quote(name), f"{quote(shape.table)} NOT INDEXED"
    counts = db.execute(f"SELECT typeof({column}), count(*) FROM {table} GROUP BY 1 ORDER BY 2 DESC, 1").fetchall()
    kinds = [kind for kind, _ in counts if kind != "null"]
    usual = "integer" if name in shape.integers else kinds[0]
    shown = list(dict.fromkeys([*filter(None, (shape.time, shape.symbol)), name]))
    sql = f"SELECT {', '.join(map(quote, shown))} FROM {table} WHERE typeof({column}) NOT IN (?, 'null') LIMIT {sample_rows}"
    rows = tuple({key: plain(value) for key, value in zip(shown, row, strict=True)} for row in db.execute(sql, (usual,)).fetchall())
    total = sum(count for kind, count in counts if kind not in (usual, "null"))
    code = "bad_timestamp" if name in (shape.time, shape.known_at) else "bad_symbol" if name == shape.symbol else "bad_key"
    expected = "an integer" if name in shape.integers else f"one type, found {' and '.join(kinds)}"
    message = describe(f"{shape.table}.{name}", total, rows, expected, "fix the dump")
    return Finding("error", code, shape.table, name, message, rows)
