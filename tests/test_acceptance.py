"""The whole way on planted dumps, by calling core: what is there is found, what is not is not, and what is forecast is what is traded."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from plusultra_core import config
from plusultra_core.artifacts import Artifact, publish
from plusultra_core.data import bars, snapshot, tables
from plusultra_core.data.samples.synthetic import SyntheticConfig, make_synthetic
from plusultra_core.evaluation.scorecard import EvaluationConfig, build_scorecard
from plusultra_core.features import build as features
from plusultra_core.guardrails.limits import GuardrailsConfig
from plusultra_core.inference.decide import PolicyDesk
from plusultra_core.inference.strategies import by_policy, run_strategy
from plusultra_core.inference.tasks import TASKS as INFERENCE_TASKS
from plusultra_core.inference.tasks import InferenceConfig
from plusultra_core.inference.trace import open_stage
from plusultra_core.job import Job, run_job
from plusultra_core.market import MarketConfig
from plusultra_core.models.bundle import load_bundle
from plusultra_core.regimes import build as regimes
from plusultra_core.reporting.render import ReportingConfig, render_report
from plusultra_core.reporting.sections import Evidence
from plusultra_core.rl.tasks import TASKS as RL_TASKS
from plusultra_core.rl.train import RLConfig
from plusultra_core.service.desk import DeskSettings, open_desk
from plusultra_core.service.state import publish_served
from plusultra_core.simulation.engine import SimulationConfig
from plusultra_core.targets import build as targets
from plusultra_core.training.tasks import TASKS as TRAINING_TASKS
from plusultra_core.training.tasks import TrainingConfig
from plusultra_core.views import build as views
from plusultra_core.windows import build as windows
from plusultra_core.windows.panel import Panel, publish_panel, replace
from plusultra_core.windows.quotes import build_quotes

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
CLASS = "equity"
CONFIGS: dict[str, Any] = {
    "data": tables.DataConfig,
    "features": features.FeaturesConfig,
    "regimes": regimes.RegimesConfig,
    "targets": targets.TargetsConfig,
    "views": views.ViewsConfig,
    "windows": windows.WindowsConfig,
    "training": TrainingConfig,
    "rl": RLConfig,
    "simulation": SimulationConfig,
    "guardrails": GuardrailsConfig,
    "inference": InferenceConfig,
    "evaluation": EvaluationConfig,
    "reporting": ReportingConfig,
}
PROFILES = ("smoke", "base", "gpu24", "h200")
MODELS = ("sized_hybrid", "sized_linear")
ONE_FOLD = {"folds.num_folds": 1, "folds.test_frac": 0.25}
ONE_THREAD = {"hardware.num_threads": 1}
FEW_STEPS = {
    "training": {
        **{f"{fit}.max_epochs": 1 for fit in ("pretrain.fit", "supervised.hybrid", "supervised.linear")},
        **ONE_THREAD,
        "hardware.accelerator": "cpu",
        "hardware.precision": "32-true",
    },
    "rl": {
        **{f"train.{name}": 1 for name in ("num_updates", "valid_every")},
        "train.num_accounts": 16,
        "train.num_steps": 8,
        "train.episode_bars": 6,
        "warmstart.num_steps": 2,
        "ppo.num_minibatches": 2,
        "num_threads": 1,
    },
    "inference": {"num_threads": 1},
}
READS = {
    "pretrain": {"windows"},
    "supervised": {"windows", "pretrained"},
    "policy": {"windows", "supervised"},
    "forecast": {"windows", "supervised"},
    "trace": {"windows", "supervised", "policy", "forecasts"},
}
TASKS = {**TRAINING_TASKS, **RL_TASKS, **INFERENCE_TASKS}


class Silent:
    """Progress that nobody reads."""

    def report(self, message: str, **numbers: float) -> None:
        pass


class Way:
    """One class of one dump through the stations, in their order; artifacts by the name of what reads them."""

    def __init__(self, base: Path, dump: SyntheticConfig, profile: str, overrides: Mapping[str, Mapping[str, object]]) -> None:
        self.base, self.profile, self.overrides = base, profile, overrides
        base.mkdir(parents=True, exist_ok=True)
        self.planted = make_synthetic(base / "dump.sqlite", dump)[CLASS]
        self.markets = {path.stem: config.load(MarketConfig, path) for path in (ROOT / "configs" / "markets").glob("*.yaml")}
        self.market = self.markets[CLASS]
        taken = snapshot.take_snapshot(base / "dump.sqlite", base / "snapshots", self.load("data"), self.markets)
        self.snapshot = taken.key
        cfg = self.load("data")
        frames = {name: tables.build_table(name, taken.path, CLASS, self.markets, cfg) for name in tables.TABLES}
        rows = bars.build_bars(frames["series"], frames["assets"], frames["corporate_actions"], self.market, cfg.bars)
        columns = features.build(rows, frames["indicators"], frames["side_tables"], self.market, self.load("features"))
        self.frames = {**frames, "bars": rows, "features": columns}
        self.frames["regimes"] = regimes.build(rows, columns, self.frames["assets"], self.load("regimes"))
        self.frames["targets"] = targets.build(rows, self.load("targets"))
        self.frames["view"] = views.build(
            CLASS, {CLASS: rows}, {CLASS: columns}, {CLASS: frames["side_tables"]}, self.market, self.load("views")
        ).frame
        self.paths: dict[str, Path] = {}

    def load(self, station: str) -> Any:
        """The config of a station."""
        path = ROOT / "configs" / self.profile / f"{station}.yaml"
        return config.load(CONFIGS[station], path, dict(self.overrides.get(station, {})))

    def panel(self, labels: pl.DataFrame | None = None) -> Panel:
        """The windows, with these targets or those of the dump."""
        f = self.frames
        labels = f["targets"] if labels is None else labels
        tables = (f[name] for name in ("bars", "assets", "indicators", "side_tables", "exchange_rates"))
        quotes = build_quotes(*tables, self.market)
        own = (f["bars"], f["features"], f["regimes"], labels, f["view"], f["side_tables"])
        return windows.build(*own, quotes, self.market, self.load("windows"))

    def publish(self, panel: Panel, place: str = "store") -> None:
        """Make a panel the input of every job after it."""
        self.paths = {"windows": publish_panel(panel, self.base / place, "windows", {}).path}

    def job(self, task: str, place: str, settings: Mapping[str, object], paths: Mapping[str, Path]) -> Job:
        names = ("training", "rl", "inference", "simulation", "guardrails")
        shared = {**{name: config.to_dict(self.load(name)) for name in names}, "market": config.to_dict(self.market)}
        inputs = {name: path for name, path in {**self.paths, **paths}.items() if name in READS[task]}
        return Job(task, task, {**shared, **settings}, inputs, self.base / place, self.base / "work" / task, {"snapshot": self.snapshot})

    def run(self, task: str, place: str = "store", settings: Mapping[str, object] | None = None, **paths: Path) -> Artifact:
        """Do one job in this process; its artifact is an input of those after it unless it lies in another place."""
        made = run_job(self.job(task, place, settings or {}, paths), TASKS, Silent())
        if place == "store":
            self.paths[{"pretrain": "pretrained", "forecast": "forecasts"}.get(task, task)] = made.path
        return made

    def judge(self, trace: Path, forecasts: Path, out: Path) -> tuple[dict[str, Any], str]:
        """Scorecard, and the report's Markdown."""
        frame = pl.read_parquet(forecasts / "forecasts.parquet")
        f, cfg = self.frames, self.load("evaluation")
        card = build_scorecard(trace, frame, f["regimes"], f["bars"], self.market, cfg, {"snapshot": self.snapshot}, f["targets"])
        render_report(Evidence(scorecard=card), out, self.load("reporting"))
        return card, (out / "report.md").read_text()


