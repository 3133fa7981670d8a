"""docs/baselines.md from the results of `benchmarks/baselines.py`: tables, and who won in words."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from baselines_planted import optimum

from plusultra_core.clock import iso
from plusultra_core.evaluation import metrics
from plusultra_core.evaluation.bootstrap import percentile_interval, repeated_draws, repeated_sharpe
from plusultra_core.evaluation.scorecard import EvaluationConfig

HEAD = """# Baselines

Every strategy in the same table: same bars, same execution kernel, same costs (spread, impact, fees, funding, borrow; latency and
participation caps of the profile). Written by `python benchmarks/baselines.py --write` from what `plusultra run` left in a home; the
numbers are those of the job `trace`, as in the reports. Configs are those of the profile `{profile}`, unchanged, and whoever wins is named.

**What was run.** The last {folds} of the walk-forward's folds, each judged on its own test span in an account of its own. Supervised
forecasts come from the bundle of each fold. The policy of a fold is trained from scratch with {seeds} seeds on what lies between the
first test span and that fold's, less a purge of the longest horizon; the end of that validates, the fold's own span is read once.
Fold 2 is the first with more than one span to train on. `random` has {seeds} draws. {cpu:.0f} CPU-minutes for all policies and traces.

**Intervals** are 95 % percentiles of {reps} resamples of dates and seeds: within each fold dates are drawn in blocks (stationary
bootstrap of Politis and Romano, mean block by Politis and White), the same dates for all strategies, so that differences are paired;
of a strategy with seeds as many are drawn with replacement, anew in each fold. Folds are strata and are not drawn: they are too few to
say what another stretch of history would have brought. A Sharpe is that of the joined folds a year, the mean over seeds; a seed that
never trades counts as 0. Costs hold the drift between decision and fill, which may be a gain. `policy less it` is the policy's Sharpe
less that of the row; the intervals of a class are read at once without a correction, so that one in twenty leaves zero by luck. The
policy is promoted only where every lower end is at least {required:g}.
"""


def number(value: float, digits: int = 2) -> str:
    """A number for a table."""
    return f"{value:.{digits}f}"


def span(bounds: tuple[float, float] | None) -> str:
    """An interval, a dash where there is none."""
    return "-" if bounds is None else f"[{number(bounds[0])}, {number(bounds[1])}]"


def stacked(result: Mapping[str, Any], name: str, column: str, seeded: bool) -> list[np.ndarray]:
    """A column of a strategy by fold, (S, T_k); one row where seeds cannot matter, which is checked."""
    found = [np.array([one[name][column] for one in fold["series"]]) for fold in result["folds"]]
    if not seeded and any((fold_ST != fold_ST[0]).any() for fold_ST in found):
        raise SystemExit(f"{result['partition']}: {name} differs between seeds, though it has none; look at the trace")
    return found if seeded else [fold_ST[:1] for fold_ST in found]


class Class:
    """One partition: its strategies, their draws, and what is said of them."""

    def __init__(self, result: Mapping[str, Any], cfg: EvaluationConfig) -> None:
        self.result, self.cfg, self.year = result, cfg, float(result["periods_per_year"])
        self.names = [name for name in (*reversed(cfg.models), *cfg.baselines) if name in result["folds"][0]["series"][0]]
        self.seeded = {name: name in ("policy", "random") for name in self.names}
        self.runs = {name: stacked(result, name, "ret", self.seeded[name]) for name in self.names}
        self.draws = repeated_draws(self.runs, self.year, cfg.bootstrap, cfg.seed)
        self.sharpe = {name: repeated_sharpe(run, self.year) for name, run in self.runs.items()}
        self.ranked = sorted(self.names, key=lambda name: -self.sharpe[name])
        self.title = result["partition"].replace("|", ", ")

    def interval(self, draws: np.ndarray) -> tuple[float, float] | None:
        return percentile_interval(draws, self.cfg.bootstrap.confidence)

    def gap(self, name: str) -> tuple[float, tuple[float, float] | None]:
        """Policy less a strategy, and its interval."""
        return self.sharpe["policy"] - self.sharpe[name], self.interval(self.draws["policy"] - self.draws[name])

    def row(self, name: str) -> str:
        run, year = self.runs[name], self.year
        parts = {
            column: np.concatenate(stacked(self.result, name, column, self.seeded[name]), axis=1)
            for column in ("gross", "paid", "turnover")
        }
        joined = np.concatenate(run, axis=1)
        deepest = np.max([metrics.max_drawdown(fold_ST, year) for fold_ST in run], axis=0).mean()
        cells = [f"{number(self.sharpe[name])} {span(self.interval(self.draws[name]))}"]
        cells += [number(float(metrics.sharpe_or_zero(parts["gross"], year).mean()))]
        cells += [f"{100 * joined.mean() * year:.1f} %", f"{100 * deepest:.1f} %", number(parts["turnover"].mean() * year, 1)]
        cells += [f"{100 * parts['paid'].mean() * year:.2f} %"]
        cells += [number(repeated_sharpe([fold_ST], year)) for fold_ST in run]
        value, bounds = self.gap(name)
        cells.append("" if name == "policy" else f"{number(value)} {span(bounds)}")
        return f"| {name} | " + " | ".join(cells) + " |"

    def table(self) -> list[str]:
        """The table, by Sharpe."""
        folds = [f"fold {fold['fold']}" for fold in self.result["folds"]]
        head = [
            "strategy",
            "Sharpe, 95 %",
            "before costs",
            "return a year",
            "max drawdown",
            "turnover a year",
            "costs a year",
            *folds,
            "policy less it",
        ]
        return ["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *(self.row(name) for name in self.ranked)]

    def words(self) -> str:
        """Who won, how sure that is, and what became of the policies."""
        best = self.ranked[0]
        said = [f"**{best}** has the highest Sharpe, {number(self.sharpe[best])} {span(self.interval(self.draws[best]))}."]
        each = metrics.sharpe_or_zero(np.concatenate(self.runs["policy"], axis=1), self.year)
        place = self.ranked.index("policy") + 1
        found = f"{number(self.sharpe['policy'])} {span(self.interval(self.draws['policy']))}"
        said.append(
            f"The policy is number {place} of {len(self.ranked)}: {found}, single seeds from {number(each.min())} to {number(each.max())}."
        )
        trained = [one for fold in self.result["folds"] for one in fold["policies"]]
        flat = sum(one.get("is_flat", 0.0) == 1.0 for one in trained)
        if flat:
            said.append(f"{flat} of {len(trained)} trainings kept the policy that never trades.")
        others = {name: self.gap(name)[1] for name in self.names if name != "policy"}
        beaten = [name for name, bounds in others.items() if bounds and bounds[0] > 0]
        beats = [name for name, bounds in others.items() if bounds and bounds[1] < 0]
        if beaten:
            said.append(f"It lies above {listed(beaten)} by more than the interval.")
        if beats:
            said.append(f"It lies below {listed(beats)} by more than the interval.")
        if not beaten and not beats:
            said.append("From no other strategy can it be told apart.")
        required = self.cfg.promotion.min_gain_over_baseline
        short = [name for name in self.cfg.promotion.baselines if name in others and not (others[name] and others[name][0] >= required)]
        said.append(f"The rule of promotion refuses it: {len(short)} of {len(others)} lower ends are below {required:g}." if short else
                    "Every lower end holds: by this part of the rule it would be promoted.")  # fmt: skip
        return " ".join(said)

    def section(self) -> str:
        """The section of the page."""
        times = "; ".join(
            f"fold {fold['fold']}: {iso(fold['span'][0])[:10]} to {iso(fold['span'][1])[:10]}" for fold in self.result["folds"]
        )
        num_bars = sum(len(fold["series"][0]["no_trade"]["ret"]) for fold in self.result["folds"])
        facts = f"{self.result['num_symbols']} symbols, {num_bars} bars of {self.result['bar']}; {times}."
        return "\n".join([f"## {self.title}", "", f"{facts} {self.words()}", "", *self.table(), ""])


def listed(names: Sequence[str]) -> str:
    """Names in a sentence."""
    return ", ".join(f"`{name}`" for name in names)


def summary(classes: Sequence[Class]) -> str:
    """One row a class: who won, and how the policy stands."""
    lines = ["| class | highest Sharpe | policy | number | above by more than the interval | below |", "|" + "---|" * 6]
    for one in classes:
        others = {name: one.gap(name)[1] for name in one.names if name != "policy"}
        better = listed([name for name, bounds in others.items() if bounds and bounds[0] > 0]) or "nobody"
        worse = listed([name for name, bounds in others.items() if bounds and bounds[1] < 0]) or "nobody"
        best = one.ranked[0]
        cells = [
            one.title,
            f"{best} {number(one.sharpe[best])}",
            f"{number(one.sharpe['policy'])} {span(one.interval(one.draws['policy']))}",
        ]
        lines.append("| " + " | ".join([*cells, f"{one.ranked.index('policy') + 1} of {len(one.ranked)}", better, worse]) + " |")
    return "\n".join(lines)


def write_page(path: Path, results: Sequence[Mapping[str, Any]], cfg: EvaluationConfig) -> None:
    """Write the page from all results."""
    order = ("equity", "etf", "forex", "crypto_perpetual")
    known = sorted(results, key=lambda one: (order.index(name) if (name := one["partition"].split("|")[0]) in order else len(order), name))
    classes = [Class(one, cfg) for one in known]
    cpu_s = sum(one["cpu_s"] for result in known for fold in result["folds"] for one in fold["policies"])
    head = HEAD.format(
        folds=max(len(one["folds"]) for one in known), seeds=known[0]["seeds"], profile=known[0]["profile"], cpu=cpu_s / 60,
        reps=f"{cfg.bootstrap.reps:,}", required=cfg.promotion.min_gain_over_baseline,
    )  # fmt: skip
    page = "\n".join([head, summary(classes), "", *(one.section() for one in classes), optimum(known[0]["seeds"])])
    path.write_text(page.rstrip() + "\n")
