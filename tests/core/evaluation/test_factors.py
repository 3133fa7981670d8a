"""The factor sheet against slow twins, planted factors and a poisoned future."""

import dataclasses

import numpy as np
import polars as pl
import pytest
from scipy import stats

from plusultra_core.clock import NS_PER_DAY
from plusultra_core.errors import ConfigError, ContractError
from plusultra_core.evaluation.factors import FactorsConfig, FactorSheet, build_factors
from plusultra_core.evaluation.scores import newey_west_se
from plusultra_core.market import CostsConfig, MarginConfig

CFG = FactorsConfig(horizons=(1, 2, 5), primary_horizon=1, min_names=5, quantiles=5, min_dates=40, discovery_rate=0.1)
LENT = MarginConfig(
    account="margin", max_leverage=2.0, maintenance_margin=0.25, liquidation_penalty_bps=50.0, shorts=True, reserve_frac=0.0
)
COSTS = CostsConfig(
    fee_bps=1.0, fee_min_ccy=0.0, half_spread_bps=2.0, impact_coef=0.0, impact_exponent=0.5, borrow_bps_year=0.0, funding=False, margin=LENT
)
SIGMA = 0.01


@dataclasses.dataclass(frozen=True)
class Frames:
    features: pl.DataFrame
    bars: pl.DataFrame
    targets: pl.DataFrame
    regimes: pl.DataFrame

    def sheet(self, cfg: FactorsConfig = CFG, until_ns: int | None = None) -> FactorSheet:
        end = int(self.bars["ts_ns"].max()) + 1 if until_ns is None else until_ns  # type: ignore[arg-type]
        return build_factors(self.features, self.bars, self.targets, self.regimes, COSTS, cfg, end)


