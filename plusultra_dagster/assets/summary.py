"""What a person wants to see of a result first: a table, a sentence, a line; then the few numbers worth a plot over partitions."""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
import polars as pl

from plusultra_dagster.assets.record import sparkline
from plusultra_dagster.resources.tracking import STEPS

Metrics = Mapping[str, float]
History = Sequence[Mapping[str, float]]

_PLOTTED = ("sharpe", "cagr", "max_drawdown", "turnover_year")
_SCORES = ("ic", "skill_vs_climatology", "skill_vs_ewma")
_SEEDED = ("sharpe", "valid_reward")
_SEED_NUMBERS = ("num_above_best_baseline", "rank_correlation", "sharpe_gap")
_SEED_COLUMNS = ("seed", "is_served", "valid_reward", "update", "sharpe", "total_return", "max_drawdown", "turnover_year")
_TRACED = ("return", "max_drawdown", "num_orders", "fill_ratio")
_COSTS = ("spread_ccy", "impact_ccy", "fees_ccy", "funding_ccy", "borrow_ccy")
_PPO = ("reward_mean", "valid_reward", "approx_kl", "clipfrac", "entropy", "explained_variance")
_COURSE = ("stage_episode_bars", "window_bars", "gamma", "cost_factor")
_ROWS = 12


def scorecard(card: Mapping[str, Any]) -> dict[str, Any]:
    """Strategies after costs, the verdict in words, the equity of the best model, the forecasts; then plain numbers."""
    from plusultra_core.reporting.words import headline, verdict

    strategies, forecasts = card["strategies"], card["forecasts"]
    plain = {f"{name}.metrics.{metric}": entry["metrics"].get(metric) for name, entry in strategies.items() for metric in _PLOTTED}
    scores = {
        f"forecasts.{model}.{horizon}.{score}": found.get(score)
        for model, horizons in forecasts.items()
        for horizon, found in horizons.items()
        for score in _SCORES
    }
    seeds = card["policy"]["seeds"] or {}
    plain |= {f"policy.seeds.{metric}.{of}": seeds[metric][of] for metric in _SEEDED if seeds for of in seeds[metric]}
    plain |= {f"policy.seeds.{name}": seeds.get(name) for name in _SEED_NUMBERS}
    return {
        "strategies": table([_strategy(name, entry) for name, entry in strategies.items()]),
        "verdict": dg.MetadataValue.md(f"**{headline(card)}.**\n\n{' '.join(verdict(card))}"),
        "equity of the best model": sparkline(_equity(card)),
        "forecasts": table(
            [_forecast(model, at, horizons[at]) for model, horizons in forecasts.items() for at in sorted(horizons, key=int)]
        ),
        "seeds of the policy": table([{name: run[name] for name in _SEED_COLUMNS} for run in seeds.get("runs", ())]),
        "warnings": dg.MetadataValue.md("\n".join(f"- {text}" for text in card["warnings"]) or "none"),
        **finite(plain | scores),
    }


def significance(found: Mapping[str, Any]) -> dict[str, Any]:
    """Probabilistic and deflated Sharpe ratios, and what luck was counted from."""
    rows = [
        {
            "strategy": name,
            "PSR": entry["psr"],
            "DSR": entry["dsr"],
            "bars": entry["num_bars"],
            "bars needed": entry["min_track_record_bars"],
        }
        for name, entry in found["strategies"].items()
    ]
    plain = {f"strategies.{name}.{score}": entry[score] for name, entry in found["strategies"].items() for score in ("psr", "dsr")}
    plain["pbo"] = found["pbo"] and found["pbo"]["pbo"]
    return {"strategies": table(rows), "num_trials": found["num_trials"], **finite(plain)}


def factors(found: pl.DataFrame) -> dict[str, Any]:
    """The surest features, and how many can be told apart from noise."""
    shown = ("feature", "rank_ic", "t", "q", "discovery", "spread_bps", "net_spread_bps", "coverage")
    plain = {"features": found.height, "discoveries": int(found["discovery"].sum())}
    return {"surest": table(found.select(shown).head(_ROWS).to_dicts()), **finite(plain)}


def execution(found: pl.DataFrame) -> dict[str, Any]:
    """Orders, fills and shortfall of every strategy; its basis points and fill ratios are plotted."""
    shown = ("strategy", "num_orders", "num_refused", "fill_ratio", "shortfall", "bps", "latency_ms_median", "time_in_market")
    rows = found.select(shown).rename({"bps": "shortfall_bps"}).to_dicts()
    plain = {f"{row['strategy']}.{name}": row[name] for row in rows for name in ("shortfall_bps", "fill_ratio")}
    return {"strategies": table(rows), **finite(plain)}


def station(task: str, metrics: Metrics, history: History) -> dict[str, Any]:
    """The same of what a child process made, by its task."""
    match task:
        case "trace":
            return _trace(metrics)
        case "stress":
            return _stress(metrics)
        case "forecast":
            return _forecasts(metrics)
        case "policy":
            return _policy(metrics, history)
        case "offline":
            judged = {name: value for name, value in metrics.items() if "." in name and not name.startswith("behaviour.")}
            return {"candidates": table(_grid(judged, "policy")), **curve(history), **finite(metrics)}
        case "supervised":
            return {"folds": table(_grid(metrics, "fold and model")), **_ending(metrics, ("loss",)), **curve(history)}
        case _:
            return {**curve(history), **finite(metrics)}


def table(rows: Sequence[Mapping[str, Any]]) -> dg.TableMetadataValue | str:
    """Rows as text, numbers with four digits that count."""
    records = [dg.TableRecord({name: _shown(value) for name, value in row.items()}) for row in rows]
    return dg.MetadataValue.table(records) if records else "nothing"


