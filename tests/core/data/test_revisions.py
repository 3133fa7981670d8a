"""What is said of a later dump: each kind of change, made by the test, is found, and nothing else is."""

import json
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from plusultra_core.artifacts import canonical_json, publish
from plusultra_core.clock import NS_PER_DAY, iso
from plusultra_core.data.gate.schema import SHAPES
from plusultra_core.data.revisions import SCHEMA, Revisions, compare, compare_frames, find_previous, keys_of
from plusultra_core.errors import ContractError

FIRST = 1_577_912_400 * 1_000_000_000  # 2020-01-01 21:00
KEYS = {**keys_of(()), "rates": ("ts_ns", "name"), "vintages": ("ts_ns", "symbol", "known_at_ns")}
Frames = dict[str, pl.DataFrame]


def _series(symbols: tuple[str, ...], num_bars: int = 50, seed: int = 3) -> pl.DataFrame:
    parts = []
    for place, symbol in enumerate(symbols):
        rng = np.random.default_rng(seed + place)
        close = 100 * np.exp(rng.normal(0, 0.02, 10_000).cumsum())[:num_bars]
        times = FIRST + NS_PER_DAY * np.arange(num_bars)
        volume = pl.Series(np.where(np.arange(num_bars) % 7 == 0, np.nan, 1e6))
        part = pl.DataFrame({"symbol": symbol, "ts_ns": times, "open": close, "close": close, "volume": volume, "note": "n"})
        parts.append(part.with_columns(open=pl.when(pl.int_range(pl.len()) % 5 > 0).then("open")))
    return pl.concat(parts)


def _assets(*symbols: str) -> pl.DataFrame:
    return pl.DataFrame({"symbol": symbols, "currency": "USD"})


def _world(num_bars: int = 50, symbols: tuple[str, ...] = ("A", "B", "C")) -> Frames:
    series = _series(symbols, num_bars)
    indicators = pl.concat([series.select("symbol", "ts_ns", name=pl.lit(name), value="close") for name in ("rsi", "atr")])
    rates = pl.concat([series.filter(pl.col("symbol") == "A").select("ts_ns", name=pl.lit(n), value="close") for n in ("3m", "10y")])
    return {"assets": _assets(*symbols), "series": series, "indicators": indicators.sort("symbol", "ts_ns"), "rates": rates.sort("ts_ns")}


def _at(symbol: str, place: int) -> pl.Expr:
    return (pl.col("symbol") == symbol) & (pl.col("ts_ns") == FIRST + place * NS_PER_DAY)


def _with(frames: Frames, **tables: pl.DataFrame) -> Frames:
    return {**frames, **tables}


def _told(found: Revisions) -> list[tuple[object, ...]]:
    return found.frame.select("table", "symbol", "kind", "num_rows", "column").rows()


def test_the_same_again_says_nothing() -> None:
    found = compare_frames(_world(), _world(), KEYS)
    assert found.frame.is_empty() and dict(found.frame.schema) == SCHEMA and found.findings == ()
    assert set(found.counts.values()) == {0}


def test_later_days_are_news_and_no_warning() -> None:
    found = compare_frames(_world(50), _world(53), KEYS)
    assert found.findings == ()
    assert found.counts == {
        "rows_new": 3 * 3 + 3 * 3 * 2 + 3 * 2,
        "rows_late": 0,
        "rows_gone": 0,
        "rows_revised": 0,
        "symbols_new": 0,
        "symbols_gone": 0,
    }
    assert found.frame.filter(pl.col("table") == "rates").rows() == [
        ("rates", None, "new", 6, FIRST + 50 * NS_PER_DAY, FIRST + 52 * NS_PER_DAY, None, None)
    ]


def test_a_restated_close_is_found_with_its_size() -> None:
    now = _world(51)
    restated = pl.when(_at("B", 10) | _at("B", 20)).then(pl.col("close") * 1.5).otherwise("close")
    found = compare_frames(_world(50), _with(now, series=now["series"].with_columns(close=restated)), KEYS)
    (row,) = found.frame.filter(pl.col("kind") == "revised").to_dicts()
    assert row["largest_change"] == pytest.approx(0.5) and row["num_rows"] == 2
    assert (row["first_ts"], row["last_ts"]) == (FIRST + 10 * NS_PER_DAY, FIRST + 20 * NS_PER_DAY)
    (finding,) = found.findings
    assert (finding.level, finding.code, finding.table, finding.column) == ("warning", "history_revised", "series", "close")
    assert finding.symbols == ("B",) and finding.message.startswith("series.close: 2 rows, first (")
    assert finding.rows[0]["ts_ns"] == "2020-01-11T21:00:00Z" and finding.rows[0]["now"] == pytest.approx(finding.rows[0]["was"] * 1.5)
    assert found.counts["rows_revised"] == 2 and found.counts["rows_new"] == 3 + 3 * 2 + 2