def dump(seed: int, num_bars: int, num_equity: int) -> SyntheticConfig:
    """Equities alone, with a planted IC of 0.3."""
    nothing = {f"num_{name}": 0 for name in ("etf", "forex", "crypto", "crypto_perpetual", "volatility_index")}
    return SyntheticConfig(
        seed=seed, start="2000-01-03", num_bars=num_bars, num_hourly_bars=100, num_equity=num_equity, gap_frac=0.002, jump_frac=0.002,
        planted_ic=0.3, **nothing,
    )  # fmt: skip


def one_bar_ahead(path: Path, model: str) -> pl.DataFrame:
    """Forecasts of a model for the next bar over the test spans, where its outcome is known."""
    frame = pl.read_parquet(path / "forecasts.parquet").filter(pl.col("model") == model, pl.col("horizon") == 1, pl.col("y").is_finite())
    assert frame["split"].unique().to_list() == ["test"]
    return frame


def correlation(path: Path, model: str) -> tuple[float, int]:
    """Information coefficient of the medians one bar ahead, and the number of pairs."""
    frame = one_bar_ahead(path, model)
    return float(np.corrcoef(frame["q_50"], frame["y"])[0, 1]), frame.height


def test_the_planted_signal_is_recovered_out_of_sample(tmp_path: Path) -> None:
    """The base profile, with one fold in place of four: the last quarter of twenty years of twelve correlated equities."""
    way = Way(tmp_path, dump(3, 5_000, 12), "base", {"training": ONE_THREAD, "windows": ONE_FOLD})
    way.publish(way.panel())
    way.run("supervised")
    made = way.run("forecast").path
    bayes = float(way.planted["bayes_ic_ewma"])
    assert bayes == pytest.approx(0.3, abs=0.02)
    for model in ("hybrid", "linear"):
        found, num = correlation(made, model)
        print(f"{model}: IC {found:.4f} on {num} pairs, Bayes {bayes:.4f}, share {found / bayes:.3f}")
        assert found >= 0.8 * bayes
        assert found <= 0.3 + 0.03, "better than the optimum: a leak"
        covered = one_bar_ahead(made, model).select(pl.col("y").is_between("q_05", "q_95").mean()).item()
        assert covered == pytest.approx(0.9, abs=0.01), "the interval does not hold what it says"


