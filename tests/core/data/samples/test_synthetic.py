"""Synthetic dumps: legal, seeded, and with exactly what was planted."""

import dataclasses
import json
import sqlite3
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.signal import lfilter

from plusultra_core.data.samples import synthetic
from plusultra_core.data.samples.synthetic import SyntheticConfig, make_synthetic, planted_ic_at, small_config
from plusultra_core.errors import ConfigError


def read(path: Path, query: str) -> pl.DataFrame:
    db = sqlite3.connect(path)
    try:
        cursor = db.execute(query)
        names = [column[0] for column in cursor.description]
        return pl.DataFrame(cursor.fetchall(), schema=names, orient="row", infer_schema_length=None)
    finally:
        db.close()


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("synthetic") / "small.sqlite"
    make_synthetic(path, small_config(7, 0.3))
    return path


def equities(planted_ic: float | None, **changes: object) -> SyntheticConfig:
    only = {
        "num_equity": 40,
        "num_bars": 800,
        "num_etf": 0,
        "num_forex": 0,
        "num_crypto": 0,
        "num_crypto_perpetual": 0,
        "num_volatility_index": 0,
    }
    return dataclasses.replace(small_config(3, planted_ic), **{**only, **changes})  # type: ignore[arg-type]


def test_equal_configs_give_equal_bytes_and_seeds_differ(dump: Path, tmp_path: Path) -> None:
    make_synthetic(tmp_path / "again", small_config(7, 0.3))
    make_synthetic(tmp_path / "other", small_config(8, 0.3))
    assert (tmp_path / "again").read_bytes() == dump.read_bytes()
    assert (tmp_path / "other").read_bytes() != dump.read_bytes()


def test_a_class_does_not_depend_on_the_others(dump: Path, tmp_path: Path) -> None:
    make_synthetic(tmp_path / "less", dataclasses.replace(small_config(7, 0.3), num_etf=0, num_crypto=0, num_forex=0))
    query = "SELECT * FROM series WHERE symbol LIKE 'EQ%' OR symbol LIKE 'CP%' ORDER BY symbol, timestamp"
    assert read(tmp_path / "less", query).equals(read(dump, query))


def test_bars_are_legal_in_every_class(dump: Path) -> None:
    bars = read(dump, "SELECT * FROM series")
    assert bars["symbol"].n_unique() == 18
    wrong = bars.filter(
        (pl.col("close") <= 0)
        | (pl.col("high") < pl.max_horizontal("open", "close"))
        | (pl.col("low") > pl.min_horizontal("open", "close"))
    )
    assert wrong.height == 0 and bars.filter(pl.col("volume") < 0).height == 0
    outside = (pl.col("vwap") < pl.col("low")) | (pl.col("vwap") > pl.col("high"))
    assert bars.filter(outside).height == 0 and bars["vwap"].null_count() < bars.height


def test_bars_stand_on_the_grid_of_their_class(dump: Path) -> None:
    stamps = read(dump, "SELECT symbol, timestamp FROM series").with_columns(pl.col("timestamp").str.to_datetime())
    hour, weekday = pl.col("timestamp").dt.hour(), pl.col("timestamp").dt.weekday()
    equity = stamps.filter(pl.col("symbol").str.starts_with("EQ"))
    assert set(equity.select(hour.unique())["timestamp"]) == {20, 21} and equity.select(weekday.max()).item() == 5
    assert stamps.filter(pl.col("symbol").str.starts_with("FX")).select(hour.max()).item() == 0
    crypto = stamps.filter(pl.col("symbol").str.starts_with("CP"))
    assert crypto.select(hour.n_unique()).item() == 24 and crypto.select(weekday.n_unique()).item() == 7
    assert crypto["timestamp"].max() == equity["timestamp"].max()


def test_gaps_late_listings_and_delistings_are_there_and_can_be_switched_off(dump: Path, tmp_path: Path) -> None:
    spans = read(
        dump, "SELECT symbol, count(*) AS n, min(timestamp) AS a, max(timestamp) AS b FROM series WHERE symbol LIKE 'EQ%' GROUP BY 1"
    )
    assert spans.filter(pl.col("symbol") == "EQ003")["a"][0] > spans["a"].min()
    assert spans.filter(pl.col("symbol") == "EQ005")["b"][0] < spans["b"].max()
    assert spans["n"].max() <= 300 and 0 < (300 - spans.filter(~pl.col("symbol").is_in(["EQ003", "EQ005"]))["n"]).sum() < 30
    make_synthetic(tmp_path / "whole", dataclasses.replace(small_config(7, None), gap_frac=0.0))
    counts = read(tmp_path / "whole", "SELECT count(*) AS n FROM series WHERE symbol LIKE 'EQ%' GROUP BY symbol")
    assert counts["n"].unique().to_list() == [300]