def world(num_names: int = 12, num_bars: int = 300, noise: int = 4, signal: float = 0.3, seed: int = 5) -> Frames:
    """`planted` at t has correlation `signal` with the move to t + 1; `noise_<i>` have none; some values are missing."""
    random = np.random.default_rng(seed)
    y = random.normal(size=(num_names, num_bars))
    planted = signal * y + np.sqrt(1 - signal**2) * random.normal(size=y.shape)
    close = 50 * np.exp(np.cumsum(np.pad(SIGMA * y[:, :-1], ((0, 0), (1, 0))), axis=1))
    ts = 1_300_000_000 * 10**9 + NS_PER_DAY * np.arange(num_bars)
    symbols = np.repeat([f"S{i:02d}" for i in range(num_names)], num_bars)
    keys = pl.DataFrame({"symbol": symbols.tolist(), "ts_ns": np.tile(ts, num_names)}).with_columns(known_ns="ts_ns")
    columns = {"planted": planted, **{f"noise_{i}": random.normal(size=y.shape) for i in range(noise)}}
    columns["gappy"] = np.where(random.random(y.shape) < 0.3, np.nan, planted)
    features = keys.with_columns(pl.Series(name, value.ravel().astype(np.float32), nan_to_null=True) for name, value in columns.items())
    features = features.with_columns(flat=pl.lit(1.0, pl.Float32), empty=pl.lit(None, pl.Float32))
    state = pl.Series("volatility_state", np.tile(np.arange(num_bars) // 20 % 3 + 1, num_names).astype(np.int8))
    return Frames(
        features,
        keys.with_columns(close_adj=pl.Series(close.ravel())),
        keys.with_columns(sigma=pl.lit(SIGMA)),
        keys.with_columns(state),
    )


def by_name(sheet: FactorSheet, name: str) -> dict[str, object]:
    return sheet.factors.row(by_predicate=pl.col("feature") == name, named=True)


@pytest.mark.parametrize("name", ["planted", "noise_0", "gappy"])
def test_ic_and_its_error_equal_a_slow_twin(name: str) -> None:
    frames = world()
    wide = frames.bars.with_columns(x=frames.features[name]).with_columns(
        y=(pl.col("close_adj").log().shift(-1) - pl.col("close_adj").log()).over("symbol") / SIGMA
    )
    pearson, spearman = [], []
    for (_,), date in wide.drop_nulls().sort("ts_ns").group_by("ts_ns", maintain_order=True):
        if date.height >= CFG.min_names:
            pearson.append(stats.pearsonr(date["x"], date["y"]).statistic)
            spearman.append(stats.spearmanr(date["x"], date["y"]).statistic)
    found = by_name(frames.sheet(), name)
    assert found["num_dates"] == len(spearman)
    assert found["ic"] == pytest.approx(np.mean(pearson), rel=1e-9)
    assert found["rank_ic"] == pytest.approx(np.mean(spearman), rel=1e-9)
    assert found["rank_ic_se"] == pytest.approx(newey_west_se(np.array(spearman), 2), rel=1e-9)


def test_few_names_are_pooled_and_the_ic_is_the_plain_correlation() -> None:
    frames = world(num_names=3)
    sheet = frames.sheet()
    y = frames.bars.select((pl.col("close_adj").log().shift(-1) - pl.col("close_adj").log()).over("symbol")).to_series()
    both = pl.DataFrame({"x": frames.features["planted"], "y": y}).drop_nulls()
    assert sheet.method == "pooled"
    assert by_name(sheet, "planted")["ic"] == pytest.approx(np.corrcoef(both["x"], both["y"])[0, 1], rel=1e-6)
    assert by_name(sheet, "planted")["rank_ic"] == pytest.approx(stats.spearmanr(both["x"], both["y"]).statistic, rel=1e-6)


def test_a_planted_factor_is_discovered_and_noise_at_no_more_than_its_rate() -> None:
    false = 0
    for seed in range(8):
        sheet = world(noise=20, seed=seed).sheet()
        assert by_name(sheet, "planted")["discovery"]
        false += sheet.factors.filter(pl.col("feature").str.starts_with("noise") & pl.col("discovery")).height
    assert false / 160 < 0.05  # 2 of 22 are true: at most a tenth of the discoveries may be false


def test_adjusted_p_values_are_those_of_scipy_over_all_features() -> None:
    factors = world(noise=20).sheet().factors.drop_nulls("p")
    assert factors["q"].to_numpy() == pytest.approx(stats.false_discovery_control(factors["p"].to_numpy(), method="bh"))
    assert factors["p"].is_sorted()


def test_nothing_at_or_after_the_lock_is_looked_at() -> None:
    frames = world()
    ts = frames.bars["ts_ns"].unique().sort()
    until_ns = int(ts[200])
    late = frames.bars["ts_ns"] >= until_ns
    poisoned = dataclasses.replace(
        frames,
        bars=frames.bars.with_columns(pl.when(late).then(1e9).otherwise("close_adj").alias("close_adj")),
        features=frames.features.with_columns(pl.when(late).then(-7.0).otherwise("planted").cast(pl.Float32).alias("planted")),
        regimes=frames.regimes.with_columns(pl.when(late).then(3).otherwise("volatility_state").cast(pl.Int8).alias("volatility_state")),
    )
    one, two = frames.sheet(until_ns=until_ns), poisoned.sheet(until_ns=until_ns)
    for name in ("factors", "decay", "states", "quantiles", "years"):
        assert getattr(one, name).equals(getattr(two, name)), name
    assert one.num_dates == 199  # the label of the last date before the lock ends at the lock


def test_decay_falls_like_the_root_of_the_horizon() -> None:
    decay = world(num_names=40, num_bars=600).sheet().decay.filter(pl.col("feature") == "planted").sort("horizon")
    expected = decay["rank_ic"][0] / np.sqrt(decay["horizon"].to_numpy())
    assert decay["rank_ic"].to_numpy() == pytest.approx(expected, abs=0.02)


def test_spread_is_the_return_of_the_outer_quantiles_after_what_trading_costs() -> None:
    frames = world()
    sheet = frames.sheet()
    groups = sheet.quantiles.filter(pl.col("feature") == "planted").sort("quantile")
    found = by_name(sheet, "planted")
    assert groups["quantile"].to_list() == [1, 2, 3, 4, 5]
    assert found["spread_bps"] == pytest.approx(groups["ret_bps"][4] - groups["ret_bps"][0], rel=0.02)
    assert found["traded_frac"] == pytest.approx(2 * 2 * 0.8, abs=0.2)  # without memory, 4 of 5 names of a quintile are new
    assert found["net_spread_bps"] == pytest.approx(abs(found["spread_bps"]) - 3.0 * found["traded_frac"])  # type: ignore[arg-type, operator]
    assert found["breakeven_bps"] == pytest.approx(found["spread_bps"] / found["traded_frac"])  # type: ignore[operator]
    assert abs(found["rank_autocorr"]) < 0.1  # type: ignore[arg-type]


def test_turning_a_feature_round_turns_the_signs_and_nothing_else() -> None:
    frames = world()
    turned = dataclasses.replace(frames, features=frames.features.with_columns(-pl.col("planted")))
    one, two = by_name(frames.sheet(), "planted"), by_name(turned.sheet(), "planted")
    for name in ("ic", "rank_ic", "spread_bps", "t"):
        assert two[name] == pytest.approx(-one[name])  # type: ignore[operator]
    for name in ("ic_se", "p", "net_spread_bps", "traded_frac", "years_same_sign"):
        assert two[name] == pytest.approx(one[name])


def test_columns_that_say_nothing_have_no_score_and_are_no_discovery() -> None:
    sheet = world().sheet()
    for name, coverage in (("flat", 1.0), ("empty", 0.0)):
        found = by_name(sheet, name)
        assert (found["coverage"], found["rank_ic"], found["p"], found["discovery"]) == (coverage, None, None, False)
    assert by_name(sheet, "empty")["symbols_without"] == 12


def test_states_and_years_part_the_rank_ic() -> None:
    frames = world()
    sheet = frames.sheet()
    states = sheet.states.filter(pl.col("feature") == "planted")
    weighted = (states["rank_ic"] * states["num_dates"]).sum() / states["num_dates"].sum()
    assert weighted == pytest.approx(by_name(sheet, "planted")["rank_ic"])
    assert states["state"].to_list() == [1, 2, 3]
    years = sheet.years.filter(pl.col("feature") == "planted")
    assert (years["rank_ic"] * years["num_dates"]).sum() / years["num_dates"].sum() == pytest.approx(by_name(sheet, "planted")["rank_ic"])
    assert by_name(sheet, "planted")["years_same_sign"] == 1.0


def test_many_features_are_judged_as_if_each_were_alone() -> None:
    frames = world(noise=30)
    alone = dataclasses.replace(frames, features=frames.features.select("symbol", "ts_ns", "known_ns", "noise_25"))
    for name in ("ic", "rank_ic", "rank_ic_se", "p", "spread_bps"):
        assert by_name(alone.sheet(), "noise_25")[name] == by_name(frames.sheet(), "noise_25")[name]


def test_a_feature_that_is_called_like_an_outcome_is_judged_as_itself() -> None:
    frames = world()
    names = ("ret_1", "y_1", "ret_5", "close", "sigma", "before", "place", "q", "last", "year")
    known = frames.features.with_columns(pl.col("noise_0").alias(name) for name in names)
    sheet = dataclasses.replace(frames, features=known).sheet()
    alone = {**by_name(frames.sheet(), "noise_0"), "feature": None, "q": None, "discovery": None}
    for name in names:
        assert {**by_name(sheet, name), "feature": None, "q": None, "discovery": None} == alone


def test_frames_of_other_bars_are_refused() -> None:
    frames = world()
    with pytest.raises(ContractError, match=r"targets: expected the 3600 rows of bars, found 3599"):
        dataclasses.replace(frames, targets=frames.targets.head(3599)).sheet()
    with pytest.raises(ContractError, match="found 8 columns and 0 rows"):
        frames.sheet(until_ns=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"horizons": (5, 1)}, "horizons: expected rising"),
        ({"primary_horizon": 3}, "primary_horizon: expected one of"),
        ({"min_names": 2}, "min_names >= 3"),
        ({"discovery_rate": 1.0}, "discovery_rate"),
    ],
)
def test_settings_that_make_no_sense_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(CFG, **change)
