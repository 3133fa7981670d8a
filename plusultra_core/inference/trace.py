"""The job `trace`: every strategy over the locked window, and the models over the whole walk-forward, as one ledger."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from plusultra_core import artifacts, config
from plusultra_core.arrays import Float64Array
from plusultra_core.errors import ArtifactError, ConfigError, JobError
from plusultra_core.guardrails.limits import GUARD_REASONS, STATES, GuardrailsConfig
from plusultra_core.inference.decide import PolicyDesk, SizingConfig
from plusultra_core.inference.ledgers import ledger_tables, market_table, write_groups, write_ledger
from plusultra_core.inference.portfolios.rules import EqualWeightConfig, MeanVarianceConfig, equal_weight, mean_variance
from plusultra_core.inference.strategies import (
    MODELS,
    Decide,
    Setting,
    buy_and_hold,
    by_policy,
    no_trade,
    random_like,
    read_quantiles,
    run_strategy,
    sized,
    unguarded,
)
from plusultra_core.job import Job, Progress
from plusultra_core.market import MarketConfig
from plusultra_core.models.bundle import load_bundle
from plusultra_core.models.seeds import Seeds, load_seed, open_seeds
from plusultra_core.simulation.engine import SimulationConfig
from plusultra_core.simulation.ledger import Ledger
from plusultra_core.simulation.market import BARS, market_arrays
from plusultra_core.simulation.records import COSTS, PROXIES, REASONS, STATUSES
from plusultra_core.simulation.worlds.families import StressConfig
from plusultra_core.windows.panel import Panel, load_panel

FORECASTS = "forecasts.parquet"
WALK_FORWARD = "walk_forward"
POLICY, SEED_RUN = "policy", "policy_seed_"
"""The policy as it is served, and the runs of its other seeds by their number."""
_EXECUTION = ("latency_ms", "latency_prob", "participation", "time_in_force", "order_type")


@dataclass(frozen=True, kw_only=True, slots=True)
class InferenceConfig:
    """How decisions are made and stressed."""

    sizing: SizingConfig
    equal_weight: EqualWeightConfig
    mean_variance: MeanVarianceConfig
    stress: StressConfig
    """Worlds of the stress job; the calm one is always run."""
    num_threads: int
    """Threads of torch; part of the result's bytes."""
    seed: int

    def __post_init__(self) -> None:
        if self.num_threads < 1 or self.seed < 0:
            raise ConfigError("inference: expected num_threads >= 1 and seed >= 0")


class Stage(NamedTuple):
    """What the strategies of a job need."""

    cfg: InferenceConfig
    panel: Panel
    setting: Setting
    quantiles: dict[str, Float64Array]
    """By model, from bar `first` on."""
    first: int
    locked: tuple[int, int]
    desk: PolicyDesk


def open_stage(job: Job) -> Stage:
    """Read the job's inputs and put up the market.

    Raises  JobError for a missing input; ArtifactError for inputs that do not belong together.
    """
    for name in ("windows", "policy", "forecasts"):
        if name not in job.inputs:
            raise JobError(f"{job.task}: input {name!r} is missing; name the directory of its artifact")
    cfg = config.parse(InferenceConfig, job.config.get("inference"), "job.config.inference")
    simulation = config.parse(SimulationConfig, job.config.get("simulation"), "job.config.simulation")
    guard = config.parse(GuardrailsConfig, job.config.get("guardrails"), "job.config.guardrails")
    market = config.parse(MarketConfig, job.config.get("market"), "job.config.market")
    torch.set_num_threads(cfg.num_threads)
    panel = load_panel(job.inputs["windows"])
    if market.asset_class != panel.asset_class:
        raise ArtifactError(
            f"{job.task}: expected the market of {panel.asset_class}, found that of {market.asset_class}; its costs and margin are others"
        )
    first, locked = panel.folds[0].test[0], panel.folds[-1].test
    if locked[1] - locked[0] < 2:
        raise ArtifactError(f"trace: expected a locked window of at least 2 bars, found {locked}; use fewer folds or more bars")
    bars = {name: getattr(panel, f"{name}_NT") for name in BARS}
    arrays = market_arrays(panel.ts_ns_T, bars, panel.sigma_NT, panel.tradable_NT, market, simulation.adv_bars, simulation.fallback_sigma)
    table = artifacts.open_artifact(job.inputs["forecasts"]).path / FORECASTS
    quantiles = {model: read_quantiles(table, panel, model, (first, locked[1]), cfg.sizing.horizon_index) for model in MODELS}
    artifacts.open_artifact(job.inputs["policy"])
    desk = PolicyDesk(load_bundle(job.inputs["policy"]), panel, locked)
    return Stage(cfg, panel, Setting(arrays, panel.bar_ns, simulation, market.costs, guard), quantiles, first, locked, desk)