def shuffled_labels(frame: pl.DataFrame, seed: int) -> pl.DataFrame:
    """The labels of whole rows in another order, among all symbols and times; rows whose labels are not all known lose them."""
    names = [name for name in frame.columns if name.startswith(("target_", "ret_log_", "direction_"))]
    known = pl.all_horizontal(pl.col(names).is_not_null())
    rows = frame.filter(known)
    order = np.random.default_rng(seed).permutation(rows.height)
    mixed = rows.with_columns(rows.select(names)[order])
    return pl.concat([mixed, frame.filter(~known).with_columns(pl.lit(None).cast(frame.schema[name]).alias(name) for name in names)]).sort(
        "symbol", "ts_ns"
    )


def test_shuffled_targets_leave_nothing_to_find(tmp_path: Path) -> None:
    """Under a permutation the coefficient of any forecast has mean 0 and standard error 1 / sqrt(pairs)."""
    short = {"supervised.hybrid.max_epochs": 2, "supervised.linear.max_epochs": 4}
    found: dict[str, list[float]] = {"hybrid": [], "linear": []}
    for seed in range(5):
        overrides = {"training": {**ONE_THREAD, **short, "seed": seed}, "windows": ONE_FOLD}
        way = Way(tmp_path / str(seed), dump(100 + seed, 700, 8), "base", overrides)
        way.publish(way.panel(shuffled_labels(way.frames["targets"], seed)))
        way.run("supervised")
        made = way.run("forecast").path
        num = 0
        for model, scores in found.items():
            score, num = correlation(made, model)
            scores.append(score)
    for model, scores in found.items():
        error = 1 / np.sqrt(5 * num)
        print(f"{model}: mean IC {np.mean(scores):.4f}, standard error {error:.4f}, seeds {np.round(scores, 4)}")
        assert abs(np.mean(scores)) <= 3 * error


@pytest.fixture(scope="module")
def traded(tmp_path_factory: pytest.TempPathFactory) -> Way:
    """The smoke profile from a dump to a ledger."""
    way = Way(tmp_path_factory.mktemp("traded"), dump(5, 400, 6), "smoke", {})
    way.publish(way.panel())
    for task in ("pretrain", "supervised", "policy", "forecast", "trace"):
        way.run(task)
    return way


def shuffled_forecasts(way: Way, seed: int) -> Path:
    """The same table with what each model said at each horizon handed to another anchor; what came of it stays."""
    frame = pl.read_parquet(way.paths["forecasts"] / "forecasts.parquet")
    said = [name for name in frame.columns if name.startswith(("q_", "p_")) or name == "confidence"]
    place = pl.int_range(pl.len()).shuffle(seed=seed).over("model", "horizon")
    moved = frame.with_columns(pl.col(said).gather(place).over("model", "horizon"))
    return publish(way.base / "shuffled", "forecasts", lambda folder: moved.write_parquet(folder / "forecasts.parquet"), {}).path


