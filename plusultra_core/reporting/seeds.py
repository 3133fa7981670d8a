"""The section on the policy's seeds: one is served, all are shown."""

from collections.abc import Mapping
from typing import Any

from plusultra_core.reporting import charts
from plusultra_core.reporting.sections import Section
from plusultra_core.reporting.tables import Table, count, estimate, number, percent, plain, signed, small

TITLE = "The policy's seeds"
_FEW = 10
"""Below so many seeds a rank correlation is no more than a hint."""


def seeds(card: Mapping[str, Any]) -> Section:
    """Every training of the policy on the locked window, and whether the choice by validation was worth anything there."""
    found = card["policy"]["seeds"]
    if found is None:
        return Section(
            "seeds", TITLE, text=("The trace tells of no seeds: of the policy one training is judged, and nothing is known of others.",)
        )
    if found["num_seeds"] == 1:
        alone = f"The policy was trained once, with seed {found['served']}: nothing is known of what another seed would have earned."
        return Section("seeds", TITLE, text=(alone,), tables=(_table(found),))
    drawn = charts.seeds(found)
    notes = (
        "The seed is served that validated best; of the locked window nothing is read for that, not even between equals. Intervals are of "
        "dates. Each seed is a trial of the ledger. A seed that never trades has Sharpe 0.",
    )
    return Section("seeds", TITLE, tuple(_words(found)), (drawn,) if drawn else (), (_table(found), _spread(found)), notes)


def _words(found: Mapping[str, Any]) -> list[str]:
    num, spread = found["num_seeds"], found["sharpe"]
    flat = sum(run["is_flat"] for run in found["runs"])
    if flat == num:
        return [
            f"None of {num} seeds found a policy that validates better than never trading: seed {found['served']}, the first, is served."
        ]
    said = [
        f"The policy was trained with {num} seeds, and seed {found['served']} is served. On the locked window its Sharpe is "
        f"{number(spread['served'])}; over all seeds the median is {number(spread['median'])}, the mean {number(spread['mean'])}, from "
        f"{number(spread['least'])} to {number(spread['most'])}."
    ]
    if flat:
        said.append(f"{flat} of {num} kept the policy that never trades.")
    if found["best_baseline"] is not None:
        said.append(f"{found['num_above_best_baseline']} of {num} lie above the best baseline, {plain(found['best_baseline'])}.")
    gap, width = found["sharpe_gap"], found["narrowest_interval"]
    if gap is not None and width is not None:
        more, so = ("more", ": the seed decides more than the dates") if found["apart"] else ("no more", "")
        said.append(f"Best and worst lie {number(gap)} apart, {more} than the narrowest of their intervals is wide, {number(width)}{so}.")
    said.append(_worth(found["rank_correlation"], num))
    return said


def _worth(correlation: float | None, num: int) -> str:
    if correlation is None:
        return "Whether a better validation means a better Sharpe cannot be told from so few seeds, or from equal ones."
    hint = f"; of {num} seeds that is no more than a hint" if num < _FEW else ""
    return f"The rank correlation of validation and locked Sharpe is {signed(correlation, number)}{hint}."


def _table(found: Mapping[str, Any]) -> Table:
    runs = sorted(found["runs"], key=lambda run: (-run["valid_reward"], run["seed"]))
    rows = tuple(
        (
            str(run["seed"]),
            "served" if run["is_served"] else "",
            small(run["valid_reward"]),
            "never trades" if run["is_flat"] else count(run["update"]),
            estimate(run["sharpe"], run["sharpe_ci"], number),
            percent(run["total_return"]),
            percent(run["max_drawdown"]),
            number(run["turnover_year"], 1),
        )
        for run in runs
    )
    columns = ("seed", "", "validation", "kept update", "Sharpe", "total return", "max drawdown", "turnover / year")
    marks = frozenset(row for row, run in enumerate(runs) if run["is_served"])
    note = "Validation: reward a bar over the end of the training span. Kept update: the one that validated best."
    return Table("Seeds on the locked window, best validation first", columns, rows, text_columns=2, marks=marks, note=note)


def _spread(found: Mapping[str, Any]) -> Table:
    forms = {
        "valid_reward": ("validation", small),
        "sharpe": ("Sharpe", number),
        "total_return": ("total return", percent),
        "max_drawdown": ("max drawdown", percent),
        "turnover_year": ("turnover / year", lambda value: number(value, 1)),
    }
    names = ("served", "mean", "median", "std", "least", "most")
    rows = tuple((title, *(form(found[key][name]) for name in names)) for key, (title, form) in forms.items())
    return Table("Spread over seeds", ("", "served", "mean", "median", "deviation", "least", "most"), rows)
