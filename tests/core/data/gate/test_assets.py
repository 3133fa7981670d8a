"""What the gate reads of the assets: bounded texts, a class for each, symbols that a person can tell apart."""

import sqlite3
import unicodedata
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import polars as pl
import pytest

from plusultra_core.data.gate.assets import check_frequency, classify, read_assets
from plusultra_core.data.gate.connection import connect
from plusultra_core.data.gate.dump import check_dump
from plusultra_core.data.gate.findings import DumpReport
from plusultra_core.data.tables import DataConfig
from plusultra_core.market import MarketConfig

MakeDump = Callable[..., Path]
Rename = Callable[..., DumpReport]
HIDDEN = [
    "",
    " ",
    "\u00a0",
    "\u3000",
    "\u200b",
    "A\u200bB",
    "A\nB",
    "A\x00B",
    "\u3164",
    "\u2800",
    "\u0301",
    "A\ufe0f",
    "A\u202eB",
    "\ue000",
]


@pytest.fixture
def rename(make_dump: MakeDump, data_cfg: DataConfig, markets: dict[str, MarketConfig]) -> Rename:
    """The verdict on the sound dump under other symbols."""

    def run(**symbols: str) -> DumpReport:
        path = make_dump()
        with closing(sqlite3.connect(path)) as db:
            for old, new in symbols.items():
                for table in ("assets", "series"):
                    db.execute(f"UPDATE {table} SET symbol = ? WHERE symbol = ?", (new, old))
            db.commit()
        return check_dump(path, data_cfg, markets)

    return run


@pytest.mark.parametrize("symbol", [*HIDDEN, "A" * 129, "Ω" * 600])
def test_blank_hidden_and_endless_symbols_are_refused(symbol: str, rename: Rename) -> None:
    report = rename(AAA=symbol)
    assert not report.accepted and report.errors[0].code == "bad_symbol"
    assert report.errors[0].rows


@pytest.mark.parametrize("symbol", ["A", "é", "e\u0301", "日経", "%", "€", "🚀", "B" * 128, "Ω" * 128, "a b", "-", "NULL"])
def test_any_printable_symbol_is_legal(symbol: str, rename: Rename) -> None:
    assert rename(AAA=symbol).findings == ()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Abc", "aBC"),
        ("ABC", "\u0410\u0412\u0421"),  # Cyrillic
        ("TOY", "\u03a4\u039f\u03a5"),  # Greek
        ("ABC", "\uff21\uff22\uff23"),  # full width
        (unicodedata.normalize("NFC", "é1"), unicodedata.normalize("NFD", "é1")),
        ("A B", "AB"),
        ("A-B", "A\u2013B"),
        ("STRASSE", "straße"),
    ],
)
def test_symbols_that_look_alike_are_told_of_and_kept_apart(first: str, second: str, rename: Rename) -> None:
    report = rename(AAA=first, BBB=second)
    assert report.accepted
    (finding,) = report.findings
    assert finding.code == "lookalike_symbols" and set(finding.symbols or ()) == {first, second}
    assert {str(row["symbol"]) for row in finding.rows} == {first, second}
    assert all(str(row["like"]).isascii() for row in finding.rows)
    assert report.classes["equity"] == 2


def test_outer_spaces_are_told_of(rename: Rename) -> None:
    (finding,) = rename(AAA="AAA ").findings
    assert finding.code == "lookalike_symbols" and finding.rows == ({"symbol": "AAA ", "like": "AAA"},)


def test_symbols_that_merely_resemble_each_other_are_left_alone(rename: Rename) -> None:
    assert rename(AAA="BRK.A", BBB="BRK.B", CCC="BRKA").findings == ()


@pytest.mark.parametrize(
    ("metadata", "is_ok"),
    [
        ("NULL", True),
        ("''", True),
        ("'{}'", True),
        ("x'7b7d'", False),
        ("5", False),
        ("'[]'", False),
        ('\'{"bar": "1 day"}\'', False),
        ('\'{"price_adjustment": ["split"]}\'', False),
        ('\'{"asset_class": {"a": 1}}\'', True),
        ("'{\"x\": \"' || printf('%.*c', 65000, 'x') || '\"}'", True),
        ("'{\"x\": \"' || printf('%.*c', 66000, 'x') || '\"}'", False),
        ("'{}' || char(0) || 'x'", False),
        ("'{\"x\": ' || printf('%.*c', 5000, '9') || '}'", False),
    ],
)
def test_metadata_that_can_be_used(
    metadata: str, is_ok: bool, make_dump: MakeDump, data_cfg: DataConfig, markets: dict[str, MarketConfig]
) -> None:
    path = make_dump(f"UPDATE assets SET metadata = {metadata} WHERE symbol = 'AAA'")
    with connect(path, data_cfg.gate) as db:
        row = classify(read_assets(db), markets).row(by_predicate=pl.col("symbol") == "AAA", named=True)
    assert row["metadata_ok"] == is_ok and (row["asset_class"], row["class_from"]) == ("equity", "rule")
    told = [finding.code for finding in check_dump(path, data_cfg, markets).findings]
    assert told == (["class_by_rule"] if is_ok else ["malformed_metadata", "class_by_rule"])


def test_keys_of_the_wrong_type_are_shown_as_they_are(make_dump: MakeDump, data_cfg: DataConfig, markets: dict[str, MarketConfig]) -> None:
    report = check_dump(make_dump("UPDATE assets SET symbol = 600519 WHERE symbol = 'AAA'"), data_cfg, markets)
    finding = next(finding for finding in report.errors if finding.table == "assets")
    assert (finding.code, finding.rows) == ("bad_symbol", ({"symbol": 600519},)) and "declare the column TEXT" in finding.message
    texts = ("CREATE TABLE named AS SELECT 'id' || asset_id AS asset_id, symbol, metadata FROM assets", "DROP TABLE assets")
    report = check_dump(make_dump(*texts, "ALTER TABLE named RENAME TO assets"), data_cfg, markets)
    assert [(finding.code, finding.column, finding.rows[0]) for finding in report.errors] == [("bad_key", "asset_id", {"asset_id": "id1"})]
    assert "4 rows" in report.errors[0].message


def test_words_about_an_asset_are_no_novels(make_dump: MakeDump, data_cfg: DataConfig, markets: dict[str, MarketConfig]) -> None:
    report = check_dump(make_dump("UPDATE assets SET sector = printf('%.*c', 257, 'x') WHERE symbol = 'AAA'"), data_cfg, markets)
    assert [(finding.code, finding.column) for finding in report.errors] == [("huge_cell", "sector")]
    assert check_dump(make_dump("UPDATE assets SET sector = printf('%.*c', 256, 'x')"), data_cfg, markets).findings == ()


def test_coarser_bars_are_named(markets: dict[str, MarketConfig]) -> None:
    assets = pl.DataFrame({"symbol": ["A", "B", "C"], "bar": ["1d", "1w", None], "asset_class": ["crypto", "crypto", "crypto"]})
    (finding,) = check_frequency(assets, markets)
    assert finding.code == "coarse_bars" and finding.symbols == ("B",)
