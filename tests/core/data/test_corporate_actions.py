"""Adjustment looks forward only: no bar knows a later action, and returns are those of a holder."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plusultra_core.clock import NS_PER_DAY
from plusultra_core.data.bars import build_bars
from plusultra_core.data.contract.frames import empty
from plusultra_core.data.corporate_actions import Adjustment, beyond
from plusultra_core.data.corporate_actions import adjust as adjust_to
from plusultra_core.data.gate.timestamps import to_ns
from plusultra_core.data.snapshot import take_snapshot
from plusultra_core.data.tables import DataConfig, build_table
from plusultra_core.errors import ContractError
from plusultra_core.market import MarketConfig


def adjust(
    bars: pl.DataFrame, actions: pl.DataFrame, assets: pl.DataFrame, as_of_ns: int | None, mode: Adjustment = "total_return"
) -> pl.DataFrame:
    return adjust_to(bars, actions, assets, as_of_ns, mode)


def _bars(close: list[float], symbol: str = "A") -> pl.DataFrame:
    ts_ns = [index * NS_PER_DAY for index in range(len(close))]
    return pl.DataFrame({"symbol": symbol, "ts_ns": ts_ns, "known_ns": ts_ns, "close": close})


def _assets(adjustment: str = "none", symbol: str = "A") -> pl.DataFrame:
    return pl.DataFrame({"symbol": [symbol], "price_adjustment": [adjustment], "currency": ["USD"]})


def _action(day: float, action: str, value: float, known_day: float | None = None, symbol: str = "A") -> pl.DataFrame:
    ts_ns, known_ns = int(day * NS_PER_DAY), int((day if known_day is None else known_day) * NS_PER_DAY)
    amount, ratio = (value, None) if action == "dividend" else (None, value)
    row = {"symbol": symbol, "ts_ns": ts_ns, "known_ns": known_ns, "action": action, "amount": amount, "ratio": ratio, "currency": None}
    return pl.DataFrame(
        [row], schema=empty("corporate_actions").select("symbol", "ts_ns", "known_ns", "action", "amount", "ratio", "currency").schema
    )


def test_a_split_multiplies_from_its_bar_on() -> None:
    out = adjust(_bars([100.0, 102.0, 51.5, 52.0]), _action(1.6, "split", 2.0), _assets(), None)
    assert out["adj_factor"].to_list() == [1.0, 1.0, 2.0, 2.0]


def test_a_dividend_is_reinvested_at_the_close_before() -> None:
    out = adjust(_bars([100.0, 102.0, 100.0, 101.0]), _action(1.6, "dividend", 2.0), _assets(), None)
    np.testing.assert_allclose(out["adj_factor"].to_numpy(), [1, 1, 102 / 100, 102 / 100], rtol=1e-15)


def test_actions_in_one_bar_and_in_many_multiply() -> None:
    actions = pl.concat([_action(1.2, "split", 2.0), _action(1.3, "dividend", 1.0), _action(2.5, "split", 3.0)])
    out = adjust(_bars([100.0, 100.0, 50.0, 17.0]), actions, _assets(), None)
    paid = 50.0 / (50.0 - 1.0)  # after the split a share is worth 50, and 1 is paid on each
    np.testing.assert_allclose(out["adj_factor"].to_numpy(), [1, 1, 2 * paid, 6 * paid], rtol=1e-15)


def test_a_dividend_of_the_moment_of_a_split_is_paid_on_old_shares() -> None:
    for order in (1, -1):
        actions = pl.concat([_action(1.2, "split", 2.0), _action(1.2, "dividend", 1.0)][::order])
        out = adjust(_bars([100.0, 100.0, 49.5]), actions, _assets(), None)
        assert out["adj_factor"][2] == pytest.approx(2 * 100 / 99, rel=1e-15)


def test_dividends_of_one_bar_add_up() -> None:
    actions = pl.concat([_action(1.2, "dividend", 30.0), _action(1.4, "dividend", 20.0)])
    out = adjust(_bars([100.0, 100.0, 50.0]), actions, _assets(), None)
    assert out["adj_factor"].to_list() == [1.0, 1.0, 2.0]
    with pytest.raises(
        ContractError, match=r"dividend, amount 60.0 , ratio None, close before 100.0 USD; expected dividends of a bar below"
    ):
        adjust(_bars([100.0] * 3), pl.concat([_action(1.2, "dividend", 60.0), _action(1.4, "dividend", 40.0)]), _assets(), None)


def test_a_reverse_split_divides() -> None:
    out = adjust(_bars([1.0, 1.1, 11.0]), _action(1.5, "split", 0.1), _assets(), None)
    assert out["adj_factor"].to_list() == [1.0, 1.0, 0.1]
    assert (out["close"] * out["adj_factor"]).to_list() == pytest.approx([1.0, 1.1, 1.1], rel=1e-15)


@pytest.mark.parametrize(("mode", "factor"), [("raw", 1.0), ("split", 2.0), ("total_return", 2.0 * 50 / 49)])
def test_bars_are_adjusted_as_far_as_is_asked(mode: Adjustment, factor: float) -> None:
    actions = pl.concat([_action(1.2, "split", 2.0), _action(1.3, "dividend", 1.0)])
    assert adjust(_bars([100.0] * 3), actions, _assets(), None, mode)["adj_factor"][-1] == pytest.approx(factor, rel=1e-15)
    sources = pl.concat([_assets(source, source) for source in ("none", "split", "split+dividend")])
    left = {"raw": ["split", "split+dividend"], "split": ["split+dividend"], "total_return": []}
    assert beyond(sources, mode) == left[mode]


def test_a_dividend_in_another_currency_is_refused_where_it_counts() -> None:
    foreign = _action(1.5, "dividend", 1.0).with_columns(currency=pl.lit("EUR"))
    with pytest.raises(ContractError, match=r"amount 1.0 EUR, .* close before 100.0 USD; expected dividends in the currency of the price"):
        adjust(_bars([100.0] * 3), foreign, _assets(), None)
    assert adjust(_bars([100.0] * 3), foreign, _assets(), None, "split")["adj_factor"].to_list() == [1.0] * 3
    assert adjust(_bars([100.0] * 3), foreign, _assets("split+dividend"), None)["adj_factor"].to_list() == [1.0] * 3
    assert adjust(_bars([100.0] * 3), foreign.with_columns(currency=pl.lit("USD")), _assets(), None)["adj_factor"][2] > 1


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 39), st.sampled_from(("split", "dividend")), st.floats(0.3, 4.0)), max_size=14, unique_by=lambda a: a[:2]
    ),
    st.integers(0, 2**31),
)
def test_factors_are_those_of_a_holder_who_reinvests(actions: list[tuple[int, str, float]], seed: int) -> None:
    rng = np.random.default_rng(seed)
    bars = _bars(list(100 * np.exp(rng.normal(0, 0.02, 10).cumsum()))).filter(pl.Series(rng.random(10) < 0.8))
    frame = pl.concat([_action(quarter / 4, action, value) for quarter, action, value in actions] or [_action(99, "split", 2.0)])
    close, ts = bars["close"].to_list(), bars["ts_ns"].to_list()
    shares, expected = 1.0, [1.0] * min(1, len(ts))
    for bar in range(1, len(ts)):
        price = close[bar - 1]
        for quarter, action, value in sorted(actions):
            if ts[bar - 1] < quarter / 4 * NS_PER_DAY <= ts[bar]:
                shares *= value if action == "split" else price / (price - value)
                price = price / value if action == "split" else price - value
        expected.append(shares)
    np.testing.assert_allclose(adjust(bars, frame, _assets(), None)["adj_factor"].to_numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("day", [-1.0, 0.0, 3.5])
def test_actions_before_the_first_bar_and_after_the_last_change_nothing(day: float) -> None:
    assert adjust(_bars([100.0] * 4), _action(day, "split", 2.0), _assets(), None)["adj_factor"].to_list() == [1.0] * 4


def test_an_action_across_missing_bars_falls_on_the_next_bar() -> None:
    bars = _bars([100.0] * 5).filter(pl.col("ts_ns") != 2 * NS_PER_DAY)
    assert adjust(bars, _action(1.5, "split", 2.0), _assets(), None)["adj_factor"].to_list() == [1.0, 1.0, 2.0, 2.0]


@pytest.mark.parametrize(("adjustment", "factor"), [("none", 2.0 * 50 / 49), ("split", 100 / 99), ("split+dividend", 1.0)])
def test_what_the_source_has_adjusted_is_not_adjusted_again(adjustment: str, factor: float) -> None:
    actions = pl.concat([_action(1.2, "split", 2.0), _action(1.3, "dividend", 1.0)])
    out = adjust(_bars([100.0] * 4), actions, _assets(adjustment), None)
    np.testing.assert_allclose(out["adj_factor"][-1], factor, rtol=1e-15)


def test_actions_known_after_the_date_are_left_out() -> None:
    action = _action(1.5, "split", 2.0, known_day=2.5)
    bars = _bars([100.0, 100.0, 50.0, 50.0])
    assert adjust(bars, action, _assets(), int(2.4 * NS_PER_DAY))["adj_factor"].to_list() == [1.0] * 4
    assert adjust(bars, action, _assets(), int(2.5 * NS_PER_DAY))["adj_factor"].to_list() == [1.0, 1.0, 2.0, 2.0]


def test_a_bar_is_known_no_sooner_than_the_actions_in_it() -> None:
    out = adjust(_bars([100.0, 100.0, 50.0, 50.0]), _action(1.5, "split", 2.0, known_day=2.5), _assets(), None)
    assert (out["known_ns"] / NS_PER_DAY).to_list() == [0.0, 1.0, 2.5, 3.0]


def test_an_action_that_is_known_late_holds_up_all_that_is_adjusted_for_it() -> None:
    actions = pl.concat([_action(1.5, "split", 2.0, known_day=9.0), _action(2.5, "split", 2.0)])
    out = adjust(_bars([100.0, 100.0, 50.0, 25.0, 25.0]), actions, _assets(), None)
    assert (out["known_ns"] / NS_PER_DAY).to_list() == [0.0, 1.0, 9.0, 9.0, 9.0]


def test_symbols_keep_their_own_actions() -> None:
    bars = pl.concat([_bars([100.0] * 3, "A"), _bars([100.0] * 3, "B")])
    assets = pl.concat([_assets(symbol="A"), _assets(symbol="B")])
    out = adjust(bars, _action(1.5, "split", 2.0, symbol="B"), assets, None)
    assert out["adj_factor"].to_list() == [1.0, 1.0, 1.0, 1.0, 1.0, 2.0]


@pytest.mark.parametrize("value", [100.0, 150.0])
def test_a_dividend_above_the_price_is_refused(value: float) -> None:
    with pytest.raises(ContractError, match=r"A 1970-01-02T12:00:00Z: dividend, amount 1[05]0.0.*below the close before; fix the amount"):
        adjust(_bars([100.0] * 3), _action(1.5, "dividend", value), _assets(), None)


def test_the_past_does_not_move_when_actions_are_added() -> None:
    rng = np.random.default_rng(7)
    bars = _bars(list(100 * np.exp(rng.normal(0, 0.02, 60).cumsum())))
    days = sorted(rng.uniform(1, 59, 8))
    actions = pl.concat([_action(day, "dividend" if i % 2 else "split", 1.5) for i, day in enumerate(days)]).sort("ts_ns")
    full = adjust(bars, actions, _assets(), None)
    for cut in range(5, 60, 6):
        seen = adjust(
            bars.filter(pl.col("ts_ns") <= cut * NS_PER_DAY), actions.filter(pl.col("known_ns") <= cut * NS_PER_DAY), _assets(), None
        )
        assert seen.equals(full.head(cut + 1))


def test_the_split_of_aapl_in_2014(
    real_dump: Callable[[str], Path], tmp_path: Path, data_cfg: DataConfig, markets: dict[str, MarketConfig]
) -> None:
    snapshot = take_snapshot(real_dump("market_2017_a"), tmp_path, data_cfg, markets)
    frames = {name: build_table(name, snapshot.path, "equity", markets, data_cfg) for name in ("series", "assets", "corporate_actions")}
    bars = build_bars(frames["series"], frames["assets"], frames["corporate_actions"], markets["equity"], data_cfg.bars)
    apple = bars.filter(pl.col("symbol") == "AAPL")
    raw, adjusted = apple["close"].to_numpy(), apple["close_adj"].to_numpy()
    day = int(apple["ts_ns"].search_sorted(to_ns(pl.Series(["2014-06-09 00:00:00"]), "day")[0]))
    assert raw[day] / raw[day - 1] < 0.15 and adjusted[day] / adjusted[day - 1] == pytest.approx(7 * raw[day] / raw[day - 1], rel=1e-12)
    assert adjusted[day] / adjusted[day - 1] - 1 == pytest.approx(93.70 * 7 / 645.57 - 1, abs=1e-4)  # +1.6 %, as it was
    assert np.abs(np.diff(np.log(adjusted))).max() < 0.14 and apple["adj_factor"][0] == 1.0
    actions = frames["corporate_actions"].filter((pl.col("symbol") == "AAPL") & (pl.col("ts_ns") > apple["ts_ns"][0]))
    expected = 1.0
    for action in actions.iter_rows(named=True):
        before = raw[int(apple["ts_ns"].search_sorted(action["ts_ns"])) - 1]
        expected *= action["ratio"] if action["action"] == "split" else 1 / (1 - action["amount"] / before)
    assert apple["adj_factor"][-1] == pytest.approx(expected, rel=1e-12) and expected > 7
    others = bars.filter(~pl.col("symbol").is_in(["AAPL", "MSFT"]))
    assert "KO" in frames["corporate_actions"]["symbol"] and others["adj_factor"].unique().to_list() == [1.0]
    for mode, factor in (("raw", 1.0), ("split", 7.0)):
        cfg = replace(data_cfg.bars, adjustment=mode)  # type: ignore[arg-type]
        other = build_bars(frames["series"], frames["assets"], frames["corporate_actions"], markets["equity"], cfg)
        assert other.filter(pl.col("symbol") == "AAPL")["adj_factor"][-1] == factor
    assert len(beyond(frames["assets"], "raw")) == 28 and beyond(frames["assets"], "total_return") == []


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), carried=st.booleans())
def test_factors_of_several_symbols_are_those_of_the_rule_action_by_action(seed: int, carried: bool) -> None:
    rng = np.random.default_rng(seed)
    bars = pl.concat([_bars(rng.uniform(20.0, 60.0, 12).tolist(), symbol) for symbol in ("A", "B", "C")])
    places = {(str(rng.choice(["A", "B", "C", "Z"])), float(rng.integers(-2, 52)) / 4, bool(rng.random() < 0.5)) for _ in range(15)}
    rows = [
        _action(day, "split" if split else "dividend", float(rng.uniform(0.5, 3.0)), float(rng.uniform(0, 14)), symbol)
        for symbol, day, split in sorted(places)
    ]
    actions = pl.concat(rows).sample(fraction=1.0, shuffle=True, seed=seed)
    assets = pl.concat([_assets(symbol=symbol) for symbol in ("A", "B", "C")])
    begins = {"A": 1.5, "B": 1.0, "C": 2.0} if carried else dict.fromkeys("ABC", 1.0)
    first = pl.when(pl.int_range(pl.len()).over("symbol") == 0).then(pl.col("symbol").replace_strict(begins, return_dtype=pl.Float64))
    found = adjust(bars.with_columns(carried=first) if carried else bars, actions, assets, None)
    factors, known = [], []
    for symbol in "ABC":
        factor, told_ns = begins[symbol], -(2**63)
        mine = actions.filter(pl.col("symbol") == symbol).sort("ts_ns", "action").rows(named=True)
        own = bars.filter(pl.col("symbol") == symbol).rows(named=True)
        for before, bar in zip([None, *own], own, strict=False):
            shares, paid = 1.0, 0.0
            for row in mine if before else []:
                if before["ts_ns"] < row["ts_ns"] <= bar["ts_ns"]:
                    paid += 0.0 if row["action"] == "split" else row["amount"] * shares
                    shares *= row["ratio"] if row["action"] == "split" else 1.0
                    told_ns = max(told_ns, row["known_ns"])
            factor *= shares * (before["close"] / (before["close"] - paid)) if before else 1.0
            factors, known = [*factors, factor], [*known, max(bar["known_ns"], told_ns)]
    np.testing.assert_allclose(found["adj_factor"].to_numpy(), factors, rtol=1e-14)
    assert found["known_ns"].to_list() == known and found.columns == [*bars.columns, "adj_factor"]