def traded_horizon(stage: Stage) -> int:
    """Bars of the horizon that the sizing rule trades."""
    return stage.panel.horizons[stage.cfg.sizing.horizon_index]


def rules_of(stage: Stage, span: tuple[int, int]) -> dict[str, tuple[Setting, Decide]]:
    """What follows a written rule, from buying once to the best trade by a forecast, over a span of test bars, each in its setting.

    Each fold trades its own forecasts.
    """
    cfg, setting, horizon = stage.cfg, stage.setting, traded_horizon(stage)
    calm = unguarded(setting)
    best = mean_variance(stage.quantiles["hybrid"], stage.first, horizon, setting.market, setting.guard, cfg.mean_variance)
    return {
        "buy_and_hold": (calm, buy_and_hold(setting, span)),
        "equal_weight": (calm, equal_weight(span[0], cfg.equal_weight)),
        **{f"sized_{model}": (setting, sized(stage.quantiles[model], stage.first, horizon, setting.guard, cfg.sizing)) for model in MODELS},
        "mean_variance": (setting, best),
    }


def run_rules(stage: Stage, span: tuple[int, int]) -> dict[str, Ledger]:
    """The ledgers of all written rules."""
    return {name: run_strategy(setting, span, decide) for name, (setting, decide) in rules_of(stage, span).items()}


def run_locked(stage: Stage) -> dict[str, Ledger]:
    """Every strategy over the locked window."""
    setting, span, rules = stage.setting, stage.locked, run_rules(stage, stage.locked)
    present_TA = np.isfinite(stage.quantiles["hybrid"][span[0] - stage.first :, :, 0])
    return {
        "no_trade": run_strategy(unguarded(setting), span, no_trade),
        "random": run_strategy(
            setting, span, random_like(rules["sized_hybrid"], present_TA, span[0], stage.cfg.seed, setting.costs.margin.shorts)
        ),
        **rules,
        POLICY: run_strategy(setting, span, by_policy(stage.desk, span[0])),
    }


def run_seeds(policy: Path, seeds: Seeds | None, stage: Stage) -> dict[str, Ledger]:
    """The policy's other seeds over the locked window, each as it would run were it the one that is served; none where there are none.

    Raises  ArtifactError when a seed's bundle does not belong to the one that is served.
    """
    if seeds is None or not seeds.others:
        return {}
    root, setting, span = load_bundle(policy), stage.setting, stage.locked

    def run(seed: int) -> Ledger:
        desk = PolicyDesk(load_seed(policy, seed, root), stage.panel, span)
        return run_strategy(setting, span, by_policy(desk, span[0]))

    return {f"{SEED_RUN}{seed}": run(seed) for seed in seeds.others}


def told_of(seeds: Seeds) -> list[dict[str, Any]]:
    """Of each seed, in the order of training, which strategy of the trace it is and what was known of it before."""
    names = {record.seed: POLICY if record.seed == seeds.served else f"{SEED_RUN}{record.seed}" for record in seeds.seeds}
    return [{"strategy": names[record.seed], **config.to_dict(record)} for record in seeds.seeds]


def run_trace(job: Job, progress: Progress) -> Mapping[str, object]:
    """Run all strategies and publish account, orders, positions and what is to be known about them."""
    stage, seeds = open_stage(job), open_seeds(job.inputs["policy"])
    ledgers = run_locked(stage) | run_seeds(job.inputs["policy"], seeds, stage)
    whole = (stage.first, stage.locked[1])
    if whole[0] < stage.locked[0]:
        ledgers |= {f"{name}_{WALK_FORWARD}": ledger for name, ledger in run_rules(stage, whole).items()}
    telemetry = {name: describe(ledger, limit_of(name, stage)) for name, ledger in ledgers.items()}
    for name, numbers in telemetry.items():
        progress.report(name, **numbers["numbers"])
    metrics = {f"{name}.{key}": value for name, entry in telemetry.items() for key, value in entry["numbers"].items()}
    summary = {**_facts(stage), "strategies": telemetry, **({"policy_seeds": told_of(seeds)} if seeds else {})}

    def fill(directory: Path) -> None:
        bars = market_table(stage.setting, stage.panel, whole)
        summary["fields"] = {**write_ledger(directory, ledger_tables(ledgers, stage.panel, stage.setting)), "market": list(bars)}
        write_groups(directory / "market.parquet", [bars])
        artifacts.write_atomic(directory / "trace.json", artifacts.canonical_json(summary))
        artifacts.write_atomic(directory / "metrics.json", artifacts.canonical_json(metrics))

    lineage = {**job.lineage, **{name: artifacts.open_artifact(path, verify=False).sha256 for name, path in job.inputs.items()}}
    artifacts.publish(job.store, job.key, fill, {"task": job.task, "config": job.config, "lineage": lineage})
    return {"metrics": metrics, "history": []}


