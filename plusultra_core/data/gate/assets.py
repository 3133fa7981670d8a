"""The assets of a dump: their class, bar and price adjustment, and what is wrong with them."""

import json
import re
import sqlite3
import unicodedata
from collections.abc import Mapping
from typing import TypeGuard

import polars as pl

from plusultra_core.clock import bar_ns
from plusultra_core.data.corporate_actions import ADJUSTMENTS
from plusultra_core.data.gate.connection import long_cells, quote
from plusultra_core.data.gate.findings import Finding, Level, Row, ValidationConfig, describe, plain
from plusultra_core.data.gate.schema import fold
from plusultra_core.errors import ConfigError
from plusultra_core.market import ASSET_CLASSES, MarketConfig

_MAX_SYMBOL = 128
_MAX_WORD = 256
_MAX_METADATA = 65_536
_TEXT = {
    "symbol": _MAX_SYMBOL,
    "sector": _MAX_WORD,
    "currency": _MAX_WORD,
    "exchange": _MAX_WORD,
    "metadata": _MAX_METADATA,
    "asset_class": _MAX_WORD,
}
"""Most characters of each text; one more is read, so that a longer one is noticed."""
_MAX_METADATA_BYTES = 256_000_000
_METADATA = (
    f"a JSON object of at most {_MAX_METADATA} characters whose bar and price_adjustment, where given, are known "
    "(an unknown adjustment counts as split+dividend)"
)
_HIDDEN = (
    r"[\p{C}\p{Zl}\p{Zp}\x{034F}\x{115F}\x{1160}\x{17B4}\x{17B5}\x{180B}-\x{180F}"
    r"\x{2800}\x{3164}\x{FE00}-\x{FE0F}\x{FFA0}\x{E0100}-\x{E01EF}]"
)
"""Characters that steer, or that show nothing: controls, fillers, selectors of variants."""
_SHOWN = r"[\p{L}\p{N}\p{P}\p{S}]"
_ALIKE = str.maketrans(
    "авекмнорстухіјѕԁһ" + "αβεζηικμνορτυχ" + "ı‐‑‒–—−⁄∕",
    "abekmhopctyxijsdh" + "abezhikmnoptyx" + "i------//",
)
"""Small Cyrillic and Greek letters whose capitals look like Latin ones, dashes and slashes."""


def read_assets(db: sqlite3.Connection) -> pl.DataFrame:
    """Every asset as the dump has it; what is not text where text belongs is null, and no text is longer than it may be.

    `stated_class` is what a column `asset_class` says, where the dump has one.
    Raises  sqlite3.Error as SQLite does, and where the metadata of all assets is too big together.
    """
    present = {fold(row[1]) for row in db.execute("PRAGMA table_xinfo(assets)")}
    text = [_short(name, most) if name in present else "NULL" for name, most in _TEXT.items()]
    identity = "CASE WHEN typeof(asset_id) = 'integer' THEN asset_id END" if "asset_id" in present else "NULL"
    most = db.getlimit(sqlite3.SQLITE_LIMIT_LENGTH)
    with long_cells(db):  # long metadata is passed over, not refused
        if "metadata" in present:
            sql = "SELECT total(min(length(CAST(metadata AS BLOB)), ?)) FROM assets NOT INDEXED"
            total = db.execute(sql, (4 * _MAX_METADATA,)).fetchone()[0]
            if total > _MAX_METADATA_BYTES:
                raise sqlite3.DataError(f"the metadata of all assets, {total:.0f} bytes, is too big together")
        _refuse_long_cells(db, present, most)
        rows = db.execute(f"SELECT {identity}, {', '.join(text)} FROM assets NOT INDEXED").fetchall()
    schema = {"asset_id": pl.Int64, **dict.fromkeys(_TEXT, pl.String)}
    frame = pl.DataFrame(rows, schema=schema, orient="row").rename({"asset_class": "stated_class"}).sort("symbol", "asset_id")
    if "asset_id" not in present:
        frame = frame.with_columns(asset_id=pl.int_range(1, pl.len() + 1, dtype=pl.Int64))
    return frame


