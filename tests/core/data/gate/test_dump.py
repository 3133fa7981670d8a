"""The gate against files that are not what they seem."""

import json
import os
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from plusultra_core.data.gate import dump
from plusultra_core.data.gate.connection import connect
from plusultra_core.data.gate.dump import at_rest, check_dump
from plusultra_core.data.gate.findings import DumpReport, refuse
from plusultra_core.data.tables import DataConfig
from plusultra_core.errors import ConfigError, ContractError
from plusultra_core.market import MarketConfig

Check = Callable[..., DumpReport]
MakeDump = Callable[..., Path]


@pytest.fixture
def check(data_cfg: DataConfig, markets: dict[str, MarketConfig]) -> Check:
    def run(path: Path, landing: Path | None = None, **gate: float) -> DumpReport:
        limits = replace(data_cfg.gate, busy_timeout_s=0.0)
        return check_dump(path, replace(data_cfg, gate=replace(limits, **gate)), markets, landing)

    return run


def _codes(report: DumpReport) -> list[str]:
    assert not report.accepted
    return [finding.code for finding in report.errors]


def test_a_missing_file(tmp_path: Path, check: Check) -> None:
    assert _codes(check(tmp_path / "none.sqlite")) == ["missing_file"]


@pytest.mark.parametrize("content", [b"", b"timestamp,symbol,close\n" * 50, b"SQLite format 3\0", b"\0" * 4096])
def test_not_a_database(content: bytes, tmp_path: Path, check: Check) -> None:
    path = tmp_path / "dump.sqlite"
    path.write_bytes(content)
    assert _codes(check(path)) == ["not_a_database"]


def test_a_header_and_then_noise(tmp_path: Path, check: Check) -> None:
    path = tmp_path / "dump.sqlite"
    path.write_bytes(b"SQLite format 3\0" + bytes(range(256)) * 64)
    assert _codes(check(path))[0] in ("not_a_database", "corrupt", "truncated")


@pytest.mark.parametrize("change", [-4096, -1, 1])
def test_truncated_or_padded(change: int, make_dump: MakeDump, check: Check) -> None:
    path = make_dump()
    content = path.read_bytes()
    path.write_bytes(content[:change] if change < 0 else content + b"x" * change)
    report = check(path)
    assert _codes(report) == ["truncated"]
    assert f"found {len(content) + change}" in report.errors[0].message


def test_a_damaged_page(make_dump: MakeDump, check: Check) -> None:
    path = make_dump()
    content = bytearray(path.read_bytes())
    for page in range(2, len(content) // 4096):
        content[page * 4096 : page * 4096 + 64] = b"\xee" * 64
    path.write_bytes(content)
    assert "corrupt" in _codes(check(path))


def test_a_key_that_is_not_the_first_columns_is_no_damage(make_dump: MakeDump, check: Check) -> None:
    """SQLite 3.40 sees NULLs in such tables WITHOUT ROWID, where there are none."""
    path = make_dump(
        "CREATE TABLE s (close REAL, symbol TEXT, timestamp TEXT, volume REAL, PRIMARY KEY (symbol, timestamp)) WITHOUT ROWID",
        "INSERT INTO s SELECT close, symbol, timestamp, volume FROM series",
        "DROP TABLE series",
        "ALTER TABLE s RENAME TO series",
    )
    report = check(path)
    assert report.accepted and report.counts["series"] == 120


def test_a_symbolic_link(make_dump: MakeDump, tmp_path: Path, check: Check) -> None:
    (tmp_path / "link.sqlite").symlink_to(make_dump())
    assert _codes(check(tmp_path / "link.sqlite")) == ["symlink"]


def test_a_folder_is_no_dump(tmp_path: Path, check: Check) -> None:
    assert _codes(check(tmp_path)) == ["not_regular"]


def test_outside_the_landing_folder(make_dump: MakeDump, tmp_path: Path, check: Check) -> None:
    path = make_dump()
    (tmp_path / "landing").mkdir()
    assert _codes(check(path, landing=tmp_path / "landing")) == ["outside"]
    assert _codes(check(tmp_path / "landing" / ".." / "dump.sqlite", landing=tmp_path / "landing")) == ["outside"]
    assert check(path, landing=tmp_path).accepted


def test_a_hot_journal(make_dump: MakeDump, check: Check) -> None:
    path = make_dump()
    journal = path.with_name(path.name + "-journal")
    journal.write_bytes(b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" + b"\0" * 504)
    assert _codes(check(path)) == ["hot_journal"]
    journal.write_bytes(b"\0" * 512)
    assert check(path).accepted


def test_locked_by_a_writer(make_dump: MakeDump, check: Check) -> None:
    path = make_dump()
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("BEGIN EXCLUSIVE")
    assert _codes(check(path)) == ["locked"]
    writer.rollback()
    writer.close()
    assert check(path).accepted


def test_too_large(make_dump: MakeDump, check: Check) -> None:
    path = make_dump()
    path.write_bytes(path.read_bytes() + b"\0" * 1_000_000)
    assert _codes(check(path, max_file_mb=1)) == ["too_large"]


def test_a_huge_cell(make_dump: MakeDump, check: Check) -> None:
    report = check(make_dump("UPDATE assets SET exchange = printf('%.*c', 100000, 'x') WHERE symbol = 'AAA'"), max_cell_bytes=50_000)
    assert "huge_cell" in _codes(report)


def test_the_budget_ends_an_endless_query(make_dump: MakeDump, check: Check) -> None:
    many = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 30000) INSERT INTO regimes SELECT x, x, x, x FROM n"
    path = make_dump(many)
    assert check(path).accepted
    assert _codes(check(path, query_budget_s=1e-9)) == ["query_budget"]


def test_an_endless_view_in_place_of_a_table_is_never_asked(make_dump: MakeDump, check: Check) -> None:
    endless = "CREATE VIEW series AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x AS timestamp FROM n"
    report = check(make_dump("DROP TABLE series", endless))
    assert _codes(report) == ["view_for_table"]
    assert report.errors[0].message == "series: expected a table, found a view; write its rows into a table"


def test_a_virtual_table_in_place_of_an_unread_table(make_dump: MakeDump, check: Check) -> None:
    report = check(make_dump("DROP TABLE regimes", "CREATE VIRTUAL TABLE regimes USING fts5(timestamp, symbol, name, value)"))
    assert _codes(report) == ["virtual_for_table"]


def test_rows_in_the_log_are_read(make_dump: MakeDump, check: Check) -> None:
    path = make_dump()
    writer = sqlite3.connect(path)
    writer.execute("PRAGMA journal_mode = WAL")
    writer.execute("DELETE FROM series WHERE timestamp > '2020-01-29'")
    writer.commit()
    assert path.with_name(path.name + "-wal").stat().st_size > 0
    assert check(path).counts["series"] == 112
    writer.close()


def test_a_dump_in_wal_mode_gets_no_log_beside_it(make_dump: MakeDump, tmp_path: Path, check: Check) -> None:
    path = make_dump()
    writer = sqlite3.connect(path)
    writer.execute("PRAGMA journal_mode = WAL")
    writer.close()
    before = path.read_bytes()
    assert check(path).accepted
    assert [entry.name for entry in tmp_path.iterdir()] == ["dump.sqlite"] and path.read_bytes() == before
    with at_rest(path) as quiet:
        assert quiet != path


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE mine (x)",
        "DELETE FROM series",
        "ATTACH DATABASE 'other.sqlite' AS other",
        "VACUUM INTO 'other.sqlite'",
        "PRAGMA writable_schema = ON",
        "PRAGMA journal_mode = WAL",
        "SELECT load_extension('evil')",
        "CREATE TEMP VIEW v AS SELECT 1",
    ],
)
def test_the_connection_can_do_nothing_but_read(statement: str, make_dump: MakeDump, data_cfg: DataConfig) -> None:
    with (
        connect(make_dump(), data_cfg.gate) as db,
        pytest.raises(sqlite3.DatabaseError, match=r"not authorized|prohibited|readonly|authorization denied|within a transaction"),
    ):
        db.execute(statement)


