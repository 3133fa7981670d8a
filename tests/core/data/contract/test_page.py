"""The page of the dump says what the code does, and its statements and questions run."""

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import pytest

from plusultra_core import config
from plusultra_core.data.contract.dump_tables import DUMP
from plusultra_core.data.contract.frames import FRAMES
from plusultra_core.data.contract.meanings import meaning_of
from plusultra_core.data.contract.page import create_table, render
from plusultra_core.data.contract.validation import schema
from plusultra_core.data.gate.dump import check_dump
from plusultra_core.data.gate.findings import CODES
from plusultra_core.data.gate.schema import SHAPES, UNREAD
from plusultra_core.data.tables import DataConfig
from plusultra_core.market import MarketConfig

ROOT = Path(__file__).resolve().parents[4]
CELLS: Mapping[str, object] = {
    "DATETIME": "2021-03-01 21:00:00",
    "TEXT": "AAA",
    "REAL": 1.5,
    "INTEGER": 1,
    "JSON": '{"asset_class": "equity"}',
}
WORDS: Mapping[str, object] = {
    "action": "dividend",
    "ratio": None,
    "side": "long",
    "currency": "USD",
    "asset_class": "equity",
    "exchange": "X",
}


@pytest.fixture(scope="module")
def data_config() -> DataConfig:
    return config.load(DataConfig, ROOT / "configs" / "base" / "data.yaml")


@pytest.fixture(scope="module")
def every_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dump made of the page's own statements, one row in each table, two bars."""
    path = tmp_path_factory.mktemp("page") / "page.sqlite"
    with closing(sqlite3.connect(path)) as db:
        for name, table in DUMP.items():
            db.executescript(create_table(name))
            row = [WORDS.get(column, CELLS[kind]) for column, (kind, _, _) in table.columns.items()]
            db.execute(f'INSERT INTO "{name}" VALUES ({", ".join("?" * len(row))})', row)
        db.execute(
            "INSERT INTO series SELECT '2021-03-02 21:00:00', symbol, open, high, low, close, volume, vwap, turnover, NULL FROM series"
        )
        db.commit()
    return path


def test_page_is_what_the_code_says() -> None:
    assert (ROOT / "docs" / "sqlite_schema.md").read_text(encoding="utf-8") == render(), "run python -m plusultra_core.data.contract.page"


def test_every_code_of_a_finding_stands_on_the_page_with_what_to_do() -> None:
    page = render()
    for code, what in CODES.items():
        assert f"| `{code}` | {what.meaning} | {what.remedy} |" in page


def test_every_column_that_the_gate_reads_is_described_and_no_other(data_config: DataConfig) -> None:
    shapes = {**SHAPES, **{shape.table: shape for shape in data_config.shapes()}}
    assert set(DUMP) | {"funding_rates_8h"} == set(shapes) | set(UNREAD)
    for name, shape in shapes.items():
        if name != "funding_rates_8h":
            assert set(DUMP[name].columns) == {*shape.required, *shape.optional}, name
    assert {*shapes["funding_rates_8h"].required, *shapes["funding_rates_8h"].optional} == set(DUMP["funding_rates"].columns)


def test_statements_of_the_page_make_a_dump_that_the_gate_accepts(
    every_table: Path, data_config: DataConfig, markets: Mapping[str, MarketConfig]
) -> None:
    report = check_dump(every_table, data_config, markets)
    assert report.errors == ()
    assert {finding.code for finding in report.warnings} <= {"missing_table", "stale_feed", "missing_bars", "misaligned_indicators"}
    assert set(report.counts) == set(DUMP) - set(UNREAD)


@pytest.mark.parametrize("name", DUMP)
def test_questions_of_the_page_have_answers(name: str, every_table: Path) -> None:
    with closing(sqlite3.connect(every_table)) as db:
        assert db.execute(DUMP[name].query).fetchall()


def test_every_column_of_every_frame_has_a_meaning() -> None:
    unknown = [f"{name}.{column}" for name, spec in FRAMES.items() for column in spec.columns if meaning_of(column) is None]
    assert unknown == []


def test_schemas_carry_unit_and_meaning() -> None:
    made = schema("bars", tuple(FRAMES["bars"].columns))
    assert made.columns["close_adj"].description.startswith("Close, adjusted forward")
    assert made.columns["gap_bars"].metadata == {"unit": "bars"}
