"""The verdict as a person would say it: who won after costs, how sure that is, and what lost."""

from collections.abc import Mapping
from typing import Any

from plusultra_core.reporting.tables import estimate, interval, number, percent, plain, signed


def headline(card: Mapping[str, Any]) -> str:
    """One line that can be quoted."""
    verdict = card["verdict"]
    if verdict["outcome"] == "unknown":
        return "Nothing can be concluded: a model or a baseline is missing"
    if verdict["outcome"] == "idle":
        return "No model traded, so none can be compared"
    model, baseline = plain(verdict["best_model"]), plain(verdict["best_baseline"])
    return {
        "model": f"{_upper(model)} beat the best baseline, {baseline}, after costs",
        "baseline": f"The baseline {baseline} beat every model after costs",
        "undecided": f"No model can be told apart from the best baseline, {baseline}, after costs",
    }[verdict["outcome"]]


def verdict(card: Mapping[str, Any]) -> list[str]:
    """Sentences under the headline."""
    found = card["verdict"]
    span = card["span"]
    sentences = [
        f"The locked window is {span['num_bars']} bars of {card['bar']}, {span['start'][:10]} to {span['end'][:10]}; no model saw it."
    ]
    if found["outcome"] == "unknown":
        return sentences
    if idle := found.get("idle_models"):
        sentences.append(f"Never traded, and so neither won nor lost: {', '.join(plain(name) for name in idle)}.")
    for role, name in (("best model", found["best_model"]), ("best baseline", found["best_baseline"])):
        if name is not None:
            sentences.append(_track(card, role, name))
    if found["outcome"] == "idle":
        return sentences
    if found["sharpe"] and found["sharpe"]["ci"]:
        share = percent(found["sharpe"]["share_above_zero"], 0)
        low_high = interval(found["sharpe"]["ci"], number)
        sentences.append(
            f"The paired difference of the two Sharpe ratios is {signed(found['sharpe']['difference'], number)} "
            f"({_level(card)} interval {low_high}); it is above zero in {share} of the resamples."
        )
    else:
        sentences.append("The window is too short for an interval of their difference.")
    lost = _losers(card)
    if lost:
        sentences.append(f"Money was lost after costs by {lost}.")
    return sentences


def forecasts(card: Mapping[str, Any]) -> list[str]:
    """One sentence a model, at its shortest horizon."""
    sentences: list[str] = []
    for model, horizons in card["forecasts"].items():
        horizon = min(horizons, key=int)
        found = horizons[horizon]
        ahead = f"{horizon} bar{'s' if horizon != '1' else ''} ahead"
        how = "cross-sectional" if found["ic_method"] == "cross_sectional" else "pooled over time"
        sentences.append(
            f"{_upper(plain(model))}, {ahead}: IC {estimate(found['ic'], found['ic_ci'], _three)} ({how}); "
            f"CRPS {_skill(found, 'ewma')} the EWMA-volatility normal and {_skill(found, 'climatology')} climatology; "
            f"the 90 % interval held {percent(found.get('coverage_90'))} of the outcomes."
        )
    return sentences or ["No forecast could be scored."]


def _track(card: Mapping[str, Any], role: str, name: str) -> str:
    entry = card["strategies"][name]
    found = entry["metrics"]
    if found["sharpe"] is None:
        return f"The {role} is {plain(name)}, which earned {percent(found['total_return'])} (its Sharpe is taken as 0)."
    return (
        f"The {role} is {plain(name)}: Sharpe {estimate(found['sharpe'], entry['ci']['sharpe'], number)}, "
        f"{percent(found['total_return'])} in all, deepest drawdown {percent(found['max_drawdown'])}, "
        f"costs {percent(entry['costs']['cost_frac'])} of the capital, {_drift(entry['costs'])}."
    )


def _drift(costs: Mapping[str, Any]) -> str:
    """How much of the costs is no charge but what the market did before the fill: nobody bills it, and it may be a gain."""
    moved = -costs["terms_ccy"]["latency_drift"] / costs["start_equity_ccy"]
    return f"of which {percent(moved)} is the market's move between decision and fill"


def _losers(card: Mapping[str, Any]) -> str:
    lost = [(name, entry["metrics"]["total_return"]) for name, entry in card["strategies"].items()]
    return ", ".join(f"{plain(name)} ({percent(value)})" for name, value in sorted(lost, key=lambda row: row[1]) if value < 0)


def _skill(found: Mapping[str, Any], base: str) -> str:
    value, ci = found[f"skill_vs_{base}"], found[f"skill_vs_{base}_ci"]
    if value is None:
        return "without comparison to"
    size = percent(abs(value), 2)
    if ci and ci[0] > 0:
        return f"{size} better than"
    if ci and ci[1] < 0:
        return f"{size} worse than"
    return f"no different ({signed(value, lambda part: percent(part, 2))}) from"


def _level(card: Mapping[str, Any]) -> str:
    return percent(card["bootstrap"]["confidence"], 0)


def _three(value: float | None) -> str:
    return number(value, 3)


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]
