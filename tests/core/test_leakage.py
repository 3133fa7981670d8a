"""The judges of time: they find a planted leak and leave an honest builder alone."""

from collections.abc import Callable

import numpy as np
import polars as pl
import pytest

from plusultra_core.clock import NS_PER_DAY
from plusultra_core.errors import ConfigError, ContractError, LookaheadError
from plusultra_core.leakage import Stretches, check_poison, check_truncation
from plusultra_core.separation import Intervals, check_overlap, check_shuffled_null, null_ic

Frames = dict[str, pl.DataFrame]
Builder = Callable[[Frames], pl.DataFrame]
CHECKS = [check_truncation, check_poison]


@pytest.fixture(scope="module")
def inputs() -> Frames:
    rng = np.random.default_rng(5)
    num_times, symbols = 120, ("A", "B", "C")
    ts_ns = np.tile(np.arange(1, num_times + 1) * NS_PER_DAY, len(symbols))
    close = 50 * np.exp(np.cumsum(0.02 * rng.standard_normal((len(symbols), num_times)), axis=1)).ravel()
    bars = pl.DataFrame(
        {
            "symbol": np.repeat(symbols, num_times),
            "ts_ns": ts_ns,
            "known_ns": ts_ns,
            "high": close * 1.01,
            "low": close * 0.99,
            "close": close,
        }
    )
    rate = pl.DataFrame({"ts_ns": np.arange(0, num_times) * NS_PER_DAY + 1, "value": rng.standard_normal(num_times)})
    return {"bars": bars, "rates": rate.with_columns(known_ns=pl.col("ts_ns") + 3 * NS_PER_DAY).sort("known_ns")}


def honest(frames: Frames) -> pl.DataFrame:
    bars = frames["bars"].sort("known_ns")
    rates = frames["rates"].sort("known_ns")
    joined = bars.join_asof(rates.select("known_ns", pl.col("value").alias("rate")), on="known_ns").sort("symbol", "ts_ns")
    assert (joined["high"] >= joined["low"]).all()
    close = pl.col("close")
    return joined.select(
        "symbol",
        "ts_ns",
        "known_ns",
        "rate",
        (close / close.shift(1)).log().over("symbol").alias("ret_log"),
        close.rolling_mean(10).over("symbol").alias("mean_10"),
        close.rank().over("ts_ns").alias("rank"),
    )


def with_leak(leak: pl.Expr) -> Builder:
    return lambda frames: (
        honest(frames).with_columns(frames["bars"].sort("symbol", "ts_ns")["close"]).with_columns(leak.alias("leak")).drop("close")
    )


def rates_joined_on_what_they_describe(frames: Frames) -> pl.DataFrame:
    rates = frames["rates"].select("ts_ns", pl.col("value").alias("rate")).sort("ts_ns")
    return frames["bars"].sort("ts_ns").join_asof(rates, on="ts_ns").select("symbol", "ts_ns", "known_ns", "rate")


def without_the_largest_bar_of_all_time(frames: Frames) -> pl.DataFrame:
    largest = pl.col("close") == pl.col("close").max().over("symbol")
    return frames["bars"].filter(~largest).select("symbol", "ts_ns", "known_ns", "close")


def rates_joined_forward(frames: Frames) -> pl.DataFrame:
    rates = frames["rates"].select("known_ns", pl.col("value").alias("rate")).sort("known_ns")
    return frames["bars"].sort("known_ns").join_asof(rates, on="known_ns", strategy="forward").select("symbol", "ts_ns", "known_ns", "rate")


def rank_among_those_that_live_to_the_end(frames: Frames) -> pl.DataFrame:
    last = frames["bars"]["ts_ns"].max()
    lives = (pl.col("ts_ns").max() == last).over("symbol") & (pl.col("close").last() > 40).over("symbol")
    return frames["bars"].sort("symbol", "ts_ns").select("symbol", "ts_ns", "known_ns", pl.col("close").rank().over("ts_ns", lives))


