"""The demo dump is real, offline and the same each time."""

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from plusultra_core.data.samples.demo import make_demo
from plusultra_core.errors import ContractError


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo") / "demo.sqlite"
    make_demo(path)
    return path


@pytest.fixture
def db(demo: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(demo)
    yield connection
    connection.close()


def test_the_same_bytes_each_time(demo: Path, tmp_path: Path) -> None:
    make_demo(tmp_path / "again.sqlite")
    assert (tmp_path / "again.sqlite").read_bytes() == demo.read_bytes()


def test_five_classes_of_real_symbols(db: sqlite3.Connection) -> None:
    metadata = {symbol: json.loads(text) for symbol, text in db.execute("SELECT symbol, metadata FROM assets")}
    classes: dict[str, list[str]] = {}
    for symbol, facts in sorted(metadata.items()):
        classes.setdefault(facts["asset_class"], []).append(symbol)
    assert {name: len(symbols) for name, symbols in classes.items()} == {
        "equity": 20,
        "etf": 5,
        "index": 2,
        "volatility_index": 1,
        "commodity": 1,
    }
    assert classes["index"] == ["^GSPC", "^IXIC"] and classes["commodity"] == ["WTI"]
    assert metadata["AAPL"]["price_adjustment"] == "split+dividend" and metadata["^GSPC"]["price_adjustment"] == "none"


def test_bars_are_stamped_at_the_new_york_close(db: sqlite3.Connection) -> None:
    hours = {(s, t[5:7], t[11:]) for s, t in db.execute("SELECT symbol, timestamp FROM series WHERE symbol IN ('AAPL', '^VIX')")}
    assert {hour for symbol, month, hour in hours if symbol == "AAPL" and month == "07"} == {"20:00:00"}
    assert {hour for symbol, month, hour in hours if symbol == "AAPL" and month == "01"} == {"21:00:00"}
    assert {hour for symbol, month, hour in hours if symbol == "^VIX" and month == "07"} == {"20:15:00"}


def test_known_prices_stand_where_they_belong(db: sqlite3.Connection) -> None:
    query = "SELECT open, high, low, close, volume FROM series WHERE symbol = ? AND timestamp = ?"
    assert db.execute(query, ("^GSPC", "2018-12-31 21:00:00")).fetchone() == (
        2498.939941,
        2509.23999,
        2482.820068,
        2506.850098,
        3442870000.0,
    )
    assert db.execute(query, ("MTUM", "2014-01-02 21:00:00")).fetchone() == (None, None, None, 52.704, None)
    assert db.execute(query, ("^VIX", "2014-01-03 21:15:00")).fetchone()[3] == 13.76


def test_every_price_is_positive_and_every_bar_in_order(db: sqlite3.Connection) -> None:
    assert db.execute("SELECT count(*) FROM series WHERE close <= 0 OR low > min(open, close) OR high < max(open, close)").fetchone() == (
        0,
    )
    first, last = db.execute("SELECT min(timestamp), max(timestamp) FROM series").fetchone()
    assert first >= "2012-01-03" and last < "2019-01-01"


def test_side_tables_derive_from_the_index_and_the_vix(db: sqlite3.Connection) -> None:
    returns = db.execute("SELECT return FROM benchmarks ORDER BY timestamp").fetchall()
    assert returns[0] == (None,) and len(returns) == 1760
    closes = [c for (c,) in db.execute("SELECT close FROM series WHERE symbol = '^GSPC' ORDER BY timestamp LIMIT 2")]
    assert returns[1][0] == pytest.approx(closes[1] / closes[0] - 1, rel=1e-12)
    pairs = db.execute(
        "SELECT o.iv_30d, s.close FROM options_implied_vol o JOIN series s ON s.timestamp = o.timestamp AND s.symbol = '^VIX'"
    ).fetchall()
    assert len(pairs) == 1257 and all(iv == round(close / 100, 6) for iv, close in pairs)


def test_a_span_can_be_chosen_and_an_empty_one_is_refused(tmp_path: Path) -> None:
    counts = make_demo(tmp_path / "short.sqlite", start="2017-01-01", end="2017-03-31")
    assert 29 * 55 < counts["series"] < 29 * 66
    with pytest.raises(ContractError, match="no bar between"):
        make_demo(tmp_path / "none.sqlite", start="2031-01-01", end="2031-02-01")