def test_the_last_bit_counts_and_a_null_is_a_value() -> None:
    before = _world()
    close = before["series"]["close"].to_numpy().copy()
    close[7] = np.nextafter(close[7], np.inf)
    changes = {
        "close": before["series"].with_columns(close=pl.Series(close)),
        "open": before["series"].with_columns(open=pl.when(_at("A", 6)).then(None).otherwise("open")),
        "volume": before["series"].with_columns(volume=pl.when(_at("A", 7)).then(5.0).otherwise("volume")),
        "note": before["series"].with_columns(note=pl.when(_at("A", 7)).then(pl.lit("m")).otherwise("note")),
    }
    for column, series in changes.items():
        found = compare_frames(before, _with(before, series=series), KEYS)
        assert _told(found) == [("series", "A", "revised", 1, column)]


def test_a_change_from_nothing_has_no_size() -> None:
    silent = pl.when(_at("A", 7) | _at("A", 8)).then(0.0).otherwise("close")
    before = _with(_world(), series=_world()["series"].with_columns(volume=silent))
    traded = {"7": pl.when(_at("A", 7)).then(5.0), "7 and 9": pl.when(_at("A", 7)).then(5.0).when(_at("A", 9)).then(pl.col("volume") * 2)}
    sizes = [
        compare_frames(before, _with(before, series=before["series"].with_columns(volume=now.otherwise("volume"))), KEYS).frame
        for now in traded.values()
    ]
    assert [frame["largest_change"].to_list() for frame in sizes] == [[None], [pytest.approx(1.0)]]


def test_a_row_changed_in_two_columns_is_one_row() -> None:
    before = _world()
    series = before["series"].with_columns(pl.when(_at("C", 3)).then(1.0).otherwise(name).alias(name) for name in ("open", "close"))
    found = compare_frames(before, _with(before, series=series), KEYS)
    assert _told(found) == [("series", "C", "revised", 1, "close"), ("series", "C", "revised", 1, "open")]
    assert found.counts["rows_revised"] == 1 and found.findings[0].message.startswith("series.close, open: 1 row, first (")


def test_rows_gone_are_named_by_symbol() -> None:
    before = _world()
    found = compare_frames(before, _with(before, series=before["series"].filter(~(_at("A", 5) | _at("C", 49)))), KEYS)
    assert _told(found) == [("series", "A", "gone", 1, None), ("series", "C", "gone", 1, None)]
    (finding,) = found.findings
    assert finding.code == "rows_gone" and finding.symbols == ("A", "C") and "2020-01-06T21:00:00Z" in finding.message


def test_rows_filled_in_later_are_late_and_not_new() -> None:
    now = _world(52)
    before = _world(50)
    before = _with(before, series=before["series"].filter(~_at("B", 30)))
    found = compare_frames(before, now, KEYS)
    assert ("series", "B", "late", 1, None) in _told(found) and ("series", "B", "new", 2, None) in _told(found)
    assert [(finding.code, finding.symbols) for finding in found.findings] == [("history_revised", ("B",))]
    assert found.counts["rows_late"] == 1


def test_a_series_that_ends_sooner_than_another_is_not_late() -> None:
    before, now = _world(50), _world(52)
    behind = before["rates"].filter((pl.col("name") == "3m") | (pl.col("ts_ns") < FIRST + 40 * NS_PER_DAY))
    found = compare_frames(_with(before, rates=behind), now, KEYS)
    assert ("rates", None, "new", 14, None) in _told(found) and found.counts["rows_late"] == 0


def test_symbols_come_and_go_and_their_rows_are_told_of_with_them() -> None:
    found = compare_frames(_world(50, ("A", "B", "C")), _world(50, ("A", "B", "C")[:2]), KEYS)
    assert [(finding.code, finding.table, finding.symbols) for finding in found.findings] == [("symbols_gone", "assets", ("C",))]
    assert found.counts["symbols_gone"] == 1 and found.counts["rows_gone"] == 50 + 100
    back = compare_frames(_world(50, ("A", "B")), _world(50, ("A", "B", "C")), KEYS)
    assert [(finding.code, finding.symbols) for finding in back.findings] == [("symbols_new", ("C",))]
    assert back.counts["symbols_new"] == 1 and back.counts["rows_new"] == 50 + 100 and back.counts["rows_late"] == 0


