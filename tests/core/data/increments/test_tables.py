"""Tables of a later dump from those of an earlier one: the same bytes as built at once, and nothing read that was said before."""

import io
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from plusultra_core.data.bars import build_bars
from plusultra_core.data.gate import ingest
from plusultra_core.data.gate.ingest import VERSIONS, versions_of
from plusultra_core.data.increments import pair, sides
from plusultra_core.data.increments import tables as increments
from plusultra_core.data.increments.bars import PreviousBars, extend_bars
from plusultra_core.data.increments.tables import ExtendedTable, PreviousTable, extend_table
from plusultra_core.data.snapshot import take_snapshot
from plusultra_core.data.tables import TABLES, DataConfig, build_table, classes_in
from plusultra_core.errors import ArtifactError
from plusultra_core.market import MarketConfig

CLASSES = ("equity", "etf", "crypto", "forex")
DATED = (
    "series",
    "indicators",
    "corporate_actions",
    "macro_rates",
    "macro_calendar",
    "funding_rates",
    "options_implied_vol",
    "fundamentals",
)
Grow = Callable[..., tuple[dict[tuple[str, str], ExtendedTable], dict[tuple[str, str], pl.DataFrame]]]
MakeDump = Callable[..., Path]


def fill(make_dump: MakeDump, day: Callable[[int], str], name: str) -> Path:
    """The sound dump with rows in the tables beside the bars."""
    statements = []
    for index in range(30):
        when = day(index)
        names = ("AAA", "CCC", "X/USD:P")
        statements += [f"INSERT INTO indicators VALUES ('{when}', '{symbol}', 'rsi', {index % 7}, NULL)" for symbol in names]
        statements.append(f"INSERT INTO funding_rates VALUES ('{when}', 'X/USD:P', 0.0{index + 1}, 8)")
        statements.append(f"INSERT INTO options_implied_vol VALUES ('{when}', '^ABC', 0.{index + 10})")
        statements += [f"INSERT INTO macro_rates VALUES ('{when}', '{rate}', {index})" for rate in ("UST_3MONTH", "UST_10YEAR")]
        if index % 10 == 0:
            statements.append(f"INSERT INTO macro_calendar VALUES ('{when}', 'CPI', {index}, NULL)")
            statements.append(f"INSERT INTO corporate_actions VALUES ('{when}', 'BBB', 'split', NULL, 2, NULL)")
            statements.append(f"INSERT INTO fundamentals VALUES ('{when}', 'AAA', {index}, '{day(index + 3)}')")
    return make_dump(*statements, name=name)


def cut(day: str) -> list[str]:
    """Statements that leave what was there until a day."""
    return [f"DELETE FROM {table} WHERE timestamp > '{day}'" for table in (*DATED, "fundamentals")]


@pytest.fixture
def grow(tmp_path: Path, make_dump: MakeDump, data_cfg: DataConfig, markets: dict[str, MarketConfig]) -> Grow:
    """Every table of every class of a later dump, from those of an earlier one and at once; statements make the two."""
    from datetime import UTC, datetime, timedelta

    def day(index: int) -> str:
        return (datetime(2020, 1, 1, 21, tzinfo=UTC) + timedelta(days=index)).strftime("%Y-%m-%d %H:%M:%S")

    def run(early: list[str], late: list[str]) -> tuple[dict[tuple[str, str], ExtendedTable], dict[tuple[str, str], pl.DataFrame]]:
        folders = []
        for name, statements in (("early.sqlite", early), ("late.sqlite", late)):
            path = fill(make_dump, day, name)
            with sqlite3.connect(path) as db:
                for statement in statements:
                    db.execute(statement)
            db.close()
            folders.append(take_snapshot(path, tmp_path / "store", data_cfg, markets).path)
        found, whole = {}, {}
        for asset_class in CLASSES:
            for name in TABLES:
                before, whole[name, asset_class] = (build_table(name, folder, asset_class, markets, data_cfg) for folder in folders)
                previous = PreviousTable(folders[0], before)
                found[name, asset_class] = extend_table(name, folders[1], asset_class, markets, data_cfg, previous)
        return found, whole

    return run


def content(frame: pl.DataFrame) -> bytes:
    """The file that a frame is stored as."""
    file = io.BytesIO()
    frame.rechunk().write_parquet(file, compression="zstd", statistics=True, row_group_size=131_072)
    return file.getvalue()