def _short(column: str, most: int) -> str:
    """SQL for a text; a longer one comes as the start of its bytes, longer than `most` too. SQLite's own substr ends at a NUL."""
    name = quote(column)
    size, start = f"length(CAST({name} AS BLOB))", f"quote(substr(CAST({name} AS BLOB), 1, {most + 1}))"
    other = f"WHEN {name} IS NOT NULL THEN 'no text' " if column == "metadata" else ""
    return f"CASE WHEN typeof({name}) = 'text' THEN CASE WHEN {size} <= {4 * most} THEN {name} ELSE {start} END {other}END"


def _refuse_long_cells(db: sqlite3.Connection, present: set[str], most: int) -> None:
    for name in _TEXT:
        if name in present and name != "metadata":
            longest = db.execute(f"SELECT max(length(CAST({quote(name)} AS BLOB))) FROM assets NOT INDEXED").fetchone()[0] or 0
            if longest > most:
                raise sqlite3.DataError(f"{name} is too big: {longest} bytes")


def classify(frame: pl.DataFrame, markets: Mapping[str, MarketConfig]) -> pl.DataFrame:
    """Assets with their class and where the class comes from (`class_from`: metadata, column, rule or other).

    `bar` is null where the metadata does not say it; `metadata_ok` is false where part of it cannot be used,
    and metadata that is too long is null.
    """
    stated = frame["stated_class"] if "stated_class" in frame.columns else pl.Series([None] * frame.height, dtype=pl.String)
    texts = frame.select("symbol", "exchange", "metadata").with_columns(stated.alias("stated"))
    facts = [_facts(symbol, exchange, metadata, column, markets) for symbol, exchange, metadata, column in texts.iter_rows()]
    kinds = {"asset_class": pl.String, "class_from": pl.String, "bar": pl.String, "price_adjustment": pl.String, "metadata_ok": pl.Boolean}
    short = pl.col("metadata").str.len_chars() <= _MAX_METADATA
    kept = frame.drop("stated_class", strict=False).with_columns(metadata=pl.when(short).then("metadata"))
    return kept.hstack(pl.DataFrame(facts, schema=kinds, orient="row"))


def _facts(
    symbol: str | None, exchange: str | None, metadata: str | None, column: str | None, markets: Mapping[str, MarketConfig]
) -> tuple[str, str, str | None, str, bool]:
    """Class, where it comes from, bar, price adjustment, and whether the metadata could be read."""
    stated, readable = _read_metadata(metadata)
    bar, adjusted = stated.get("bar"), stated.get("price_adjustment")
    if bar is not None and not _is_bar(bar):
        bar, readable = None, False
    if adjusted is not None and adjusted not in ADJUSTMENTS:
        readable = False
    adjustment = "none" if adjusted is None else str(adjusted) if adjusted in ADJUSTMENTS else ADJUSTMENTS[-1]
    asset_class = stated.get("asset_class")
    if asset_class in ASSET_CLASSES:
        return str(asset_class), "metadata", bar, adjustment, readable
    by_column = fold(column.strip()) if column else ""
    if by_column in ASSET_CLASSES:
        return by_column, "column", bar, adjustment, readable
    by_rule = _class_by_rule((symbol or "")[:_MAX_SYMBOL], exchange or "", markets)
    return by_rule or "other", "rule" if by_rule else "other", bar, adjustment, readable


def _read_metadata(metadata: str | None) -> tuple[dict[str, object], bool]:
    """What the metadata says, and whether it could be read."""
    if not metadata:
        return {}, True
    try:
        parsed = json.loads(metadata) if len(metadata) <= _MAX_METADATA else None
    except (ValueError, RecursionError):
        return {}, False
    return (parsed, True) if isinstance(parsed, dict) else ({}, False)


def _is_bar(value: object) -> TypeGuard[str]:
    try:
        return isinstance(value, str) and bar_ns(value) > 0
    except ConfigError:
        return False


