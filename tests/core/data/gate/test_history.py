"""Every warning on histories, each on histories that the test breaks; and what only looks like one."""

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from plusultra_core import config
from plusultra_core.clock import NS_PER_DAY, NS_PER_HOUR
from plusultra_core.data.calendars import audit_gaps, sessions
from plusultra_core.data.gate.dump import check_dump
from plusultra_core.data.gate.findings import Finding
from plusultra_core.data.gate.history import (
    HistoryConfig,
    check_history,
    check_indicators,
    gather,
    judge,
    meetings,
    survey,
)
from plusultra_core.data.tables import DataConfig
from plusultra_core.errors import ConfigError
from plusultra_core.market import MarketConfig

MakeDump = Callable[..., Path]
FIRST = 1_577_912_400 * 1_000_000_000  # 2020-01-01 21:00
NO_ACTIONS = pl.DataFrame(schema={"symbol": pl.String, "ts_ns": pl.Int64})


@pytest.fixture
def cfg(data_cfg: DataConfig) -> HistoryConfig:
    return data_cfg.history


def _walk(symbol: str = "A", num_bars: int = 200, step_ns: int = NS_PER_DAY, seed: int = 3) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    close = 100 * np.exp(rng.normal(0, 0.02, num_bars).cumsum())
    volume = 1e6 * np.exp(rng.normal(0, 0.5, num_bars))
    times = FIRST + step_ns * np.arange(num_bars)
    return pl.DataFrame({"symbol": symbol, "ts_ns": times, "high": close * 1.01, "low": close * 0.99, "close": close, "volume": volume})


def _assets(*symbols: str, bar: str | None = "1d", asset_class: str = "crypto") -> pl.DataFrame:
    text = {"symbol": pl.String, "bar": pl.String, "asset_class": pl.String}
    return pl.DataFrame(
        {"symbol": symbols, "bar": [bar] * len(symbols), "asset_class": [asset_class] * len(symbols)}, schema_overrides=text
    )


Judge = Callable[..., list[Finding]]


@pytest.fixture
def say(cfg: HistoryConfig, markets: dict[str, MarketConfig]) -> Judge:
    """What is said of some bars: of daily crypto, unless the assets are given."""

    def run(bars: pl.DataFrame, actions: pl.DataFrame = NO_ACTIONS, assets: pl.DataFrame | None = None, **changed: float) -> list[Finding]:
        known = _assets(*bars["symbol"].unique().sort()) if assets is None else assets
        return check_history(bars, actions, known, markets, replace(cfg, **changed), 5)

    return run


def _times(bars: pl.DataFrame, column: str, factor: float, first: int, last: int | None = None) -> pl.DataFrame:
    """The columns of bars [first, last) multiplied."""
    place = pl.int_range(pl.len())
    changed = place.is_between(first, len(bars) if last is None else last, closed="left")
    names = ("high", "low", "close") if column == "close" else (column,)
    return bars.with_columns(pl.when(changed).then(pl.col(name) * factor).otherwise(name).alias(name) for name in names)


def _codes(findings: list[Finding]) -> list[str]:
    return [finding.code for finding in findings]


def test_a_quiet_history_is_not_spoken_of(say: Judge) -> None:
    assert say(pl.concat([_walk("A"), _walk("B", seed=4)])) == []


@pytest.mark.parametrize(("factor", "said"), [(100.0, "x 100"), (0.01, "/ 100"), (1000.0, "x 1000"), (0.001, "/ 1000")])
def test_a_price_that_changes_its_unit_for_good(say: Judge, factor: float, said: str) -> None:
    (finding,) = say(_times(_walk(), "close", factor, 120))
    assert finding.code == "unit_flip" and finding.symbols == ("A",) and finding.table == "series"
    assert finding.rows == ({"symbol": "A", "column": "close", "at": "2020-04-30T21:00:00Z", "factor": said, "until": None},)
    assert "one unit all along" in finding.message


def test_a_price_in_pence_for_a_while_is_told_once_with_its_end(say: Judge) -> None:
    bars = _times(_times(_walk(), "close", 100.0, 50, 60), "close", 100.0, 90, 91)
    (finding,) = say(bars)
    assert [(row["at"], row["until"]) for row in finding.rows] == [
        ("2020-02-20T21:00:00Z", "2020-03-01T21:00:00Z"),
        ("2020-03-31T21:00:00Z", "2020-04-01T21:00:00Z"),
    ]


