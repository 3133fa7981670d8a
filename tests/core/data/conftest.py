"""A small sound dump that tests break, one way at a time."""

import sqlite3
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from plusultra_core import config
from plusultra_core.data.tables import DataConfig
from plusultra_core.market import MarketConfig

SCHEMA = """
CREATE TABLE assets (asset_id INTEGER PRIMARY KEY, symbol, sector TEXT, currency TEXT, exchange TEXT, metadata JSON);
CREATE TABLE series (timestamp DATETIME, symbol, open REAL, high REAL, low REAL, close REAL, volume REAL, vwap REAL, turnover REAL);
CREATE TABLE indicators (timestamp DATETIME, symbol, name, value REAL, metadata JSON);
CREATE TABLE regimes (timestamp DATETIME, symbol, name, value TEXT);
CREATE TABLE benchmarks (timestamp DATETIME, symbol, return REAL, level REAL);
CREATE TABLE cross_asset_views (timestamp DATETIME, feature TEXT, value REAL, universe TEXT, metadata JSON);
CREATE TABLE trades (trade_id INTEGER, timestamp DATETIME, symbol, side TEXT, size REAL, price REAL, fees REAL, slippage_bp REAL, pnl REAL,
    metadata JSON);
CREATE TABLE trade_annotations (annotation_id INTEGER PRIMARY KEY, trade_id INTEGER, decision TEXT);
CREATE TABLE corporate_actions (timestamp DATETIME, symbol, action, amount REAL, ratio REAL, currency TEXT);
CREATE TABLE macro_rates (timestamp DATETIME, name, value REAL);
CREATE TABLE macro_calendar (timestamp DATETIME, event, actual REAL, previous REAL);
CREATE TABLE funding_rates (timestamp DATETIME, symbol, rate REAL, interval_hours REAL);
CREATE TABLE funding_rates_8h (timestamp DATETIME, symbol, rate REAL, interval_hours REAL);
CREATE TABLE options_implied_vol (timestamp DATETIME, symbol, iv_30d REAL);
CREATE TABLE sentiment (timestamp DATETIME, symbol, score REAL, source TEXT);
CREATE TABLE on_chain (timestamp DATETIME, symbol, hashes REAL);
CREATE TABLE fundamentals (timestamp DATETIME, symbol, earnings REAL, known_at DATETIME);
"""
ASSETS = (("AAA", "equity"), ("BBB", "equity"), ("CCC", "etf"), ("X/USD:P", "crypto"))
NUM_BARS = 30
FIRST = datetime(2020, 1, 1, 21, tzinfo=UTC)

MakeDump = Callable[..., Path]


def day(index: int) -> str:
    """Close of day `index` in the usual notation."""
    return (FIRST + timedelta(days=index)).strftime("%Y-%m-%d %H:%M:%S")


def write_sound_dump(path: Path) -> None:
    """Four symbols in three classes, thirty daily bars each, nothing to complain of."""
    db = sqlite3.connect(path)
    db.executescript(SCHEMA)
    for number, (symbol, asset_class) in enumerate(ASSETS, 1):
        metadata = f'{{"asset_class": "{asset_class}", "bar": "1d", "price_adjustment": "none"}}'
        db.execute("INSERT INTO assets VALUES (?, ?, NULL, 'USD', 'NYSE', ?)", (number, symbol, metadata))
        for index in range(NUM_BARS):
            close = 100.0 * number + (index * 7 + number) % 5
            row = (day(index), symbol, close - 0.5, close + 1.0, close - 1.0, close, 1000.0 + index, close, close * 1000.0)
            db.execute("INSERT INTO series VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
    db.commit()
    db.close()


@pytest.fixture
def make_dump(tmp_path: Path) -> MakeDump:
    """Write the sound dump, then run statements that break or extend it."""

    def make(*statements: str, name: str = "dump.sqlite", rows: Sequence[tuple[str, Sequence[object]]] = ()) -> Path:
        path = tmp_path / name
        path.unlink(missing_ok=True)
        write_sound_dump(path)
        db = sqlite3.connect(path)
        for statement in statements:
            db.execute(statement)
        for statement, values in rows:
            db.execute(statement, values)
        db.commit()
        db.close()
        return path

    return make


@pytest.fixture(scope="session")
def data_cfg(root: Path) -> DataConfig:
    """The data station as the profile base has it."""
    return config.load(DataConfig, root / "configs" / "base" / "data.yaml")


@pytest.fixture(scope="session")
def markets(root: Path) -> dict[str, MarketConfig]:
    """Every market of the project."""
    return {path.stem: config.load(MarketConfig, path) for path in sorted((root / "configs" / "markets").glob("*.yaml"))}
