"""A longer history from a shorter one: the same, to the last bit, as all of it at once."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from plusultra_core.clock import NS_PER_DAY
from plusultra_core.data.contract.frames import empty
from plusultra_core.errors import ContractError
from plusultra_core.features import build as build_module
from plusultra_core.features.build import FeaturesConfig, build
from plusultra_core.features.extend import Extended, Previous, extend
from plusultra_core.features.kernels import BLOCK
from plusultra_core.features.recursions import State, read_state, state_bytes
from plusultra_core.market import MarketConfig

Frames = dict[str, pl.DataFrame]
MakeBars = Callable[..., pl.DataFrame]
Beside = Callable[..., Frames]
Grow = Callable[[Sequence[Frames]], list[Extended]]


@pytest.fixture(scope="session")
def beside() -> Beside:
    """Indicators and side tables about the symbols of some bars, known `late_ns` after their time, with holes."""

    def make(bars: pl.DataFrame, seed: int, late_ns: int) -> Frames:
        rng = np.random.default_rng(seed)
        keys = bars.select("symbol", "ts_ns", (pl.col("ts_ns") + late_ns).alias("known_ns"))
        wide = keys.unique("ts_ns", keep="first", maintain_order=True).with_columns(pl.lit(None, dtype=pl.String).alias("symbol"))

        def values(rows: pl.DataFrame, *named: pl.Expr) -> pl.DataFrame:
            kept = rows.filter(pl.Series(rng.random(rows.height) > 0.2))
            return kept.with_columns(pl.Series("value", np.exp(rng.standard_normal(kept.height))), *named)

        names = ("alpha_1", "open_interest", "active_addresses")
        indicators = pl.concat([values(keys, pl.lit(name).alias("name")) for name in names])
        sides = [
            values(rows, pl.lit(table).alias("table"), pl.lit(field).alias("field"), pl.lit(None, dtype=pl.Int64).alias("expires_ns"))
            for rows, table, field in (
                (keys, "funding_rates", "rate"),
                (keys, "options_implied_vol", "iv_30d"),
                (wide, "options_implied_vol", "^GSPC.iv_30d"),
                (wide, "macro_rates", "UST_3MONTH.value"),
                (wide, "macro_rates", "UST_10YEAR.value"),
                (wide.gather_every(9), "macro_calendar", "CPI.actual"),
            )
        ]
        return {
            "bars": bars,
            "indicators": indicators.select(empty("indicators").columns).sort("symbol", "ts_ns", "name"),
            "side_tables": pl.concat([side.select(empty("side_tables").columns) for side in sides]),
        }

    return make


@pytest.fixture(scope="session")
def grow(smoke: FeaturesConfig, market: Callable[[str], MarketConfig]) -> Grow:
    """Features of ever longer histories, each from the one before."""

    def run(histories: Sequence[Frames]) -> list[Extended]:
        found: list[Extended] = []
        for i, frames in enumerate(histories):
            previous = Previous(**histories[i - 1], features=found[-1].features, state=found[-1].state) if i else None
            found.append(extend(previous, **frames, market=market("crypto"), cfg=smoke))
        return found

    return run


def until(frames: Frames, cut_ns: int) -> Frames:
    """What a dump taken at that time would have had."""
    return {name: frame.filter(pl.col("known_ns") <= cut_ns) for name, frame in frames.items()}


def cuts(frames: Frames, *shares: float) -> list[int]:
    times = frames["bars"]["known_ns"].unique().sort()
    return [int(times[min(len(times) - 1, int(share * len(times)))]) for share in shares]


def same_bits(one: pl.DataFrame, two: pl.DataFrame) -> None:
    """Equal names, types, nulls and bits."""
    assert one.schema == two.schema
    for name in one.columns:
        a, b = one[name], two[name]
        assert a.is_null().equals(b.is_null()), name
        if a.dtype.is_float():
            a, b = (pl.Series(x.fill_null(0.0).cast(pl.Float64).to_numpy().view(np.int64)) for x in (a, b))
        assert a.equals(b), name


def same_state(one: State, two: State) -> None:
    """Equal recursions, in double precision: what float32 would hide shows here."""
    assert one.symbols == two.symbols and set(one.traces) == set(two.traces)
    np.testing.assert_array_equal(one.starts, two.starts)
    for name, trace in one.traces.items():
        np.testing.assert_array_equal(trace.values, two.traces[name].values, err_msg=name)
        np.testing.assert_array_equal(trace.state, two.traces[name].state, err_msg=name)


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns in double precision, so that nothing hides in the rounding to single."""
    monkeypatch.setattr(build_module, "_STORED", np.float64)


