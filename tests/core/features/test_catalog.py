"""What the catalogue says about a feature is true of it."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from plusultra_core.clock import NS_PER_DAY
from plusultra_core.features import catalog
from plusultra_core.features.build import FeaturesConfig
from plusultra_core.features.catalog import BUNDLES, CATALOG
from plusultra_core.features.rows import KEYS
from plusultra_core.leakage import check_poison, check_truncation

Of = Callable[..., pl.DataFrame]
PRICES = ("open_adj", "high_adj", "low_adj", "close_adj")
SOURCES = (
    ("funding_rates", "rate", True),
    ("options_implied_vol", "iv_30d", True),
    ("options_implied_vol", "^GSPC.iv_30d", False),
    ("macro_rates", "UST_3MONTH.value", False),
    ("macro_rates", "UST_10YEAR.value", False),
    ("macro_calendar", "CPI.actual", False),
)


def sides_of(bars: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Indicators and side tables with a row a bar for every source of the shipped config, the same for the same bars."""
    keys = bars.select("symbol", "ts_ns", "known_ns").with_row_index("row")

    def drawn(place: int, own: bool) -> pl.DataFrame:
        rows = keys if own else keys.unique("ts_ns", keep="first", maintain_order=True)
        day, own_part = rows["ts_ns"] // NS_PER_DAY, rows["symbol"].str.tail(1).cast(pl.Int64)
        value = 0.02 + 0.01 * ((day * day * (7 + place) + 3 * own_part) % 11)
        symbol = pl.col("symbol") if own else pl.lit(None, dtype=pl.String).alias("symbol")
        return rows.select(symbol, "ts_ns", "known_ns").with_columns(value.alias("value"))

    tables = [
        drawn(place, own).with_columns(pl.lit(table).alias("table"), pl.lit(field).alias("field"))
        for place, (table, field, own) in enumerate(SOURCES)
    ]
    indicators = [drawn(9, True).with_columns(pl.lit(name).alias("name")) for name in ("open_interest", "onchain_n_transactions")]
    return (
        pl.concat(indicators).select("symbol", "name", "ts_ns", "known_ns", "value").sort("symbol", "ts_ns", "name"),
        pl.concat(tables).select("table", "symbol", "field", "ts_ns", "known_ns", "value"),
    )


@pytest.fixture(scope="module")
def whole(panel: pl.DataFrame, exact: Of) -> pl.DataFrame:
    return exact(panel, *sides_of(panel))


def test_there_are_at_least_ninety_features_and_no_name_twice() -> None:
    names = [spec.name for spec in CATALOG]
    assert len(names) >= 90 and len(set(names)) == len(names)


def test_at_least_five_features_fuse_a_side_table_with_bars() -> None:
    fused = [spec for spec in CATALOG if spec.sides and "close_adj" in spec.inputs]
    assert len([spec for spec in fused if "fusion" in spec.tags]) >= 5


def test_every_feature_has_values_where_its_inputs_are_there(whole: pl.DataFrame) -> None:
    counts = {spec.name: int(whole[spec.name].is_finite().sum()) for spec in CATALOG}
    assert min(counts.values()) >= 100, counts


def test_every_feature_says_what_it_is_and_stands_in_a_bundle() -> None:
    for spec in CATALOG:
        assert spec.doc.endswith((".", "]", ")")) or len(spec.doc) > 20, spec.name
        assert spec.inputs and spec.unit and set(spec.tags) <= set(BUNDLES), spec.name
        assert spec.tags[0] == spec.function.__module__.rsplit(".", 1)[1], spec.name


def test_the_page_of_features_is_the_catalogue(root: Path) -> None:
    assert (root / "docs" / "features.md").read_text() == catalog.render(), "run python -m plusultra_core.features.catalog"


def test_a_feature_reads_no_further_back_than_it_says(panel: pl.DataFrame, whole: pl.DataFrame, exact: Of, smoke: FeaturesConfig) -> None:
    windows = smoke.windows
    limits = {spec.name: spec.lookback_bars(windows.short, windows.medium, windows.long) for spec in CATALOG}
    bounded = {name: bars for name, bars in limits.items() if bars is not None}
    assert len(bounded) > 40
    sides = sides_of(panel)
    last = whole.group_by("symbol", maintain_order=True).last()
    for bars in sorted(set(bounded.values())):
        tail = exact(panel.group_by("symbol", maintain_order=True).tail(bars), *sides).group_by("symbol", maintain_order=True).last()
        for name in (name for name, limit in bounded.items() if limit == bars):
            np.testing.assert_allclose(tail[name].to_numpy(), last[name].to_numpy(), rtol=1e-9, atol=1e-10, err_msg=name)


