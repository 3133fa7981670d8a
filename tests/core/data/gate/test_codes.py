"""Every code of a finding, each on a dump that is broken to provoke it."""

import ast
import os
import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from plusultra_core.data import revisions
from plusultra_core.data.gate.dump import check_dump
from plusultra_core.data.gate.findings import CODES, Finding
from plusultra_core.data.snapshot import take_snapshot
from plusultra_core.data.tables import DataConfig
from plusultra_core.market import MarketConfig

MakeDump = Callable[..., Path]
AAA = "symbol = 'AAA'"
AT = f"{AAA} AND timestamp = '2020-01-05 21:00:00'"
LATER = f"{AAA} AND timestamp > '2020-01-15'"
ENOUGH = (  # three hundred days more, so that habits of a symbol can be told
    "WITH RECURSIVE n(k) AS (SELECT 1 UNION ALL SELECT k + 1 FROM n WHERE k < 300) INSERT INTO series "
    "SELECT datetime(timestamp, '-' || k || ' days'), symbol, 100, 101 + k % 3, 98, 99 + k % 3, 1000 + k, 100, 1 FROM n, series "
    "WHERE timestamp = '2020-01-01 21:00:00'"
)

STATEMENTS: dict[str, tuple[str, ...]] = {
    "huge_cell": ("UPDATE series SET symbol = printf('%.*c', 2000000, 'x') WHERE rowid = 1",),
    "hostile_schema": ("PRAGMA writable_schema = ON", "UPDATE sqlite_schema SET sql = sql || ' nonsense' WHERE name = 'regimes'"),
    "missing_table": ("DROP TABLE series",),
    "missing_column": ("ALTER TABLE series DROP COLUMN close",),
    "duplicate_column": (
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_schema SET sql = replace(sql, 'vwap', 'CLOSE') WHERE name = 'series'",
    ),
    "view_for_table": ("DROP TABLE series", "CREATE VIEW series AS SELECT 1 AS timestamp"),
    "virtual_for_table": ("DROP TABLE regimes", "CREATE VIRTUAL TABLE regimes USING fts5(timestamp, symbol, name, value)"),
    "generated_column": ("ALTER TABLE series ADD COLUMN mid REAL AS ((high + low) / 2)",),
    "empty_table": ("DELETE FROM series",),
    "unknown_table": ("CREATE TABLE gossip (x)",),
    "unknown_column": ("ALTER TABLE series ADD COLUMN mood TEXT",),
    "column_case": ("ALTER TABLE series RENAME COLUMN close TO Close",),
    "null_key": (f"UPDATE series SET timestamp = NULL WHERE {AT}",),
    "bad_key": (f"INSERT INTO indicators SELECT timestamp, symbol, x, 1, NULL FROM series, (SELECT 7 AS x UNION SELECT 'rsi') WHERE {AT}",),
    "duplicate_key": (f"INSERT INTO series SELECT * FROM series WHERE {AT}",),
    "duplicate_asset": ("INSERT INTO assets (symbol) VALUES ('AAA')",),
    "orphan_symbol": (f"UPDATE series SET symbol = 'ZZZ' WHERE {AT}",),
    "bad_symbol": ("UPDATE assets SET symbol = ' ' WHERE asset_id = 1",),
    "invalid_utf8": (f"UPDATE series SET symbol = CAST(x'4180' AS TEXT) WHERE {AT}",),
    "bad_timestamp": (f"UPDATE series SET timestamp = '2021-02-30 21:00:00' WHERE {AT}",),
    "mixed_timestamps": (f"UPDATE series SET timestamp = replace(timestamp, ' ', 'T') WHERE {AT}",),
    "future_timestamp": (f"UPDATE series SET timestamp = '2090-01-05 21:00:00' WHERE {AT}",),
    "known_too_early": ("ALTER TABLE series ADD COLUMN known_at", f"UPDATE series SET known_at = datetime(timestamp, '-1 day') WHERE {AT}"),
    "null_number": ("INSERT INTO trades VALUES (1, '2020-01-05 21:00:00', 'AAA', 'long', 1, NULL, 0, 0, 0, '')",),
    "null_close": (f"UPDATE series SET close = NULL WHERE {AT}",),
    "not_a_number": (f"UPDATE series SET close = '1.234,56' WHERE {AT}",),
    "not_finite": (f"UPDATE series SET volume = 9e999 WHERE {AT}",),
    "not_positive": (f"UPDATE series SET close = -0.0 WHERE {AT}",),
    "negative": (f"UPDATE series SET volume = -1 WHERE {AT}",),
    "high_below_low": (f"UPDATE series SET high = low - 1 WHERE {AT}",),
    "bad_side": ("INSERT INTO trades VALUES (1, '2020-01-05 21:00:00', 'AAA', 'buy', 1, 1, 0, 0, 0, '')",),
    "bad_action": ("INSERT INTO corporate_actions VALUES ('2020-01-05 14:30:00', 'AAA', 'merger', 1, 1, NULL)",),
    "no_symbols_left": ("UPDATE series SET close = 0",),
    "numeric_text": (
        "CREATE TABLE loose (timestamp, symbol, close TEXT)",
        "INSERT INTO loose SELECT timestamp, symbol, close FROM series",
        "DROP TABLE series",
        "ALTER TABLE loose RENAME TO series",
    ),
    "outside_range": (f"UPDATE series SET close = high + 1 WHERE {AT}",),
    "offset_converted": ("UPDATE series SET timestamp = timestamp || '-05:00'",),
    "known_ahead": (
        "ALTER TABLE macro_rates ADD COLUMN known_at DATETIME",
        "INSERT INTO macro_rates VALUES ('2020-01-05 21:00:00', 'UST', 1.5, '2020-01-04 21:00:00')",
    ),
    "class_by_rule": (f"UPDATE assets SET metadata = NULL WHERE {AAA}",),
    "class_other": (f"UPDATE assets SET metadata = NULL, exchange = NULL WHERE {AAA}",),
    "malformed_metadata": (f"UPDATE assets SET metadata = '{{oops' WHERE {AAA}",),
    "lookalike_symbols": ("UPDATE assets SET symbol = 'aaa' WHERE symbol = 'BBB'", "UPDATE series SET symbol = 'aaa' WHERE symbol = 'BBB'"),
    "no_bars": (f"DELETE FROM series WHERE {AAA}",),
    "single_bar": (f"DELETE FROM series WHERE {AAA} AND timestamp <> '2020-01-05 21:00:00'",),
    "stale_feed": ("UPDATE series SET timestamp = date(timestamp, '+90 days') || ' 21:00:00' WHERE symbol <> 'AAA'",),
    "long_gap": (f"DELETE FROM series WHERE {AAA} AND timestamp BETWEEN '2020-01-05' AND '2020-01-25'",),
    "missing_bars": (ENOUGH, "DELETE FROM series WHERE symbol = 'X/USD:P' AND timestamp BETWEEN '2019-06-01' AND '2019-06-11'"),
    "constant_price": (f"UPDATE series SET open = 100, high = 101, low = 99, close = 100 WHERE {AAA}",),
    "price_jump": (f"UPDATE series SET open = 1, high = 1, low = 1, close = 0.37 WHERE {LATER}",),
    "unrecorded_split": (f"UPDATE series SET open = open / 7, high = high / 7, low = low / 7, close = close / 7 WHERE {LATER}",),
    "stray_print": (f"UPDATE series SET low = 0.06 WHERE {AT}",),
    "unit_flip": (f"UPDATE series SET open = open / 100, high = high / 100, low = low / 100, close = close / 100 WHERE {AT}",),
    "zero_volume": (f"UPDATE series SET volume = 0 WHERE {AT}",),
    "misaligned_indicators": ("INSERT INTO indicators SELECT datetime(timestamp, '-1 hour'), symbol, 'rsi', 50, NULL FROM series",),
    "bar_mismatch": ("UPDATE assets SET metadata = replace(metadata, '1d', '1h') WHERE symbol = 'AAA'",),
    "coarse_bars": ("UPDATE assets SET metadata = replace(metadata, '1d', '1w') WHERE symbol = 'AAA'",),
    # Against the dump before it.
    "history_revised": (f"UPDATE series SET close = close + 0.25 WHERE {AT}",),
    "rows_gone": (f"DELETE FROM series WHERE {AT}",),
    "symbols_new": (
        "INSERT INTO assets SELECT 9, 'NEW', sector, currency, exchange, metadata FROM assets WHERE symbol = 'AAA'",
        "INSERT INTO series SELECT timestamp, 'NEW', open, high, low, close, volume, vwap, turnover FROM series WHERE symbol = 'AAA'",
    ),
    "symbols_gone": (f"DELETE FROM series WHERE {AAA}", f"DELETE FROM assets WHERE {AAA}"),
}
GATE = {"query_budget": {"query_budget_s": 1e-9}, "too_large": {"max_file_mb": 1}, "too_many_assets": {"max_assets": 3}}
COMPARED = ("history_revised", "rows_gone", "symbols_new", "symbols_gone")


