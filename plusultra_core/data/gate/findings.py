"""What the gate says of a dump: findings, and the verdict made of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from plusultra_core.errors import ConfigError, ContractError

Level = Literal["error", "warning"]

Row = dict[str, object]


@dataclass(frozen=True, kw_only=True, slots=True)
class ValidationConfig:
    """How strictly a dump is judged."""

    mode: Literal["strict", "quarantine"]
    """strict refuses the dump; quarantine sets the offending symbols aside and goes on."""
    sample_rows: int
    """Offending rows shown with a finding."""
    future_tolerance_s: int
    """How far past now a timestamp may lie."""

    def __post_init__(self) -> None:
        if self.sample_rows < 1:
            raise ConfigError(f"sample_rows: expected >= 1, found {self.sample_rows}")
        if self.future_tolerance_s < 0:
            raise ConfigError(f"future_tolerance_s: expected >= 0, found {self.future_tolerance_s}")


@dataclass(frozen=True, slots=True)
class Code:
    """What a finding of one kind means, for whoever wrote the dump."""

    level: Level
    """error: refuses the dump, unless a softer case says so (an optional table, a quarantine); warning: never refuses."""
    meaning: str
    remedy: str


def _errors(*rows: tuple[str, str, str]) -> dict[str, Code]:
    return {code: Code("error", meaning, remedy) for code, meaning, remedy in rows}


def _warnings(*rows: tuple[str, str, str]) -> dict[str, Code]:
    return {code: Code("warning", meaning, remedy) for code, meaning, remedy in rows}


_FILE = _errors(
    ("missing_file", "there is no file of that name", "name a file that exists"),
    ("symlink", "the file is a symbolic link", "copy the dump itself"),
    ("not_regular", "a folder, pipe, socket or device in place of a file", "copy the dump itself"),
    ("outside", "the file lies outside the landing folder", "copy it there"),
    ("too_large", "the file is larger than gate.max_file_mb", "raise the limit, or split the dump"),
    ("unreadable", "the file cannot be read", "give read permission to it and its log"),
    ("unstable", "the file or its log changed while it was read", "wait until it is written, then land it"),
    ("not_a_database", "the file is no SQLite 3 database", "export the data as SQLite"),
    ("truncated", "pages x page size is not the size of the file", "copy it again"),
    ("corrupt", "SQLite finds the database damaged", "copy it again, or export it anew"),
    ("hot_journal", "a journal lies beside the file: a writer was cut off", "open it once with its writer, or copy it again"),
    (
        "lost_log",
        "the write-ahead log that belongs to the file is gone, and the newest rows with it",
        "copy the log too, or checkpoint first",
    ),
    ("locked", "another process holds a lock on the file", "close the writer"),
    ("query_budget", "reading takes longer than gate.query_budget_s", "shrink the dump, or raise the budget"),
    ("huge_cell", "a cell is longer than gate.max_cell_bytes", "shorten it, or raise the limit"),
    ("hostile_schema", "the schema asks for what a dump may not do, or for what SQLite does not know", "export plain tables"),
    ("huge_schema", "more tables, or more columns in a table, than a dump may have", "export the tables and columns that are used"),
)

_LOG = _warnings(
    (
        "wal_mode",
        "the file is in WAL mode without a log: whole only if its writer had closed it",
        "PRAGMA journal_mode = DELETE before it is copied",
    ),
)

_SCHEMA = _errors(
    ("missing_table", "a required table is missing (a warning where the table is optional)", "add it"),
    ("missing_column", "a required column is missing (a warning where the table is optional: it is not read)", "add it"),
    ("duplicate_column", "two columns differ by case only", "keep one"),
    ("view_for_table", "a view in place of a table", "write its rows into a table"),
    ("virtual_for_table", "a virtual table in place of a table", "write its rows into a table"),
    ("generated_column", "a column that is computed by the file", "write its values into a plain column"),
    ("empty_table", "a required table has no rows", "add them"),
) | _warnings(
    ("unknown_table", "tables that no config names; they are not read", "drop them, or name them under side_tables"),
    ("unknown_column", "columns that the contract does not know; they are not read", "drop them, or write them as indicators"),
    ("column_case", "a column is spelled with other capitals; it is read all the same", "spell it as the contract does"),
)

_ROWS = _errors(
    ("null_key", "a key is NULL", "fix the dump, or drop the row"),
    ("bad_key", "a key of the wrong type, or of several", "write one type in the column"),
    ("duplicate_key", "two rows with one key", "keep one; several dividends of one moment are one row with their sum"),
    ("too_many_assets", "more assets than gate.max_assets", "export a universe, or raise the limit"),
    ("duplicate_asset", "a symbol or an asset_id stands twice", "keep one"),
    ("orphan_symbol", "a symbol that assets does not have", "add the asset, or drop the rows"),
    ("bad_symbol", "a symbol that is blank, too long, not text, or has control characters", "rename the symbol"),
    ("invalid_utf8", "text that is not UTF-8", "write the text as UTF-8"),
    ("bad_timestamp", "a time that cannot be read", "write YYYY-MM-DD HH:MM:SS, UTC"),
    ("mixed_timestamps", "two notations of time in one column", "write the column in one notation"),
    ("future_timestamp", "a time after now", "fix the clock or the unit of what wrote the dump"),
    (
        "known_too_early",
        "a row that was known before the time that it describes",
        "stamp the row with what it describes, known_at with when",
    ),
    ("null_number", "a trade without size or price", "fix the dump, or drop the row"),
    ("null_close", "a bar without a close", "fix the dump, or drop the row"),
    ("not_a_number", "text or a blob where a number belongs", "write numbers, with a decimal point and without separators"),
    ("not_finite", "an infinite number", "write NULL where there is no number"),
    ("not_positive", "a price that is zero or negative", "write NULL where there is no price"),
    ("negative", "an amount below zero", "write NULL where the amount is not known"),
    ("high_below_low", "a bar whose high lies below its low", "fix the bar"),
    ("bad_side", "a trade that is neither long, short nor flat", "write one of the three"),
    (
        "bad_action",
        "a corporate action of an unknown kind, without its number, or of which no adjusted price can be made",
        "write split with a ratio of new shares for an old one, dividend with an amount below the close before and in its currency",
    ),
    ("no_symbols_left", "every symbol with bars would be quarantined", "fix the dump"),
) | _warnings(
    ("numeric_text", "numbers written as text; they are read as numbers", "declare the column REAL"),
    ("outside_range", "open or close outside [low, high]; kept as it is", "look at the source of the bar"),
    ("offset_converted", "times with an offset from UTC; they were converted", "write UTC"),
    (
        "known_ahead",
        "a row beside the bars that was known before the time that it describes; it counts from then on, as the newest word",
        "nothing where a forecast or a calendar is meant; else stamp known_at with when it was known",
    ),
    ("class_by_rule", "the class of an asset is taken from the rules in configs/markets", "state asset_class in its metadata"),
    ("class_other", "no asset_class is stated and no rule fits; taken as other", "state asset_class in its metadata"),
    (
        "malformed_metadata",
        "metadata that is no JSON object, too long or too deep, or has an unknown bar or price_adjustment",
        "mend the JSON",
    ),
    ("lookalike_symbols", "symbols that differ by case, spaces, or letters that look alike; kept apart", "use one spelling"),
)

_HISTORY = _warnings(
    ("no_bars", "an asset without bars", "drop the asset, or add its bars"),
    ("single_bar", "a symbol with one bar", "add its history"),
    ("stale_feed", "a symbol that ends long before the newest bar of the dump", "see whether it was delisted or its feed died"),
    ("long_gap", "a hole in the history of a symbol", "fill it from the source, if the market was open"),
    ("missing_bars", "bars that the calendar of the class has and the symbol lacks", "fill them from the source, if the market was open"),
    ("constant_price", "many equal closes in a row", "see whether the feed was stuck"),
    ("price_jump", "a jump of the close without a corporate action", "add the action, or mend the price"),
    (
        "unrecorded_split",
        "a price that jumps between two bars as a split of 7:1, 2:1 or 1:10 would have it, stays there, and no action says why",
        "add the split to corporate_actions or adjust the history: a position held over it has a gain or loss that nobody had",
    ),
    (
        "stray_print",
        "a low far below, or a high far above, the open and close of its bar and the closes beside it",
        "mend the low or high if nobody could trade there: the simulator fills orders there and closes accounts in debt",
    ),
    ("unit_flip", "prices or volumes that change their unit, as pence and pounds do, and may come back", "write one unit"),
    ("zero_volume", "bars without volume in which the price moved", "write NULL where the volume is not known"),
    ("misaligned_indicators", "indicators at times where the symbol has no bar", "stamp them with the bar's close"),
    ("bar_mismatch", "bars whose usual step is not the bar that the metadata states", "state the true bar"),
    ("coarse_bars", "bars coarser than the grid of their class; they are left out of bars", "export finer bars, or change the class"),
)

_REVISIONS = _warnings(
    ("history_revised", "rows that the previous dump of the same universe had with other values", "see whether the source restated them"),
    ("rows_gone", "rows that the previous dump of the same universe had", "export the whole history"),
    ("symbols_new", "symbols that the previous dump of the same universe did not have", "none, if they were listed since"),
    ("symbols_gone", "symbols that the previous dump of the same universe had", "keep delisted symbols, or survivors are all that is left"),
)

CODES: Mapping[str, Code] = {**_FILE, **_LOG, **_SCHEMA, **_ROWS, **_HISTORY, **_REVISIONS}
"""Every code that a finding may have."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing about a dump: an error refuses it, a warning goes into checks and report.

    Raises  ConfigError for a code that CODES does not have, or an error under the code of a warning.
    """

    level: Level
    code: str
    table: str
    column: str | None
    message: str
    rows: tuple[Row, ...] = ()
    symbols: tuple[str, ...] | None = None
    """Every symbol concerned, where the whole finding can be laid at the door of symbols."""

    def __post_init__(self) -> None:
        if self.code not in CODES:
            raise ConfigError(f"finding: expected a code of CODES, found {self.code!r}; register what it means and what to do")
        if self.level == "error" and CODES[self.code].level == "warning":
            raise ConfigError(f"finding: {self.code} is a warning and cannot refuse a dump; register it as an error")

    def to_dict(self) -> dict[str, object]:
        """JSON types."""
        fields = {"level": self.level, "code": self.code, "table": self.table, "column": self.column, "message": self.message}
        return {**fields, "rows": [dict(row) for row in self.rows], "symbols": list(self.symbols or ())}


@dataclass(frozen=True, slots=True)
class DumpReport:
    """The verdict on a dump; the same for the command line, the snapshot and the asset checks."""

    accepted: bool
    findings: tuple[Finding, ...]
    counts: dict[str, int] = field(default_factory=dict)
    """Rows of each table."""
    ranges: dict[str, dict[str, str]] = field(default_factory=dict)
    """First and last timestamp of each table that has one."""
    classes: dict[str, int] = field(default_factory=dict)
    """Symbols of each asset class."""
    quarantined: tuple[str, ...] = ()
    """Symbols set aside; none in strict mode."""

    @property
    def errors(self) -> tuple[Finding, ...]:
        """What refuses the dump."""
        return tuple(finding for finding in self.findings if finding.level == "error")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """What is accepted and said."""
        return tuple(finding for finding in self.findings if finding.level == "warning")

    def to_dict(self) -> dict[str, object]:
        """JSON types."""
        return {
            "accepted": self.accepted,
            "findings": [finding.to_dict() for finding in self.findings],
            "counts": dict(self.counts),
            "ranges": {table: dict(span) for table, span in self.ranges.items()},
            "classes": dict(self.classes),
            "quarantined": list(self.quarantined),
        }


def refuse(report: DumpReport, name: str) -> None:
    """Raise the first findings of a refused dump.

    Raises  ContractError when the dump is not accepted.
    """
    if not report.accepted:
        errors: Sequence[Finding] = report.errors
        shown = " | ".join(finding.message for finding in errors[:3])
        more = f" (and {len(errors) - 3} more)" if len(errors) > 3 else ""
        raise ContractError(f"{name}: refused: {shown}{more}")


def plain(value: object) -> object:
    """A cell as JSON: bytes and infinities as text, long text cut."""
    if isinstance(value, bytes):
        return f"blob of {len(value)} bytes"
    if isinstance(value, float) and not abs(value) < float("inf"):
        return repr(value)
    return value[:200] if isinstance(value, str) else value


def describe(where: str, count: int, rows: Sequence[Row], expected: str, remedy: str) -> str:
    """The house form: where, what, expected, first rows, what to do."""
    shown = "; ".join(", ".join(f"{name}={value!r}" for name, value in row.items()) for row in rows[:3])
    return f"{where}: {count} {'row' if count == 1 else 'rows'}, first ({shown}); expected {expected}; {remedy}"
