"""The job `stress`: every strategy through worse worlds, the crises of its past, that past in other orders, and with other capital."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from plusultra_core import artifacts, config
from plusultra_core.arrays import Float64Array
from plusultra_core.inference.ledgers import write_groups
from plusultra_core.inference.strategies import Decide, by_policy, unguarded
from plusultra_core.inference.trace import Stage, open_stage, rules_of, run_locked
from plusultra_core.job import Job, Progress
from plusultra_core.simulation.records import COSTS, Step
from plusultra_core.simulation.worlds.specs import Past, World, draw_worlds, open_past, uncounted
from plusultra_core.simulation.worlds.sweep import Loop, Player, Scenarios, Terms, View, run_scenarios
from plusultra_core.simulation.worlds.tally import NUMBERS, TERMS

WORLDS, FANS = "stress.parquet", "fans.parquet"
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
UNGUARDED = ("no_trade", "buy_and_hold", "equal_weight")
LOOPED = ("equal_weight", "sized_hybrid", "sized_linear")
"""Written rules that decide by what they see in a world; the policy does too. The others ask for what they asked for in the calm
world: cash, one purchase and random draws look at nothing, and the mean-variance rule is too slow to be run a hundred times."""


def players_of(stage: Stage) -> list[Player]:
    """Every strategy of the trace with the targets of the calm world, and its loop where it has one."""
    rules = rules_of(stage, stage.locked)
    free, guard = unguarded(stage.setting).guard, stage.setting.guard
    players = []
    for name, ledger in run_locked(stage).items():
        opens = looped(rules[name][1]) if name in LOOPED else desks(stage) if name == "policy" else None
        players.append(Player(name, free if name in UNGUARDED else guard, ledger.steps.request, opens))
    return players


def looped(decide: Decide) -> Callable[[int], Loop]:
    """A rule that knows one account and remembers nothing, for every account of a chunk."""
    return lambda num_accounts: one_by_one([decide] * num_accounts)


def desks(stage: Stage) -> Callable[[int], Loop]:
    """The policy, for every account a desk of its own: what it remembers is of that account."""
    return lambda num_accounts: one_by_one([by_policy(stage.desk.another(), stage.locked[0]) for _ in range(num_accounts)])


def one_by_one(decides: Sequence[Decide]) -> Loop:
    """Accounts are asked in turn, as they would be by themselves: no number of one depends on how many stand beside it."""

    steps: list[Step] = []

    def loop(t: int, view: View, last: Step) -> Float64Array:
        if not steps or steps[0].fill.base is not last.fill:  # the same memory from bar to bar
            steps[:] = [Step._make(field[e : e + 1] for field in last) for e in range(len(decides))]
        asked = [
            decide(t, view.seat(e), steps[e])  # type: ignore[arg-type]  # a seat shows what rules read
            for e, decide in enumerate(decides)
        ]
        return np.concatenate(asked)

    return loop


def run_stress(job: Job, progress: Progress) -> Mapping[str, object]:
    """Run every strategy through every world; publishes one row a world and strategy, the fans of their paths, and a summary.

    Forecasts are those of the calm world: what is stressed is execution and what is held, not what the models would have said.
    In worlds whose bars are the market's own, made worse, models and policy decide bar by bar on what they see of their account;
    where other bars stand in their place no forecast was ever made, and every strategy asks for what it asked for in the calm world.
    """
    stage = open_stage(job)
    cfg, setting = stage.cfg.stress, stage.setting
    past = open_past(setting.market, stage.locked[0], stage.locked[1], cfg.min_assets_frac, stage.cfg.seed)
    worlds = draw_worlds(past, cfg, setting.costs.funding)
    players = players_of(stage)
    progress.report(f"{len(worlds)} worlds", strategies=float(len(players)), bars=float(past.num_steps))
    terms = Terms(setting.bar_ns, setting.simulation, setting.costs)
    found = run_scenarios(past, worlds, players, terms, cfg.path_points, cfg.chunk_mib, cfg.num_threads, with_costs=True)
    summary = summarise(found, past, stage)
    for family, entry in summary["families"].items():
        progress.report(family, **{name: numbers["median"] for name, numbers in entry["strategies"].items()})
    metrics = {
        f"{family}.{name}.{key}": numbers[key]
        for family, entry in summary["families"].items()
        for name, numbers in entry["strategies"].items()
        for key in ("median", "q05", "worst", "max_drawdown_worst", "liquidated")
    }
    capital_ccy = setting.simulation.initial_capital_ccy
    metrics |= {
        f"capacity.{name}.x{point['capital_ccy'] / capital_ccy:g}": point["sharpe"]
        for name, curve in summary["capacity"].items()
        for point in curve
    }

    def fill(directory: Path) -> None:
        write_groups(directory / WORLDS, [world_table(found, stage.panel.periods_per_year)])
        write_groups(directory / FANS, [fan_table(found, past)])
        artifacts.write_atomic(directory / "stress.json", artifacts.canonical_json(summary))
        artifacts.write_atomic(directory / "metrics.json", artifacts.canonical_json(metrics))

    lineage = {**job.lineage, **{name: artifacts.open_artifact(path, verify=False).sha256 for name, path in job.inputs.items()}}
    artifacts.publish(job.store, job.key, fill, {"task": job.task, "config": job.config, "lineage": lineage})
    return {"metrics": metrics, "history": []}


def world_table(found: Scenarios, periods_per_year: float) -> dict[str, Any]:
    """One row a world and strategy: how it was made, how was decided, what came out; money in parts of the capital."""
    num_players = len(found.players)

    def each(values: Sequence[Any]) -> Any:
        return np.repeat(np.array(values, dtype=object if isinstance(values[0], str) else None), num_players)

    worlds = found.worlds
    columns: dict[str, Any] = {
        "family": each([world.family for world in worlds]),
        "world": each([world.name for world in worlds]),
        "strategy": np.tile(np.array(found.players, dtype=object), len(worlds)),
        "decides": np.where(found.looped_SP.reshape(-1), "closed_loop", "calm_targets").astype(object),
    }
    columns |= {f"{name}_factor": each([getattr(world.factors, name) for world in worlds]) for name in worlds[0].factors._fields}
    columns["num_events"] = each([len(world.events) for world in worlds])
    columns |= {name: found.numbers[name].reshape(-1) for name in (*NUMBERS, *TERMS)}
    columns["sharpe"] = columns.pop("sharpe_bar") * np.sqrt(periods_per_year)
    return columns


def fan_table(found: Scenarios, past: Past) -> dict[str, Any]:
    """Quantiles over the worlds of a family of equity over capital, one row a family, strategy and kept bar."""
    ts_ns = past.market.ts_ns[past.start + found.path_steps_K]
    levels = [f"q_{round(100 * q):02d}" for q in LEVELS]
    columns: dict[str, list[Any]] = {name: [] for name in ("family", "strategy", "ts_ns", *levels, "worst")}
    for family, rows in families(found.worlds).items():
        for p, strategy in enumerate(found.players):
            path_SK = found.path_SPK[rows, p].astype(np.float64)
            columns["family"] += [family] * ts_ns.size
            columns["strategy"] += [strategy] * ts_ns.size
            columns["ts_ns"] += ts_ns.tolist()
            for level, values in zip(levels, np.quantile(path_SK, LEVELS, axis=0), strict=True):
                columns[level] += values.tolist()
            columns["worst"] += path_SK.min(axis=0).tolist()
    return {name: np.array(values, dtype=object if values and isinstance(values[0], str) else None) for name, values in columns.items()}


def families(worlds: Sequence[World]) -> dict[str, list[int]]:
    """Worlds by family, in the order of their first; those of the capacity curve differ in capital and are no family."""
    found: dict[str, list[int]] = {}
    for w, world in enumerate(worlds):
        if world.family != "capacity":
            found.setdefault(world.family, []).append(w)
    return found


def summarise(found: Scenarios, past: Past, stage: Stage) -> dict[str, Any]:
    """Distribution of every family and strategy, the capacity curve, the crises by date."""
    ts_ns, panel = past.market.ts_ns, stage.panel
    made_of = {item.name: {key: config.to_dict(item)[key] for key in ("factors", "events")} for item in stage.cfg.stress.perturbations}
    entries = {}
    for family, rows in families(found.worlds).items():
        strategies = {name: _distribution(found, rows, p) for p, name in enumerate(found.players)}
        entries[family] = {
            "num_worlds": len(rows),
            "replaced": found.worlds[rows[0]].replaced,
            "made_of": made_of.get(family, {}),
            "strategies": strategies,
        }
    crises = {world.crisis for world in found.worlds if world.crisis is not None}
    return {
        "asset_class": panel.asset_class,
        "span": {"start_ns": int(ts_ns[past.start]), "end_ns": int(ts_ns[past.end - 1]), "num_bars": past.end - past.start},
        "history": {"start_ns": int(ts_ns[0]), "num_bars": past.start, "eligible": int(past.eligible_T.sum())},
        "initial_capital_ccy": stage.setting.simulation.initial_capital_ccy,
        "num_worlds": len(found.worlds),
        "strategies": list(found.players),
        "order": list(entries),
        "families": entries,
        "left_out": sorted({*made_of, "crisis", "bootstrap"} - set(entries)),
        "short_history": [
            {"symbol": panel.symbols[n], "num_bars": num_bars, "first_ns": int(ts_ns[first])} for n, num_bars, first in uncounted(past)
        ],
        "crises": [
            {"rule": c.rule, "start_ns": int(ts_ns[c.first]), "end_ns": int(ts_ns[c.first + c.num_bars - 1]), "size": c.size}
            for c in sorted(crises, key=lambda c: (c.rule, -c.size, c.first))
        ],
        "capacity": capacity(found, stage.setting.simulation.initial_capital_ccy, panel.periods_per_year),
    }


def capacity(found: Scenarios, capital_ccy: float, periods_per_year: float) -> dict[str, list[dict[str, float]]]:
    """Net Sharpe, return and costs without drift of every strategy by its first capital, the calm market; least capital first."""
    rows = [w for w, world in enumerate(found.worlds) if world.family in ("capacity", "calm")]
    by_capital = {found.worlds[w].factors.capital: w for w in rows}
    return {
        name: [
            {
                "capital_ccy": capital_ccy * factor,
                "sharpe": float(found.numbers["sharpe_bar"][w, p] * np.sqrt(periods_per_year)),
                "ret": float(found.numbers["ret"][w, p]),
                "cost": float(sum(found.numbers[term][w, p] for term in COSTS if term != "latency_drift")),
                "turnover": float(found.numbers["turnover"][w, p]),
            }
            for factor, w in sorted(by_capital.items())
        ]
        for p, name in enumerate(found.players)
    }


def _distribution(found: Scenarios, rows: list[int], p: int) -> dict[str, Any]:
    ret, drawdown = found.numbers["ret"][rows, p], found.numbers["max_drawdown"][rows, p]
    return {
        "decides": "closed_loop" if found.looped_SP[rows[0], p] else "calm_targets",
        **{key: float(np.quantile(ret, q)) for key, q in (("q05", 0.05), ("q25", 0.25), ("median", 0.5), ("q75", 0.75), ("q95", 0.95))},
        "worst": float(ret.min()),
        "worst_world": found.worlds[rows[int(ret.argmin())]].name,
        "max_drawdown_median": float(np.median(drawdown)),
        "max_drawdown_worst": float(drawdown.max()),
        "liquidated": float(found.numbers["liquidated"][rows, p].mean()),
        "halted": float(found.numbers["halted"][rows, p].mean()),
        "terms": {term: float(found.numbers[term][rows, p].mean()) for term in TERMS},
    }