def _missing_file(path: Path) -> None:
    path.unlink()


def _symlink(path: Path) -> None:
    path.rename(path.with_name("real.sqlite"))
    path.symlink_to("real.sqlite")


def _not_regular(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _not_a_database(path: Path) -> None:
    path.write_bytes(b"\x1f\x8b" + path.read_bytes())


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4096])


def _corrupt(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[8192:16384] = bytes(range(256)) * 32
    path.write_bytes(content)


def _hot_journal(path: Path) -> None:
    path.with_name(path.name + "-journal").write_bytes(b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" + b"\0" * 504)


def _wal_mode(path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute("PRAGMA journal_mode = WAL")
    db.close()


def _lost_log(path: Path) -> None:
    _wal_mode(path)
    path.with_name(path.name + "-wal").write_bytes(b"not a log")


def _too_large(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0" * 1_000_000)


def _many_rows(path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute(
        "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 30000) INSERT INTO regimes SELECT x, x, x, x FROM n"
    )
    db.commit()
    db.close()


def _huge_schema(path: Path) -> None:
    db = sqlite3.connect(path)
    for number in range(2_000):
        db.execute(f"CREATE TABLE t{number} (x)")
    db.commit()
    db.close()


FILES: dict[str, Callable[[Path], None]] = {
    "missing_file": _missing_file,
    "symlink": _symlink,
    "not_regular": _not_regular,
    "not_a_database": _not_a_database,
    "truncated": _truncated,
    "corrupt": _corrupt,
    "hot_journal": _hot_journal,
    "wal_mode": _wal_mode,
    "lost_log": _lost_log,
    "too_large": _too_large,
    "query_budget": _many_rows,
    "huge_schema": _huge_schema,
}
ELSEWHERE = {  # these need another process, another folder or another user
    "outside": "test_dump.py::test_outside_the_landing_folder",
    "locked": "test_dump.py::test_locked_by_a_writer",
    "unstable": "test_dump.py::test_a_file_that_changes_while_it_is_read",
    "unreadable": "test_dump.py::test_a_file_that_may_not_be_read",
}


@pytest.fixture
def findings(make_dump: MakeDump, data_cfg: DataConfig, markets: dict[str, MarketConfig], tmp_path: Path) -> Callable[[str], list[Finding]]:
    def provoke(code: str) -> list[Finding]:
        mode = "quarantine" if code == "no_symbols_left" else "strict"
        gate = replace(data_cfg.gate, busy_timeout_s=0.0, **GATE.get(code, {}))
        cfg = replace(data_cfg, gate=gate, validation=replace(data_cfg.validation, mode=mode))
        before = take_snapshot(make_dump(), tmp_path / "snapshots", cfg, markets) if code in COMPARED else None
        path = make_dump(*STATEMENTS.get(code, ()))
        FILES.get(code, lambda path: None)(path)
        if before is None:
            return list(check_dump(path, cfg, markets).findings)
        return list(revisions.compare(before.path, take_snapshot(path, tmp_path / "snapshots", cfg, markets).path, cfg.shapes()).findings)

    return provoke


def test_every_code_has_a_dump_that_provokes_it() -> None:
    assert sorted({*STATEMENTS, *FILES, *GATE, *ELSEWHERE}) == sorted(CODES)
    here = Path(__file__).parent
    for where in ELSEWHERE.values():
        file, _, name = where.partition("::")
        assert f"def {name}(" in (here / file).read_text(), where


@pytest.mark.parametrize("code", sorted(set(CODES) - set(ELSEWHERE)))
def test_the_code_is_told(code: str, findings: Callable[[str], list[Finding]]) -> None:
    found = findings(code)
    assert code in {finding.code for finding in found}, [finding.message for finding in found]
    told = next(finding for finding in found if finding.code == code)
    assert told.level == CODES[code].level and len(told.message) > 20


def test_the_gate_says_nothing_that_is_not_registered_and_registers_nothing_that_it_does_not_say(root: Path) -> None:
    said = {text for path in _sources(root) for text in _words(path)}
    assert [code for code in CODES if code not in said and not code.endswith("_for_table")] == []


def _sources(root: Path) -> Iterable[Path]:
    data = root / "plusultra_core" / "data"
    return [path for path in data.rglob("*.py") if path.name != "findings.py"]


def _words(path: Path) -> Iterable[str]:
    return [node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