CHANGES = {
    "nothing": [],
    "a revised close": ["UPDATE series SET close = close * 1.01, high = high * 1.02 WHERE symbol = 'AAA' AND timestamp < '2020-01-04'"],
    "a revised rate": ["UPDATE macro_rates SET value = 9 WHERE name = 'UST_3MONTH' AND timestamp < '2020-01-05'"],
    "a late indicator": ["INSERT INTO indicators VALUES ('2020-01-03 12:00:00', 'CCC', 'rsi', 1, NULL)"],
    "a rate that is gone": ["DELETE FROM macro_rates WHERE name = 'UST_10YEAR'"],
    "a late row of the options": ["INSERT INTO options_implied_vol VALUES ('2020-01-03 12:00:00', '^ABC', 0.5)"],
    "a new symbol": [
        """INSERT INTO assets VALUES (9, 'NEW', NULL, 'USD', 'NYSE', '{"asset_class": "equity", "bar": "1d"}')""",
        "INSERT INTO series SELECT timestamp, 'NEW', open, high, low, close, volume, vwap, turnover FROM series WHERE symbol = 'AAA'",
    ],
    "a symbol that is gone": [f"DELETE FROM {table} WHERE symbol = 'AAA'" for table in ("assets", "series", "indicators", "fundamentals")],
    "a symbol of another class": ["""UPDATE assets SET metadata = '{"asset_class": "etf", "bar": "1d"}' WHERE symbol = 'BBB'"""],
    "a bar that is not said": ["""UPDATE assets SET metadata = '{"asset_class": "etf"}' WHERE symbol = 'CCC'"""],
    "a table that is gone": ["DELETE FROM funding_rates"],
    "a table that came": ["INSERT INTO sentiment VALUES ('2020-01-05 21:00:00', 'AAA', 0.5, 'x')"],
}


@pytest.mark.parametrize("change", CHANGES)
def test_tables_from_earlier_ones_are_those_built_at_once(grow: Grow, change: str) -> None:
    for early in (cut("2020-01-20 21:00:00"), []):
        found, whole = grow(early, CHANGES[change])
        for key, frame in whole.items():
            assert found[key].frame.schema == frame.schema and found[key].frame.equals(frame), key
            assert 0 <= found[key].num_rows_taken <= frame.height


MONEY = [
    "UPDATE assets SET currency = 'GBX' WHERE symbol = 'AAA'",
    "INSERT INTO assets VALUES (8, 'GBPUSD', NULL, 'USD', 'OANDA', '{\"asset_class\": \"forex\", \"bar\": \"1d\"}')",
    "INSERT INTO series SELECT timestamp, 'GBPUSD', NULL, NULL, NULL, 1.2 + 0.01 * (close - 100), NULL, NULL, NULL FROM series "
    "WHERE symbol = 'AAA'",
]
CHANGES_OF_MONEY = {
    "nothing": [],
    "a revised pair": ["UPDATE series SET close = close * 1.01 WHERE symbol = 'GBPUSD' AND timestamp < '2020-01-04'"],
    "an earlier first bar": [
        "INSERT INTO series SELECT '2019-12-30 21:00:00', symbol, open, high, low, close, volume, vwap, turnover FROM series "
        "WHERE symbol = 'AAA' LIMIT 1"
    ],
    "another currency": ["UPDATE assets SET currency = 'USD' WHERE symbol = 'AAA'"],
    "one more currency": ["UPDATE assets SET currency = 'EUR' WHERE symbol = 'BBB'"],
    "a pair that is gone": ["DELETE FROM series WHERE symbol = 'GBPUSD'"],
    "late fundamentals": ["INSERT INTO fundamentals VALUES ('2020-01-02 21:00:00', 'BBB', 3, '2020-01-29 21:00:00')"],
    "a revised rate": CHANGES["a revised rate"],
}


@pytest.mark.parametrize("change", CHANGES_OF_MONEY)
def test_what_money_was_worth_is_said_as_if_at_once(grow: Grow, change: str) -> None:
    for early in (cut("2020-01-20 21:00:00"), []):
        found, whole = grow([*MONEY, *early], [*MONEY, *CHANGES_OF_MONEY[change]])
        for key, frame in whole.items():
            assert found[key].frame.schema == frame.schema and found[key].frame.equals(frame), key
        assert "exchange_rates" in whole["side_tables", "equity"]["table"] or change == "another currency"
        if change == "nothing":
            assert found["side_tables", "equity"].num_rows_taken > 0


