"""Bars that go on from earlier ones: the same, to the last bit, as all of them at once."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plusultra_core.clock import NS_PER_DAY, NS_PER_HOUR
from plusultra_core.data.bars import BarsConfig, build_bars
from plusultra_core.data.contract.frames import empty
from plusultra_core.data.increments import bars as increments
from plusultra_core.data.increments.bars import ExtendedBars, PreviousBars, extend_bars
from plusultra_core.market import MarketConfig

Frames = dict[str, pl.DataFrame]
CFG = BarsConfig(as_of=None, adjustment="total_return")
FIRST = 1_577_998_800 * 10**9  # 2020-01-02 21:00
NUM_DAYS = 40
STEPS = {"A": NS_PER_DAY, "B": NS_PER_HOUR, "C": NS_PER_DAY, "D": NS_PER_HOUR, "E": 7 * NS_PER_DAY}
LENGTHS = {NS_PER_HOUR: "1h", NS_PER_DAY: "1d", 7 * NS_PER_DAY: "1w"}


@pytest.fixture(autouse=True)
def _none_is_cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(increments, "CHEAP_ROWS", 0)


def world(seed: int, late_ns: int, gap_share: float) -> Frames:
    """Daily, hourly and weekly symbols with holes, close-only rows, splits and dividends; rows are known up to `late_ns` later."""
    rng = np.random.default_rng(seed)
    parts = []
    for symbol, step_ns in STEPS.items():
        ts_ns = FIRST + step_ns * np.arange(NUM_DAYS * NS_PER_DAY // step_ns)
        ts_ns = ts_ns[rng.random(ts_ns.size) >= gap_share]
        close = 100 * np.exp(rng.normal(0, 0.01, ts_ns.size).cumsum())
        wide = np.exp(np.abs(rng.normal(0, 0.01, (2, ts_ns.size))))
        plain = pl.Series(rng.random(ts_ns.size) < 0.1)
        part = pl.DataFrame({"symbol": symbol, "ts_ns": ts_ns, "known_ns": ts_ns + rng.integers(0, late_ns + 1, ts_ns.size)})
        part = part.with_columns(open=pl.Series(close), high=pl.Series(close * wide[0]), low=pl.Series(close / wide[1]))
        part = part.with_columns(pl.when(~plain).then(pl.col("open", "high", "low")), close=pl.Series(close))
        parts.append(part.with_columns(volume=pl.when(~plain).then(pl.lit(100.0)), vwap=pl.lit(None, pl.Float64), turnover=pl.lit(1.0)))
    times = FIRST + NS_PER_HOUR * rng.integers(1, NUM_DAYS * 24, 12)
    split = rng.random(12) < 0.4
    actions = pl.DataFrame(
        {"symbol": rng.choice(list(STEPS), 12), "ts_ns": times, "known_ns": times - rng.integers(0, 10, 12) * NS_PER_DAY}
        | {"action": np.where(split, "split", "dividend"), "amount": np.where(split, np.nan, 1.5), "ratio": np.where(split, 3.0, np.nan)}
    )
    actions = actions.with_columns(pl.col("amount", "ratio").fill_nan(None), currency=pl.lit(None, pl.String))
    facts = {"symbol": list(STEPS), "bar": [LENGTHS[step] for step in STEPS.values()], "price_adjustment": "none", "currency": "USD"}
    return {
        "series": pl.concat(parts).select(empty("series").columns),
        "assets": pl.DataFrame(facts),
        "corporate_actions": actions.select(empty("corporate_actions").columns).sort("symbol", "ts_ns", "action"),
    }


def until(frames: Frames, cut_ns: int) -> Frames:
    """What a dump taken at that time would have had."""
    return {name: frame.filter(pl.col("known_ns") <= cut_ns) if "known_ns" in frame.columns else frame for name, frame in frames.items()}


def revised(frames: Frames, what: str, rng: np.random.Generator) -> Frames:
    """A later dump that says something else of what was."""
    series, actions, symbol = frames["series"], frames["corporate_actions"], str(rng.choice(list(STEPS)))
    mine, place = pl.col("symbol") == symbol, pl.int_range(pl.len()).over("symbol") == 5
    if what == "value":
        close = pl.when(mine & place).then(pl.col("close") * 1.5).otherwise("close")
        return {**frames, "series": series.with_columns(close=close)}
    if what == "gone row":
        return {**frames, "series": series.filter(~(mine & place))}
    if what == "gone symbol":
        return {**frames, "series": series.filter(~mine)}
    if what == "action":
        return {**frames, "corporate_actions": actions.with_columns(pl.col("amount") * 0.5)}
    if what == "fact":
        adjusted = pl.when(mine).then(pl.lit("split")).otherwise(pl.lit("none"))
        return {**frames, "assets": frames["assets"].with_columns(price_adjustment=adjusted)}
    return frames


def grown(before: Frames, after: Frames, market: MarketConfig) -> tuple[ExtendedBars, pl.DataFrame]:
    """Bars of the later dump from those of the earlier, and all at once."""
    previous = PreviousBars(**before, bars=build_bars(*before.values(), market, CFG))
    return extend_bars(previous, *after.values(), market, CFG), build_bars(*after.values(), market, CFG)


@given(
    seed=st.integers(0, 10_000),
    cut=st.floats(0.05, 1.0),
    late_ns=st.sampled_from([0, NS_PER_HOUR, 4 * NS_PER_DAY]),
    gap_share=st.sampled_from([0.0, 0.1, 0.5]),
    what=st.sampled_from(["nothing", "nothing", "value", "gone row", "gone symbol", "new symbol", "action", "fact"]),
    name=st.sampled_from(["crypto", "equity", "forex"]),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_bars_from_earlier_ones_are_those_built_at_once(
    markets: dict[str, MarketConfig], seed: int, cut: float, late_ns: int, gap_share: float, what: str, name: str
) -> None:
    market = replace(markets[name], bar="1d")
    frames = world(seed, late_ns, gap_share)
    before = until(frames, FIRST + int(cut * NUM_DAYS * NS_PER_DAY))
    if what == "new symbol":
        before = {**before, "series": before["series"].filter(pl.col("symbol") != "A")}
    after = revised(frames, what, np.random.default_rng(seed))
    found, whole = grown(before, after, market)
    assert found.bars.schema == whole.schema and found.bars.equals(whole)
    assert found.num_rows_taken <= whole.height


def test_what_was_is_taken_over_and_only_what_changed_is_made_again(markets: dict[str, MarketConfig]) -> None:
    market, frames = replace(markets["crypto"], bar="1d"), world(3, 0, 0.0)
    before = until(frames, FIRST + 30 * NS_PER_DAY)
    num_before = build_bars(*before.values(), market, CFG).height
    found, _ = grown(before, frames, market)
    assert found.num_symbols_taken == 4 and found.num_rows_taken == num_before  # the weekly symbol has no daily bars
    first = (pl.col("symbol") == "C") & (pl.col("ts_ns") == FIRST)
    changed = frames["series"].with_columns(close=pl.when(first).then(7.0).otherwise("close"))
    found, whole = grown(before, {**frames, "series": changed}, market)
    assert found.num_symbols_taken == 3 and found.bars.equals(whole)


def test_a_class_that_is_cheap_to_make_is_made(markets: dict[str, MarketConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    market, frames = replace(markets["crypto"], bar="1d"), world(3, 0, 0.0)
    monkeypatch.setattr(increments, "CHEAP_ROWS", 100_000)
    found, whole = grown(until(frames, FIRST + 30 * NS_PER_DAY), frames, market)
    assert found.num_rows_taken == 0 and found.bars.equals(whole)


@pytest.mark.parametrize("name", ["crypto", "equity"])
def test_a_window_that_was_closed_by_others_and_gets_rows_later_is_made_anew(markets: dict[str, MarketConfig], name: str) -> None:
    market, frames = replace(markets[name], bar="1d"), world(3, 0, 0.0)
    before = until(frames, FIRST + 20 * NS_PER_DAY)
    for num_late in (3, 24, 30):
        mine = pl.col("symbol") == "B"
        late_ns = int(before["series"].filter(mine)["ts_ns"][-1 - num_late])
        short = {**before, "series": before["series"].filter(~mine | (pl.col("ts_ns") <= late_ns))}
        found, whole = grown(short, frames, market)
        assert found.bars.equals(whole), num_late
