"""Calendars: the sessions a market has, the bars a symbol lacks, and not one more."""

import datetime
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plusultra_core.clock import NS_PER_DAY, NS_PER_HOUR, NS_PER_MIN, iso
from plusultra_core.data.bars import build_bars
from plusultra_core.data.calendars import (
    audit_gaps,
    describe_audit,
    expected_closes,
    gap_bars,
    session_times,
    sessions,
    window_ends,
    window_keys,
    windows,
)
from plusultra_core.data.gate.timestamps import to_ns
from plusultra_core.data.snapshot import take_snapshot
from plusultra_core.data.tables import DataConfig, build_table, classes_in
from plusultra_core.errors import ConfigError
from plusultra_core.market import MarketConfig

EMPTY_ETFS = ("EEM", "GLD", "HYG", "IWM", "SPY", "TLT", "XLE", "XLF", "XLK")
FLAWS = {  # as the README of market_2017 has them, and the holes of the forex and bitcoin feeds
    "market_2017_a": {"CVX": ["2010-11-19"], "NEE": ["2011-02-17"], **{symbol: ["2011-02-17"] for symbol in EMPTY_ETFS}},
    "market_2017_b": {
        "AAPL": ["2017-08-07", "2017-11-08"],
        "MSFT": ["2017-11-08"],
        "CVX": ["2010-11-19"],
        "NEE": ["2011-02-17"],
        **{symbol: ["2011-02-17"] for symbol in EMPTY_ETFS},
    },
}


def ns(*times: str) -> list[int]:
    """Times in nanoseconds."""
    return [int(value) for value in to_ns(pl.Series(list(times)), "t")]


def _bars(*times: str, symbol: str = "A") -> pl.DataFrame:
    return pl.DataFrame({"symbol": [symbol] * len(times), "ts_ns": ns(*times)}, schema={"symbol": pl.String, "ts_ns": pl.Int64})


def _closes(market: MarketConfig, first: str, last: str) -> list[str]:
    return [iso(close) for close in expected_closes(market, *ns(first, last))]


def test_an_exchange_has_sessions_holidays_and_early_closes() -> None:
    found = sessions("XNYS", *ns("2019-11-27 00:00:00", "2019-12-02 23:00:00"))
    assert [str(day) for day in found["session"]] == ["2019-11-27", "2019-11-29", "2019-12-02"]
    assert [iso(close) for close in found["close_ns"]] == ["2019-11-27T21:00:00Z", "2019-11-29T18:00:00Z", "2019-12-02T21:00:00Z"]
    assert [iso(opens) for opens in found["open_ns"]] == ["2019-11-27T14:30:00Z", "2019-11-29T14:30:00Z", "2019-12-02T14:30:00Z"]
    assert found["early_close"].to_list() == [False, True, False]
    storm = sessions("XNYS", *ns("2012-10-27 00:00:00", "2012-10-31 23:00:00"))
    assert [str(day) for day in storm["session"]] == ["2012-10-31"]


def test_summer_time_moves_the_close(markets: dict[str, MarketConfig]) -> None:
    assert _closes(markets["equity"], "2020-03-06 00:00:00", "2020-03-09 23:00:00") == ["2020-03-06T21:00:00Z", "2020-03-09T20:00:00Z"]


def test_markets_without_an_exchange_have_sessions_too() -> None:
    week = ns("2020-01-01 12:00:00", "2020-01-06 12:00:00")
    assert [str(day) for day in sessions("24/7", *week)["session"]] == [f"2020-01-0{day}" for day in (1, 2, 3, 4, 5, 6)]
    currencies = sessions("24/5", *week)
    assert [str(day) for day in currencies["session"]] == ["2020-01-02", "2020-01-03", "2020-01-06"]
    assert iso(currencies["open_ns"][2]) == "2020-01-05T22:00:00Z" and iso(currencies["close_ns"][1]) == "2020-01-03T22:00:00Z"
    summer = sessions("24/5", *ns("2020-07-01 12:00:00", "2020-07-01 13:00:00"))
    assert iso(summer["close_ns"][0]) == "2020-07-01T21:00:00Z"


def test_an_unknown_calendar_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"calendar: 'XMOON' from 2009-01-01 to 2030-12-31 is not to be had .*; name 24/7, 24/5 or one that is"
    ):
        sessions("XMOON", *ns("2019-11-27 00:00:00", "2020-12-02 23:00:00"))


