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
    assert shape.optional == () and shape.finite == () and len(shape.rules) == 1 and shape.integers == ("trade_id",)