def states_smoothed_from_both_sides(frames: Frames) -> pl.DataFrame:
    """Belief in the second of two states, from the filter forward and backward: smoothed, not filtered."""
    parts = []
    for _, bars in frames["bars"].sort("symbol", "ts_ns").group_by("symbol", maintain_order=True):
        ret = np.diff(np.log(bars["close"].to_numpy()), prepend=np.nan)
        odds = np.nan_to_num(np.stack([np.exp(-0.5 * (ret / scale) ** 2) / scale for scale in (0.01, 0.03)], axis=1), nan=1.0) + 1e-9
        ahead, back = np.full(odds.shape, 0.5), np.full(odds.shape, 0.5)
        step = np.array([[0.9, 0.1], [0.1, 0.9]])
        for t in range(len(odds)):
            before = (ahead[t - 1] @ step if t else ahead[t]) * odds[t]
            ahead[t] = before / before.sum()
        for t in range(len(odds) - 2, -1, -1):
            after = step @ (back[t + 1] * odds[t + 1])
            back[t] = after / after.sum()
        both = ahead * back
        value = pl.Series("smoothed", both[:, 1] / both.sum(axis=1))
        parts.append(bars.select("symbol", "ts_ns", "known_ns").with_columns(value))
    return pl.concat(parts)