def test_expected_closes_of_every_kind_of_market(markets: dict[str, MarketConfig]) -> None:
    assert _closes(markets["crypto"], "2020-01-04 00:00:00", "2020-01-06 00:00:00") == [f"2020-01-0{day}T00:00:00Z" for day in (4, 5, 6)]
    assert len(_closes(markets["crypto_perpetual"], "2020-01-04 01:00:00", "2020-01-05 00:00:00")) == 24
    days = _closes(markets["forex"], "2020-01-01 00:00:00", "2020-01-08 00:00:00")
    assert [day[8:10] for day in days] == ["01", "03", "04", "07", "08"]  # 1 January need not be there, nor a bar of Sunday evening
    hours = _closes(replace(markets["forex"], bar="1h"), "2020-01-03 20:00:00", "2020-01-06 00:00:00")
    assert [hour[8:13] for hour in hours] == ["03T20", "03T21", "03T22", "05T23", "06T00"]
    short = replace(markets["equity"], bar="2h")
    assert [close[11:16] for close in _closes(short, "2019-11-29 00:00:00", "2019-11-29 23:00:00")] == ["16:30", "18:00"]
    weekly = replace(markets["equity"], bar="1w")
    assert _closes(weekly, "2020-04-06 00:00:00", "2020-04-18 00:00:00") == ["2020-04-09T20:00:00Z", "2020-04-17T20:00:00Z"]
    assert _closes(replace(markets["crypto"], bar="1w"), "2020-01-06 00:00:00", "2020-01-13 00:00:00") == [
        "2020-01-06T00:00:00Z",
        "2020-01-13T00:00:00Z",
    ]


def test_a_lunch_break_is_no_hole(markets: dict[str, MarketConfig]) -> None:
    tokyo = replace(markets["equity"], calendar="XTKS", session_tz="Asia/Tokyo", bar="30m")
    closes = _closes(tokyo, "2020-01-07 00:00:00", "2020-01-07 23:00:00")
    assert [close[11:16] for close in closes] == [f"{h:02}:{m:02}" for h, m in ((0, 30), (1, 0), (1, 30), (2, 0), (2, 30))] + [
        f"{h:02}:{m:02}" for h, m in ((4, 0), (4, 30), (5, 0), (5, 30), (6, 0))
    ]


def test_a_daily_bar_fills_its_day_whenever_it_is_stamped(markets: dict[str, MarketConfig]) -> None:
    stamps = ("2019-11-26 21:15:00", "2019-11-27 21:00:00", "2019-11-29 21:00:00", "2019-12-03 05:00:00", "2019-12-03 21:00:00")
    bars = _bars(*stamps)  # after the close, at it, hours after an early one, at midnight in New York
    assert gap_bars(bars, markets["equity"]).to_list() == [0] * 5
    audit = audit_gaps(bars, markets["equity"], 5).row(0, named=True)
    assert (audit["expected"], audit["present"], audit["missing"], audit["extra"], audit["early_closes"]) == (5, 5, 0, 0, 1)
    evenings = _bars(*(f"2020-01-{day:02} 21:00:00" for day in (1, 2, 3, 5)))
    assert gap_bars(evenings, markets["crypto"]).to_list() == [0, 0, 0, 1]


def test_holes_and_strangers_are_named(markets: dict[str, MarketConfig]) -> None:
    stamps = ("2020-01-02 21:00:00", "2020-01-04 21:00:00", "2020-01-07 21:00:00", "2020-01-07 21:30:00", "2020-01-10 21:00:00")
    bars = pl.concat([_bars(*stamps), _bars("2020-01-02 21:00:00", symbol="B")])
    assert gap_bars(bars, markets["equity"]).to_list() == [0, 1, 1, 0, 2, 0]
    first, second = audit_gaps(bars, markets["equity"], 3).rows(named=True)
    assert first["missing_days"] == ["2020-01-03T21:00:00Z", "2020-01-06T21:00:00Z", "2020-01-08T21:00:00Z"] and first["missing"] == 4
    assert first["extra_days"] == ["2020-01-04T21:00:00Z", "2020-01-07T21:30:00Z"] and first["extra"] == 2
    assert (first["expected"], first["present"]) == (7, 3) and second["missing"] == second["extra"] == 0 and second["expected"] == 1
    told = describe_audit(audit_gaps(bars, markets["equity"], 3), markets["equity"])
    assert told.startswith("bars: 1 of 2 symbols differ from the calendar XNYS, 4 bars missing, 2 outside it; most in A (4 missing since")
    assert describe_audit(audit_gaps(bars.filter(pl.col("symbol") == "B"), markets["equity"], 3), markets["equity"]) == ""


def test_no_bars_no_gaps(markets: dict[str, MarketConfig]) -> None:
    none = _bars()
    assert gap_bars(none, markets["equity"]).to_list() == [] and audit_gaps(none, markets["equity"], 3).is_empty()


