"""Finer rows in windows: the whole of each window, of each session, and nothing of what has not closed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plusultra_core import config
from plusultra_core.clock import NS_PER_DAY, NS_PER_HOUR, NS_PER_MIN, iso
from plusultra_core.data.contract.frames import empty
from plusultra_core.data.gate.timestamps import to_ns
from plusultra_core.data.resampling import resample
from plusultra_core.errors import ConfigError
from plusultra_core.market import MarketConfig

NEVER = 2**62
NAMES = ("open", "high", "low", "close", "volume", "vwap", "turnover")
MONDAY = int(to_ns(pl.Series(["2020-01-06 00:00:00"]), "monday")[0])


def _rows(ts_ns: list[int], symbol: str = "A", seed: int = 7, holes: float = 0.0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    size = len(ts_ns)
    close = 100 * np.exp(rng.normal(0, 0.01, size).cumsum())
    opened = close * np.exp(rng.normal(0, 0.01, size))
    spread = np.abs(rng.normal(0, 0.5, size))
    frame = pl.DataFrame(
        {"symbol": [symbol] * size, "ts_ns": ts_ns, "known_ns": [ts + int(rng.integers(0, 3)) * NS_PER_MIN for ts in ts_ns]}
        | {"open": opened, "high": np.maximum(opened, close) + spread, "low": np.minimum(opened, close) - spread, "close": close}
        | {"volume": rng.integers(0, 99, size).astype(float), "vwap": close * 0.99, "turnover": rng.uniform(0, 9, size)},
        schema=empty("series").schema,
    )
    gone = {name: pl.Series(rng.random(size) < holes) for name in NAMES if name != "close"}
    return frame.with_columns(pl.when(~lost).then(pl.col(name)).alias(name) for name, lost in gone.items())


def _stamps(*times: str) -> list[int]:
    return [int(time) for time in to_ns(pl.Series(list(times)), "t")]


def _ends(rows: pl.DataFrame, market: MarketConfig) -> list[str]:
    return [iso(ts) for ts in resample(rows, market, NEVER)["ts_ns"]]


def _whole(rows: list[dict[str, float]], *names: str) -> bool:
    return all(row[name] is not None for row in rows for name in names)


def _slow(rows: pl.DataFrame, length_ns: int, closed_ns: int) -> list[dict[str, object]]:
    """The same, one row after the other."""
    windows: dict[tuple[str, int], list[dict[str, float]]] = {}
    for row in rows.sort("symbol", "ts_ns").iter_rows(named=True):
        end = MONDAY + -(-(row["ts_ns"] - MONDAY) // length_ns) * length_ns
        windows.setdefault((row["symbol"], end), []).append(row)
    out = []
    for (symbol, end), part in sorted(windows.items()):
        if end > closed_ns:
            continue
        ranged, volume = _whole(part, "open", "high", "low"), sum(row["volume"] or 0 for row in part)
        weighed = _whole(part, "volume", "vwap") and volume > 0
        out.append(
            {"symbol": symbol, "ts_ns": end, "known_ns": max(end, *(row["known_ns"] for row in part))}
            | {"open": part[0]["open"] if ranged else None, "high": max(row["high"] for row in part) if ranged else None}
            | {"low": min(row["low"] for row in part) if ranged else None, "close": part[-1]["close"]}
            | {"volume": volume if _whole(part, "volume") else None}
            | {"vwap": sum(row["vwap"] * row["volume"] for row in part) / volume if weighed else None}
            | {"turnover": sum(row["turnover"] for row in part) if _whole(part, "turnover") else None}
        )
    return out


@settings(max_examples=60, deadline=None)
@given(st.sets(st.integers(1, 120), min_size=1, max_size=80), st.integers(0, 2**31), st.sampled_from((0.0, 0.05, 0.5)), st.integers(0, 130))
def test_resampling_agrees_with_a_loop(hours: set[int], seed: int, holes: float, closed: int) -> None:
    ts_ns = [MONDAY + hour * NS_PER_HOUR for hour in sorted(hours)]
    rows = pl.concat([_rows(ts_ns, "A", seed, holes), _rows(ts_ns[::2], "B", seed + 1, holes)])
    out = resample(rows.sample(fraction=1.0, shuffle=True, seed=seed % 1000), _continuous(), MONDAY + closed * NS_PER_HOUR)
    expected = pl.DataFrame(_slow(rows, NS_PER_DAY, MONDAY + closed * NS_PER_HOUR), schema=out.schema)
    assert out.select("symbol", "ts_ns", "known_ns").equals(expected.select("symbol", "ts_ns", "known_ns"))
    for name in NAMES:
        assert out[name].is_null().equals(expected[name].is_null())
        np.testing.assert_allclose(out[name].fill_null(0), expected[name].fill_null(0), rtol=1e-12)


def _continuous(bar: str = "1d") -> MarketConfig:
    return config.load(MarketConfig, Path(__file__).resolve().parents[3] / "configs" / "markets" / "crypto.yaml", {"bar": bar})


def test_windows_end_at_midnight_and_hold_their_end() -> None:
    hours = [MONDAY + hour * NS_PER_HOUR for hour in range(1, 49)]
    assert _ends(_rows(hours), _continuous()) == ["2020-01-07T00:00:00Z", "2020-01-08T00:00:00Z"]


def test_weeks_end_on_monday() -> None:
    days = [MONDAY + NS_PER_DAY * day for day in range(1, 15)]
    assert _ends(_rows(days), _continuous("1w")) == ["2020-01-13T00:00:00Z", "2020-01-20T00:00:00Z"]


def test_a_window_that_has_not_closed_is_left_out() -> None:
    hours = [MONDAY + hour * NS_PER_HOUR for hour in range(1, 49)]
    out = resample(_rows(hours), _continuous(), MONDAY + 2 * NS_PER_DAY - 1)
    assert out["ts_ns"].to_list() == [MONDAY + NS_PER_DAY]


def test_cutting_rows_takes_bars_away_and_changes_none() -> None:
    rows = _rows([MONDAY + hour * NS_PER_HOUR for hour in range(1, 200)])
    full = resample(rows, _continuous(), int(rows["ts_ns"].max()))  # type: ignore[arg-type]
    for count in range(1, 199, 13):
        part = rows.head(count)
        assert resample(part, _continuous(), int(part["ts_ns"].max())).equals(full.head(count // 24))  # type: ignore[arg-type]


def test_days_of_an_exchange_end_with_their_session(markets: dict[str, MarketConfig]) -> None:
    stamps = _stamps(
        *("2019-11-27 15:00:00", "2019-11-27 21:00:00", "2019-11-29 15:00:00", "2019-11-29 18:00:00"),  # Friday closes early
        *("2019-11-29 19:00:00", "2020-07-01 14:00:00", "2020-07-01 20:00:00"),
    )
    out = resample(_rows(stamps), markets["equity"], NEVER)
    ends = ["2019-11-27T21:00:00Z", "2019-11-29T18:00:00Z", "2019-12-02T21:00:00Z", "2020-07-01T20:00:00Z"]
    assert [iso(ts) for ts in out["ts_ns"]] == ends
    assert out["close"][1] == _rows(stamps)["close"][3]  # what is traded after the early close belongs to the next session


def test_shorter_bars_of_an_exchange_count_from_the_open_and_end_at_the_close(markets: dict[str, MarketConfig]) -> None:
    quarters = [_stamps("2019-11-29 14:45:00")[0] + step * 15 * NS_PER_MIN for step in range(14)]
    out = resample(_rows(quarters), replace(markets["equity"], bar="1h"), NEVER)
    assert [iso(ts)[11:16] for ts in out["ts_ns"]] == ["15:30", "16:30", "17:30", "18:00"]
    assert out["volume"].to_list() == [_rows(quarters)["volume"][at : at + 4].sum() for at in (0, 4, 8, 12)]
    early = resample(_rows(_stamps("2019-11-29 13:00:00", "2019-11-29 14:45:00")), replace(markets["equity"], bar="4h"), NEVER)
    assert [iso(ts) for ts in early["ts_ns"]] == ["2019-11-29T18:00:00Z"]


def test_weeks_of_an_exchange_end_with_their_last_session(markets: dict[str, MarketConfig]) -> None:
    weekly = replace(markets["equity"], bar="1w")
    days = ("2020-04-06", "2020-04-08", "2020-04-09", "2020-04-13", "2020-04-17", "2020-07-02")  # 10 April: Good Friday; 3 July: a holiday
    stamps = _stamps(*(f"{day} 20:00:00" for day in days))
    out = resample(_rows(stamps), weekly, NEVER)
    assert [iso(ts) for ts in out["ts_ns"]] == ["2020-04-09T20:00:00Z", "2020-04-17T20:00:00Z", "2020-07-02T20:00:00Z"]
    rows = _rows(stamps)
    assert out["volume"].to_list() == [rows["volume"][:3].sum(), rows["volume"][3:5].sum(), rows["volume"][5]]
    assert out["open"].to_list() == [rows["open"][at] for at in (0, 3, 5)]
    assert resample(rows, weekly, stamps[1])["ts_ns"].to_list() == []
    with pytest.raises(ConfigError, match=r"equity.bar: 2d of sessions of XNYS is not defined; use 1w, 1d or less"):
        resample(rows, replace(weekly, bar="2d"), NEVER)


def test_what_a_row_lacks_its_window_lacks() -> None:
    rows = _rows([MONDAY + hour * NS_PER_HOUR for hour in range(1, 49)])
    first = pl.int_range(pl.len()) == 5
    part = rows.with_columns(pl.when(~first).then(pl.col(name)).alias(name) for name in ("low", "volume", "turnover"))
    nan = rows.with_columns(pl.when(first).then(float("nan")).otherwise(pl.col(name)).alias(name) for name in ("low", "volume", "turnover"))
    out = resample(part, _continuous(), NEVER)
    for name in ("open", "high", "low", "volume", "vwap", "turnover"):
        assert out[name].is_null().to_list() == [True, False]
    assert out.equals(resample(nan, _continuous(), NEVER)) and out["close"].null_count() == 0


def test_no_rows_give_no_bars() -> None:
    assert resample(empty("series"), _continuous(), NEVER).is_empty()