@pytest.fixture(scope="module")
def mixed(traded: Way) -> tuple[Path, Path]:
    """Forecasts and trace of the same bundles after the table of forecasts was shuffled."""
    table = shuffled_forecasts(traded, 0)
    return table, traded.run("trace", place="shuffled", forecasts=table).path


def test_shuffled_forecasts_move_every_metric_of_the_strategies_they_size(traded: Way, mixed: tuple[Path, Path], tmp_path: Path) -> None:
    (own, page), (other, mixed_page) = (
        traded.judge(trace, table, tmp_path / name)
        for name, table, trace in (("own", traded.paths["forecasts"], traded.paths["trace"]), ("mixed", *mixed))
    )
    for part, names in (("strategies", MODELS), ("walk_forward", MODELS)):
        for name in names:
            a, b = own[part][name]["metrics"], other[part][name]["metrics"]
            assert {metric for metric in a if a[metric] == b[metric]} == {"num_bars"}, name
            assert own[part][name]["costs"] != other[part][name]["costs"]
    for name in ("no_trade", "buy_and_hold", "policy"):
        assert own["strategies"][name]["metrics"] == other["strategies"][name]["metrics"], f"{name} reads no table of forecasts"
    for model, horizons in own["forecasts"].items():
        for horizon, scores in horizons.items():
            assert {
                name for name in ("ic", "rank_ic", "pinball", "crps") if scores[name] == other["forecasts"][model][horizon][name]
            } == set()
    rows = [{line for line in text.splitlines() if line.startswith("| sized hybrid")} for text in (page, mixed_page)]
    assert rows[0] and not rows[0] & rows[1]


def test_shuffled_forecasts_move_orders_and_positions(traded: Way, mixed: tuple[Path, Path]) -> None:
    for table in ("account", "orders", "positions"):
        own, other = (pl.read_parquet(path / f"{table}.parquet") for path in (traded.paths["trace"], mixed[1]))
        for name in MODELS:
            assert not own.filter(pl.col("strategy") == name).equals(other.filter(pl.col("strategy") == name))
        kept = pl.col("strategy").is_in(["buy_and_hold", "policy"])
        assert own.filter(kept).equals(other.filter(kept))


def test_the_policy_decides_otherwise_on_other_market_rows(traded: Way) -> None:
    """Each asset is shown its neighbour's window; accounts, prices and weights are the same, and no wish is too small to be heard."""
    stage = open_stage(traded.job("trace", "store", {}, {}))
    panel = stage.panel
    moved = replace(panel, x_NTF=np.roll(panel.x_NTF, 1, axis=0), state_NTS=np.roll(panel.state_NTS, 1, axis=0))
    trained = load_bundle(traded.paths["policy"])
    bundle = dataclasses.replace(trained, config={**trained.config, "band": 0.0})
    ledgers = [
        run_strategy(stage.setting, stage.locked, by_policy(PolicyDesk(bundle, seen, stage.locked), stage.locked[0]))
        for seen in (panel, panel, moved)
    ]
    asked = [ledger.steps.request for ledger in ledgers]
    wished = np.isfinite(asked[0]) | np.isfinite(asked[2])
    assert wished.mean() > 0.5
    assert np.array_equal(asked[0], asked[1], equal_nan=True)
    assert (asked[0] != asked[2])[wished].mean() > 0.9
    assert ledgers[0].equity[-1] != ledgers[2].equity[-1]


@pytest.mark.parametrize("profile", PROFILES)
def test_what_every_profile_trains_is_loaded_traded_and_served(profile: str, tmp_path: Path) -> None:
    """The models of the profile, a step or two of each fit, on the smoke profile's columns."""
    way = Way(tmp_path, dump(5, 200, 2), "smoke", FEW_STEPS)
    panel = way.panel()
    way.publish(panel)
    way.profile = profile
    for task in ("pretrain", "supervised", "policy", "forecast", "trace"):
        way.run(task)
    traded = pl.read_parquet(way.paths["trace"] / "account.parquet")["strategy"].unique()
    assert {"sized_hybrid", "sized_linear", "policy"} <= set(traded)
    settings = DeskSettings(market=way.market, **{name: way.load(name) for name in ("simulation", "guardrails", "inference")})
    manifest = {"settings": config.to_dict(settings), "lineage": {}}
    bundle = way.paths["supervised"] / "fold_1" / "hybrid"
    served = publish_served(bundle, way.paths["windows"], tmp_path / "served", "first", manifest)
    assert set(open_desk(served.path, served).outlooks) == set(panel.symbols)
