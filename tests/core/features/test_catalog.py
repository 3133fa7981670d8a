"""What the catalogue says about a feature is true of it."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from plusultra_core.features import catalog
from plusultra_core.features.build import KEYS, FeaturesConfig
from plusultra_core.features.catalog import BUNDLES, CATALOG

Of = Callable[..., pl.DataFrame]
PRICES = ("open_adj", "high_adj", "low_adj", "close_adj")


def test_there_are_at_least_thirty_features_and_no_name_twice() -> None:
    names = [spec.name for spec in CATALOG]
    assert len(names) >= 30 and len(set(names)) == len(names)


def test_every_feature_says_what_it_is_and_stands_in_a_bundle() -> None:
    for spec in CATALOG:
        assert spec.doc.endswith((".", "]", ")")) or len(spec.doc) > 20, spec.name
        assert spec.inputs and spec.unit and set(spec.tags) <= set(BUNDLES), spec.name
        assert spec.tags[0] == spec.function.__module__.rsplit(".", 1)[1], spec.name


def test_the_page_of_features_is_the_catalogue(root: Path) -> None:
    assert (root / "docs" / "features.md").read_text() == catalog.render(), "run python -m plusultra_core.features.catalog"


def test_a_feature_reads_no_further_back_than_it_says(panel: pl.DataFrame, of: Of, smoke: FeaturesConfig) -> None:
    windows = smoke.windows
    limits = {spec.name: spec.lookback_bars(windows.short, windows.medium, windows.long) for spec in CATALOG}
    bounded = {name: bars for name, bars in limits.items() if bars is not None}
    assert len(bounded) > 15
    rows = panel.filter(pl.col("symbol") == "S02")
    whole = of(rows)
    for name, bars in bounded.items():
        tail = of(rows.tail(bars))
        one, two = whole[name][-1], tail[name][-1]
        assert (one is None) == (two is None), name
        if one is not None:
            assert two == pytest.approx(one, rel=1e-9, abs=1e-10), name


def test_a_feature_is_the_same_in_cents_and_in_lots(panel: pl.DataFrame, exact: Of) -> None:
    scaled = panel.with_columns(pl.col(*PRICES) * 100.0, pl.col("volume_adj") / 128.0)
    one, two = exact(panel), exact(scaled)
    for spec in CATALOG:
        if spec.name == "amihud":
            np.testing.assert_allclose(two[spec.name].to_numpy(), one[spec.name].to_numpy() - np.log(100 / 128), rtol=1e-9)
        else:
            np.testing.assert_allclose(two[spec.name].to_numpy(), one[spec.name].to_numpy(), rtol=1e-6, atol=1e-7, err_msg=spec.name)


def test_a_feature_needs_the_inputs_it_names_and_no_others(panel: pl.DataFrame, of: Of) -> None:
    rng = np.random.default_rng(0)
    whole = of(panel)
    wrong = []
    for column in (*PRICES, "volume_adj"):
        # High and low are moved outward so that they still hold open and close.
        factor = np.exp(0.05 * np.abs(rng.standard_normal(panel.height)) * (-1.0 if column == "low_adj" else 1.0))
        moved = of(panel.with_columns(pl.col(column) * factor))
        wrong += [(s.name, column) for s in CATALOG if whole[s.name].equals(moved[s.name]) == (column in s.inputs)]
    assert [pair for pair in wrong if pair[0] != "implied_spread"] == []  # it has no values without its side table


def test_config_of_a_bundle_builds_that_bundle_and_no_more(panel: pl.DataFrame, smoke: FeaturesConfig, of: Of) -> None:
    cfg = dataclasses.replace(smoke, bundles=("trend",), include=("vol_ewma",), exclude=("adx",))
    frame = of(panel, cfg=cfg)
    expected = {spec.name for spec in CATALOG if "trend" in spec.tags} - {"adx"} | {"vol_ewma"}
    assert set(frame.columns) - set(KEYS) == expected