LEAKS = {
    "a full-sample z-score of each symbol": with_leak(((pl.col("close") - pl.col("close").mean()) / pl.col("close").std()).over("symbol")),
    "a centred mean": with_leak(pl.col("close").rolling_mean(5, center=True).over("symbol")),
    "a join on the next row instead of the last": rates_joined_forward,
    "a rank among those that will survive": rank_among_those_that_live_to_the_end,
    "states smoothed from both sides": states_smoothed_from_both_sides,
    "a shift of -1": with_leak(pl.col("close").shift(-1).over("symbol")),
    "a return of the next bar": with_leak((pl.col("close").shift(-1) / pl.col("close")).log().over("symbol")),
    "a band over the full sample": with_leak(pl.col("close") > pl.col("close").quantile(0.7).over("symbol")),
    "a scaler fitted on everything": with_leak((pl.col("close") - pl.col("close").mean()) / pl.col("close").std()),
    "a rank over the full sample": with_leak(pl.col("close").rank().over("symbol")),
    "a back-fill": with_leak(
        pl.when(pl.col("ts_ns") // NS_PER_DAY % 10 == 0).then(pl.col("close")).fill_null(strategy="backward").over("symbol")
    ),
    "an integer label of the next bar": with_leak((pl.col("close").shift(-1) > pl.col("close")).cast(pl.Int8).over("symbol")),
    "side rows before they are known": rates_joined_on_what_they_describe,
}


@pytest.mark.parametrize("check", CHECKS)
def test_an_honest_builder_passes(check: Callable[..., object], inputs: Frames) -> None:
    report = check(honest, inputs, 4, 1)
    assert report.num_columns == 5 and report.num_rows > 300 and 1 <= len(report.cuts_ns) <= 4


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", LEAKS)
def test_a_planted_leak_is_found(check: Callable[..., object], name: str, inputs: Frames) -> None:
    with pytest.raises(LookaheadError, match="the value knows its future"):
        check(LEAKS[name], inputs, 3, 1)


def test_the_error_names_column_symbol_time_and_both_values(inputs: Frames) -> None:
    with pytest.raises(
        LookaheadError, match=r"^leak: [ABC] 1970-0\d-\d\dT00:00:00Z: expected \d+\.\d+, found (None|\d+\.\d+) when everything"
    ):
        check_truncation(LEAKS["a shift of -1"], inputs, 1, 1)


@pytest.mark.parametrize("check", CHECKS)
def test_rows_that_exist_because_of_the_future_are_found(check: Callable[..., object], inputs: Frames) -> None:
    with pytest.raises(LookaheadError, match="which rows exist depends on the future"):
        check(without_the_largest_bar_of_all_time, inputs, 6, 1)


@pytest.mark.parametrize(("value", "leaks"), [(1.0, True), (None, False), (float("nan"), False)])
def test_a_column_that_comes_later_must_be_empty_before(value: float | None, leaks: bool, inputs: Frames) -> None:
    late = int(inputs["bars"]["ts_ns"].max()) - NS_PER_DAY

    def build(frames: Frames) -> pl.DataFrame:
        out = honest(frames)
        return out.with_columns(extra=pl.lit(value, pl.Float64)) if frames["bars"]["ts_ns"].max() > late else out

    if leaks:
        with pytest.raises(LookaheadError, match=r"extra: A .*: expected 1\.0, found None"):
            check_truncation(build, inputs, 1, 1)
    else:
        check_truncation(build, inputs, 1, 1)


def test_a_column_that_only_the_past_has_is_found(inputs: Frames) -> None:
    late = int(inputs["bars"]["ts_ns"].max()) - NS_PER_DAY

    def build(frames: Frames) -> pl.DataFrame:
        out = honest(frames)
        return out if frames["bars"]["ts_ns"].max() > late else out.with_columns(extra=1.0)

    with pytest.raises(LookaheadError, match="a column depends on the future"):
        check_truncation(build, inputs, 1, 1)


def test_coarser_bars_are_cut_where_an_input_arrives(inputs: Frames) -> None:
    """A builder drops its last, unclosed bar: honest, though it closes at a time at which nothing arrives."""

    def build(frames: Frames) -> pl.DataFrame:
        bars = frames["bars"].with_columns(week=(pl.col("ts_ns") // (7 * NS_PER_DAY) + 1) * 7 * NS_PER_DAY - 3600 * 10**9)
        closed = bars.filter(pl.col("week") <= bars["ts_ns"].max())
        out = closed.group_by("symbol", "week").agg(pl.col("close").last()).rename({"week": "ts_ns"})
        return pl.concat([out, frames["bars"].select("symbol", "ts_ns", "close")], how="diagonal_relaxed").sort("symbol", "ts_ns")

    assert set(check_truncation(build, inputs, 30, 1).cuts_ns) <= set(inputs["bars"]["ts_ns"])


def test_a_row_that_says_it_is_known_later_may_use_what_came_in_between(inputs: Frames) -> None:
    def build(frames: Frames) -> pl.DataFrame:
        return frames["bars"].select(
            "symbol",
            "ts_ns",
            pl.col("known_ns").shift(-1).over("symbol").fill_null(2**62).alias("known_ns"),
            pl.col("close").shift(-1).over("symbol"),
        )

    with pytest.raises(LookaheadError):
        check_truncation(lambda f: build(f).with_columns(known_ns=pl.col("ts_ns")), inputs, 2, 1)
    bounded = build(inputs).filter(pl.col("known_ns") < 2**62)
    assert check_truncation(lambda f: build(f).filter(pl.col("known_ns") < 2**62), inputs, 2, 1).num_rows <= bounded.height * 2


def test_nan_null_and_rounding_are_no_leak(inputs: Frames) -> None:
    calls: list[int] = []

    def build(frames: Frames) -> pl.DataFrame:
        calls.append(1)
        missing = float("nan") if len(calls) % 2 else None
        tiny = 1 + 1e-14 * len(calls)
        return frames["bars"].select("symbol", "ts_ns", pl.lit(missing, pl.Float64).alias("m"), (pl.col("close") * tiny).alias("c"))

    check_truncation(build, inputs, 4, 1)
    with pytest.raises(LookaheadError, match=r"^c:"):
        check_truncation(lambda f: build(f).with_columns(pl.col("c") * (1 + 1e-10 * len(calls))), inputs, 2, 1)


@pytest.mark.parametrize("scale", [1e-18, 1.0, 1e13])
def test_a_leak_is_found_whatever_the_unit_of_its_column(scale: float, inputs: Frames) -> None:
    def build(frames: Frames) -> pl.DataFrame:
        moved = pl.col("close").shift(-1).over("symbol").fill_null(1.0)
        return frames["bars"].select("symbol", "ts_ns", (moved * scale).alias("c"))

    with pytest.raises(LookaheadError, match=r"^c:"):
        check_truncation(build, inputs, 4, 1)


def test_a_value_that_becomes_infinite_is_found(inputs: Frames) -> None:
    def build(frames: Frames) -> pl.DataFrame:
        last = pl.col("ts_ns") == pl.col("ts_ns").max()
        return frames["bars"].select("symbol", "ts_ns", pl.when(last).then(float("inf")).otherwise("close").alias("c"))

    with pytest.raises(LookaheadError, match=r"^c:"):
        check_truncation(build, inputs, 4, 1)


def test_repeated_keys_and_missing_times_are_refused(inputs: Frames) -> None:
    with pytest.raises(ContractError, match="repeated"):
        check_truncation(lambda f: pl.concat([honest(f), honest(f)]), inputs, 1, 1)
    with pytest.raises(ContractError, match="ts_ns"):
        check_truncation(lambda f: honest(f).drop("ts_ns"), inputs, 1, 1)
    with pytest.raises(ConfigError, match="num_cuts"):
        check_truncation(honest, inputs, 0, 1)


def test_few_symbols_are_enough_and_the_same_in_every_frame(inputs: Frames) -> None:
    seen: list[set[str]] = []

    def build(frames: Frames) -> pl.DataFrame:
        seen.append(set(frames["bars"]["symbol"]))
        assert seen[-1] == set(frames["again"]["symbol"]) and frames["rates"].height > 0
        return honest(frames)

    check_truncation(build, {**inputs, "again": inputs["bars"]}, 2, 3, max_symbols=2)
    assert all(symbols == seen[0] and len(symbols) == 2 for symbols in seen)


@pytest.mark.parametrize("seed", range(4))
def test_symbols_that_stand_in_more_frames_are_looked_at_first(inputs: Frames, seed: int) -> None:
    """A back-adjusted price shows only where there is an action to adjust for."""
    symbol = sorted(inputs["bars"]["symbol"].unique())[0]
    when = inputs["bars"].filter(pl.col("symbol") == symbol)["ts_ns"].max()
    actions = pl.DataFrame({"symbol": [symbol], "ts_ns": [when], "ratio": [2.0]})

    def adjusted_backward(frames: Frames) -> pl.DataFrame:
        factor = frames["actions"].group_by("symbol").agg(pl.col("ratio").product())
        rows = frames["bars"].join(factor, on="symbol", how="left").sort("symbol", "ts_ns")
        return rows.select("symbol", "ts_ns", "known_ns", pl.col("close") / pl.col("ratio").fill_null(1.0))

    with pytest.raises(LookaheadError, match="the value knows its future"):
        check_truncation(adjusted_backward, {"bars": inputs["bars"], "actions": actions}, 2, seed, max_symbols=1)


def test_poison_moves_everything_after_and_nothing_before(inputs: Frames) -> None:
    frames: list[pl.DataFrame] = []

    def build(given: Frames) -> pl.DataFrame:
        frames.append(given["bars"])
        return honest(given)

    (cut_ns,) = check_poison(build, inputs, 1, 2).cuts_ns
    clean, noisy = frames
    assert noisy.columns == clean.columns
    assert noisy.select("symbol", "ts_ns").equals(clean.select("symbol", "ts_ns"))
    assert noisy.filter(pl.col("ts_ns") <= cut_ns).equals(clean.filter(pl.col("ts_ns") <= cut_ns))
    after = pl.col("ts_ns") > cut_ns
    assert (noisy.filter(after)["close"] != clean.filter(after)["close"]).all()
    assert (noisy["high"] >= noisy["close"]).all() and (noisy["close"] > 0).all()


def test_whole_numbers_to_come_are_dealt_out_anew_too(inputs: Frames) -> None:
    def build(frames: Frames) -> pl.DataFrame:
        counted = frames["bars"].with_columns(count=pl.col("count").shift(-1).over("symbol"))
        return counted.select("symbol", "ts_ns", "count")

    bars = inputs["bars"].with_columns(count=pl.int_range(pl.len()))
    with pytest.raises(LookaheadError, match=r"^count:"):
        check_poison(build, {**inputs, "bars": bars}, 6, 1)


BITE_BARS = 5
STRETCHES = Stretches(num=4, num_past=60, num_future=24)


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", LEAKS)
def test_a_planted_leak_is_found_in_short_stretches_too(check: Callable[..., object], name: str, inputs: Frames) -> None:
    with pytest.raises(LookaheadError, match="the value knows its future"):
        check(LEAKS[name], inputs, 12, 1, None, (), STRETCHES)


@pytest.mark.parametrize("check", CHECKS)
def test_an_honest_builder_passes_in_stretches_and_they_are_short(check: Callable[..., object], inputs: Frames) -> None:
    seen: list[int] = []

    def build(frames: Frames) -> pl.DataFrame:
        seen.append(frames["bars"].height)
        assert frames["bars"].group_by("symbol").len()["len"].max() <= 60 + 24
        return honest(frames)

    report = check(build, inputs, 12, 1, None, (), STRETCHES)
    assert 4 <= len(report.cuts_ns) <= 12 and len(set(report.cuts_ns)) == len(report.cuts_ns) and report.blind == ()
    assert max(seen) < inputs["bars"].height
    again = check(honest, inputs, 12, 1, None, (), STRETCHES)
    assert again == report


def test_a_column_that_needs_a_longer_past_is_said_to_be_blind(inputs: Frames) -> None:
    def build(frames: Frames) -> pl.DataFrame:
        return honest(frames).with_columns(pl.col("mean_10").rolling_mean(90).over("symbol").alias("slow"))

    assert check_truncation(build, inputs, 12, 1, None, (), STRETCHES).blind == ("slow",)
    assert check_truncation(build, inputs, 12, 1).blind == ()


def test_named_symbols_are_looked_at_before_others(inputs: Frames) -> None:
    def build(frames: Frames) -> pl.DataFrame:
        assert set(frames["bars"]["symbol"]) == {"C"}
        return honest(frames)

    check_truncation(build, inputs, 2, 3, 1, ("C", "Z"))


def test_poison_keeps_the_kinds_of_columns(inputs: Frames) -> None:
    single = {**inputs, "bars": inputs["bars"].with_columns(pl.col("close").cast(pl.Float32))}

    def build(frames: Frames) -> pl.DataFrame:
        assert frames["bars"].schema == single["bars"].schema
        return honest(frames)

    assert check_poison(build, single, 3, 1).num_rows > 0


def test_a_leak_that_bites_on_one_bar_in_five_is_found_by_24_cuts_and_not_by_one(inputs: Frames) -> None:
    """A leak of one bar shows at the cut alone: the share found is 1 - (1 - 1/5)^cuts."""
    bites = pl.col("ts_ns") // NS_PER_DAY % BITE_BARS == 0
    rare = with_leak(pl.when(bites).then(pl.col("close").shift(-1)).otherwise("close").over("symbol"))

    def found(num_cuts: int) -> int:
        count = 0
        for seed in range(20):
            try:
                check_truncation(rare, inputs, num_cuts, seed, None, (), Stretches(num=4, num_past=30, num_future=50))
            except LookaheadError:
                count += 1
        return count

    assert found(24) == 20 and found(1) < 12


def spans(*pairs: tuple[int, int]) -> Intervals:
    array = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return Intervals(array[:, 0], array[:, 1])


def test_spans_that_keep_apart_pass_whatever_their_order() -> None:
    assert check_overlap({"train": spans((0, 5), (20, 25)), "test": spans((6, 9), (10, 19)), "valid": spans()}) == 4


@pytest.mark.parametrize("meeting", [(5, 7), (3, 4), (0, 100), (25, 30), (22, 22)])
def test_a_single_shared_moment_is_found(meeting: tuple[int, int]) -> None:
    with pytest.raises(LookaheadError, match=r"test and train: 1 samples overlap, the first .* meets"):
        check_overlap({"train": spans((0, 5)) if meeting[0] < 20 else spans((20, 25)), "test": spans((12, 13), meeting)})


def test_overlap_agrees_with_comparing_every_pair() -> None:
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(300):
        start = rng.integers(0, 60, (2, 4))
        end = start + rng.integers(0, 8, (2, 4))
        slow = bool(((start[0][:, None] <= end[1]) & (start[1] <= end[0][:, None])).any())
        try:
            check_overlap({"a": Intervals(start[0], end[0]), "b": Intervals(start[1], end[1])})
            fast = False
        except LookaheadError:
            fast = True
        assert fast == slow
        found += slow
    assert 0 < found < 300


def test_intervals_that_run_backward_are_refused() -> None:
    with pytest.raises(ContractError, match="end after they start"):
        check_overlap({"a": spans((3, 2))})


def fitted(x_TNF: np.ndarray, y_TN: np.ndarray, train: slice) -> np.ndarray:
    coef = np.linalg.lstsq(x_TNF[train].reshape(-1, x_TNF.shape[-1]), y_TN[train].ravel(), rcond=None)[0]
    return x_TNF @ coef


def test_a_model_fitted_to_shuffled_targets_knows_nothing_unless_it_has_seen_them() -> None:
    rng = np.random.default_rng(3)
    x_TNF = rng.standard_normal((300, 10, 40))
    y_TN = x_TNF[..., 0] * 0.3 + rng.standard_normal((300, 1)) + rng.standard_normal((300, 10))
    shuffled_TN = y_TN[rng.permutation(300)]
    clean = fitted(x_TNF, shuffled_TN, slice(0, 200))[200:]
    report = check_shuffled_null(clean, shuffled_TN[200:], 100, 1, 3.0)
    assert 0 < report.se < 0.2
    seen = fitted(x_TNF, shuffled_TN, slice(0, 300))[200:]
    with pytest.raises(LookaheadError, match="the model has seen these targets"):
        check_shuffled_null(seen, shuffled_TN[200:], 100, 1, 3.0)


def test_the_standard_error_knows_of_overlap_and_common_moves() -> None:
    rng = np.random.default_rng(4)
    slow_TN = np.cumsum(rng.standard_normal((400, 1)), axis=0) + 0.1 * rng.standard_normal((400, 20))
    target_TN = np.cumsum(rng.standard_normal((400, 1)), axis=0) + 0.1 * rng.standard_normal((400, 20))
    assert null_ic(slow_TN, target_TN, 100, 1).se > 10 / np.sqrt(400 * 20)
    slow_TN[3, 4] = np.nan
    assert np.isfinite(null_ic(slow_TN, target_TN, 100, 1).ic)
    with pytest.raises(ConfigError, match="20 times"):
        null_ic(slow_TN[:5], target_TN[:5], 100, 1)


def test_a_frame_of_keys_alone_has_nothing_to_poison(inputs: Frames) -> None:
    keys = inputs["bars"].select("symbol", "ts_ns", "known_ns")
    assert check_poison(lambda frames: frames["keys"].with_columns(one=pl.lit(1.0)), {"keys": keys}, 2, 7).num_rows > 0