def test_a_feature_is_the_same_in_cents_and_in_lots(panel: pl.DataFrame, exact: Of) -> None:
    scaled = panel.with_columns(pl.col(*PRICES) * 100.0, pl.col("volume_adj") / 128.0)
    one, two = exact(panel), exact(scaled)
    for spec in CATALOG:
        if spec.name == "amihud":
            np.testing.assert_allclose(two[spec.name].to_numpy(), one[spec.name].to_numpy() - np.log(100 / 128), rtol=1e-9)
        else:
            np.testing.assert_allclose(two[spec.name].to_numpy(), one[spec.name].to_numpy(), rtol=1e-6, atol=1e-7, err_msg=spec.name)


def test_a_feature_needs_the_inputs_it_names_and_no_others(panel: pl.DataFrame, whole: pl.DataFrame, exact: Of) -> None:
    rng = np.random.default_rng(0)
    sides = sides_of(panel)
    wrong = []
    for column in (*PRICES, "volume_adj"):
        # High and low are moved outward so that they still hold open and close.
        factor = np.exp(0.05 * np.abs(rng.standard_normal(panel.height)) * (-1.0 if column == "low_adj" else 1.0))
        moved = exact(panel.with_columns(pl.col(column) * factor), *sides)
        wrong += [(s.name, column) for s in CATALOG if whole[s.name].equals(moved[s.name]) == (column in s.inputs)]
    assert wrong == []


def test_a_feature_is_null_without_a_side_table_it_names_and_only_then(panel: pl.DataFrame, built: pl.DataFrame, of: Of) -> None:
    full = of(panel, *sides_of(panel))
    for spec in CATALOG:
        assert full[spec.name].count() > 0 and (built[spec.name].count() == 0) == bool(spec.sides), spec.name


def test_a_feature_of_side_tables_computes_nothing_without_them(precise: pl.DataFrame) -> None:
    names = [spec.name for spec in CATALOG if spec.sides]
    assert len(names) > 20 and precise.select(pl.col(names).is_finite().sum()).sum_horizontal().item() == 0


def test_no_feature_with_all_its_side_tables_knows_its_future(panel: pl.DataFrame, of: Of) -> None:
    late = (pl.col("known_ns") + NS_PER_DAY // 2).alias("known_ns")
    indicators, sides = sides_of(panel)
    frames = {"bars": panel, "indicators": indicators.with_columns(late), "side_tables": sides.with_columns(late)}

    def again(changed: dict[str, pl.DataFrame]) -> pl.DataFrame:
        frame = of(changed["bars"], changed["indicators"], changed["side_tables"])
        return frame.select(*KEYS, *(spec.name for spec in CATALOG))

    assert again(frames).select(spec.name for spec in CATALOG if spec.sides).count().min_horizontal().item() > 0
    check_truncation(again, frames, num_cuts=4, seed=2)
    check_poison(again, frames, num_cuts=4, seed=2)


def test_a_feature_that_reads_volume_is_null_for_a_symbol_without(panel: pl.DataFrame, built: pl.DataFrame) -> None:
    without = panel.filter(pl.col("volume_adj").count().over("symbol") == 0)["symbol"].unique().to_list()
    rows = built.filter(pl.col("symbol").is_in(without))
    counts = {spec.name: rows[spec.name].count() for spec in CATALOG if "volume_adj" in spec.inputs}
    assert rows.height > 0 and len(counts) > 12 and set(counts.values()) == {0}, counts


def test_config_of_a_bundle_builds_that_bundle_and_no_more(panel: pl.DataFrame, smoke: FeaturesConfig, of: Of) -> None:
    cfg = dataclasses.replace(smoke, bundles=("trend",), include=("vol_ewma",), exclude=("adx",))
    frame = of(panel, cfg=cfg)
    expected = {spec.name for spec in CATALOG if "trend" in spec.tags} - {"adx"} | {"vol_ewma"}
    assert set(frame.columns) - set(KEYS) == expected