def test_flips_of_one_symbol_do_not_answer_those_of_another(say: Judge) -> None:
    bars = pl.concat([_times(_walk("A"), "close", 100.0, 150), _times(_walk("B"), "close", 0.01, 50)])
    (finding,) = say(bars)
    assert finding.symbols == ("A", "B") and [row["until"] for row in finding.rows] == [None, None]


def test_a_jump_that_is_no_change_of_unit_wants_a_corporate_action(say: Judge) -> None:
    assert _codes(say(_times(_walk(), "close", 300.0, 120))) == ["price_jump"]
    assert _codes(say(_times(_walk(), "close", 33.0, 120))) == []


@pytest.mark.parametrize("factor", [100.0, 300.0])
def test_a_split_explains_either(say: Judge, factor: float) -> None:
    bars = _times(_walk(), "close", 1 / factor, 120)
    split = pl.DataFrame({"symbol": ["A"], "ts_ns": [FIRST + 120 * NS_PER_DAY - NS_PER_HOUR]})
    assert say(bars, split) == []
    assert len(say(bars, split.with_columns(symbol=pl.lit("B")))) == 1
    assert len(say(bars, split.with_columns(pl.col("ts_ns") - NS_PER_DAY))) == 1
    assert say(bars, split.with_columns(pl.col("ts_ns") + NS_PER_HOUR)) == []  # at the bar itself
    assert len(say(bars, split.with_columns(pl.col("ts_ns") - 23 * NS_PER_HOUR))) == 1  # at the bar before, which has it


@pytest.mark.parametrize(("factor", "said"), [(100.0, "x 100"), (0.001, "/ 1000")])
def test_a_volume_that_changes_its_unit(say: Judge, factor: float, said: str) -> None:
    (finding,) = say(_times(_walk(), "volume", factor, 120))
    assert finding.code == "unit_flip"
    assert finding.rows == ({"symbol": "A", "column": "volume", "at": "2020-04-30T21:00:00Z", "factor": said, "until": None},)


def test_a_burst_of_volume_is_no_change_of_unit(say: Judge) -> None:
    assert say(_times(_walk(), "volume", 1000.0, 120, 125)) == []
    growing = _walk(num_bars=400).with_columns(volume=pl.col("volume") * pl.lit(10.0).pow(pl.int_range(pl.len()) / 40))
    assert say(growing) == []


def test_volumes_of_two_symbols_are_not_compared(say: Judge) -> None:
    assert say(pl.concat([_walk("A"), _times(_walk("B"), "volume", 1000.0, 0)])) == []


def test_a_price_that_moved_without_volume(say: Judge) -> None:
    bars = pl.concat([_times(_walk("A"), "volume", 0.0, 70, 72), _walk("B")])
    (finding,) = say(bars)
    assert (finding.code, finding.column, finding.symbols) == ("zero_volume", "volume", ("A",))
    assert [row["at"] for row in finding.rows] == ["2020-03-11T21:00:00Z", "2020-03-12T21:00:00Z"]


def test_a_bar_in_which_nothing_moved_may_have_no_volume(say: Judge) -> None:
    still = pl.int_range(pl.len()) == 70
    bars = _walk().with_columns(close=pl.when(still).then(pl.col("close").shift()).otherwise("close"))
    bars = bars.with_columns(
        pl.when(still).then(0.0).otherwise("volume").alias("volume"),
        *(pl.when(still).then("close").otherwise(name).alias(name) for name in ("high", "low")),
    )
    assert say(bars) == []


def test_a_symbol_that_never_has_volume_has_none(say: Judge) -> None:
    assert say(_walk().with_columns(volume=pl.lit(0.0))) == []
    assert say(_walk().with_columns(volume=pl.lit(None, pl.Float64))) == []
    assert say(_walk().drop("high", "low", "volume")) == []


