"""The tables of a dump: which columns they have, what may stand in them, and what of that a given file has."""

import re
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from plusultra_core.data.gate.connection import quote
from plusultra_core.data.gate.findings import Finding, Level

_NUMBER_TYPE = re.compile("INT|REAL|FLOA|DOUB|NUM|DEC")


@dataclass(frozen=True, slots=True)
class Rule:
    """Rows of a dump's table that may not be: those for which `predicate` (SQL) holds."""

    code: str
    level: Level
    column: str
    predicate: str
    expected: str
    needs: tuple[str, ...] = ()


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
    positive: tuple[str, ...] = ()
    nonnegative: tuple[str, ...] = ()
    finite: tuple[str, ...] = ()
    rules: tuple[Rule, ...] = ()
    orphans_allowed: bool = False
    """Symbols need not be assets."""
    null_symbol_allowed: bool = False
    """A row without a symbol is about the whole market."""
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
            positive=kept(self.positive),
            nonnegative=kept(self.nonnegative),
            finite=kept(self.finite),
            rules=tuple(rule for rule in self.rules if there.issuperset(rule.needs)),
        )


_IN_TIME = ("timestamp", "symbol")
SHAPES = {
    shape.table: shape
    for shape in (
        TableShape(table="assets", required=("symbol",), optional=("asset_id", "sector", "currency", "exchange", "metadata"), time=None),
        TableShape(
            table="series",
            required=(*_IN_TIME, "close"),
            optional=("open", "high", "low", "volume", "vwap", "turnover", "known_at"),
            known_at="known_at",
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
            keys=(*_IN_TIME, "name"),
            finite=("value",),
        ),
        TableShape(
            table="benchmarks",
            required=_IN_TIME,
            optional=("return", "level", "known_at"),
            known_at="known_at",
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
            positive=("price",),
            nonnegative=("size",),
            finite=("fees", "slippage_bp", "pnl"),
            rules=(
                Rule("bad_key", "error", "trade_id", "typeof(\"trade_id\") <> 'integer'", "an integer"),
                Rule("bad_side", "error", "side", "\"side\" IS NULL OR \"side\" NOT IN ('long', 'short', 'flat')", "long, short or flat"),
            ),
        ),
    )
}
"""Tables that are read; `assets` and `series` must be there."""
UNREAD = ("regimes", "cross_asset_views", "trade_annotations")
"""Tables of the contract that this station does not read."""


def find_tables(db: sqlite3.Connection, configured: Sequence[TableShape]) -> tuple[dict[str, TableShape], list[Finding]]:
    """Shapes of the tables that are there, those of the contract and those `configured`; and what is missing, odd or unknown."""
    kinds = {name.lower(): (name, kind) for _, name, kind, *_ in db.execute("PRAGMA table_list") if not name.startswith("sqlite_")}
    side = {shape.table: shape for shape in configured}
    shapes: dict[str, TableShape] = {}
    findings: list[Finding] = []
    absent = []
    for table in (*SHAPES, *side, *UNREAD):
        _, kind = kinds.get(table.lower(), (table, None))
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
    known = {name.lower() for name in (*SHAPES, *side, *UNREAD)}
    unknown = sorted(name for lower, (name, _) in kinds.items() if lower not in known)
    return shapes, findings + [
        _schema("warning", "unknown_table", name, None, "no config names this table; it is not read") for name in unknown
    ]


def _find_columns(db: sqlite3.Connection, shape: TableShape, optional: bool) -> tuple[TableShape | None, list[Finding]]:
    declared = {row[1]: row[2] for row in db.execute(f"PRAGMA table_xinfo({quote(shape.table)})")}
    spelled = {column.lower(): column for column in declared}
    wanted = (*shape.required, *shape.optional)
    findings = []
    missing = [column for column in shape.required if column.lower() not in spelled]
    for column in missing:
        level: Level = "warning" if optional else "error"
        remedy = "the table is not read" if optional else "add it"
        message = f"the column is missing, found {', '.join(declared)}; {remedy}"
        findings.append(_schema(level, "missing_column", shape.table, column, message))
    odd = [(column, spelled[column.lower()]) for column in wanted if spelled.get(column.lower(), column) != column]
    told = "read all the same"
    findings += [_schema("warning", "column_case", shape.table, want, f"expected {want!r}, found {found!r}; {told}") for want, found in odd]
    unnamed = [column for column in declared if column.lower() not in {name.lower() for name in wanted}]
    if shape.any_number:
        numbers = tuple(column for column in unnamed if _NUMBER_TYPE.search(declared[column].upper()))
        shape = replace(shape, optional=(*shape.optional, *numbers), finite=numbers)
    elif not optional:
        message = "the contract does not know this column; it is not read"
        findings += [_schema("warning", "unknown_column", shape.table, column, message) for column in unnamed]
    there = {column for column in (*wanted, *shape.optional) if column.lower() in spelled}
    return None if missing else shape.keep(there), findings


def _schema(level: Level, code: str, table: str, column: str | None, message: str) -> Finding:
    return Finding(level, code, table, column, f"{table}.{column}: {message}" if column else f"{table}: {message}")