def _vintages(place: int, known_day: int) -> Revisions:
    """Values of four days, and another value of one of them that is known on some day."""
    times = [FIRST + n * NS_PER_DAY for n in range(4)]
    before = pl.DataFrame({"symbol": "A", "ts_ns": times, "known_at_ns": times, "value": 1.0})
    again = before[place : place + 1].with_columns(known_at_ns=pl.lit(FIRST + known_day * NS_PER_DAY), value=pl.lit(2.0))
    return compare_frames({"vintages": before}, {"vintages": pl.concat([before, again]).sort("symbol", "ts_ns", "known_at_ns")}, KEYS)


@pytest.mark.parametrize("place", [1, 3])
def test_a_new_vintage_is_a_new_row_and_no_revision(place: int) -> None:
    found = _vintages(place, known_day=5)
    assert _told(found) == [("vintages", "A", "new", 1, None)] and found.findings == ()


@pytest.mark.parametrize("known_day", [2, 3])
def test_a_vintage_that_was_known_before_and_is_first_seen_now_is_late(known_day: int) -> None:
    found = _vintages(1, known_day)
    assert _told(found) == [("vintages", "A", "late", 1, None)]
    assert [finding.code for finding in found.findings] == ["history_revised"]


def test_tables_and_columns_come_and_go() -> None:
    before = _world()
    without = {name: frame for name, frame in before.items() if name != "rates"}
    assert _told(compare_frames(before, without, KEYS)) == [("rates", None, "gone", 100, None)]
    assert _told(compare_frames(without, before, KEYS)) == [("rates", None, "new", 100, None)]
    narrow = compare_frames(before, _with(before, series=before["series"].drop("note")), KEYS)
    assert _told(narrow) == [("series", symbol, "column_gone", 50, "note") for symbol in "ABC"]
    assert [finding.code for finding in narrow.findings] == ["history_revised"]
    assert compare_frames(_with(before, series=before["series"].drop("note")), before, KEYS).findings == ()


def test_numbers_that_were_text_are_compared_as_numbers() -> None:
    before = _world()
    text = before["series"].with_columns(volume=pl.col("volume").fill_nan(None).cast(pl.String))
    numbers = before["series"].with_columns(volume=pl.col("volume").fill_nan(None))
    assert compare_frames(_with(before, series=numbers), _with(before, series=text), KEYS).findings == ()


def test_the_order_of_rows_does_not_matter() -> None:
    before, now = _world(50), _world(53)
    shuffled = {name: frame.sample(fraction=1.0, shuffle=True, seed=5) for name, frame in now.items()}
    assert compare_frames(before, shuffled, KEYS).counts == compare_frames(before, now, KEYS).counts
    assert compare_frames(before, shuffled, KEYS).findings == ()


def _slow(before: pl.DataFrame, now: pl.DataFrame) -> dict[str, int]:
    """The same by dictionaries."""
    left, right = ({(r["symbol"], r["ts_ns"]): r for r in frame.to_dicts()} for frame in (before, now))
    ends: dict[str, int] = {}
    for symbol, ts_ns in left:
        ends[symbol] = max(ends.get(symbol, 0), ts_ns)
    extra = [key for key in right if key not in left]
    late = sum(1 for symbol, ts_ns in extra if ts_ns <= ends.get(symbol, -1))
    revised = sum(1 for key in left if key in right and repr(left[key]) != repr(right[key]))
    gone = sum(1 for key in left if key not in right)
    return {"rows_new": len(extra) - late, "rows_late": late, "rows_gone": gone, "rows_revised": revised}


@pytest.mark.parametrize("seed", range(12))
def test_it_agrees_with_dictionaries(seed: int) -> None:
    rng = np.random.default_rng(seed)
    before, now = _series(("A", "B", "C", "D"), 40), _series(("B", "C", "D", "E"), 45)
    before = before.filter(pl.Series(rng.random(before.height) > rng.choice([0.0, 0.05])))
    now = now.filter(pl.Series(rng.random(now.height) > rng.choice([0.0, 0.05])))
    now = _series(("A", "B", "C", "D", "E"), 45).join(now.select("symbol", "ts_ns"), on=["symbol", "ts_ns"], how="semi")
    close = pl.Series(np.where(rng.random(now.height) < rng.choice([0.0, 0.02]), 2.0, 1.0))
    now = now.with_columns(close=pl.col("close") * close).sort("symbol", "ts_ns")
    counts = compare_frames({"series": before}, {"series": now}, KEYS).counts
    assert {name: counts[name] for name in ("rows_new", "rows_late", "rows_gone", "rows_revised")} == _slow(before, now)


