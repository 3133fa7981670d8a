"""The frame of features: its rows, its columns, its causality."""

import dataclasses
from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plusultra_core.clock import NS_PER_DAY
from plusultra_core.data.contract.frames import empty
from plusultra_core.data.contract.validation import validate
from plusultra_core.errors import ConfigError, ContractError, LookaheadError
from plusultra_core.features.build import ACROSS, FeaturesConfig, coverage
from plusultra_core.features.catalog import CATALOG
from plusultra_core.features.rows import KEYS
from plusultra_core.features.sides import column_name
from plusultra_core.leakage import check_poison, check_truncation

Frames = dict[str, pl.DataFrame]
Tables = tuple[Frames, pl.DataFrame, pl.DataFrame]
Of = Callable[..., pl.DataFrame]


def beside(bars: pl.DataFrame, seed: int, late_ns: int) -> Frames:
    """Indicators and side tables about the symbols of some bars, known `late_ns` after their time, with holes."""
    rng = np.random.default_rng(seed)
    keys = bars.select("symbol", "ts_ns", (pl.col("ts_ns") + late_ns).alias("known_ns"))

    def values(rows: pl.DataFrame) -> pl.DataFrame:
        kept = rows.filter(pl.Series(rng.random(rows.height) > 0.2))
        return kept.with_columns(pl.Series("value", rng.standard_normal(kept.height)))

    indicators = pl.concat([values(keys).with_columns(pl.lit(name).alias("name")) for name in ("alpha_1", "Open Interest")])
    wide = keys.unique("ts_ns", keep="first", maintain_order=True).with_columns(pl.lit(None, dtype=pl.String).alias("symbol"))
    sides = [
        values(rows).with_columns(pl.lit(table).alias("table"), pl.lit(field).alias("field"), pl.col("value").abs() * 0.1 + 0.01)
        for rows, table, field in (
            (keys, "funding_rates", "rate"),
            (keys, "options_implied_vol", "iv_30d"),
            (wide, "macro_rates", "UST_3MONTH.value"),
            (wide, "macro_rates", "UST_10YEAR.value"),
            (wide.gather_every(9), "macro_calendar", "CPI.actual"),
        )
    ]
    return {
        "indicators": indicators.select("symbol", "name", "ts_ns", "known_ns", "value").sort("symbol", "ts_ns", "name"),
        "side_tables": pl.concat(sides).select("table", "symbol", "field", "ts_ns", "known_ns", "value"),
    }


