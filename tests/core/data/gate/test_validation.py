"""Every refusal and every warning on the rows of a dump, each on a dump that breaks it and nothing else."""

import json
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plusultra_core.data.gate.dump import check_dump
from plusultra_core.data.gate.findings import DumpReport
from plusultra_core.data.tables import DataConfig
from plusultra_core.market import MarketConfig

Check = Callable[..., DumpReport]
MakeDump = Callable[..., Path]
AT = "symbol = 'AAA' AND timestamp = '2020-01-05 21:00:00'"
NOW = 1_600_000_000 * 10**9
BAR = "INSERT INTO series (timestamp, symbol, close) VALUES"

REFUSED = {
    "text price": (f"UPDATE series SET close = 'dear' WHERE {AT}", "not_a_number", "series", "close"),
    "blob price": (f"UPDATE series SET open = x'00ff' WHERE {AT}", "not_a_number", "series", "open"),
    "infinite price": (f"UPDATE series SET high = 9e999 WHERE {AT}", "not_finite", "series", "high"),
    "negative price": (f"UPDATE series SET low = -1 WHERE {AT}", "not_positive", "series", "low"),
    "minus infinite price": (f"UPDATE series SET close = -9e999 WHERE {AT}", "not_positive", "series", "close"),
    "zero price": (f"UPDATE series SET close = 0 WHERE {AT}", "not_positive", "series", "close"),
    "zero vwap": (f"UPDATE series SET vwap = 0 WHERE {AT}", "not_positive", "series", "vwap"),
    "null close": (f"UPDATE series SET close = NULL WHERE {AT}", "null_close", "series", "close"),
    "high below low": (f"UPDATE series SET high = low - 1 WHERE {AT}", "high_below_low", "series", "high"),
    "negative volume": (f"UPDATE series SET volume = -1 WHERE {AT}", "negative", "series", "volume"),
    "text volume": (f"UPDATE series SET volume = 'much' WHERE {AT}", "not_a_number", "series", "volume"),
    "duplicate key": (f"INSERT INTO series SELECT * FROM series WHERE {AT}", "duplicate_key", "series", "timestamp"),
    "orphan bar": (f"{BAR} ('2020-01-05 21:00:00', 'ZZZ', 1.0)", "orphan_symbol", "series", "symbol"),
    "orphan indicator": (
        "INSERT INTO indicators VALUES ('2020-01-05 21:00:00', 'ZZZ', 'rsi', 1, NULL)",
        "orphan_symbol",
        "indicators",
        "symbol",
    ),
    "null timestamp": (f"UPDATE series SET timestamp = NULL WHERE {AT}", "null_key", "series", "timestamp"),
    "null symbol": (f"UPDATE series SET symbol = NULL WHERE {AT}", "null_key", "series", "symbol"),
    "null indicator name": (
        "INSERT INTO indicators VALUES ('2020-01-05 21:00:00', 'AAA', NULL, 1, NULL)",
        "null_key",
        "indicators",
        "name",
    ),
    "blob symbol": (f"UPDATE series SET symbol = x'41' WHERE {AT}", "bad_symbol", "series", "symbol"),
    "number for symbol": (f"UPDATE series SET symbol = 7 WHERE {AT}", "bad_symbol", "series", "symbol"),
    "no such day": (f"UPDATE series SET timestamp = '2020-02-30 21:00:00' WHERE {AT}", "bad_timestamp", "series", "timestamp"),
    "a date without its close": (f"UPDATE series SET timestamp = '2020-01-05' WHERE {AT}", "bad_timestamp", "series", "timestamp"),
    "a number among text": (f"UPDATE series SET timestamp = 1578258000 WHERE {AT}", "bad_timestamp", "series", "timestamp"),
    "fraction of a second as epoch": ("UPDATE series SET timestamp = 1578258000.5", "bad_timestamp", "series", "timestamp"),
    "future bar": (f"UPDATE series SET timestamp = '2090-01-05 21:00:00' WHERE {AT}", "future_timestamp", "series", "timestamp"),
    "two notations": (f"UPDATE series SET timestamp = '2020-01-05T21:00:00' WHERE {AT}", "mixed_timestamps", "series", "timestamp"),
    "empty series": ("DELETE FROM series", "empty_table", "series", None),
    "empty assets": ("DELETE FROM assets", "empty_table", "assets", None),
    "duplicate asset": ("INSERT INTO assets (symbol) VALUES ('AAA')", "duplicate_asset", "assets", "symbol"),
    "null asset": ("INSERT INTO assets (symbol) VALUES (NULL)", "null_key", "assets", "symbol"),
    "blank symbol": ("INSERT INTO assets (symbol) VALUES ('  ')", "bad_symbol", "assets", "symbol"),
    "control character": ("INSERT INTO assets (symbol) VALUES ('A' || char(10) || 'B')", "bad_symbol", "assets", "symbol"),
    "NUL in a symbol": ("INSERT INTO assets (symbol) VALUES ('A' || char(0) || 'B')", "bad_symbol", "assets", "symbol"),
    "invisible character": ("INSERT INTO assets (symbol) VALUES ('A' || char(8238) || 'B')", "bad_symbol", "assets", "symbol"),
    "endless symbol": (f"INSERT INTO assets (symbol) VALUES ('{'A' * 129}')", "bad_symbol", "assets", "symbol"),
    "invalid UTF-8": (f"UPDATE series SET symbol = CAST(x'4180' AS TEXT) WHERE {AT}", "invalid_utf8", "series", "symbol"),
    "invalid UTF-8 asset": ("INSERT INTO assets (symbol) VALUES (CAST(x'ff' AS TEXT))", "invalid_utf8", "assets", "symbol"),
    "infinite indicator": (
        "INSERT INTO indicators VALUES ('2020-01-05 21:00:00', 'AAA', 'x', -9e999, NULL)",
        "not_finite",
        "indicators",
        "value",
    ),
    "benchmark level": ("INSERT INTO benchmarks VALUES ('2020-01-05 21:00:00', 'M', 0.0, -1)", "not_positive", "benchmarks", "level"),
    "side of a trade": (
        "INSERT INTO trades VALUES (1, '2020-01-05 21:00:00', 'AAA', 'buy', 1, 1, 0, 0, 0, '')",
        "bad_side",
        "trades",
        "side",
    ),
    "split without ratio": (
        "INSERT INTO corporate_actions VALUES ('2020-01-05 14:30:00', 'AAA', 'split', 1, NULL, NULL)",
        "bad_action",
        "corporate_actions",
        "ratio",
    ),
    "dividend without amount": (
        "INSERT INTO corporate_actions VALUES ('2020-01-05 14:30:00', 'AAA', 'dividend', NULL, 1, NULL)",
        "bad_action",
        "corporate_actions",
        "amount",
    ),
    "split beyond reason": (
        "INSERT INTO corporate_actions VALUES ('2020-01-05 14:30:00', 'AAA', 'split', NULL, 1e299, NULL)",
        "bad_action",
        "corporate_actions",
        "ratio",
    ),
    "dividend of the whole price": (
        "INSERT INTO corporate_actions VALUES ('2020-01-05 14:30:00', 'AAA', 'dividend', 500, NULL, NULL)",
        "bad_action",
        "corporate_actions",
        "amount",
    ),
    "dividend in another currency": (
        "INSERT INTO corporate_actions VALUES ('2020-01-05 14:30:00', 'AAA', 'dividend', 1, NULL, 'EUR')",
        "bad_action",
        "corporate_actions",
        "currency",
    ),
    "unknown action": (
        "INSERT INTO corporate_actions VALUES ('2020-01-05 14:30:00', 'AAA', 'merger', 1, 1, NULL)",
        "bad_action",
        "corporate_actions",
        "action",
    ),
    "side table twice": (
        "INSERT INTO macro_rates SELECT '2020-01-05 21:00:00', 'UST', 1.0 FROM assets LIMIT 2",
        "duplicate_key",
        "macro_rates",
        "timestamp",
    ),
    "infinite rate": ("INSERT INTO macro_rates VALUES ('2020-01-05 21:00:00', 'UST', 9e999)", "not_finite", "macro_rates", "value"),
    "orphan funding": (
        "INSERT INTO funding_rates VALUES ('2020-01-05 21:00:00', 'ZZZ', 0.1, 8)",
        "orphan_symbol",
        "funding_rates",
        "symbol",
    ),
}