def test_beyond_what_a_calendar_records_nothing_is_missing(markets: dict[str, MarketConfig]) -> None:
    tokyo = replace(markets["equity"], calendar="XTKS", session_tz="Asia/Tokyo")  # from 1997 on
    bars = _bars("1996-06-03 06:00:00", "1996-08-05 06:00:00", "1997-01-06 06:00:00", "1997-01-08 06:00:00")
    assert gap_bars(bars, tokyo).to_list() == [0, 0, 0, 1]
    (row,) = audit_gaps(bars, tokyo, 3).rows(named=True)
    assert (row["expected"], row["present"], row["missing_days"], row["extra"]) == (3, 2, ["1997-01-07T06:00:00Z"], 0)
    assert audit_gaps(bars.head(2), tokyo, 3).is_empty() and gap_bars(bars.head(2), tokyo).to_list() == [0, 0]
    with pytest.raises(ConfigError, match="XTKS is not recorded for all of 1996-06-03T06:00:00Z to 1997-01-08T06:00:00Z"):
        window_ends(bars["ts_ns"], tokyo)
    assert gap_bars(_bars("1980-06-03 06:00:00", "1980-08-05 06:00:00"), tokyo).to_list() == [0, 0]
    mumbai = replace(markets["equity"], calendar="XBOM", session_tz="Asia/Kolkata")  # to the end of 2026
    assert gap_bars(_bars("2026-11-18 10:00:00", "2026-11-20 10:00:00"), mumbai).to_list() == [0, 1]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_gaps_agree_with_a_loop_and_do_not_know_what_follows(markets: dict[str, MarketConfig], data: st.DataObject) -> None:
    market, step_ns = data.draw(
        st.sampled_from(
            [
                (markets["equity"], NS_PER_DAY),
                (markets["forex"], NS_PER_DAY),
                (markets["crypto"], NS_PER_DAY),
                (replace(markets["equity"], bar="1h"), 30 * NS_PER_MIN),
                (replace(markets["forex"], bar="1h"), NS_PER_HOUR),
                (replace(markets["equity"], bar="1w"), NS_PER_DAY),
            ]
        )
    )
    first = ns("2019-12-16 21:00:00")[0]
    times = sorted({first + step * step_ns for step in data.draw(st.sets(st.integers(0, 40), min_size=1, max_size=30))})
    bars = pl.DataFrame({"symbol": "A", "ts_ns": times})
    counted = gap_bars(bars, market).to_list()
    known = windows(market, times[0] - 9 * NS_PER_DAY, times[-1] + 9 * NS_PER_DAY)
    required = known.filter("required")["key"].to_list()
    keys = window_keys(bars["ts_ns"], market).to_list()
    expected = [0, *(sum(before < key < now for key in required) for before, now in pairwise(keys))]
    assert counted == expected
    part = bars.head(data.draw(st.integers(1, len(times))))
    assert gap_bars(part, market).to_list() == counted[: part.height]
    audit = audit_gaps(bars, market, 99).row(0, named=True)
    assert audit["missing"] == sum(expected) and audit["expected"] == audit["missing"] + len(set(keys) & set(required))


def test_whatever_a_window_holds_ends_at_its_end(markets: dict[str, MarketConfig]) -> None:
    for market in (markets["equity"], replace(markets["equity"], bar="1h"), markets["forex"], replace(markets["equity"], bar="1w")):
        closes = expected_closes(market, *ns("2019-11-25 00:00:00", "2020-02-01 00:00:00"))
        assert window_ends(closes, market).equals(closes.rename(window_ends(closes, market).name))
        assert (window_ends(closes - 1, market) == closes).all() and (window_ends(closes + 1, market) > closes).all()


@pytest.mark.parametrize("stem", sorted(FLAWS))
def test_the_real_dumps_lack_what_their_readme_says(
    stem: str, real_dump: Callable[[str], Path], tmp_path: Path, data_cfg: DataConfig, markets: dict[str, MarketConfig]
) -> None:
    snapshot = take_snapshot(real_dump(stem), tmp_path, data_cfg, markets)
    for asset_class in ("equity", "etf", "index", "volatility_index"):
        series = build_table("series", snapshot.path, asset_class, markets, data_cfg)
        audit = audit_gaps(series, markets[asset_class], 9)
        lacking = {symbol: [day[:10] for day in days] for symbol, days in audit.select("symbol", "missing_days").iter_rows() if days}
        assert lacking == {symbol: days for symbol, days in FLAWS[stem].items() if symbol in series["symbol"].unique().to_list()}
        assert audit["extra"].sum() == 0 and audit["present"].sum() == series.height
        gaps = gap_bars(series, markets[asset_class])
        assert gaps.sum() == sum(map(len, lacking.values()))
    forex = build_table("series", snapshot.path, "forex", markets, data_cfg).filter(pl.col("symbol") == "GBPUSD")
    (row,) = audit_gaps(forex, markets["forex"], 9).rows(named=True)
    assert [day[:10] for day in row["missing_days"]] == [f"2016-12-{day}" for day in (13, 14, 15, 16)] and row["extra"] == 0