def test_a_side_table_that_is_long_is_read_where_its_rows_lie(grow: Grow, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (pair, sides):
        monkeypatch.setattr(module, "is_short", lambda path: False)
    for change in ("nothing", "a late indicator", "a new symbol", "a late row of the options"):
        found, whole = grow(cut("2020-01-20 21:00:00"), CHANGES[change])
        assert all(found[key].frame.equals(frame) for key, frame in whole.items()), change


@pytest.mark.parametrize(("later", "earlier"), [("market_2017_b", "market_2017_a"), ("crypto_2026_b", "crypto_2026_a")])
def test_every_table_and_bar_of_a_real_dump_is_what_it_is_without_the_one_before(
    later: str, earlier: str, real_dump: Callable[[str], Path], tmp_path: Path, data_cfg: DataConfig, markets: dict[str, MarketConfig]
) -> None:
    old, new = (take_snapshot(real_dump(name), tmp_path, data_cfg, markets).path for name in (earlier, later))
    for asset_class in classes_in(new, markets, data_cfg):
        before, found, whole = {}, {}, {}
        for name in TABLES:
            before[name], whole[name] = (build_table(name, folder, asset_class, markets, data_cfg) for folder in (old, new))
            made = extend_table(name, new, asset_class, markets, data_cfg, PreviousTable(old, before[name]))
            assert made.frame.schema == whole[name].schema and content(made.frame) == content(whole[name]), (asset_class, name)
            found[name] = made.frame
        inputs = [[frames[name] for name in ("series", "assets", "corporate_actions")] for frames in (before, found)]
        previous = PreviousBars(*inputs[0], build_bars(*inputs[0], markets[asset_class], data_cfg.bars))
        bars = extend_bars(previous, *inputs[1], markets[asset_class], data_cfg.bars).bars
        assert content(bars) == content(build_bars(*inputs[1], markets[asset_class], data_cfg.bars)), asset_class


def test_an_earlier_dump_is_read_of_only_what_grew(grow: Grow, monkeypatch: pytest.MonkeyPatch) -> None:
    found, whole = grow(cut("2020-01-20 21:00:00"), [])
    assert found["series", "equity"].num_rows_made == 60 and found["assets", "equity"].num_rows_made == 0
    assert 0 < found["side_tables", "equity"].num_rows_made < 0.5 * whole["side_tables", "equity"].height
    read = []
    build = increments.build_table
    monkeypatch.setattr(increments, "build_table", lambda name, *args: read.append(name) or build(name, *args))
    found, whole = grow([], ["UPDATE macro_rates SET value = 9 WHERE name = 'UST_3MONTH' AND timestamp < '2020-01-05'"])
    made = {name for (name, _), one in found.items() if one.num_rows_made}
    assert made == {"side_tables"} and set(read) == {"exchange_rates"}


def test_a_version_is_that_of_its_owners_rows_alone() -> None:
    rows = pl.DataFrame({"symbol": ["A", "A", "B"], "ts_ns": [1, 2, 1], "value": [1.0, None, 3.0], "note": ["x", None, ""]})
    said = versions_of(rows, "symbol")
    assert list(said) == ["A", "B"] and said["A"].startswith("2-")
    assert versions_of(rows.tail(1), "symbol")["B"] == said["B"]
    others = (
        rows.with_columns(value=pl.lit(1.0)),
        rows.with_columns(note=pl.col("note").fill_null("")),
        rows.with_columns(ts_ns=pl.col("ts_ns") + 1),
        rows.rename({"note": "other"}),
    )
    assert all(versions_of(other, "symbol")["A"] != said["A"] for other in others)


def test_versions_that_were_changed_by_hand_are_refused(
    grow: Grow, tmp_path: Path, data_cfg: DataConfig, markets: dict[str, MarketConfig]
) -> None:
    _, whole = grow(cut("2020-01-20 21:00:00"), [])
    early, late = sorted((tmp_path / "store").glob("early-*"))[0], sorted((tmp_path / "store").glob("late-*"))[0]
    (late / VERSIONS).chmod(0o644)
    (late / VERSIONS).write_text("{}")
    with pytest.raises(ArtifactError, match=r"versions.json: expected the bytes of its manifest.json"):
        extend_table("series", late, "equity", markets, data_cfg, PreviousTable(early, whole["series", "equity"]))


@pytest.mark.parametrize("name", ["versions.json", "manifest.json", "tables/assets.parquet"])
def test_of_a_damaged_earlier_snapshot_nothing_is_taken_over(
    grow: Grow, tmp_path: Path, data_cfg: DataConfig, markets: dict[str, MarketConfig], name: str
) -> None:
    _, whole = grow(cut("2020-01-20 21:00:00"), [])
    early, late = sorted((tmp_path / "store").glob("early-*"))[0], sorted((tmp_path / "store").glob("late-*"))[0]
    before = {key: build_table(key[0], early, key[1], markets, data_cfg) for key in whole}
    (early / name).chmod(0o644)
    (early / name).write_bytes((early / name).read_bytes() + b" x")
    for (table, asset_class), frame in whole.items():
        found = extend_table(table, late, asset_class, markets, data_cfg, PreviousTable(early, before[table, asset_class]))
        assert found.frame.equals(frame) and found.num_rows_taken == 0


def test_a_table_of_too_many_owners_is_made_anew_where_symbols_are_set_aside(
    tmp_path: Path, make_dump: MakeDump, data_cfg: DataConfig, markets: dict[str, MarketConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "MOST_OWNERS", 2)
    cfg = replace(data_cfg, validation=replace(data_cfg.validation, mode="quarantine"))
    broken = ("UPDATE series SET close = -1 WHERE symbol = 'BBB' AND timestamp < '2020-01-03'",)
    revised = "UPDATE series SET close = close * 1.01, high = high * 1.02 WHERE symbol = 'AAA'"
    paths = (make_dump(*broken, name="early.sqlite"), make_dump(*broken, revised, name="late.sqlite"))
    early, late = (take_snapshot(path, tmp_path / "store", cfg, markets).path for path in paths)
    before, whole = (build_table("series", folder, "equity", markets, cfg) for folder in (early, late))
    found = extend_table("series", late, "equity", markets, cfg, PreviousTable(early, before))
    assert whole.height == 30 and found.frame.equals(whole)