def test_actions_explain_the_jumps_of_raw_prices(tmp_path: Path) -> None:
    """Without the factor a split is a fall by half; with it, no return stands out."""
    make_synthetic(tmp_path / "d", equities(None, jump_frac=0.0))
    bars = read(tmp_path / "d", "SELECT substr(timestamp, 1, 10) AS day, symbol, close FROM series").sort("symbol", "day")
    acts = read(tmp_path / "d", "SELECT substr(timestamp, 1, 10) AS day, symbol, action, amount, ratio FROM corporate_actions")
    assert set(acts["action"]) == {"split", "dividend"}
    splits = acts.filter(pl.col("action") == "split").select("day", "symbol", "ratio")
    amounts = acts.filter(pl.col("action") == "dividend").select("day", "symbol", "amount")
    joined = bars.join(splits, on=["day", "symbol"], how="left").join(amounts, on=["day", "symbol"], how="left").sort("symbol", "day")
    before = pl.col("close").shift(1).over("symbol")
    raw = (pl.col("close") / before).log()
    factor = pl.col("ratio").fill_null(1.0) / (1 - pl.col("amount").fill_null(0.0) / before)
    joined = joined.with_columns(raw=raw, adjusted=raw + factor.log())
    on_split = joined.filter(pl.col("ratio").is_not_null())
    assert on_split.height >= 8 and on_split["raw"].mean() == pytest.approx(-np.log(2), abs=0.02)
    assert abs(on_split["adjusted"].mean()) < 0.02
    paid = joined.filter(pl.col("amount").is_not_null())
    assert paid.height > 150 and (paid["adjusted"] - paid["raw"]).to_numpy() == pytest.approx(0.005, abs=2e-4)


def test_side_tables_are_filled(dump: Path) -> None:
    for table in ("funding_rates", "macro_rates", "macro_calendar", "options_implied_vol", "benchmarks", "trades", "indicators"):
        assert read(dump, f"SELECT count(*) AS n FROM {table}")["n"][0] > 10
    hours = read(dump, "SELECT DISTINCT substr(timestamp, 12) AS hour FROM funding_rates")["hour"]
    assert sorted(hours) == ["00:00:00", "08:00:00", "16:00:00"]
    assert read(dump, "SELECT count(*) AS n FROM funding_rates WHERE symbol NOT LIKE '%-PERP'")["n"][0] == 0


def test_volatility_clusters_and_symbols_move_together(tmp_path: Path) -> None:
    make_synthetic(tmp_path / "d", equities(None, jump_frac=0.0, gap_frac=0.0, num_etf=20, num_equity=0, num_bars=1500))
    close = (
        read(tmp_path / "d", "SELECT * FROM series").pivot("symbol", index="timestamp", values="close").sort("timestamp").drop("timestamp")
    )
    ret = np.diff(np.log(close.to_numpy()), axis=0)
    size = np.abs(ret).mean(axis=1)
    near, far = (np.corrcoef(size[lag:], size[:-lag])[0, 1] for lag in (1, 400))
    assert near > 0.15 and near > abs(far) + 0.05
    assert np.abs(np.corrcoef(ret[1:].mean(axis=1), ret[:-1].mean(axis=1))[0, 1]) < 0.08
    pairs = np.corrcoef(ret.T)[np.triu_indices(20, 1)]
    assert 0.2 < pairs.mean() < 0.5