def test_symbols_are_data_never_sql_or_paths(make_dump: MakeDump, check: Check) -> None:
    legal = ["x'; DROP TABLE series;--", "../../etc/x", "BTC/USDT:USDT", "^GSPC", "BRK.B", '"quoted"', "Ünïcode Ω", "%s{0}"]
    rows = []
    for number, symbol in enumerate(legal, 10):
        rows.append(('INSERT INTO assets VALUES (?, ?, NULL, NULL, NULL, \'{"asset_class": "other"}\')', (number, symbol)))
        rows.append(
            (
                "INSERT INTO series SELECT timestamp, ?, open, high, low, close, volume, vwap, turnover FROM series WHERE symbol = 'AAA'",
                (symbol,),
            )
        )
    report = check(make_dump(rows=rows))
    assert report.findings == () and report.classes["other"] == len(legal)


def test_the_report_is_json(make_dump: MakeDump, check: Check) -> None:
    report = check(make_dump("UPDATE series SET close = 9e999, open = x'00' WHERE symbol = 'AAA'"))
    value = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert value["accepted"] is False
    assert {finding["code"] for finding in value["findings"]} >= {"not_finite", "not_a_number"}


def test_a_refusal_raises_its_first_findings(make_dump: MakeDump, check: Check) -> None:
    report = check(make_dump("UPDATE series SET close = -1 WHERE symbol = 'AAA' AND timestamp < '2020-01-03'"))
    with pytest.raises(
        ContractError, match=r"d: refused: series.close: 2 rows, first \(timestamp='2020-01-01 21:00:00', symbol='AAA', close=-1.0"
    ):
        refuse(report, "d")


def test_limits_must_make_sense(data_cfg: DataConfig) -> None:
    with pytest.raises(ConfigError, match="max_file_mb"):
        replace(data_cfg.gate, max_file_mb=0)
    with pytest.raises(ConfigError, match="busy_timeout_s"):
        replace(data_cfg.gate, busy_timeout_s=-1.0)
    with pytest.raises(ConfigError, match="sample_rows"):
        replace(data_cfg.validation, sample_rows=0)


def test_a_file_that_changes_while_it_is_read(make_dump: MakeDump, check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_dump()
    judged = dump.check_content

    def judge_and_touch(*arguments: Any) -> DumpReport:
        path.write_bytes(path.read_bytes())
        os.utime(path, ns=(1, 1))
        return judged(*arguments)

    monkeypatch.setattr(dump, "check_content", judge_and_touch)
    assert _codes(check(path)) == ["unstable"]


def test_text_in_another_encoding_is_text(make_dump: MakeDump, tmp_path: Path, check: Check) -> None:
    other = sqlite3.connect(tmp_path / "wide.sqlite")
    other.execute("PRAGMA encoding = 'UTF-16'")
    source = sqlite3.connect(make_dump())
    for line in source.iterdump():
        other.execute(line)
    other.commit()
    other.close()
    source.close()
    report = check(tmp_path / "wide.sqlite")
    assert report.findings == () and report.counts["series"] == 120


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read(make_dump: MakeDump, check: Check) -> None:
    path = make_dump()
    path.chmod(0)
    assert _codes(check(path)) == ["unreadable"]