@given(
    seed=st.integers(0, 10_000),
    num_symbols=st.integers(1, 4),
    gap_share=st.sampled_from([0.0, 0.1, 0.4]),
    close_only=st.integers(0, 1),
    no_volume=st.integers(0, 1),
    late_ns=st.sampled_from([0, NS_PER_DAY // 2, 3 * NS_PER_DAY]),
)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_feature_of_any_panel_knows_its_future(
    make_bars: Callable[..., pl.DataFrame], of: Of, seed: int, late_ns: int, **shape: float
) -> None:
    bars = make_bars(seed=seed, num_times=70, **shape)
    frames = {"bars": bars, **beside(bars, seed, late_ns)}

    def again(changed: Frames) -> pl.DataFrame:
        return of(changed["bars"], changed["indicators"], changed["side_tables"])

    validate("features", again(frames), bars=bars)
    assert check_truncation(again, frames, num_cuts=3, seed=seed).num_rows > 0
    assert check_poison(again, frames, num_cuts=3, seed=seed).num_rows > 0


@pytest.mark.parametrize(
    ("stem", "asset_class"),
    [("market_tiny", "equity"), ("market_tiny", "crypto"), ("market_tiny", "forex"), ("crypto_2026_a", "crypto_perpetual")],
)
def test_no_feature_of_a_real_dump_knows_its_future(real_tables: Callable[[str], Tables], of: Of, stem: str, asset_class: str) -> None:
    bars, indicators, side = real_tables(stem)
    frames = {"bars": bars[asset_class], "indicators": indicators, "side_tables": side}

    def again(changed: Frames) -> pl.DataFrame:
        return of(changed["bars"], changed["indicators"], changed["side_tables"], asset_class=asset_class)

    check_truncation(again, frames, num_cuts=2, seed=1)
    check_poison(again, frames, num_cuts=2, seed=1)


def test_a_feature_shifted_by_one_bar_is_found_out(panel: pl.DataFrame, of: Of) -> None:
    def leaking(changed: Frames) -> pl.DataFrame:
        frame = of(changed["bars"])
        return frame.with_columns(pl.col("ret_1").shift(-1).over("symbol"))

    with pytest.raises(LookaheadError, match="ret_1"):
        check_truncation(leaking, {"bars": panel}, num_cuts=2, seed=0)


def test_most_features_have_a_hundred_values_on_half_a_year_of_days(real_tables: Callable[[str], Tables], of: Of) -> None:
    bars, indicators, side = real_tables("market_tiny")
    features = of(bars["equity"], indicators, side)
    counts = {spec.name: features[spec.name].count() for spec in CATALOG if not spec.sides and ACROSS not in spec.tags}
    assert min(counts.values()) >= 100, counts


def test_each_symbol_is_built_as_if_it_were_alone(panel: pl.DataFrame, built: pl.DataFrame, of: Of) -> None:
    across = [spec.name for spec in CATALOG if ACROSS in spec.tags]
    for symbol in panel["symbol"].unique():
        alone = of(panel.filter(pl.col("symbol") == symbol))
        assert alone.drop(across).equals(built.filter(pl.col("symbol") == symbol).drop(across))


def test_rows_are_those_of_bars_however_long_the_tables_beside_them(panel: pl.DataFrame, built: pl.DataFrame, of: Of) -> None:
    many = [beside(panel, seed, 0) for seed in range(3)]
    indicators = pl.concat([frames["indicators"].with_columns(pl.col("name") + str(i)) for i, frames in enumerate(many)])
    side = pl.concat([frames["side_tables"] for frames in many])
    features = of(panel, indicators, side)
    assert features.select(KEYS).equals(panel.select(KEYS))
    own = [spec.name for spec in CATALOG if not spec.sides]
    assert features.select(own).equals(built.select(own))
    assert features["funding_carry"].count() > 0


def test_order_of_the_tables_beside_bars_does_not_matter(panel: pl.DataFrame, of: Of) -> None:
    frames = beside(panel, 1, 0)
    one = of(panel, frames["indicators"], frames["side_tables"])
    mixed = {name: frame.sample(fraction=1.0, shuffle=True, seed=4) for name, frame in frames.items()}
    assert one.equals(of(panel, mixed["indicators"], mixed["side_tables"]))


def test_columns_are_fixed_by_the_config_whatever_the_dump_has(panel: pl.DataFrame, built: pl.DataFrame, of: Of) -> None:
    rich = of(panel, *beside(panel, 1, 0).values())
    plain = [name for name in rich.columns if not name.startswith("ind_")]
    assert plain == built.columns == [*KEYS, *(spec.name for spec in CATALOG)]
    indicators = {f"{column_name(name)}{end}" for name in ("alpha_1", "Open Interest") for end in ("", "_raw")}
    assert set(rich.columns) - set(plain) == indicators


def test_close_only_symbols_have_null_where_a_feature_reads_the_range(panel: pl.DataFrame, built: pl.DataFrame) -> None:
    rows = built.filter(pl.col("symbol") == "S00")
    for spec in CATALOG:
        if {"open_adj", "high_adj", "low_adj"} & set(spec.inputs):
            assert rows[spec.name].count() == 0, spec.name
        elif "close_adj" in spec.inputs and not any(name.startswith("side:") for name in spec.inputs):
            assert rows[spec.name].count() > 0, spec.name


def test_no_value_is_infinite_when_prices_stand_still_or_volume_is_zero(panel: pl.DataFrame, of: Of) -> None:
    still = panel.with_columns(
        *(pl.lit(7.0).alias(name) for name in ("open_adj", "high_adj", "low_adj", "close_adj")), pl.lit(0.0).alias("volume_adj")
    )
    features = of(still)
    values = features.drop(KEYS).to_numpy()
    assert not np.isinf(values).any()
    assert features["ret_1"].count() == 0 and features["bollinger_z"].count() == 0 and features["volume_z"].count() == 0


def test_coverage_says_why_values_are_missing(panel: pl.DataFrame, built: pl.DataFrame) -> None:
    table = {row["feature"]: row for row in coverage(built, panel).iter_rows(named=True)}
    assert table["vol_parkinson"]["remark"] == "no open/high/low for 1 symbols"
    assert table["volume_z"]["remark"] == "no volume for 1 symbols" and table["volume_z"]["symbols_without"] == 1
    assert table["funding_carry"]["remark"] == "no side table for funding" and table["funding_carry"]["num_valid"] == 0
    assert table["ret_1"]["remark"] == "" and table["ret_1"]["num_valid"] == built["ret_1"].count()
    assert table["day_of_week_sin"]["share_valid"] == 1.0


def test_a_missing_column_is_named_with_its_readers(panel: pl.DataFrame, of: Of) -> None:
    with pytest.raises(ContractError, match=r"'volume_adj' is missing; it is read by .*amihud"):
        of(panel.drop("volume_adj"))
    with pytest.raises(ContractError, match="side_tables: column 'field' is missing"):
        of(panel, side=empty("side_tables").drop("field"))


def test_a_required_table_that_is_missing_is_refused(panel: pl.DataFrame, smoke: FeaturesConfig, of: Of) -> None:
    cfg = dataclasses.replace(smoke, required_tables=("funding_rates",))
    with pytest.raises(ContractError, match="required table 'funding_rates' is missing"):
        of(panel, cfg=cfg)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("funding_carry", r"include: 'funding_carry' reads .*\(funding_rates: rate\)"),
        ("rate_slope", r"macro_rates: UST_10YEAR.value; macro_rates: UST_3MONTH.value or US_TBILL_3M.value"),
        ("macro_age", r"macro_calendar: \*.actual"),
        ("open_interest_confirmation", r"indicators: open_interest"),
        ("amihud", r"bars: volume_adj"),
    ],
)
def test_a_feature_asked_for_by_name_without_its_inputs_is_refused(
    panel: pl.DataFrame, smoke: FeaturesConfig, of: Of, name: str, message: str
) -> None:
    bars = panel.with_columns(pl.lit(None, dtype=pl.Float64).alias("volume_adj"))
    cfg = dataclasses.replace(smoke, bundles=("core",), include=(name,))
    with pytest.raises(ContractError, match=message):
        of(bars, cfg=cfg)
    empty_of_bundle = of(bars, cfg=dataclasses.replace(smoke, bundles=("volume", "alternative", "fusion")))
    assert empty_of_bundle[name].count() == 0
    frames = beside(panel, 1, 0)
    interest = frames["indicators"].with_columns(pl.lit("open_interest").alias("name")).unique(["symbol", "ts_ns"], maintain_order=True)
    assert of(panel, interest, frames["side_tables"], cfg=cfg)[name].count() > 0


def test_bars_out_of_order_or_twice_are_refused(panel: pl.DataFrame, of: Of) -> None:
    for wrong in (panel.reverse(), pl.concat([panel.head(1), panel])):
        with pytest.raises(ContractError, match="out of order or twice"):
            of(wrong)


def test_a_class_without_bars_gives_a_frame_without_rows(panel: pl.DataFrame, of: Of) -> None:
    frame = of(panel.clear())
    assert frame.height == 0 and frame.columns == [*KEYS, *(spec.name for spec in CATALOG)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bundles": ("momentums",)}, "unknown bundle 'momentums'"),
        ({"include": ("alpha_101",)}, "unknown feature 'alpha_101'"),
        ({"exclude": ("rsi_14",)}, "unknown feature 'rsi_14'"),
    ],
)
def test_an_unknown_name_is_refused(smoke: FeaturesConfig, change: dict[str, tuple[str, ...]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(smoke, **change)  # type: ignore[arg-type]