WARNED = {
    "numeric text": ("UPDATE series SET volume = CAST(volume AS TEXT)", "numeric_text", "volume"),
    "close above high": (f"UPDATE series SET close = high + 1 WHERE {AT}", "outside_range", "close"),
    "open below low": (f"UPDATE series SET open = low - 1 WHERE {AT}", "outside_range", "open"),
    "stale feed": (
        "UPDATE series SET timestamp = date(timestamp, '+90 days') || ' 21:00:00' WHERE symbol <> 'AAA'",
        "stale_feed",
        "timestamp",
    ),
    "long gap": ("DELETE FROM series WHERE symbol = 'AAA' AND timestamp BETWEEN '2020-01-05' AND '2020-01-25'", "long_gap", "timestamp"),
    "constant price": ("UPDATE series SET open = 100, high = 101, low = 99, close = 100 WHERE symbol = 'AAA'", "constant_price", "close"),
    "single bar": ("DELETE FROM series WHERE symbol = 'AAA' AND timestamp <> '2020-01-05 21:00:00'", "single_bar", "timestamp"),
    "asset without bars": ("DELETE FROM series WHERE symbol = 'AAA'", "no_bars", "timestamp"),
    "100x jump": (
        "UPDATE series SET open = 0.3, high = 0.3, low = 0.3, close = 0.3 WHERE symbol = 'AAA' AND timestamp > '2020-01-15'",
        "price_jump",
        "close",
    ),
    "offset": ("UPDATE series SET timestamp = replace(timestamp, ' ', 'T') || '-05:00'", "offset_converted", "timestamp"),
    "class by exchange": ("UPDATE assets SET metadata = NULL WHERE symbol = 'AAA'", "class_by_rule", "asset_class"),
    "class other": ("UPDATE assets SET metadata = NULL, exchange = NULL WHERE symbol = 'AAA'", "class_other", "asset_class"),
    "unknown class": (
        "UPDATE assets SET exchange = NULL, metadata = '{\"asset_class\": \"tulip\"}' WHERE symbol = 'AAA'",
        "class_other",
        "asset_class",
    ),
    "malformed metadata": ("UPDATE assets SET metadata = '{oops' WHERE symbol = 'AAA'", "malformed_metadata", "metadata"),
    "deep metadata": (f"UPDATE assets SET metadata = '{'[' * 50_000}' WHERE symbol = 'AAA'", "malformed_metadata", "metadata"),
    "odd adjustment": (
        "UPDATE assets SET metadata = '{\"price_adjustment\": \"magic\"}' WHERE symbol = 'AAA'",
        "malformed_metadata",
        "metadata",
    ),
    "coarse bars": ("UPDATE assets SET metadata = replace(metadata, '1d', '1w') WHERE symbol = 'AAA'", "coarse_bars", "metadata"),
}


