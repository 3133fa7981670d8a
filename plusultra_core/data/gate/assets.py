"""The assets of a dump: their class, bar and price adjustment, and what is wrong with them."""

import json
import re
import sqlite3
from collections.abc import Mapping
from typing import TypeGuard

import polars as pl

from plusultra_core.clock import bar_ns
from plusultra_core.data.corporate_actions import ADJUSTMENTS
from plusultra_core.data.gate.findings import Finding, Level, ValidationConfig, describe, plain
from plusultra_core.errors import ConfigError
from plusultra_core.market import ASSET_CLASSES, MarketConfig

_ASSET_TEXT = ("symbol", "sector", "currency", "exchange", "metadata")


_MAX_SYMBOL = 128


_METADATA = "a JSON object whose bar and price_adjustment, where given, are known (an unknown adjustment counts as split+dividend)"


_CONTROL = r"[\p{C}\p{Zl}\p{Zp}]"


def read_assets(db: sqlite3.Connection) -> pl.DataFrame:
    """Every asset as the dump has it; what is not text where text belongs is null."""
    present = {row[1].lower() for row in db.execute("PRAGMA table_xinfo(assets)")}
    text = [f"CASE WHEN typeof({name}) = 'text' THEN {name} END" if name in present else "NULL" for name in _ASSET_TEXT]
    identity = "CASE WHEN typeof(asset_id) = 'integer' THEN asset_id END" if "asset_id" in present else "NULL"
    rows = db.execute(f"SELECT {identity}, {', '.join(text)} FROM assets NOT INDEXED").fetchall()
    schema = {"asset_id": pl.Int64, **dict.fromkeys(_ASSET_TEXT, pl.String)}
    frame = pl.DataFrame(rows, schema=schema, orient="row").sort("symbol", "asset_id")
    if "asset_id" not in present:
        frame = frame.with_columns(asset_id=pl.int_range(1, pl.len() + 1, dtype=pl.Int64))
    return frame


def classify(frame: pl.DataFrame, markets: Mapping[str, MarketConfig]) -> pl.DataFrame:
    """Assets with their class and where the class comes from (`class_from`: metadata, rule or other).

    `bar` is null where the metadata does not say it; `metadata_ok` is false where part of it cannot be used.
    """
    facts = [
        _facts(symbol, exchange, metadata, markets)
        for symbol, exchange, metadata in frame.select("symbol", "exchange", "metadata").iter_rows()
    ]
    kinds = {"asset_class": pl.String, "class_from": pl.String, "bar": pl.String, "price_adjustment": pl.String, "metadata_ok": pl.Boolean}
    return frame.hstack(pl.DataFrame(facts, schema=kinds, orient="row"))


def _facts(
    symbol: str | None, exchange: str | None, metadata: str | None, markets: Mapping[str, MarketConfig]
) -> tuple[str, str, str | None, str, bool]:
    """Class, where it comes from, bar, price adjustment, and whether the metadata could be read."""
    stated: dict[str, object] = {}
    readable = True
    try:
        parsed = json.loads(metadata) if metadata else {}
        readable = isinstance(parsed, dict)
        stated = parsed if isinstance(parsed, dict) else {}
    except (ValueError, RecursionError):
        readable = False
    bar, adjusted = stated.get("bar"), stated.get("price_adjustment")
    if bar is not None and not _is_bar(bar):
        bar, readable = None, False
    if adjusted is not None and adjusted not in ADJUSTMENTS:
        readable = False
    adjustment = "none" if adjusted is None else str(adjusted) if adjusted in ADJUSTMENTS else ADJUSTMENTS[-1]
    asset_class = stated.get("asset_class")
    if asset_class in ASSET_CLASSES:
        return str(asset_class), "metadata", bar, adjustment, readable
    by_rule = _class_by_rule(symbol or "", exchange or "", markets)
    return by_rule or "other", "rule" if by_rule else "other", bar, adjustment, readable


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
    symbol = pl.col("symbol")
    bad = (symbol.str.strip_chars().str.len_chars() == 0) | (symbol.str.len_chars() > _MAX_SYMBOL) | symbol.str.contains(_CONTROL)
    where = cfg.sample_rows, frame
    findings = []
    if frame.is_empty():
        findings.append(Finding("error", "empty_table", "assets", None, "assets: the table is empty; a dump needs assets; add them"))
    findings += _tell(*where, symbol.is_null(), "error", "null_key", "symbol", "text in every row", "fix the dump")
    findings += _tell(
        *where, bad.fill_null(False), "error", "bad_symbol", "symbol", f"1 to {_MAX_SYMBOL} printable characters", "rename the symbol"
    )
    findings += _tell(
        *where, symbol.is_duplicated() & symbol.is_not_null(), "error", "duplicate_asset", "symbol", "each symbol once", "keep one"
    )
    identity = pl.col("asset_id")
    findings += _tell(*where, identity.is_null(), "error", "null_key", "asset_id", "an integer in every row", "number the assets")
    findings += _tell(
        *where, identity.is_duplicated() & identity.is_not_null(), "error", "duplicate_asset", "asset_id", "each id once", "keep one"
    )
    findings += _tell(*where, ~pl.col("metadata_ok"), "warning", "malformed_metadata", "metadata", _METADATA, "the rest is ignored")
    by_rule, by_none = pl.col("class_from") == "rule", pl.col("class_from") == "other"
    findings += _tell(
        *where, by_rule, "warning", "class_by_rule", "asset_class", "an asset_class in metadata", "taken from the rules in configs/markets"
    )
    findings += _tell(*where, by_none, "warning", "class_other", "asset_class", "an asset_class in metadata, or a rule", "taken as other")
    return frame, findings


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