@given(
    seed=st.integers(0, 10_000),
    num_symbols=st.integers(1, 5),
    num_times=st.integers(60, 330),
    gap_share=st.sampled_from([0.0, 0.1, 0.4]),
    close_only=st.integers(0, 1),
    no_volume=st.integers(0, 1),
    late_ns=st.sampled_from([0, NS_PER_DAY // 2, 3 * NS_PER_DAY]),
    delisted=st.booleans(),
    shares=st.lists(st.floats(0.05, 1.0), min_size=1, max_size=3),
)
@settings(
    max_examples=25,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@pytest.mark.usefixtures("double")
def test_any_panel_extended_anywhere_is_the_one_built_at_once(
    make_bars: MakeBars, beside: Beside, grow: Grow, seed: int, late_ns: int, delisted: bool, shares: list[float], **shape: Any
) -> None:
    bars = make_bars(seed=seed, **shape)
    if delisted:
        middle = bars["ts_ns"].sort()[bars.height // 2]
        bars = bars.filter((pl.col("symbol") != "S00") | (pl.col("ts_ns") <= middle))
    frames = beside(bars, seed, late_ns)
    histories = [*(until(frames, cut) for cut in cuts(frames, *sorted(shares))), frames]
    found = grow(histories)
    for frames, extended in zip(histories, found, strict=True):
        whole = grow([frames])[0]
        same_bits(extended.features, whole.features)
        same_state(extended.state, whole.state)
        same_state(read_state(state_bytes(extended.state)), whole.state)
    for before, extended, earlier in zip(histories, found[1:], found, strict=False):
        if earlier.features.columns == extended.features.columns:
            assert extended.num_rows_taken == before["bars"].height


@pytest.fixture(scope="module")
def long(make_bars: MakeBars, beside: Beside) -> Frames:
    """Six symbols over 400 days."""
    return beside(make_bars(seed=4, num_symbols=6, num_times=400, gap_share=0.02, close_only=1), 4, 0)


def test_a_new_day_is_the_only_thing_computed_but_for_the_way_there(long: Frames, grow: Grow) -> None:
    before, after = grow([until(long, cuts(long, 0.99)[0]), long])
    assert after.num_symbols_taken == 6 and after.num_rows_taken == before.features.height
    assert after.num_rows_computed < 0.45 * long["bars"].height
    assert grow([long, long])[1].num_rows_computed == 0


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("windows", [(4, 10, 40), (4, 61, 62), (15, 16, 17), (5, 21, 63), (4, 48, 49), (5, 21, 65), (5, 62, 79)])
def test_the_way_to_a_new_day_is_long_enough_for_any_windows(
    long: Frames, smoke: FeaturesConfig, market: Callable[[str], MarketConfig], windows: tuple[int, int, int]
) -> None:
    sizes = dict(zip(("short", "medium", "long"), windows, strict=True))
    cfg = dataclasses.replace(smoke, windows=dataclasses.replace(smoke.windows, **sizes))
    settled = {"market": market("crypto"), "cfg": cfg}
    for cut in cuts(long, *(0.75 + 0.0026 * phase for phase in range(BLOCK))):
        early = until(long, cut)
        before = extend(None, **early, **settled)
        extended = extend(Previous(**early, features=before.features, state=before.state), **long, **settled)
        assert extended.num_symbols_taken == 6
        same_bits(extended.features, build(**long, **settled))


def test_a_symbol_whose_history_changed_is_built_whole_and_the_others_are_not(long: Frames, grow: Grow) -> None:
    early = until(long, cuts(long, 0.9)[0])
    place = pl.int_range(pl.len()).over("symbol")
    changed = pl.when((pl.col("symbol") == "S03") & (place == 40)).then(1.01).otherwise(1.0)
    revised = {**long, "bars": long["bars"].with_columns(pl.col("close_adj") * changed)}
    extended, whole = grow([early, revised])[1], grow([revised])[0]
    same_bits(extended.features, whole.features)
    same_state(extended.state, whole.state)
    assert extended.num_symbols_taken == 5


@pytest.mark.parametrize("what", ["new", "gone", "late"])
def test_ranks_of_old_moments_are_made_again_when_other_symbols_stand_there(long: Frames, grow: Grow, what: str) -> None:
    early = until(long, cuts(long, 0.9)[0])
    other = pl.col("symbol") != "S02"
    if what == "new":
        early = {**early, "bars": early["bars"].filter(other)}
    elif what == "late":
        early = {**early, "bars": early["bars"].filter(other | (pl.col("ts_ns") < early["bars"]["ts_ns"].max() - 9 * NS_PER_DAY))}
    now = {**long, "bars": long["bars"].filter(other)} if what == "gone" else long
    extended, whole = grow([early, now])[1], grow([now])[0]
    same_bits(extended.features, whole.features)
    same_state(extended.state, whole.state)
    assert extended.num_symbols_taken == (6 if what == "late" else 5)
    again = grow([early, now, now])[2]
    assert again.num_symbols_taken == whole.features["symbol"].n_unique()


@pytest.mark.parametrize("name", ["indicators", "side_tables"])
def test_a_revised_table_beside_the_bars_means_that_all_is_built_again(long: Frames, grow: Grow, name: str) -> None:
    early = until(long, cuts(long, 0.9)[0])
    revised = {
        **long,
        name: long[name].with_columns(pl.when(pl.int_range(pl.len()) == 50).then(9.0).otherwise(pl.col("value")).alias("value")),
    }
    extended, whole = grow([early, revised])[1], grow([revised])[0]
    same_bits(extended.features, whole.features)
    assert extended.num_rows_taken == 0


def test_the_order_of_the_tables_beside_bars_does_not_matter(long: Frames, grow: Grow) -> None:
    early = until(long, cuts(long, 0.9)[0])
    mixed = {**long, "side_tables": long["side_tables"].sample(fraction=1.0, shuffle=True, seed=2)}
    extended = grow([early, mixed])[1]
    same_bits(extended.features, grow([long])[0].features)
    assert extended.num_symbols_taken == 6


def test_an_indicator_that_was_not_there_before_means_that_all_is_built_again(long: Frames, grow: Grow) -> None:
    early = until(long, cuts(long, 0.9)[0])
    late = long["indicators"].filter(pl.col("known_ns") > early["bars"]["known_ns"].max()).with_columns(pl.lit("beta").alias("name"))
    now = {**long, "indicators": pl.concat([long["indicators"], late])}
    extended, whole = grow([early, now])[1], grow([now])[0]
    same_bits(extended.features, whole.features)
    assert extended.num_rows_taken == 0 and "ind_beta" in extended.features.columns


def test_without_an_earlier_build_it_is_build_itself(
    long: Frames, grow: Grow, smoke: FeaturesConfig, market: Callable[[str], MarketConfig]
) -> None:
    extended = grow([long])[0]
    same_bits(extended.features, build(**long, market=market("crypto"), cfg=smoke))
    assert extended.num_rows_taken == 0 and extended.num_rows_computed == long["bars"].height


def test_a_class_without_bars_is_extended_to_one_with_and_back(long: Frames, grow: Grow) -> None:
    nothing = {**long, "bars": long["bars"].clear()}
    for frames, extended in zip([nothing, long, nothing], grow([nothing, long, nothing]), strict=True):
        same_bits(extended.features, grow([frames])[0].features)


def test_the_state_of_other_windows_is_refused(
    long: Frames, grow: Grow, smoke: FeaturesConfig, market: Callable[[str], MarketConfig]
) -> None:
    early = until(long, cuts(long, 0.9)[0])
    before = grow([early])[0]
    cfg = dataclasses.replace(smoke, windows=dataclasses.replace(smoke.windows, long=60))
    with pytest.raises(ContractError, match="state: expected the last rows of each symbol"):
        extend(Previous(**early, features=before.features, state=before.state), **long, market=market("crypto"), cfg=cfg)


@pytest.mark.parametrize("what", ["a row less", "rows of another symbol first", "one row later"])
def test_earlier_features_of_other_rows_than_the_earlier_bars_are_refused(
    long: Frames, grow: Grow, smoke: FeaturesConfig, market: Callable[[str], MarketConfig], what: str
) -> None:
    early = until(long, cuts(long, 0.9)[0])
    before = grow([early])[0]
    found = before.features
    poisoned = {
        "a row less": found.head(-1),
        "rows of another symbol first": pl.concat([found.filter(pl.col("symbol") != "S00"), found.filter(pl.col("symbol") == "S00")]),
        "one row later": pl.concat([found.slice(1), found.tail(1)]),
    }[what]
    with pytest.raises(ContractError, match="features: expected the rows of the earlier bars"):
        extend(Previous(**early, features=poisoned, state=before.state), **long, market=market("crypto"), cfg=smoke)


@pytest.mark.parametrize("name", ["bars", "indicators", "side_tables"])
def test_one_bit_of_one_old_value_is_not_overlooked(long: Frames, grow: Grow, name: str) -> None:
    early = until(long, cuts(long, 0.9)[0])
    column = "volume_adj" if name == "bars" else "value"
    value = early[name][column].to_numpy().copy()
    value.view(np.int64)[30] ^= 1
    lying = {**early, name: early[name].with_columns(pl.Series(column, value))}
    whole = grow([long])[0]
    assert grow([early, long])[1].num_symbols_taken == 6
    extended = grow([lying, long])[1]
    same_bits(extended.features, whole.features)
    assert extended.num_symbols_taken == (5 if name == "bars" else 0)


def test_equal_states_have_equal_bytes(long: Frames, grow: Grow) -> None:
    early = until(long, cuts(long, 0.7)[0])
    assert state_bytes(grow([early, long])[1].state) == state_bytes(grow([long])[0].state)