@pytest.fixture
def check(data_cfg: DataConfig, markets: dict[str, MarketConfig]) -> Check:
    def run(path: Path, mode: str = "strict", now: int | None = None) -> DumpReport:
        cfg = replace(data_cfg, validation=replace(data_cfg.validation, mode=mode))
        return check_dump(path, cfg, markets, now=now)

    return run


def test_a_sound_dump_passes_without_a_word(make_dump: MakeDump, check: Check) -> None:
    report = check(make_dump())
    assert report.accepted and report.findings == ()
    assert report.counts["series"] == 120 and report.counts["assets"] == 4
    assert report.ranges["series"] == {"first": "2020-01-01T21:00:00Z", "last": "2020-01-30T21:00:00Z"}
    assert report.classes == {"crypto": 1, "equity": 2, "etf": 1}


@pytest.mark.parametrize("broken", REFUSED)
def test_refused_with_table_column_and_rows(broken: str, make_dump: MakeDump, check: Check) -> None:
    statement, code, table, column = REFUSED[broken]
    report = check(make_dump(statement))
    assert not report.accepted
    found = [finding for finding in report.errors if (finding.code, finding.table, finding.column) == (code, table, column)]
    assert len(found) == 1, [finding.message for finding in report.findings]
    assert found[0].message.startswith(f"{table}.{column}: " if column else f"{table}: ")
    assert found[0].rows or column is None
    json.dumps(report.to_dict(), allow_nan=False)


@pytest.mark.parametrize("odd", WARNED)
def test_accepted_with_a_warning(odd: str, make_dump: MakeDump, check: Check) -> None:
    statement, code, column = WARNED[odd]
    untyped = "CREATE TABLE loose (timestamp, symbol, open REAL, high REAL, low REAL, close REAL, volume TEXT, vwap REAL, turnover REAL)"
    retype = (untyped, "INSERT INTO loose SELECT * FROM series", "DROP TABLE series", "ALTER TABLE loose RENAME TO series")
    report = check(make_dump(*(retype if odd == "numeric text" else ()), statement))
    assert report.accepted, [finding.message for finding in report.errors]
    besides = {
        "malformed_metadata": {("class_by_rule", "asset_class")},
        "coarse_bars": {("bar_mismatch", "metadata")},
        "long_gap": {("missing_bars", "timestamp")},
    }
    expected = {(code, column)} | besides.get(code, set())
    assert {(finding.code, finding.column) for finding in report.warnings} == expected, [f.message for f in report.findings]