def limit_of(strategy: str, stage: Stage) -> float:
    """Largest weight that a strategy may ask for in one asset."""
    if strategy == POLICY or strategy.startswith(SEED_RUN):
        return stage.desk.limit
    return stage.setting.guard.max_weight if strategy.startswith(("sized", "mean_variance")) else 1.0


def describe(ledger: Ledger, limit: float) -> dict[str, Any]:
    """Telemetry of a run: plain numbers, and counts by status, reason and guard reason."""
    orders, account = ledger.orders(), ledger.account()
    weight = np.abs(ledger.positions()["weight"])
    asked = orders["qty_ordered"] > 0
    ratio = orders["qty_filled"][asked] / orders["qty_ordered"][asked]
    costs = {f"{name}_ccy": float(account[name].sum()) for name in COSTS}
    numbers = {
        "final_equity": float(account["equity"][-1]),
        "return": float(account["equity"][-1] / account["equity"][0] - 1.0),
        "max_drawdown": float(account["drawdown"].max()),
        "turnover_mean": float(account["turnover"][1:].mean()),
        "gross_mean": float((account["gross"] / np.maximum(account["equity"], 1e-9)).mean()),
        "num_orders": float(asked.sum()),
        "fill_ratio": float(ratio.mean()) if ratio.size else 0.0,
        "saturated_frac": float((weight > 0.99 * limit).mean()) if weight.size else 0.0,
        "liquidated": float(ledger.liquidated),
        "residual_max": float(np.abs(ledger.residual()).max()),
        **costs,
    }
    return {
        "numbers": numbers,
        "limit": limit,
        "status": _count(orders["status"], STATUSES),
        "reason": _count(orders["reason"], REASONS),
        "guard": _count(ledger.steps.guard[ledger.steps.guard > 0], GUARD_REASONS),
        "guard_state": _count(ledger.guard_state, STATES),
        "proxy": {name: float((ledger.proxy & bit > 0).mean()) for bit, name in PROXIES.items()},
    }


def write_parquet(path: Path, columns: Mapping[str, Any]) -> None:
    """One table in one row group; equal columns, equal bytes."""
    write_groups(path, [{name: np.asarray(values) for name, values in columns.items()}], missing_null=False)


def _count(codes: Any, names: Mapping[int, str]) -> dict[str, int]:
    values, counts = np.unique(codes, return_counts=True)
    return {names[int(value)]: int(count) for value, count in zip(values, counts, strict=True)}


def _facts(stage: Stage) -> dict[str, Any]:
    panel, setting = stage.panel, stage.setting
    spans = {"locked": stage.locked, WALK_FORWARD: (stage.first, stage.locked[1])}
    return {
        "asset_class": panel.asset_class,
        "symbols": panel.symbols,
        "periods_per_year": panel.periods_per_year,
        "spans": {
            name: {"start_ns": int(panel.ts_ns_T[a]), "end_ns": int(panel.ts_ns_T[b - 1]), "num_bars": b - a}
            for name, (a, b) in spans.items()
        },
        "folds": [{"index": f.index, "start_ns": int(panel.ts_ns_T[f.test[0]]), "num_bars": f.test[1] - f.test[0]} for f in panel.folds],
        "initial_capital_ccy": setting.simulation.initial_capital_ccy,
        "costs": config.to_dict(setting.costs),
        "execution": {name: getattr(setting.simulation, name) for name in _EXECUTION},
        "identity": f"equity change = price_pnl - {' - '.join(COSTS)}; fees hold liquidation",
        "fields": {},
    }