def test_keys_follow_the_contract() -> None:
    keys = keys_of(())
    assert keys["series"] == ("ts_ns", "symbol") and keys["indicators"] == ("ts_ns", "symbol", "name")
    assert keys["trades"] == ("trade_id",) and keys["assets"] == ("symbol",) and set(keys) == set(SHAPES)


def _publish(store: Path, key: str, frames: Frames, quarantined: tuple[str, ...] = (), no_bars: tuple[str, ...] = ()) -> Path:
    def fill(folder: Path) -> None:
        (folder / "tables").mkdir()
        for name, frame in frames.items():
            frame.write_parquet(folder / "tables" / f"{name}.parquet")

    last = iso(int(frames["series"]["ts_ns"].max()))  # type: ignore[arg-type]
    findings = [{"code": "no_bars", "symbols": list(no_bars)}] if no_bars else []
    manifest = {"findings": findings, "ranges": {"series": {"last": last}}, "quarantined": list(quarantined)}
    return publish(store, key, fill, manifest).path


def test_snapshots_are_compared_from_their_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, now = _world(50), _world(53)
    series = now["series"].with_columns(close=pl.when(_at("B", 10)).then(1.0).otherwise("close")).filter(~_at("A", 20))
    now = _with(now, series=series)
    paths = _publish(tmp_path, "a", before), _publish(tmp_path, "b", now)
    whole = compare_frames(before, now, KEYS)
    monkeypatch.setattr("plusultra_core.data.revisions._SLICE_ROWS", 70)
    found = compare(*paths, ())
    assert found.frame.equals(whole.frame) and found.findings == whole.findings and found.counts == whole.counts
    assert compare(paths[0], paths[0], ()).frame.is_empty()


def test_a_snapshot_without_tables_cannot_be_compared(tmp_path: Path) -> None:
    path = _publish(tmp_path, "a", _world())
    (tmp_path / "old").mkdir()
    with pytest.raises(ContractError, match="old: expected a snapshot with tables/, found none"):
        compare(tmp_path / "old", path, ())


def test_the_previous_snapshot_is_the_latest_of_the_same_universe(tmp_path: Path) -> None:
    other = ("X", "Y", "Z")
    for key, num_bars, symbols in (("a", 50, "ABC"), ("c", 60, "ABC"), ("w", 55, "ABW"), ("x", 54, other)):
        _publish(tmp_path, key, _world(num_bars, tuple(symbols)))
    _publish(tmp_path, "b", _world(53)).rename(tmp_path / ".tmp-half")  # killed just before its last rename
    _publish(tmp_path, "b", _world(53))
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "manifest.json").write_bytes(canonical_json({"findings": [], "ranges": {}, "quarantined": []}))
    assert {key: find_previous(tmp_path, tmp_path / key) for key in "abcwx"} == {"a": None, "b": "a", "c": "w", "w": "b", "x": None}
    elsewhere = _publish(tmp_path / "elsewhere", "d", _world(53))
    assert find_previous(tmp_path, elsewhere) == "b"
    assert find_previous(tmp_path / "nowhere", elsewhere) is None


def test_symbols_without_bars_or_set_aside_do_not_make_a_universe(tmp_path: Path) -> None:
    _publish(tmp_path, "a", _world(50, ("A", "B", "C", "D")), no_bars=("C",), quarantined=("D",))
    _publish(tmp_path, "b", _world(52, ("C", "D")))
    assert find_previous(tmp_path, tmp_path / "b") is None


def test_a_symbol_set_aside_for_a_bar_of_the_future_does_not_date_its_snapshot(tmp_path: Path) -> None:
    before = _publish(tmp_path, "a", _world(50), quarantined=("D",))
    manifest = json.loads((before / "manifest.json").read_bytes())
    manifest["ranges"]["series"]["last"] = "2090-01-01T00:00:00Z"
    (before / "manifest.json").write_bytes(canonical_json(manifest))
    _publish(tmp_path, "b", _world(53))
    assert find_previous(tmp_path, tmp_path / "b") == "a"


def test_millions_of_rows_are_compared_in_a_second_or_two() -> None:
    symbols = tuple(f"S{n:03d}" for n in range(200))
    before, now = {"series": _series(symbols, 2_500)}, {"series": _series(symbols, 2_501)}
    now["series"] = now["series"].with_columns(close=pl.when(_at("S100", 10)).then(1.0).otherwise("close"))
    start = time.process_time()
    found = compare_frames(before, now, KEYS)
    assert found.counts["rows_revised"] == 1 and found.counts["rows_new"] == 200
    assert time.process_time() - start < 5
