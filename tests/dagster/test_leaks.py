"""The blocking checks stop what they are there to stop: each leak is planted in the real station and must be found."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import numpy as np
import polars as pl
import pytest

from plusultra_core.artifacts import Artifact
from plusultra_core.clock import NS_PER_DAY
from plusultra_core.errors import ConfigError
from plusultra_core.features.arrays import BarArrays
from plusultra_core.market import MarketConfig
from plusultra_core.regimes import build as regimes
from plusultra_core.targets import build as targets
from plusultra_core.views import sources
from plusultra_core.windows import build as windows
from plusultra_core.windows.panel import Panel, publish_panel, replace
from plusultra_core.windows.scaling import fit_scaler
from plusultra_dagster import provenance
from plusultra_dagster.checks import leaks as checks
from plusultra_dagster.checks.leaks import BUILDERS, _seed, leaks, overlap, run_leak_check
from plusultra_dagster.config import markets
from plusultra_dagster.partitions import multi_key
from plusultra_dagster.places import Places


def _frames(home: Places, snapshot: str, *names: str) -> dict[str, pl.DataFrame]:
    return {name: pl.read_parquet(home.lake / name / "equity" / f"{snapshot}.parquet") for name in names}


def _verdict(kind: str, asset: str, snapshot: str, frames: dict[str, pl.DataFrame]) -> dg.AssetCheckResult:
    return run_leak_check(kind, asset, multi_key(snapshot, "equity"), frames)


@pytest.mark.parametrize("kind", ["truncation", "poison"])
def test_a_feature_of_the_catalogue_shifted_by_minus_one_fails_the_check(
    kind: str, with_tables: str, home: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    from plusultra_core.features import build as features

    frames = _frames(home, with_tables, "bars", "indicators", "side_tables")
    assert _verdict(kind, "features", with_tables, frames).passed
    spec = next(spec for spec in features.CATALOG if spec.name == "ret_1")

    def ret_1(b: BarArrays) -> np.ndarray:
        return np.append(spec.function(b)[1:], np.nan)

    shifted = dataclasses.replace(spec, function=ret_1)
    monkeypatch.setattr(features, "CATALOG", tuple(shifted if other is spec else other for other in features.CATALOG))
    failed = _verdict(kind, "features", with_tables, frames)
    assert not failed.passed
    assert "ret_1" in str(failed.metadata["error"].value)


def test_a_leak_that_bites_once_a_week_fails_the_check_too(with_tables: str, home: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    """A leak of one bar shows at the cut alone: three cuts would pass between its days."""
    from plusultra_core.features import build as features

    frames = _frames(home, with_tables, "bars", "indicators", "side_tables")
    catalog = features.CATALOG
    spec = next(spec for spec in catalog if spec.name == "ret_1")
    for weekday in range(5):

        def ret_1(b: BarArrays, weekday: int = weekday) -> np.ndarray:
            honest = spec.function(b)
            monday = 4  # the epoch began on a Thursday
            return np.where((b.ts_ns // NS_PER_DAY - monday) % 7 == weekday, np.append(honest[1:], np.nan), honest)

        leaky = dataclasses.replace(spec, function=ret_1)
        monkeypatch.setattr(features, "CATALOG", tuple(leaky if other is spec else other for other in catalog))
        assert not _verdict("truncation", "features", with_tables, frames).passed, weekday


@pytest.mark.parametrize(
    ("asset", "column", "rebuilt"), [("bars", "close_adj", checks.rebuilt_bars), ("features", "rsi", checks.rebuilt_features)]
)
def test_a_stored_table_that_its_builder_does_not_make_fails_the_check(
    asset: str, column: str, rebuilt: Callable[..., pl.DataFrame], with_tables: str, home: Places
) -> None:
    frames = _frames(home, with_tables, *BUILDERS[asset][1])
    stored, key, passed = _frames(home, with_tables, asset)[asset], multi_key(with_tables, "equity"), dg.AssetCheckResult(passed=True)
    made = rebuilt(key, frames)
    kept = checks.bound(passed, stored, made)
    assert kept.passed and kept.metadata["stored rows built anew"].value == made.height > 0
    symbol = made["symbol"][0]
    last = (pl.col("symbol") == symbol) & (pl.col("ts_ns") == pl.col("ts_ns").max().over("symbol"))
    other = stored.with_columns(pl.when(last).then(pl.col(column) * 1.001).otherwise(column).cast(stored.schema[column]).alias(column))
    failed = checks.bound(passed, other, made)
    assert not failed.passed and f"{column}: {symbol}" in str(failed.metadata["error"].value)
    fewer = checks.bound(passed, stored.filter(~last), made)
    assert not fewer.passed and "rows: expected" in str(fewer.metadata["error"].value)


@pytest.mark.parametrize("kind", ["truncation", "poison"])
def test_a_band_over_the_full_sample_fails_the_check(kind: str, with_tables: str, home: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = _frames(home, with_tables, "bars", "features", "assets")
    assert _verdict(kind, "regimes", with_tables, frames).passed

    def rank_of_all(features: pl.DataFrame, name: str, starts: object, bands: object) -> np.ndarray:
        column = pl.col(name).fill_nan(None)
        return features.select((column.rank() / column.count()).over("symbol"))[name].to_numpy()

    monkeypatch.setattr(regimes, "_rank", rank_of_all)
    failed = _verdict(kind, "regimes", with_tables, frames)
    assert not failed.passed
    assert "_state" in str(failed.metadata["error"].value)


@pytest.mark.parametrize("kind", ["truncation", "poison"])
def test_a_volatility_that_knows_the_next_bar_fails_the_check(
    kind: str, with_tables: str, home: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = _frames(home, with_tables, "bars")
    assert _verdict(kind, "targets", with_tables, frames).passed
    honest = targets._sigma
    monkeypatch.setattr(targets, "_sigma", lambda mean_square: honest(mean_square.shift(-1)))
    failed = _verdict(kind, "targets", with_tables, frames)
    assert not failed.passed
    assert "sigma" in str(failed.metadata["error"].value)


@pytest.mark.parametrize("kind", ["truncation", "poison"])
def test_a_view_that_shows_the_next_bar_of_another_class_fails_the_check(
    kind: str, with_tables: str, home: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = _frames(home, with_tables, "bars", "features", "side_tables")
    etf = {name: frame.filter(pl.col("symbol") == frame["symbol"].min()) for name, frame in own.items() if name != "side_tables"}
    frames = {f"{name}@equity": frame for name, frame in own.items()}
    frames |= {f"{name}@etf": frame.with_columns(pl.lit("SPY").alias("symbol")) for name, frame in etf.items()}
    assert _verdict(kind, "cross_asset_view", with_tables, frames).passed
    honest = sources.class_series

    def leaking(own: sources.ClassBars, features: pl.DataFrame, momentum: str) -> pl.DataFrame:
        series = honest(own, features, momentum)
        return series.with_columns(pl.col("mom").shift(-1)) if own.symbols == ("SPY",) else series

    monkeypatch.setattr(sources, "class_series", leaking)
    failed = _verdict(kind, "cross_asset_view", with_tables, frames)
    assert not failed.passed
    assert "ctx_etf_mom" in str(failed.metadata["error"].value)


@pytest.mark.parametrize("kind", ["truncation", "poison"])
def test_bars_that_come_late_and_out_of_turn_are_no_leak(kind: str, with_tables: str, home: Places) -> None:
    tables = _frames(home, with_tables, "series", "assets", "corporate_actions", "indicators", "side_tables")
    late = np.where(np.random.default_rng(3).random(tables["series"].height) < 0.1, 5 * NS_PER_DAY, NS_PER_DAY)
    tables["series"] = tables["series"].with_columns(pl.col("known_ns") + pl.Series(late))
    market = markets()["equity"]
    for asset in ("bars", "features", "regimes", "targets"):
        make, names = BUILDERS[asset]
        frames = {name: tables[name] for name in names}
        assert _verdict(kind, asset, with_tables, frames).passed, asset
        tables[asset] = make(market)(frames)
    assert not tables["bars"].select((pl.col("known_ns").diff() < 0).over("symbol").any()).item()


def test_where_no_stretch_holds_a_known_row_all_of_the_panel_is_looked_at(
    with_tables: str, home: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = _frames(home, with_tables, "bars")
    make, names = BUILDERS["targets"]

    def late(days: int) -> Callable[[MarketConfig], Callable[[dict[str, pl.DataFrame]], pl.DataFrame]]:
        return lambda market: lambda tables: make(market)(tables).with_columns(known_ns=pl.col("known_ns") + days * NS_PER_DAY)

    monkeypatch.setattr(checks, "NUM_PAST", 2)
    monkeypatch.setitem(BUILDERS, "targets", (late(30), names))
    seen = _verdict("poison", "targets", with_tables, frames)
    assert seen.passed and seen.metadata["rows"].value > 100
    monkeypatch.setitem(BUILDERS, "targets", (late(36_500), names))
    with pytest.raises(ConfigError, match="distinct times"):
        _verdict("poison", "targets", with_tables, frames)


def test_the_same_check_of_a_partition_cuts_at_the_same_times_and_others_elsewhere() -> None:
    asked = [("poison", "dump-1"), ("poison", "dump-1"), ("poison", "dump-2"), ("truncation", "dump-1")]
    one, again, dump, kind = (_seed(name, multi_key(snapshot, "equity")) for name, snapshot in asked)
    assert one == again and len({one, dump, kind}) == 3 and _seed("poison", "equity|dump-1") == one


@pytest.fixture
def panel() -> Panel:
    """A panel with honest folds: one noisy feature, labels of three bars."""
    rng = np.random.default_rng(0)
    num_times, horizon = 200, 3
    shape = (2, num_times)
    anchor = np.ones(shape, np.bool_)
    anchor[:, :7] = False
    t = np.arange(num_times)
    end = np.broadcast_to(np.where(t + horizon < num_times, t + horizon, -1)[None, :, None], (*shape, 1)).astype(np.int32)
    x = rng.standard_normal((*shape, 2)).astype(np.float32)
    folds = windows.FoldsConfig(num_folds=2, test_frac=0.3, valid_frac=0.12, embargo_bars=1, min_train_bars=20)
    cfg = windows.WindowsConfig(lookback=8, min_coverage=0.5, min_features_frac=0.5, label_slack_bars=3, max_delay_s=0, folds=folds)
    prices = {f"{name}_NT": np.full(shape, 100.0) for name in ("open", "high", "low", "close", "volume")}
    prices |= {"half_spread_bps_NT": np.full(shape, np.nan), "depth_NT": np.full(shape, np.nan), "fx_NT": np.ones(shape)}
    return Panel(
        symbols=("A", "B"), currencies=("USD", "USD"), features=("f", "g"), tokens=(), num_states=(), horizons=(horizon,),
        asset_class="equity", bar_ns=86_400 * 10**9, periods_per_year=252.0, lookback=8, ts_ns_T=(t + 1).astype(np.int64) * 86_400 * 10**9,
        known_ns_NT=np.broadcast_to((t + 1) * 86_400 * 10**9, shape).astype(np.int64), x_NTF=x, state_NTS=np.zeros((*shape, 0), np.int8),
        y_NTK=np.zeros((*shape, 1), np.float32), ret_NTK=np.zeros((*shape, 1), np.float32),
        direction_NTK=np.ones((*shape, 1), np.int8), label_end_NTK=end, weight_NT=np.ones(shape, np.float32),
        sigma_NT=np.full(shape, 0.01), tradable_NT=np.ones(shape, np.bool_), anchor_NT=anchor, **prices,
        funding_NT=np.zeros(shape), folds=windows._folds(x, anchor, end, cfg),
    )  # fmt: skip


def _overlap(panel: Panel, store: Path) -> dg.AssetCheckResult:
    artifact: Artifact = publish_panel(panel, store, "panel", {})
    result = overlap(artifact)
    assert isinstance(result, dg.AssetCheckResult)
    return result


def test_honest_folds_pass(panel: Panel, tmp_path: Path) -> None:
    assert _overlap(panel, tmp_path).passed


def test_a_scaler_fitted_on_everything_fails_the_check(panel: Panel, tmp_path: Path) -> None:
    center, scale = fit_scaler(panel.x_NTF, panel.tradable_NT)
    folds = (panel.folds[0], dataclasses.replace(panel.folds[1], center_F=center, scale_F=scale))
    failed = _overlap(replace(panel, folds=folds), tmp_path)
    assert not failed.passed
    assert "fit the scaler on train rows only" in str(failed.metadata["error"].value)


@pytest.mark.parametrize("name", ["train", "valid"])
def test_one_anchor_too_many_before_the_next_span_fails_the_check(panel: Panel, tmp_path: Path, name: str) -> None:
    """The purge leaves an embargo of one bar: two anchors more make a label meet an input of the next span."""
    fold = panel.folds[0]
    start, end = getattr(fold, name)
    longer = dataclasses.replace(fold, **{name: (start, end + 2)})
    failed = _overlap(replace(panel, folds=(longer, panel.folds[1])), tmp_path)
    assert not failed.passed
    assert "widen the purge" in str(failed.metadata["error"].value)


def test_every_leak_check_blocks_and_is_asked_for_by_what_learns() -> None:
    made = {(key.asset_key.to_user_string(), key.name) for check in leaks for key in check.check_keys}
    asked = {(asset, name) for asset, names in provenance.GATES.items() for name in names if name != "contract"}
    assert made == asked
    assert all(spec.blocking for check in leaks for spec in check.check_specs)