def planted_panel(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Dump -> (returns in their EWMA volatility, alpha_1, alpha_2), each (T, N), by nothing but the file."""
    close = read(path, "SELECT * FROM series").pivot("symbol", index="timestamp", values="close", sort_columns=True).sort("timestamp")
    ret = np.diff(np.log(close.drop("timestamp").to_numpy()), axis=0, prepend=np.nan)
    decay = 0.5 ** (1 / 20)
    ewma = np.sqrt(lfilter([1 - decay], [1, -decay], np.nan_to_num(ret) ** 2, axis=0) + 1e-16)
    alphas = [
        read(path, f"SELECT * FROM indicators WHERE name = '{name}'")
        .pivot("symbol", index="timestamp", values="value", sort_columns=True)
        .sort("timestamp")
        .drop("timestamp")
        .to_numpy()
        for name in ("alpha_1", "alpha_2")
    ]
    scaled = np.full_like(ret, np.nan)
    scaled[1:] = ret[1:] / ewma[:-1]
    return scaled, alphas[0], alphas[1]


def gapless_etfs(ic: float | None) -> SyntheticConfig:
    """No gaps, and no actions in the way of raw closes: ETFs have none."""
    return equities(ic, gap_frac=0.0, num_equity=0, num_etf=40)


def test_the_planted_signal_is_in_the_dump_at_its_lags_and_weights(tmp_path: Path) -> None:
    planted = make_synthetic(tmp_path / "d", gapless_etfs(0.2))
    y, a1, a2 = planted_panel(tmp_path / "d")
    rows = slice(100, None)
    lags = [np.stack([np.roll(a, lag, axis=0)[rows].ravel() for lag in range(1, 5)], axis=1) for a in (a1, a2)]
    coef = np.linalg.lstsq(np.hstack(lags), y[rows].ravel(), rcond=None)[0]
    assert coef[0] == pytest.approx(0.2 * 0.8, abs=0.025) and coef[6] == pytest.approx(0.2 * 0.6, abs=0.025)
    assert np.abs(np.delete(coef, [0, 6])).max() < 0.025
    forecast = 0.8 * np.roll(a1, 1, axis=0) + 0.6 * np.roll(a2, 3, axis=0)
    found = np.corrcoef(forecast[rows].ravel(), y[rows].ravel())[0, 1]
    assert found == pytest.approx(planted["etf"]["bayes_ic"], abs=0.02)
    assert planted["etf"]["bayes_ic"] == pytest.approx(0.2, abs=0.02)
    assert planted["etf"]["bayes_ic_ewma"] == pytest.approx(0.2, abs=0.02)


def test_a_causal_average_recovers_the_volatility_of_the_planted_world(tmp_path: Path) -> None:
    make_synthetic(tmp_path / "d", gapless_etfs(0.2))
    y, _, _ = planted_panel(tmp_path / "d")
    blocks = y[100:].reshape(7, 100, 40).std(axis=(1, 2))
    assert blocks.min() > 0.9 and blocks.max() < 1.25


def test_with_zero_planted_nothing_is_learnable(tmp_path: Path) -> None:
    planted = make_synthetic(tmp_path / "d", gapless_etfs(0.0))
    y, a1, a2 = planted_panel(tmp_path / "d")
    se = 1 / np.sqrt(y[100:].size)
    for alpha in (a1, a2):
        for lag in range(1, 5):
            assert abs(np.corrcoef(np.roll(alpha, lag, axis=0)[100:].ravel(), y[100:].ravel())[0, 1]) < 4 * se
    assert planted["etf"]["by_horizon"] == {"1": 0.0, "5": 0.0, "20": 0.0}


def test_without_a_plant_there_are_no_alpha_indicators(tmp_path: Path) -> None:
    assert make_synthetic(tmp_path / "d", small_config(1, None)) == {}
    assert read(tmp_path / "d", "SELECT DISTINCT name FROM indicators")["name"].to_list() == ["spread_bps"]
    assert "planted" not in json.loads(read(tmp_path / "d", "SELECT metadata FROM assets")["metadata"][0])


def test_the_optimum_stands_in_the_metadata_of_every_asset(dump: Path, tmp_path: Path) -> None:
    planted = make_synthetic(tmp_path / "d", small_config(7, 0.3))
    facts = [json.loads(text) for text in read(dump, "SELECT metadata FROM assets")["metadata"]]
    assert all(one.get("planted") == planted.get(one["asset_class"]) for one in facts)
    assert {one["asset_class"] for one in facts if "planted" in one} == {"equity", "etf", "forex", "crypto", "crypto_perpetual"}


@pytest.mark.parametrize("horizon", [1, 2, 3, 5, 20])
def test_the_law_of_the_optimum_agrees_with_a_simulation(horizon: int) -> None:
    rng, T, ic = np.random.default_rng(1), 400_000, 0.6
    a1, a2 = synthetic._ar1(rng.standard_normal((T, 2)), 0.5).T
    signal = 0.8 * a1
    signal[2:] += 0.6 * a2[:-2]
    y_next = ic * signal + np.sqrt(1 - ic**2) * rng.standard_normal(T)
    total = np.convolve(y_next, np.ones(horizon))[horizon - 1 :][: T - horizon + 1]
    known = np.stack([a1[2:], a2[:-2], a2[1:-1], a2[2:]], axis=1)[: total.size - 2]
    target = total[2:][: known.shape[0]]
    best = known @ np.linalg.lstsq(known, target, rcond=None)[0]
    assert planted_ic_at(ic, horizon) == pytest.approx(np.corrcoef(best, target)[0, 1], abs=0.01)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_bars": 5}, "num_bars"),
        ({"num_equity": -1}, "num_<class>"),
        ({"gap_frac": 0.9}, "gap_frac"),
        ({"planted_ic": 1.0}, "planted_ic"),
        ({"start": "yesterday"}, "start"),
    ],
)
def test_impossible_configs_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(small_config(1, None), **change)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["num_volatility_index", "num_forex", "num_crypto_perpetual", "num_equity"])
def test_one_class_alone_is_a_dump(name: str, tmp_path: Path) -> None:
    none = {f"num_{spec.asset_class}": 0 for spec in synthetic._SPECS}
    make_synthetic(tmp_path / "d", dataclasses.replace(small_config(1, 0.1), **{**none, name: 1}))  # type: ignore[arg-type]
    assert read(tmp_path / "d", "SELECT count(DISTINCT symbol) AS n FROM series")["n"][0] == 1