@pytest.mark.parametrize(("bar", "step_ns", "hours"), [("1h", NS_PER_DAY, 24.0), ("1d", NS_PER_HOUR, 1.0), ("1w", NS_PER_DAY, 24.0)])
def test_a_bar_that_is_not_the_one_stated(say: Judge, bar: str, step_ns: int, hours: float) -> None:
    bars = pl.concat([_walk("A", step_ns=step_ns), _walk("B", num_bars=20, step_ns=10 * NS_PER_DAY)])
    (finding,) = say(bars, stale_days=400, assets=_assets("A", bar=bar))
    assert (finding.code, finding.table, finding.column, finding.symbols) == ("bar_mismatch", "assets", "metadata", ("A",))
    assert finding.rows == ({"symbol": "A", "bar": bar, "commonest_h": hours},)


def test_weekends_holes_and_summer_time_do_not_make_another_bar(say: Judge) -> None:
    weekday = ((pl.col("ts_ns") // NS_PER_DAY + 3) % 7) < 5
    summer = pl.col("ts_ns") - pl.when(pl.int_range(pl.len()) > 100).then(NS_PER_HOUR).otherwise(0)
    assert say(_walk().filter(weekday).with_columns(summer), assets=_assets("A", asset_class="forex")) == []
    assert say(_walk(num_bars=2, step_ns=3 * NS_PER_DAY)) == []
    assert say(_walk(step_ns=NS_PER_HOUR), assets=_assets("A", bar=None)) == []


def test_sessions_without_a_bar(say: Judge) -> None:
    walk = _walk("A", num_bars=40)
    lacking = walk.filter(~pl.int_range(pl.len()).is_in([5, 6]))
    (finding,) = say(pl.concat([lacking, _walk("B", num_bars=40)]))
    assert (finding.code, finding.table, finding.column) == ("missing_bars", "series", "timestamp")
    assert finding.rows == ({"symbol": "A", "missing": 2, "of": 40, "first": "2020-01-07T00:00:00Z 2020-01-08T00:00:00Z"},)
    # On the exchange 2020-01-06 and -07 were sessions, 2020-01-20 was none; bars on other days are no sign of a hole.
    holiday = walk.filter(~pl.int_range(pl.len()).is_in([5, 6, 19]))
    (finding,) = say(holiday, assets=_assets("A", asset_class="equity"))
    assert finding.rows == ({"symbol": "A", "missing": 2, "of": 26, "first": "2020-01-06T21:00:00Z 2020-01-07T21:00:00Z"},)


@pytest.mark.parametrize("asset_class", ["crypto", "equity", "forex"])
def test_missing_bars_are_those_of_the_audit_of_every_symbol(say: Judge, markets: dict[str, MarketConfig], asset_class: str) -> None:
    rng = np.random.default_rng(9)
    own = sessions(markets[asset_class].calendar, FIRST, FIRST + 200 * NS_PER_DAY)["close_ns"]
    parts = [_walk(name, num_bars=len(own), seed=n).with_columns(ts_ns=own) for n, name in enumerate("ABCDEF")]
    bars = pl.concat(
        part.filter(pl.Series(rng.random(len(own)) >= frac)) for part, frac in zip(parts, (0, 0, 0.01, 0, 0.03, 0), strict=True)
    )
    whole = audit_gaps(bars.select("symbol", "ts_ns"), markets[asset_class], 3).filter(pl.col("missing") > 0)
    (finding,) = say(bars, assets=_assets(*"ABCDEF", asset_class=asset_class), bar_tolerance_frac=0.9)
    assert [(row["symbol"], row["missing"], row["of"]) for row in finding.rows] == whole.select("symbol", "missing", "expected").rows()
    assert finding.symbols == ("C", "E")


def test_what_no_calendar_reaches_is_not_missing(say: Judge) -> None:
    old = _walk(num_bars=60).with_columns(pl.col("ts_ns") - 200 * 365 * NS_PER_DAY).filter(pl.int_range(pl.len()) != 7)
    assert say(old, assets=_assets("A", asset_class="equity")) == []
    assert say(_walk(num_bars=60).filter(pl.int_range(pl.len()) % 7 > 0), assets=_assets("A", bar="1h")) != []
    weekly = _walk(num_bars=20, step_ns=7 * NS_PER_DAY)
    assert say(weekly, assets=_assets("A", bar="1w")) == []


def test_holes_ends_stuck_prices_and_lonely_bars(say: Judge) -> None:
    bars = {
        "hole": _walk("hole").filter(~pl.int_range(pl.len()).is_between(50, 70)),
        "late": _walk("late"),
        "old": _walk("old", num_bars=100),
        "one": _walk("one").tail(1),
        "stuck": _walk("stuck").with_columns(close=pl.when(pl.int_range(pl.len()).is_between(30, 49)).then(90.0).otherwise("close")),
    }
    findings = say(pl.concat(bars.values()), assets=_assets(*bars, "void"))
    found = {finding.code: finding for finding in findings}
    assert found["missing_bars"].symbols == ("hole",) and found.pop("missing_bars").rows[0]["missing"] == 21
    told = {"no_bars": "void", "stale_feed": "old", "long_gap": "hole", "single_bar": "one", "constant_price": "stuck"}
    assert {code: finding.symbols for code, finding in found.items()} == {code: (symbol,) for code, symbol in told.items()}
    assert found["long_gap"].rows == ({"symbol": "hole", "days": 22.0, "until": "2020-03-12T21:00:00Z"},)
    assert found["constant_price"].rows == ({"symbol": "stuck", "bars": 20, "close": 90.0, "since": "2020-01-31T21:00:00Z"},)


def test_a_price_that_stays_while_another_symbol_begins_is_not_stuck(say: Judge) -> None:
    level = [_walk(name, num_bars=10).with_columns(close=pl.lit(50.0), high=pl.lit(51.0), low=pl.lit(49.0)) for name in ("A", "B", "C")]
    assert say(pl.concat(level)) == []


def test_rows_without_a_price_are_passed_over(say: Judge) -> None:
    odd = pl.Series([0.0, -1.0, float("inf"), float("nan"), None])
    bars = _walk().with_columns(close=pl.when(pl.int_range(pl.len()).is_between(10, 14)).then(odd.gather([0] * 200)).otherwise("close"))
    assert [(finding.code, finding.rows[0]["missing"]) for finding in say(bars)] == [("missing_bars", 5)]
    assert say(bars.clear(), assets=_assets()) == []


def test_groups_of_symbols_say_together_what_the_whole_says(say: Judge, cfg: HistoryConfig, markets: dict[str, MarketConfig]) -> None:
    bars = pl.concat(
        [
            _times(_walk("A"), "close", 100.0, 120),
            _times(_walk("B"), "volume", 0.0, 70, 72),
            _walk("C", num_bars=100),
            _times(_walk("D"), "close", 0.01, 20),
            _walk("E").tail(1),
        ]
    )
    assets = _assets("A", "B", "C", "D", "E", "F")
    whole = say(bars, assets=assets)
    parts = [
        survey(bars.filter(pl.col("symbol").is_in(names)), NO_ACTIONS, assets, markets, cfg) for names in (["D", "E"], ["A"], ["B", "C"])
    ]
    assert judge(gather(parts), assets, cfg, 5) == whole
    assert _codes(whole) == ["no_bars", "stale_feed", "single_bar", "unit_flip", "zero_volume"]


def _indicators(symbol: str, times: pl.Series, name: str = "x") -> pl.DataFrame:
    return pl.DataFrame({"symbol": symbol, "name": name, "ts_ns": times})


def test_indicators_shifted_by_hours(cfg: HistoryConfig) -> None:
    bars = pl.concat([_walk("A"), _walk("B")])
    times = _walk()["ts_ns"]
    rows = pl.concat([_indicators("A", times + 3 * NS_PER_HOUR), _indicators("A", times, "good"), _indicators("B", times)])
    (finding,) = check_indicators(meetings(rows, bars), cfg, 5)
    assert (finding.code, finding.table, finding.column) == ("misaligned_indicators", "indicators", "timestamp")
    assert finding.symbols == ("A",)
    assert finding.rows == ({"symbol": "A", "name": "x", "rows": 199, "met": 0, "off_h": 3.0},)


def test_indicators_of_another_age_never_meet(cfg: HistoryConfig) -> None:
    (finding,) = check_indicators(meetings(_indicators("A", _walk()["ts_ns"] - 900 * NS_PER_DAY), _walk()), cfg, 5)
    assert finding.rows == ({"symbol": "A", "name": "x", "rows": 0, "met": 0, "off_h": None},)


@pytest.mark.parametrize("every", [1, 5, 30])
def test_rarer_indicators_are_aligned_where_they_stand_on_bars(cfg: HistoryConfig, every: int) -> None:
    assert check_indicators(meetings(_indicators("A", _walk()["ts_ns"].gather_every(every)), _walk()), cfg, 5) == []


def test_finer_indicators_are_aligned_where_every_bar_has_one(cfg: HistoryConfig) -> None:
    hours = _walk(num_bars=24 * 100, step_ns=NS_PER_HOUR)["ts_ns"]
    assert check_indicators(meetings(_indicators("A", hours), _walk()), cfg, 5) == []
    assert len(check_indicators(meetings(_indicators("A", hours + NS_PER_HOUR // 2), _walk()), cfg, 5)) == 1


def test_indicators_outside_the_bars_do_not_count(cfg: HistoryConfig) -> None:
    long = _walk(num_bars=2_000)["ts_ns"] - 900 * NS_PER_DAY
    stray = pl.concat([long.filter(~long.is_in(_walk()["ts_ns"].to_list())) + NS_PER_HOUR, _walk()["ts_ns"]]).sort()
    assert check_indicators(meetings(_indicators("A", stray), _walk()), cfg, 5) == []
    assert meetings(_indicators("Z", long), _walk()).is_empty()


@pytest.mark.parametrize("seed", range(5))
def test_meetings_agree_with_sets(seed: int) -> None:
    rng = np.random.default_rng(seed)
    bars = pl.concat([_walk(name).sample(rng.integers(5, 150), seed=seed) for name in ("A", "B")])
    hours = pl.Series(FIRST + NS_PER_HOUR * rng.choice(24 * 220, 400, replace=False) - 5 * NS_PER_DAY)
    rows = pl.concat([_indicators(name, hours.sample(rng.integers(1, 300), seed=seed), "x") for name in ("A", "B")])
    for found in meetings(rows, bars).to_dicts():
        own = bars.filter(pl.col("symbol") == found["symbol"])["ts_ns"]
        times = rows.filter(pl.col("symbol") == found["symbol"])["ts_ns"]
        inside = {time for time in times if own.min() <= time <= own.max()}
        assert found["num_rows"] == len(inside) and found["num_met"] == len(inside & set(own))
        assert found["num_bars"] == sum(1 for bar in own if inside and min(inside) <= bar <= max(inside))


def test_thresholds_must_make_sense(cfg: HistoryConfig) -> None:
    below = (("stale_days", 0), ("jump_ratio", 1.0), ("wick_ratio", 1.0))
    for name, bad in (*below, ("aligned_frac", 0.0), ("unit_tolerance_frac", 1.0), ("unit_volume_bars", 0)):
        with pytest.raises(ConfigError, match=name):
            config.parse(HistoryConfig, {**asdict(cfg), name: bad}, "history")


DUMPS = {
    "unit_flip": ("UPDATE series SET open = open * 100, high = high * 100, low = low * 100, close = close * 100 WHERE {after}",),
    "zero_volume": ("UPDATE series SET volume = 0 WHERE symbol = 'AAA' AND timestamp LIKE '2020-01-15%'",),
    "missing_bars": ("DELETE FROM series WHERE symbol = 'AAA' AND timestamp LIKE '2020-01-15%'",),
    "bar_mismatch": ("UPDATE assets SET metadata = replace(metadata, '1d', '1h') WHERE symbol = 'AAA'",),
    "misaligned_indicators": (
        "INSERT INTO indicators SELECT replace(timestamp, '21:00', '02:00'), symbol, 'rsi', 50, NULL FROM series WHERE symbol = 'AAA'",
    ),
}


@pytest.mark.parametrize("code", DUMPS)
def test_the_gate_says_it_of_a_dump(code: str, make_dump: MakeDump, data_cfg: DataConfig, markets: dict[str, MarketConfig]) -> None:
    after = "symbol = 'AAA' AND timestamp > '2020-01-15'"
    report = check_dump(make_dump(*(statement.format(after=after) for statement in DUMPS[code])), data_cfg, markets)
    assert report.accepted
    assert [(finding.code, finding.symbols) for finding in report.findings] == [(code, ("AAA",))]


def test_a_million_bars_are_surveyed_in_a_second_or_two(say: Judge) -> None:
    bars = pl.concat([_walk(f"S{n:03d}", num_bars=2_520, seed=n) for n in range(400)])
    start = time.process_time()
    assert say(bars) == []
    assert time.process_time() - start < 10