@pytest.mark.parametrize("stem", ["market_2017_a", "market_2017_b"])
def test_days_of_gold_lack_what_those_of_the_same_source_lack_and_have_none_of_sunday_evening(
    stem: str, real_dump: Callable[[str], Path], tmp_path: Path, data_cfg: DataConfig, markets: dict[str, MarketConfig]
) -> None:
    snapshot = take_snapshot(real_dump(stem), tmp_path, data_cfg, markets)
    tables = (build_table(name, snapshot.path, "commodity", markets, data_cfg) for name in ("series", "assets", "corporate_actions"))
    gold = build_bars(*tables, markets["commodity"], data_cfg.bars)
    (row,) = audit_gaps(gold, markets["commodity"], 9).rows(named=True)
    assert [day[:10] for day in row["missing_days"]] == [f"2016-12-{day}" for day in (12, 13, 14, 15)] and row["extra"] == 0
    local = pl.from_epoch(gold["ts_ns"] - 1, time_unit="ns").dt.replace_time_zone("UTC").dt.convert_time_zone("America/Chicago")
    assert local.dt.weekday().max() == 5 and set(gold["gap_bars"]) == {0, 4}
    holidays = gold.filter(pl.Series(local.dt.date()).is_in([datetime.date(2016, 3, 25), datetime.date(2016, 12, 26)]))
    assert holidays.is_empty() and gold.height == {"market_2017_a": 382, "market_2017_b": 476}[stem]


def test_hourly_crypto_has_no_hole_and_the_vix_two_bars_on_holidays(
    real_dump: Callable[[str], Path], tmp_path: Path, data_cfg: DataConfig, markets: dict[str, MarketConfig]
) -> None:
    snapshot = take_snapshot(real_dump("crypto_2026_a"), tmp_path, data_cfg, markets)
    found = {}
    for asset_class in classes_in(snapshot.path, markets, data_cfg):
        series = build_table("series", snapshot.path, asset_class, markets, data_cfg)
        audit = audit_gaps(series, markets[asset_class], 9)
        found[asset_class] = (audit["missing"].sum(), audit["extra_days"].explode(empty_as_null=False).to_list())
    assert found == {"crypto_perpetual": (0, []), "volatility_index": (0, ["2025-09-01T20:15:00Z", "2025-11-27T21:15:00Z"])}


@pytest.mark.parametrize("calendar", ["24/7", "24/5", "XNYS"])
@pytest.mark.parametrize("span", [("2016-12-20 10:00:00", "2017-02-01 00:00:00"), ("2009-12-28 03:00:00", "2010-01-05 22:00:00")])
def test_times_of_sessions_are_those_of_the_sessions(calendar: str, span: tuple[str, str]) -> None:
    first, last = ns(*span)
    known = sessions(calendar, first, last)
    opens, closes = session_times(calendar, first, last)
    assert opens.tolist() == known["open_ns"].to_list() and closes.tolist() == known["close_ns"].to_list() and len(opens) > 3


@given(
    name=st.sampled_from(["equity", "commodity", "forex", "crypto"]),
    bar=st.sampled_from(["1h", "4h", "1d", "1w"]),
    seed=st.integers(0, 10_000),
    years=st.sampled_from([(2009, 2011), (2019, 2020), (2016, 2016), (1998, 2021)]),
)
@settings(max_examples=60, deadline=None)
def test_gaps_are_the_windows_between_two_bars(
    markets: dict[str, MarketConfig], name: str, bar: str, seed: int, years: tuple[int, int]
) -> None:
    market, rng = replace(markets[name], bar=bar), np.random.default_rng(seed)
    first, last = ns(f"{years[0]}-01-01 00:00:00", f"{years[1]}-12-31 23:59:59")
    start = int(rng.integers(first, last - 40 * NS_PER_DAY))
    times = [np.unique(rng.integers(start, min(last, start + int(days * NS_PER_DAY)), 12)) for days in (3, 20, 40)]
    bars = pl.DataFrame({"symbol": np.repeat(["A", "B", "C"], [len(part) for part in times]), "ts_ns": np.concatenate(times)})
    known = windows(market, int(bars["ts_ns"].min()), int(bars["ts_ns"].max())).filter("required")["key"].to_list()  # type: ignore[arg-type]
    slow = []
    for part in bars.partition_by("symbol"):
        keys = window_keys(part["ts_ns"], market).to_list()
        slow += [0, *(sum(before < key < now for key in known) for before, now in pairwise(keys))]
    assert gap_bars(bars, market).to_list() == slow