def curve(history: History) -> dict[str, Any]:
    """A sparkline of the first validation loss (else the first loss, else the first number) of a history."""
    names = [name for row in history[:1] for name in row if name not in STEPS]
    chosen = next((name for name in names if "valid" in name), next((name for name in names if "loss" in name), names[0] if names else ""))
    return _line(history, chosen) if chosen else {}


def finite(values: Mapping[str, Any]) -> dict[str, float]:
    """Those that are numbers: the UI plots them."""
    return {name: float(value) for name, value in values.items() if value is not None and abs(value) < float("inf")}


def _strategy(name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    metrics, interval = entry["metrics"], entry["ci"].get("sharpe")
    return {
        "strategy": name,
        "Sharpe": metrics.get("sharpe"),
        "95 % CI": f"{interval[0]:.2f} .. {interval[1]:.2f}" if interval else None,
        "CAGR": metrics.get("cagr"),
        "max drawdown": metrics.get("max_drawdown"),
        "turnover a year": metrics.get("turnover_year"),
    }


def _forecast(model: str, horizon: str, found: Mapping[str, Any]) -> dict[str, Any]:
    interval = found.get("ic_ci")
    return {
        "model": model,
        "horizon": horizon,
        "IC": found.get("ic"),
        "95 % CI": f"{interval[0]:.3f} .. {interval[1]:.3f}" if interval else None,
        "skill against climatology": found.get("skill_vs_climatology"),
        "skill against EWMA": found.get("skill_vs_ewma"),
        "coverage of 90 %": found.get("coverage_90"),
    }


def _equity(card: Mapping[str, Any]) -> list[float]:
    returns = card["series"]["locked"]["ret"].get(card["verdict"]["best_model"], [])
    total, line = 1.0, []
    for value in returns:
        total *= 1.0 + float(value)
        line.append(total)
    return line


def _trace(metrics: Metrics) -> dict[str, Any]:
    rows = []
    for name in _first_parts(metrics):
        of = {column: metrics.get(f"{name}.{column}") for column in _TRACED}
        costs = sum(metrics.get(f"{name}.{cost}", 0.0) for cost in _COSTS)
        rows.append({"strategy": name, **of, "costs_ccy": costs})
    return {"strategies": table(rows), **_ending(metrics, ("return", "max_drawdown"))}


def _stress(metrics: Metrics) -> dict[str, Any]:
    """Median and 5 % quantile of returns by family and strategy, what capital does to the policy, and of each strategy the worst world."""
    found = {tuple(name.rsplit(".", 2)): value for name, value in metrics.items() if not name.startswith("capacity.")}
    families, strategies = dict.fromkeys(key[0] for key in found), sorted({key[1] for key in found})

    def grid(number: str) -> Any:
        return table([{"family": family, **{name: found.get((family, name, number)) for name in strategies}} for family in families])

    curve = {float(name.rpartition(".x")[2]): value for name, value in metrics.items() if name.startswith("capacity.policy.x")}
    worst = {f"worst.{name}.return": min(v for k, v in found.items() if k[1:] == (name, "worst")) for name in strategies}
    closed = {f"worst.{name}.liquidated": max(v for k, v in found.items() if k[1:] == (name, "liquidated")) for name in strategies}
    line = {"net Sharpe of the policy by capital": sparkline([curve[factor] for factor in sorted(curve)])} if curve else {}
    return {"median returns": grid("median"), "5 % quantile of returns": grid("q05"), **line, **finite(worst | closed)}


def _forecasts(metrics: Metrics) -> dict[str, Any]:
    """IC by fold and model, and its mean over the folds."""
    by_name: dict[str, list[float]] = {}
    for name, value in metrics.items():
        by_name.setdefault(name.split(".", 1)[-1], []).append(value)
    return {"folds": table(_grid(metrics, "fold and model")), **finite({name: sum(v) / len(v) for name, v in sorted(by_name.items())})}


def _policy(metrics: Metrics, history: History) -> dict[str, Any]:
    step = max(1, -(-len(history) // _ROWS))
    kept = [*history[:-1:step], *history[-1:]]
    updates = table([{"update": int(row.get("update", 0)), **{name: row.get(name) for name in _PPO}} for row in kept])
    lines: dict[str, Any] = {}
    for name in _PPO[:3]:
        lines |= _line(history, name)
    return {"updates": updates, "curriculum": table(_stages(history)), **lines, **finite(metrics)}


def _stages(history: History) -> list[dict[str, Any]]:
    """The stages of a curriculum, the world as configured last: their updates, what was easier, and how they ended."""
    found: dict[int, dict[str, Any]] = {}
    for row in history:
        if "stage" in row:
            of = found.setdefault(int(row["stage"]), {"stage": int(row["stage"]), "first_update": int(row["update"])})
            of |= {"last_update": int(row["update"]), **{name: row[name] for name in _COURSE}, "reward_mean": row.get("reward_mean")}
    return list(found.values())


def _line(history: History, name: str) -> dict[str, Any]:
    return {f"curve of {name}": sparkline([row[name] for row in history if name in row])}


def _grid(metrics: Metrics, of: str) -> list[dict[str, Any]]:
    """Dotted names as rows (all but the last part) and columns (the last)."""
    grid: dict[str, dict[str, Any]] = {}
    for name, value in sorted(metrics.items()):
        row, _, column = name.rpartition(".")
        grid.setdefault(row, {of: row})[column] = value
    return list(grid.values())


def _first_parts(metrics: Metrics) -> list[str]:
    return sorted({name.split(".", 1)[0] for name in metrics})


def _ending(metrics: Metrics, names: Sequence[str]) -> dict[str, float]:
    return finite({name: value for name, value in sorted(metrics.items()) if name.rpartition(".")[2] in names})


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