@pytest.mark.parametrize("broken", [*REFUSED, *WARNED])
def test_a_finding_does_not_depend_on_how_many_rows_are_judged_together(
    broken: str, make_dump: MakeDump, check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_dump({**REFUSED, **WARNED}[broken][0])
    whole = check(path, now=NOW)
    for module, name, rows in (
        ("rows", "_FETCH_ROWS", 7),
        ("rows", "BLOCK_ROWS", 10),
        ("ingest", "RUN_ROWS", 25),
        ("ingest", "GROUP_ROWS", 40),
    ):
        monkeypatch.setattr(f"plusultra_core.data.gate.{module}.{name}", rows)
    assert check(path, now=NOW) == whole


def test_rows_are_shown_in_the_order_of_the_table(make_dump: MakeDump, check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plusultra_core.data.gate.rows._FETCH_ROWS", 7)
    monkeypatch.setattr("plusultra_core.data.gate.rows.BLOCK_ROWS", 10)
    found = check(
        make_dump("UPDATE series SET close = -1 WHERE rowid IN (117, 3, 40, 41)", f"INSERT INTO series SELECT * FROM series WHERE {AT}")
    )
    by_code = {finding.code: finding for finding in found.errors}
    assert [row["symbol"] for row in by_code["not_positive"].rows] == ["AAA", "BBB", "BBB", "X/USD:P"]
    assert by_code["not_positive"].message.startswith(
        "series.close: 4 rows, first (timestamp='2020-01-03 21:00:00', symbol='AAA', close=-1.0; "
    )
    assert by_code["duplicate_key"].message.startswith("series.timestamp: 2 rows") and len(by_code["duplicate_key"].rows) == 2


def test_every_value_of_one_column_may_be_text_and_one_of_another_no_number(make_dump: MakeDump, check: Check) -> None:
    loose = "CREATE TABLE loose AS SELECT timestamp, symbol, CAST(open AS TEXT) AS open, close, CAST(volume AS TEXT) AS volume FROM series"
    spoil = "UPDATE loose SET volume = '1.234,5' WHERE rowid = 90"
    report = check(make_dump(loose, spoil, "DROP TABLE series", "ALTER TABLE loose RENAME TO series"))
    found = {(finding.code, finding.column): finding for finding in report.findings}
    assert found["numeric_text", "open"].level == "warning" and found["numeric_text", "open"].symbols is None
    assert found["not_a_number", "volume"].message.startswith("series.volume: 120 rows")


def test_the_number_of_a_trade_is_whole(make_dump: MakeDump, check: Check) -> None:
    row = "INSERT INTO trades VALUES ({}, '2020-01-05 21:00:00', 'AAA', 'long', 1, 1, 0, 0, 0, '')"
    report = check(
        make_dump("ALTER TABLE trades RENAME TO t", "CREATE TABLE trades AS SELECT * FROM t", row.format(1), row.format("'two'"))
    )
    (found,) = report.errors
    assert (found.code, found.column) == ("bad_key", "trade_id") and "expected an integer" in found.message
    assert [finding.code for finding in check(make_dump(row.format(1), row.format(1))).errors] == ["duplicate_key"]


def test_a_jump_with_a_corporate_action_is_no_surprise(make_dump: MakeDump, check: Check) -> None:
    action = "INSERT INTO corporate_actions VALUES ('2020-01-15 14:30:00', 'AAA', 'split', NULL, 100, NULL)"
    jump = "UPDATE series SET open = 1, high = 1, low = 1, close = close / 100 WHERE symbol = 'AAA' AND timestamp > '2020-01-15'"
    widen = "UPDATE series SET open = close, high = close, low = close WHERE symbol = 'AAA'"
    assert check(make_dump(action, jump, widen)).findings == ()


def test_every_fault_is_told_at_once(make_dump: MakeDump, check: Check) -> None:
    statements = [REFUSED[name][0] for name in ("zero price", "orphan bar", "negative volume")]
    assert {finding.code for finding in check(make_dump(*statements)).errors} == {"not_positive", "orphan_symbol", "negative"}


def test_quarantine_sets_the_offending_symbols_aside(make_dump: MakeDump, check: Check) -> None:
    report = check(make_dump(REFUSED["zero price"][0], f"{BAR} ('2020-01-05 21:00:00', 'ZZZ', 1.0)"), mode="quarantine")
    assert report.accepted and report.quarantined == ("AAA", "ZZZ")
    assert {finding.code for finding in report.warnings} >= {"not_positive", "orphan_symbol"}


def test_what_is_set_aside_says_nothing_of_the_others(make_dump: MakeDump, check: Check) -> None:
    late = "UPDATE series SET timestamp = '2090-01-05 21:00:00' WHERE symbol = 'AAA' AND timestamp = '2020-01-30 21:00:00'"
    jumps = "UPDATE series SET high = 1e9, close = 1e9 WHERE symbol = 'AAA' AND timestamp = '2020-01-20 21:00:00'"
    indicators = (
        "INSERT INTO indicators SELECT replace(timestamp, '21:00', '20:00'), symbol, 'rsi', 1, NULL FROM series WHERE symbol = 'AAA'"
    )
    report = check(make_dump(late, jumps, indicators), mode="quarantine")
    assert report.accepted and report.quarantined == ("AAA",)
    assert {finding.code for finding in report.findings} == {"future_timestamp"}
    assert report.classes == {"crypto": 1, "equity": 1, "etf": 1}


def test_a_split_needs_a_column_for_its_ratio(make_dump: MakeDump, check: Check) -> None:
    split = "INSERT INTO corporate_actions (timestamp, symbol, action, amount) VALUES ('2020-01-05 14:30:00', 'AAA', 'split', 1)"
    report = check(make_dump("ALTER TABLE corporate_actions DROP COLUMN ratio", split))
    assert [(finding.code, finding.column) for finding in report.errors] == [("bad_action", "action")]
    assert "a column ratio for every split" in report.errors[0].message


def test_a_dividend_is_held_against_the_price_that_it_is_taken_from(
    make_dump: MakeDump, check: Check, data_cfg: DataConfig, markets: dict[str, MarketConfig]
) -> None:
    dividend = "INSERT INTO corporate_actions VALUES ('2020-01-05 14:30:00', 'AAA', 'dividend', 500, NULL, 'USD')"
    adjusted = """UPDATE assets SET metadata = '{"asset_class": "equity", "price_adjustment": "split+dividend"}' WHERE symbol = 'AAA'"""
    assert check(make_dump(dividend, adjusted)).accepted
    for_splits = replace(data_cfg, bars=replace(data_cfg.bars, adjustment="split"))
    assert check_dump(make_dump(dividend), for_splits, markets).accepted
    assert check(make_dump(dividend), mode="quarantine").quarantined == ("AAA",)


@pytest.mark.parametrize(("name", "helps"), [("zero price", True), ("null symbol", False)])
def test_a_refusal_advises_quarantine_where_it_helps(name: str, helps: bool, make_dump: MakeDump, check: Check) -> None:
    refused = check(make_dump(REFUSED[name][0])).errors
    assert refused and all("; fix the dump" in finding.message for finding in refused)
    advised = [finding.message.endswith("or set validation.mode to quarantine, which leaves the symbols out") for finding in refused]
    assert all(advised) == helps == check(make_dump(REFUSED[name][0]), mode="quarantine").accepted


def test_quarantine_still_refuses_what_no_symbol_answers_for(make_dump: MakeDump, check: Check) -> None:
    report = check(make_dump(REFUSED["null symbol"][0]), mode="quarantine")
    assert not report.accepted and report.quarantined == ()


def test_quarantine_needs_somebody_left(make_dump: MakeDump, check: Check) -> None:
    report = check(make_dump("UPDATE series SET close = 0"), mode="quarantine")
    assert not report.accepted and "no_symbols_left" in {finding.code for finding in report.errors}


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=st.one_of(st.none(), st.text(max_size=5), st.binary(max_size=5), st.floats(), st.integers(-(2**63), 2**63 - 1)))
def test_no_cell_can_break_the_gate(value: object, make_dump: MakeDump, check: Check) -> None:
    rows = [(f"UPDATE series SET {column} = ? WHERE {AT}", (value,)) for column in ("timestamp", "symbol", "close", "volume")]
    for row in rows:
        try:
            path = make_dump(rows=[row])
        except (UnicodeEncodeError, sqlite3.Error):
            return
        json.dumps(check(path).to_dict(), allow_nan=False)
