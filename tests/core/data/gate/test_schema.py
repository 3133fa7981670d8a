"""Which tables and columns a dump has, and what is said about those it lacks or adds."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from plusultra_core import config
from plusultra_core.data.gate.dump import check_dump
from plusultra_core.data.gate.findings import DumpReport
from plusultra_core.data.gate.schema import SHAPES
from plusultra_core.data.tables import DataConfig
from plusultra_core.errors import ConfigError
from plusultra_core.market import MarketConfig

Check = Callable[..., DumpReport]
MakeDump = Callable[..., Path]


@pytest.fixture
def check(make_dump: MakeDump, data_cfg: DataConfig, markets: dict[str, MarketConfig]) -> Check:
    return lambda *statements: check_dump(make_dump(*statements), data_cfg, markets)


@pytest.mark.parametrize("table", ["assets", "series"])
def test_a_required_table_is_missing(table: str, check: Check) -> None:
    report = check(f"DROP TABLE {table}")
    assert not report.accepted
    assert [(finding.code, finding.table) for finding in report.errors] == [("missing_table", table)]


@pytest.mark.parametrize(
    ("table", "column"), [("assets", "symbol"), ("series", "timestamp"), ("series", "close"), ("indicators", "name"), ("trades", "side")]
)
def test_a_required_column_is_missing(table: str, column: str, check: Check) -> None:
    report = check(f"ALTER TABLE {table} RENAME COLUMN {column} TO other")
    assert [(finding.code, finding.table, finding.column) for finding in report.errors] == [("missing_column", table, column)]
    assert "other" in report.errors[0].message


def test_optional_tables_may_be_missing(check: Check) -> None:
    report = check(
        "DROP TABLE indicators", "DROP TABLE regimes", "DROP TABLE macro_rates", "DROP TABLE sentiment", "DROP TABLE corporate_actions"
    )
    assert report.accepted
    assert [(finding.code, finding.table) for finding in report.warnings] == [
        ("missing_table", "indicators"),
        ("missing_table", "regimes"),
        ("missing_table", "side_tables"),
    ]
    assert "corporate_actions, macro_rates, sentiment" in report.warnings[-1].message


def test_assets_may_be_told_by_symbol_alone(check: Check) -> None:
    without = "CREATE TABLE bare AS SELECT symbol, metadata FROM assets"
    assert check(without, "DROP TABLE assets", "ALTER TABLE bare RENAME TO assets").findings == ()


def test_close_only_series_are_accepted(check: Check) -> None:
    without = "CREATE TABLE bare AS SELECT timestamp, symbol, close FROM series"
    assert check(without, "DROP TABLE series", "ALTER TABLE bare RENAME TO series").findings == ()


def test_unknown_columns_and_tables_are_named(check: Check) -> None:
    report = check("ALTER TABLE series ADD COLUMN mood TEXT", "CREATE TABLE gossip (x)")
    assert report.accepted
    assert [(finding.code, finding.table, finding.column) for finding in report.warnings] == [
        ("unknown_column", "series", "mood"),
        ("unknown_table", "gossip", None),
    ]


def test_spelling_of_columns(check: Check) -> None:
    report = check("ALTER TABLE series RENAME COLUMN close TO Close")
    assert report.accepted
    assert [(finding.code, finding.column) for finding in report.warnings] == [("column_case", "close")]


def test_a_side_table_of_another_shape_is_left_alone(check: Check) -> None:
    report = check("ALTER TABLE macro_rates RENAME COLUMN name TO key")
    assert report.accepted
    assert [(finding.code, finding.table, finding.column) for finding in report.warnings] == [("missing_column", "macro_rates", "name")]


def test_side_tables_are_declared_once(data_cfg: DataConfig) -> None:
    first = data_cfg.side_tables[0]
    for bad in (replace(first, table="series"), replace(first, table="corporate_actions"), first):
        with pytest.raises(ConfigError, match="expected each table once and none of"):
            replace(data_cfg, side_tables=(*data_cfg.side_tables, bad))
    with pytest.raises(ConfigError, match="lag_s"):
        replace(first, lag_s=-1)
    with pytest.raises(ConfigError, match="market_wide: expected a symbol_column"):
        replace(first, market_wide=True)


def test_every_profile_reads_the_same_side_tables(root: Path, data_cfg: DataConfig) -> None:
    for profile in ("smoke", "base", "gpu24", "h200"):
        cfg = config.load(DataConfig, root / "configs" / profile / "data.yaml")
        assert cfg.side_tables == data_cfg.side_tables and cfg.corporate_actions == data_cfg.corporate_actions


def test_a_shape_forgets_what_is_not_there() -> None:
    shape = SHAPES["trades"].keep(["trade_id", "timestamp", "symbol", "side", "size", "price"])
    assert shape.optional == () and shape.finite == () and len(shape.rules) == 3 and shape.integers == ("trade_id",)


def test_a_side_table_adds_fields_by_names_that_mean_nothing_else(check: Check) -> None:
    odd = ["", " ", "*", "^.*$", "_place", "ts\nns", '"', "9lives"]
    names = ['"' + name.replace('"', '""') + '"' for name in (*odd, "mood", "Größe (%)")]
    fill = f"INSERT INTO sentiment (timestamp, symbol, {', '.join(names)}) VALUES ('2020-01-05 21:00:00', 'AAA'{', 1' * len(names)})"
    report = check(*(f"ALTER TABLE sentiment ADD COLUMN {name} REAL" for name in names), fill)
    (finding,) = report.findings
    assert (finding.code, finding.table) == ("unknown_column", "sentiment") and len(finding.rows) == len(odd)
    assert "mood" not in finding.message and "Größe" not in finding.message and "\n" not in finding.message


def test_a_name_is_the_same_in_either_case_of_ascii_and_of_nothing_else(check: Check) -> None:
    """The Kelvin sign is no K to SQLite; taken for one, the missing column would be read as the text of its own name."""
    kelvin = "\u212anown_at"
    report = check("ALTER TABLE series RENAME COLUMN close TO Close", f'ALTER TABLE series ADD COLUMN "{kelvin}"')
    assert [(finding.code, finding.column) for finding in report.findings] == [("column_case", "close"), ("unknown_column", kelvin)]
    report = check('ALTER TABLE series RENAME COLUMN close TO "clo\u017fe"')
    assert [(finding.code, finding.column) for finding in report.errors] == [("missing_column", "close")]


def test_many_tables_are_named_in_one_breath(check: Check) -> None:
    (finding,) = check(*(f"CREATE TABLE t{number:03d} (x)" for number in range(100))).findings
    assert (finding.code, finding.table, len(finding.rows)) == ("unknown_table", "", 20)
    assert finding.message.startswith("dump: 100 tables that no config names (t000, t001, ") and "and 80 more" in finding.message
