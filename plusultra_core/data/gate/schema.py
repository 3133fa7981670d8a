"""The tables of a dump: which columns they have, what may stand in them, and what of that a given file has."""

import re
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from plusultra_core.data.gate.connection import long_cells, quote
from plusultra_core.data.gate.findings import Finding, Level, Row

_NUMBER_TYPE = re.compile("INT|REAL|FLOA|DOUB|NUM|DEC")
_FIELD_NAME = re.compile(r"[^\W\d_][\w .%/()+-]{0,127}")
"""Columns that a side table may add by itself: names that begin with a letter and mean nothing else to anybody."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Rows of a dump's table that may not be: those for which `predicate` (SQL) holds."""

    code: str
    level: Level
    column: str
    predicate: str
    expected: str
    needs: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()
    """Columns that, where they are there, make the rule idle."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TableShape:
    """One table of a dump: its columns, by what is expected of them."""

    table: str
    required: tuple[str, ...]
    optional: tuple[str, ...] = ()
    time: str | None = "timestamp"
    known_at: str | None = None
    symbol: str | None = "symbol"
    keys: tuple[str, ...] = ()
    integers: tuple[str, ...] = ()
    """Keys that are whole numbers; the others are text."""
    positive: tuple[str, ...] = ()
    nonnegative: tuple[str, ...] = ()
    finite: tuple[str, ...] = ()
    rules: tuple[Rule, ...] = ()
    orphans_allowed: bool = False
    """Symbols need not be assets."""
    null_symbol_allowed: bool = False
    """A row without a symbol is about the whole market."""
    known_ahead: Level | None = None
    """What it is to be known before the time that one describes: an error of bars, a warning where a forecast may be meant."""
    any_number: bool = False
    """Every other column declared as a number is read too."""

    @property
    def numbers(self) -> tuple[str, ...]:
        """Columns read as REAL."""
        return (*self.positive, *self.nonnegative, *self.finite)

    def keep(self, present: Iterable[str]) -> "TableShape":
        """The same without the columns that are not there."""
        there = set(present)

        def kept(columns: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(column for column in columns if column in there)

        return replace(
            self,
            optional=kept(self.optional),
            time=self.time if self.time in there else None,
            known_at=self.known_at if self.known_at in there else None,
            symbol=self.symbol if self.symbol in there else None,
            keys=kept(self.keys),
            integers=kept(self.integers),
            positive=kept(self.positive),
            nonnegative=kept(self.nonnegative),
            finite=kept(self.finite),
            rules=tuple(rule for rule in self.rules if there.issuperset(rule.needs) and there.isdisjoint(rule.lacks)),
        )


_IN_TIME = ("timestamp", "symbol")
SHAPES = {
    shape.table: shape
    for shape in (
        TableShape(
            table="assets",
            required=("symbol",),
            optional=("asset_id", "sector", "currency", "exchange", "asset_class", "metadata"),
            time=None,
        ),
        TableShape(
            table="series",
            required=(*_IN_TIME, "close"),
            optional=("open", "high", "low", "volume", "vwap", "turnover", "known_at"),
            known_at="known_at",
            known_ahead="error",
            keys=_IN_TIME,
            positive=("open", "high", "low", "close", "vwap"),
            nonnegative=("volume", "turnover"),
            rules=(Rule("null_close", "error", "close", '"close" IS NULL', "a close in every row"),),
        ),
        TableShape(
            table="indicators",
            required=(*_IN_TIME, "name", "value"),
            optional=("metadata", "known_at"),
            known_at="known_at",
            known_ahead="error",
            keys=(*_IN_TIME, "name"),
            finite=("value",),
        ),
        TableShape(
            table="benchmarks",
            required=_IN_TIME,
            optional=("return", "level", "known_at"),
            known_at="known_at",
            known_ahead="error",
            keys=_IN_TIME,
            positive=("level",),
            finite=("return",),
            orphans_allowed=True,
        ),
        TableShape(
            table="trades",
            required=("trade_id", *_IN_TIME, "side", "size", "price"),
            optional=("fees", "slippage_bp", "pnl", "metadata"),
            keys=("trade_id",),
            integers=("trade_id",),
            positive=("price",),
            nonnegative=("size",),
            finite=("fees", "slippage_bp", "pnl"),
            rules=(
                Rule("null_number", "error", "size", '"size" IS NULL', "a size in every row"),
                Rule("null_number", "error", "price", '"price" IS NULL', "a price in every row"),
                Rule("bad_side", "error", "side", "\"side\" IS NULL OR \"side\" NOT IN ('long', 'short', 'flat')", "long, short or flat"),
            ),
        ),
    )
}
"""Tables that are read; `assets` and `series` must be there."""
UNREAD = ("regimes", "cross_asset_views", "trade_annotations")
"""Tables of the contract that this station does not read."""


MAX_TABLES = 2_000
"""Most tables and views of a dump, read or not."""
MAX_NUMBERS = 256
"""Most columns that a side table may add by itself."""
_SHOWN = 20


def fold(name: str) -> str:
    """A name as SQLite compares it: without the case of ASCII letters, and of those only."""
    return name.translate(_FOLDED)


_FOLDED = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}


def check_schema(db: sqlite3.Connection, max_assets: int) -> list[Finding]:
    """What refuses a dump before any of its tables is looked at: too many of them, columns that compute, endless assets."""
    kinds = _kinds(db)
    if len(kinds) > MAX_TABLES:
        message = f"dump: {len(kinds)} tables and views; allowed {MAX_TABLES}; export the tables of the contract only"
        return [Finding("error", "huge_schema", "", None, message)]
    findings = []
    for name in (name for name, kind in kinds.values() if kind == "table"):
        computed = [row[1] for row in db.execute(f"PRAGMA table_xinfo({quote(name)})") if row[6] in (2, 3)]
        findings += [
            _schema(
                "error", "generated_column", show(name), show(column), "the file computes this column; write its values into a plain one"
            )
            for column in computed[:_SHOWN]
        ]
    if not findings and kinds.get("assets", ("", ""))[1] == "table":
        found = db.execute("SELECT count(*) FROM (SELECT 1 FROM assets NOT INDEXED LIMIT ?)", (max_assets + 1,)).fetchone()[0]
        if found > max_assets:
            message = f"more than gate.max_assets = {max_assets} rows; export a universe, or raise the limit"
            findings.append(_schema("error", "too_many_assets", "assets", None, message))
    return findings


def _kinds(db: sqlite3.Connection) -> dict[str, tuple[str, str]]:
    """By folded name, the name of each table and view, and `table`, `view` or `virtual`.

    SQLite itself refuses an entry whose statement makes something else than its type and name say. `PRAGMA table_list` would
    resolve every view, and views upon views double with each floor.
    """
    with long_cells(db):
        entries = db.execute("SELECT name, type, substr(sql, 1, 20) FROM sqlite_schema WHERE type IN ('table', 'view')").fetchall()
    return {
        fold(name): (name, "view" if kind == "view" else "virtual" if fold(sql).startswith("create virtual") else "table")
        for name, kind, sql in entries
    }


def find_tables(db: sqlite3.Connection, configured: Sequence[TableShape]) -> tuple[dict[str, TableShape], list[Finding]]:
    """Shapes of the tables that are there, those of the contract and those `configured`; and what is missing, odd or unknown."""
    kinds = _kinds(db)
    side = {shape.table: shape for shape in configured}
    shapes: dict[str, TableShape] = {}
    findings: list[Finding] = []
    absent = []
    for table in (*SHAPES, *side, *UNREAD):
        _, kind = kinds.get(fold(table), (table, None))
        if kind is None and table in side:
            absent.append(table)
        elif kind is None and table in ("assets", "series"):
            findings.append(_schema("error", "missing_table", table, None, "the table is missing; a dump needs assets and series; add it"))
        elif kind is None:
            findings.append(_schema("warning", "missing_table", table, None, "the table is missing; nothing is read from it"))
        elif kind != "table":
            findings.append(
                _schema("error", f"{kind}_for_table", table, None, f"expected a table, found a {kind}; write its rows into a table")
            )
        elif table not in UNREAD:
            shape, found = _find_columns(db, side.get(table) or SHAPES[table], optional=table in side)
            shapes |= {table: shape} if shape else {}
            findings += found
    if absent:
        message = f"not in this dump: {', '.join(sorted(absent))}; nothing is read from them"
        findings.append(_schema("warning", "missing_table", "side_tables", None, message))
    known = {fold(name) for name in (*SHAPES, *side, *UNREAD)}
    unknown = sorted(name for folded, (name, _) in kinds.items() if folded not in known and not folded.startswith("sqlite_"))
    return shapes, findings + _unknown_tables(unknown)


def _unknown_tables(names: Sequence[str]) -> list[Finding]:
    if not names:
        return []
    if len(names) == 1:
        return [_schema("warning", "unknown_table", show(names[0]), None, "no config names this table; it is not read")]
    rows: tuple[Row, ...] = tuple({"table": show(name)} for name in names[:_SHOWN])
    message = f"dump: {len(names)} tables that no config names ({_list(names)}); they are not read"
    return [Finding("warning", "unknown_table", "", None, message, rows)]


def _find_columns(db: sqlite3.Connection, shape: TableShape, optional: bool) -> tuple[TableShape | None, list[Finding]]:
    declared = {row[1]: row[2] for row in db.execute(f"PRAGMA table_xinfo({quote(shape.table)})")}
    spelled = {fold(column): column for column in declared}
    wanted = (*shape.required, *shape.optional)
    findings = []
    missing = [column for column in shape.required if fold(column) not in spelled]
    for column in missing:
        level: Level = "warning" if optional else "error"
        remedy = "the table is not read" if optional else "add it"
        message = f"the column is missing, found {_list(list(declared))}; {remedy}"
        findings.append(_schema(level, "missing_column", shape.table, column, message))
    odd = [(column, spelled[fold(column)]) for column in wanted if spelled.get(fold(column), column) != column]
    told = "read all the same"
    findings += [_schema("warning", "column_case", shape.table, want, f"expected {want!r}, found {found!r}; {told}") for want, found in odd]
    unnamed = [column for column in declared if fold(column) not in {fold(name) for name in wanted}]
    if shape.any_number:
        found = [column for column in unnamed if _NUMBER_TYPE.search(declared[column].upper())]
        numbers = tuple(column for column in found if _FIELD_NAME.fullmatch(column))
        if len(numbers) > MAX_NUMBERS:  # a column that was added later costs a file nothing, and its reader a number a row
            message = f"{len(numbers)} columns of numbers; allowed {MAX_NUMBERS}; drop some, or name those to read in value_columns"
            return None, [*findings, _schema("error", "huge_schema", shape.table, None, message)]
        shape = replace(shape, optional=(*shape.optional, *numbers), finite=numbers)
        if odd_names := [column for column in found if column not in numbers]:
            findings.append(_unknown_columns(shape.table, odd_names))
    elif unnamed and not optional:
        findings.append(_unknown_columns(shape.table, unnamed))
    there = {column for column in (*wanted, *shape.optional) if fold(column) in spelled}
    return None if missing else shape.keep(there), findings


def _unknown_columns(table: str, columns: Sequence[str]) -> Finding:
    """One warning a table, however many columns it adds."""
    if len(columns) == 1:
        return _schema("warning", "unknown_column", table, show(columns[0]), "the contract does not know this column; it is not read")
    rows: tuple[Row, ...] = tuple({"column": show(column)} for column in columns[:_SHOWN])
    message = f"{table}: {len(columns)} columns that the contract does not know ({_list(columns)}); they are not read"
    return Finding("warning", "unknown_column", table, None, message, rows)


def show(name: str) -> str:
    """A name out of the file, fit to be shown: no control characters, not endless, not nothing."""
    text = name if name.isprintable() and name.strip() else repr(name)
    return text if len(text) <= 128 else f"{text[:127]}\u2026"


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(show, names[:_SHOWN])) + more


def _schema(level: Level, code: str, table: str, column: str | None, message: str) -> Finding:
    return Finding(level, code, table, column, f"{table}.{column}: {message}" if column else f"{table}: {message}")