def _class_by_rule(symbol: str, exchange: str, markets: Mapping[str, MarketConfig]) -> str | None:
    """The first class, in the order of ASSET_CLASSES, one of whose symbol rules fits; then the same for exchanges."""
    ordered = [(name, markets[name]) for name in ASSET_CLASSES if name in markets]
    for name, market in ordered:
        if any(re.fullmatch(rule, symbol) for rule in market.symbol_rules):
            return name
    for name, market in ordered:
        if any(re.fullmatch(rule, exchange) for rule in market.exchange_rules):
            return name
    return None


def check_assets(db: sqlite3.Connection, markets: Mapping[str, MarketConfig], cfg: ValidationConfig) -> tuple[pl.DataFrame, list[Finding]]:
    """The assets, and what is wrong or worth saying about them."""
    frame = classify(read_assets(db), markets)
    symbol, identity = pl.col("symbol"), pl.col("asset_id")
    where = cfg.sample_rows, frame
    findings = []
    if frame.is_empty():
        findings.append(Finding("error", "empty_table", "assets", None, "assets: the table is empty; a dump needs assets; add them"))
    for column, kind, code in (("symbol", "text", "bad_symbol"), ("asset_id", "integer", "bad_key")):
        odd = _wrong_types(db, column, kind, cfg.sample_rows) if frame[column].null_count() else None
        if odd is not None and odd[0]:
            remedy = "declare the column TEXT: SQLite makes numbers of '0700' where it is not" if kind == "text" else "number the assets"
            message = describe(f"assets.{column}", *odd, f"{kind} in every row", remedy)
            findings.append(Finding("error", code, "assets", column, message, odd[1]))
        nulls = frame[column].null_count() - (odd[0] if odd else 0)
        if nulls:
            findings += _tell(*where, pl.col(column).is_null(), "error", "null_key", column, f"{kind} in every row", "fix the dump")
    bad = ~symbol.str.contains(_SHOWN) | (symbol.str.len_chars() > _MAX_SYMBOL) | symbol.str.contains(_HIDDEN)
    findings += _tell(
        *where, bad.fill_null(False), "error", "bad_symbol", "symbol", f"1 to {_MAX_SYMBOL} printable characters", "rename the symbol"
    )
    for key, name in ((symbol, "symbol"), (identity, "asset_id")):
        twice = key.is_duplicated() & key.is_not_null()
        findings += _tell(*where, twice, "error", "duplicate_asset", name, f"each {name} once", "keep one")
    for name in ("sector", "currency", "exchange"):
        too_long = (pl.col(name).str.len_chars() > _MAX_WORD).fill_null(False)
        findings += _tell(*where, too_long, "error", "huge_cell", name, f"at most {_MAX_WORD} characters", "shorten it")
    return frame, [*findings, *_warnings(frame, cfg.sample_rows)]


def _warnings(frame: pl.DataFrame, sample_rows: int) -> list[Finding]:
    """What is accepted and said of the assets."""
    findings = _tell(
        sample_rows, frame, ~pl.col("metadata_ok"), "warning", "malformed_metadata", "metadata", _METADATA, "the rest is ignored"
    )
    stated = "an asset_class in metadata or in its column"
    for kind, code, expected, remedy in (
        ("rule", "class_by_rule", stated, "taken from the rules in configs/markets"),
        ("other", "class_other", f"{stated}, or a rule", "taken as other"),
    ):
        findings += _tell(sample_rows, frame, pl.col("class_from") == kind, "warning", code, "asset_class", expected, remedy)
    alike = _lookalikes(frame["symbol"].drop_nulls().unique().sort())
    if alike.height:
        shown: tuple[Row, ...] = tuple({"symbol": plain(name), "like": _spell(like)} for name, like in alike.head(sample_rows).iter_rows())
        expected = "symbols that differ by more than case, spaces or letters that look alike"
        message = describe("assets.symbol", alike.height, shown, expected, "they are kept apart")
        findings.append(Finding("warning", "lookalike_symbols", "assets", "symbol", message, shown, tuple(alike["symbol"])))
    return findings


