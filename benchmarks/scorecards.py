"""Write docs/scorecards.md, and its summary in the README, from scorecards: `python benchmarks/scorecards.py CARD.json ...`.

The page says what `plusultra run` found, whatever it says; the numbers are those of the report.
"""

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
OPEN, CLOSE = "<!-- scorecard -->", "<!-- /scorecard -->"
COLUMNS = ("sharpe", "cagr", "max_drawdown", "calmar", "hit_rate", "turnover_year", "cvar_95_historical")
HEAD = """# Scorecards

What the whole graph found on the real dumps, profile `base`, after all costs. Every strategy runs through the same
execution kernel over the same locked window, the test span of the last walk-forward fold; brackets are 95 % intervals of
a stationary block bootstrap of dates. Of the policy that seed of three is judged which validated best, of `random` one draw:
no interval knows of seeds; the others are named below the table, and [baselines](baselines.md) has five of each. Forecasts are
scored on the test spans of all folds, not on the locked window alone.
Written by `python benchmarks/scorecards.py data/artifacts/scorecard/*/scorecard.json` after `plusultra run` of each dump; the dumps
hold prices of others and are not shipped. `make demo` makes a scorecard of prices that are.
"""


def number(value: Any, digits: int = 2) -> str:
    """A number for a table, a dash for what is not defined."""
    return "-" if value is None else f"{value:.{digits}f}"


def interval(bounds: Any, digits: int = 2) -> str:
    """An interval, a dash where there is none."""
    return "-" if not bounds else f"[{bounds[0]:.{digits}f}, {bounds[1]:.{digits}f}]"


def verdict(card: dict[str, Any]) -> str:
    """Who won, in a sentence."""
    found = card["verdict"]
    if not found["sharpe"]:
        return "No model traded." if found["outcome"] == "idle" else "No model and baseline could be compared."
    gap = f"{number(found['sharpe']['difference'])} {interval(found['sharpe']['ci'])}"
    pair = f"best model `{found['best_model']}`, best baseline `{found['best_baseline']}`, difference of Sharpe {gap}"
    words = {"model": "The model beats the baseline", "baseline": "The model loses to the baseline"}
    return f"{words.get(found['outcome'], 'No model can be told apart from the best baseline')}: {pair}."


def page(card: dict[str, Any]) -> str:
    """The section of one scorecard."""
    span = card["span"]
    lines = [f"## {card['asset_class']}, {card['snapshot']}", ""]
    lines += [f"Locked window {span['start']} to {span['end']}, {span['num_bars']} bars of {card['bar']}. {verdict(card)}", ""]
    lines += ["| strategy | Sharpe | 95 % | CAGR | max drawdown | Calmar | hit rate | turnover a year | CVaR 95 | PSR |", "|" + "---|" * 10]
    for name in (*card["models"], *card["baselines"]):
        entry = card["strategies"][name]
        metrics = entry["metrics"]
        cells = [number(metrics.get("sharpe")), interval(entry["ci"].get("sharpe"))]
        cells += [number(metrics.get(column), 4 if column.startswith("cvar") else 2 if column != "cagr" else 3) for column in COLUMNS[1:]]
        lines.append(f"| {name} | " + " | ".join([*cells, number(entry["psr"])]) + " |")
    lines += [
        "",
        "| forecast | horizon | IC | 95 % | rank IC | CRPS | skill against climatology | against EWMA | coverage 90 |",
        "|" + "---|" * 9,
    ]
    for model, horizons in card["forecasts"].items():
        for horizon, scores in sorted(horizons.items(), key=lambda item: int(item[0])):
            cells = [number(scores["ic"], 3), interval(scores["ic_ci"], 3), number(scores["rank_ic"], 3), number(scores["crps"], 4)]
            cells += [number(scores[f"skill_vs_{peer}"], 4) for peer in ("climatology", "ewma")]
            lines.append(f"| {model} | {horizon} | " + " | ".join([*cells, number(scores["coverage_90"], 3)]) + " |")
    lines += seeds(card)
    walked = card["walk_forward"]
    lines += ["", "Over all test spans, refitted each fold: "]
    lines[-1] += "; ".join(
        f"{name} Sharpe {number(entry['metrics']['sharpe'])} {interval(entry['ci'].get('sharpe'))}" for name, entry in walked.items()
    )
    lines[-1] += "."
    lines += ["", *(f"- {text}" for text in card["warnings"]), ""]
    return "\n".join(lines)


def seeds(card: dict[str, Any]) -> list[str]:
    """The policy's seeds in a sentence; nothing of a scorecard with one or none."""
    found = card.get("policy", {}).get("seeds")
    if not found or found["num_seeds"] < 2:
        return []
    runs = "; ".join(
        f"{run['seed']}{' (served)' if run['is_served'] else ''} {number(run['sharpe'])} {interval(run['sharpe_ci'])}, "
        f"validated at {number(run['valid_reward'], 4)}"
        for run in found["runs"]
    )
    spread, above = found["sharpe"], f"{found['num_above_best_baseline']} of {found['num_seeds']} above `{found['best_baseline']}`"
    return ["", f"Sharpe of the policy by seed: {runs}. Median {number(spread['median'])}, mean {number(spread['mean'])}, {above}."]


def summary(cards: list[dict[str, Any]]) -> str:
    """One column a class for the README, one row a strategy: strategies have come to be more than classes."""
    names = list(dict.fromkeys(name for card in cards for name in (*card["models"], *card["baselines"]) if name != "no_trade"))
    heads = [f"{card['asset_class']}, {card['span']['start'][:10]} to {card['span']['end'][:10]}" for card in cards]
    lines = ["| Sharpe, 95 % | " + " | ".join(heads) + " |", "|" + "---|" * (len(cards) + 1)]
    lines += [f"| {name} | " + " | ".join(sharpe(card["strategies"].get(name)) for card in cards) + " |" for name in names]
    firsts = [card["forecasts"]["hybrid"]["1"] for card in cards]
    lines.append(
        "| IC of hybrid, 1 bar, all test spans | "
        + " | ".join(f"{number(first['ic'], 3)} {interval(first['ic_ci'], 3)}" for first in firsts)
        + " |"
    )
    words = {"idle": "no model traded"}
    lines.append("| who won | " + " | ".join(words.get(found := card["verdict"]["outcome"], found) for card in cards) + " |")
    return "\n".join(lines)


def sharpe(entry: dict[str, Any] | None) -> str:
    """Sharpe with its interval, a dash where the strategy never traded."""
    return f"{number(entry['metrics']['sharpe'])} {interval(entry['ci'].get('sharpe'))}" if entry else "-"


def main(arguments: list[str]) -> None:
    """Write the page and the README's table."""
    cards = [json.loads(Path(path).read_text()) for path in arguments]
    (ROOT / "docs" / "scorecards.md").write_text("\n".join([HEAD, *map(page, cards)]).rstrip() + "\n")
    readme = ROOT / "README.md"
    before, rest = readme.read_text().split(OPEN)
    after = rest.split(CLOSE)[1]
    readme.write_text(f"{before}{OPEN}\n{summary(cards)}\n{CLOSE}{after}")


if __name__ == "__main__":
    main(sys.argv[1:])