def check_frequency(assets: pl.DataFrame, markets: Mapping[str, MarketConfig]) -> list[Finding]:
    """A warning for each class with symbols whose bars are coarser than the class's grid: they are left out of bars."""
    findings = []
    for (asset_class,), members in assets.sort("symbol").group_by("asset_class", maintain_order=True):
        market = markets.get(str(asset_class))
        if market is None:
            continue
        coarse = tuple(s for s, bar in members.select("symbol", "bar").iter_rows() if bar is not None and bar_ns(bar) > bar_ns(market.bar))
        if coarse:
            message = (
                f"assets.bar: {', '.join(coarse)} have bars coarser than {market.bar}, the grid of {asset_class}; they are left out of bars"
            )
            findings.append(Finding("warning", "coarse_bars", "assets", "metadata", message, (), coarse))
    return findings


def _lookalikes(symbols: pl.Series) -> pl.DataFrame:
    """Symbols that a person takes for another (`like`) or for themselves without their outer spaces.

    Shapes  symbols (N,) distinct; result (M, 2): symbol, like.
    """
    plain_ascii = symbols.str.contains(r"^[\x20-\x7e]*$")
    simple = symbols.str.to_lowercase().str.replace_all(r"\s+", "")
    odd = symbols.filter(~plain_ascii)
    parts = [
        pl.DataFrame({"symbol": symbols.filter(plain_ascii), "seen": simple.filter(plain_ascii)}),
        pl.DataFrame({"symbol": odd, "seen": pl.Series([_seen(name) for name in odd], dtype=pl.String)}),
    ]
    grouped = (
        pl.concat(parts)
        .sort("symbol")
        .with_columns(first=pl.col("symbol").first().over("seen"), second=pl.col("symbol").get(1, null_on_oob=True).over("seen"))
    )
    like = pl.when(pl.col("symbol") == pl.col("first")).then("second").otherwise("first")
    stripped = pl.col("symbol").str.strip_chars()
    padded = pl.when(stripped != pl.col("symbol")).then(stripped)
    return grouped.select("symbol", like=pl.coalesce(like, padded)).filter(pl.col("like") != "")


def _seen(symbol: str) -> str:
    """What a person sees of a symbol: one case, no spaces, one letter for all that look like it."""
    return "".join(unicodedata.normalize("NFKC", symbol).casefold().translate(_ALIKE).split())


def _spell(text: str) -> str:
    """Text with every letter outside ASCII as its number, so that look-alikes can be told apart."""
    return text.encode("ascii", "backslashreplace").decode("ascii")


def _wrong_types(db: sqlite3.Connection, column: str, kind: str, sample_rows: int) -> tuple[int, tuple[Row, ...]]:
    """How many keys of the assets are of another type than they should be (NULL aside), and the first of them."""
    if kind == "integer" and "asset_id" not in {fold(row[1]) for row in db.execute("PRAGMA table_xinfo(assets)")}:
        return 0, ()
    wrong = f"FROM assets NOT INDEXED WHERE typeof({quote(column)}) NOT IN ('null', ?)"
    count = int(db.execute(f"SELECT count(*) {wrong}", (kind,)).fetchone()[0])
    rows = db.execute(f"SELECT {quote(column)} {wrong} LIMIT {sample_rows}", (kind,)).fetchall()
    return count, tuple({column: plain(value)} for (value,) in rows)


def _tell(
    sample_rows: int, frame: pl.DataFrame, wrong: pl.Expr, level: Level, code: str, column: str, expected: str, remedy: str
) -> list[Finding]:
    found = frame.filter(wrong)
    if found.is_empty():
        return []
    rows = tuple(
        {name: plain(value) for name, value in row.items()}
        for row in found.select(*dict.fromkeys(("symbol", column))).head(sample_rows).to_dicts()
    )
    symbols = tuple(found["symbol"].drop_nulls().unique().sort().to_list()) if level == "warning" else None
    return [Finding(level, code, "assets", column, describe(f"assets.{column}", found.height, rows, expected, remedy), rows, symbols)]
