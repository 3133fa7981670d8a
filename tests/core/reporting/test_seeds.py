"""The report on the policy's seeds, and on what the snapshot says otherwise than the one before."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plusultra_core.reporting import charts, figures
from plusultra_core.reporting.render import build_sections, render_report
from plusultra_core.reporting.sections import Evidence, Section
from plusultra_core.reporting.seeds import seeds


@pytest.fixture(scope="module")
def spread(make_evidence) -> Evidence:  # type: ignore[no-untyped-def]
    made: Evidence = make_evidence(other_seeds=(0.5, -1.0))
    return made


def test_every_seed_stands_in_the_table_with_the_cards_numbers_and_the_served_one_stands_out(spread: Evidence) -> None:
    table = seeds(spread.scorecard).tables[0]
    runs = {str(run["seed"]): run for run in spread.scorecard["policy"]["seeds"]["runs"]}
    assert [row[0] for row in table.rows] == ["7", "8", "9"]  # by validation
    for row in table.rows:
        run = runs[row[0]]
        assert row[2] == f"{run['valid_reward']:.4f}" and row[4].startswith(f"{run['sharpe']:.2f}".replace("-", "−"))
    assert [row[1] for row in table.rows] == ["served", "", ""] and table.marks == {0}


def test_the_words_follow_the_numbers(spread: Evidence) -> None:
    found = spread.scorecard["policy"]["seeds"]
    said = " ".join(seeds(spread.scorecard).text)
    assert f"{found['num_above_best_baseline']} of 3 lie above the best baseline" in said
    assert "more than the narrowest of their intervals is wide" in said and "the seed decides more than the dates" in said
    assert "of 3 seeds that is no more than a hint" in said
    near = copy.deepcopy(dict(spread.scorecard))
    near["policy"]["seeds"] |= {"apart": False, "rank_correlation": None}
    said = " ".join(seeds(near).text)
    assert "no more than the narrowest" in said and "decides" not in said and "cannot be told" in said


def test_seeds_that_never_trade_are_counted(spread: Evidence) -> None:
    card = copy.deepcopy(dict(spread.scorecard))
    card["policy"]["seeds"]["runs"][2]["is_flat"] = True
    assert "1 of 3 kept the policy that never trades." in seeds(card).text and "never trades" in seeds(card).tables[0].rows[2]
    for run in card["policy"]["seeds"]["runs"]:
        run["is_flat"] = True
    assert seeds(card).text == ("None of 3 seeds found a policy that validates better than never trading: seed 7, the first, is served.",)


def test_the_scatter_has_a_point_a_seed_and_the_best_baseline_as_its_line(spread: Evidence) -> None:
    found = spread.scorecard["policy"]["seeds"]
    chart = charts.seeds(found)
    assert chart is not None and chart.kind == "points" and chart.reference == found["best_baseline_sharpe"]
    points = {(series.name, series.x[0], np.float32(series.y[0])) for series in chart.series}
    names = {run["seed"]: f"seed {run['seed']}{', served' if run['is_served'] else ''}" for run in found["runs"]}
    assert points == {(names[run["seed"]], run["valid_reward"], np.float32(run["sharpe"])) for run in found["runs"]}
    assert chart.series[-1].name == "seed 7, served"  # drawn last, above the others
    layout = figures.figure(chart).layout
    for axis, values in ((layout.xaxis, [x for _, x, _ in points]), (layout.yaxis, [chart.reference, *(float(y) for _, _, y in points)])):
        assert axis.range[0] < min(values) and axis.range[1] > max(values)  # room for their names, and the line in sight
    same = [{**run, "valid_reward": 0.0, "sharpe": 0.0} for run in found["runs"]]
    assert charts.seeds({**found, "runs": same}) is None


def test_the_page_draws_them_in_both_forms(spread: Evidence, cfg: Any, tmp_path: Path) -> None:
    render_report(spread, tmp_path, cfg)
    html, text = (tmp_path / "report.html").read_text(), (tmp_path / "report.md").read_text()
    assert 'id="figure-policy_seeds"' in html and "figures/policy_seeds.png" in text
    assert (tmp_path / "figures" / "policy_seeds.png").stat().st_size > 5_000
    for page in (html, text):
        assert "Spread over seeds" in page and "3 trainings of the policy" in page


def test_one_seed_and_none_are_said_to_be_one_and_none(evidence: Evidence) -> None:
    one = seeds(evidence.scorecard)
    assert "trained once, with seed 7" in one.text[0] and len(one.tables) == 1 and not one.charts
    none = seeds({**evidence.scorecard, "policy": {"seeds": None}})
    assert "tells of no seeds" in none.text[0] and not none.tables


def quality(evidence: Evidence, cfg: Any, revisions: dict[str, Any] | None) -> Section:
    parts = build_sections(dataclasses.replace(evidence, revisions=revisions), cfg)
    return next(part for part in parts if part.identifier == "data")


def test_what_the_snapshot_revised_is_told_by_table(evidence: Evidence, cfg: Any) -> None:
    rows = [
        {"table": "series", "new": "1200", "late": "3", "revised": "7", "gone": "0"},
        {"table": "trades", "new": "0", "late": "0", "revised": "1", "gone": "2"},
    ]
    found = quality(evidence, cfg, {"previous": "dump-a", "by_table": rows})
    assert "Against the snapshot before, dump-a: 1,200 new rows; of its past 8 revised, 2 gone, 3 late." in found.text
    assert found.tables[-1].rows == (("series", "1,200", "3", "7", "0"), ("trades", "0", "0", "1", "2"))
    grown = quality(evidence, cfg, {"previous": "dump-a", "by_table": [{**rows[0], "late": "0", "revised": "0"}]})
    assert grown.text[-1].endswith("1,200 new rows; nothing of its past was changed.")


def test_a_snapshot_without_one_before_says_so_and_an_unknown_one_says_nothing(evidence: Evidence, cfg: Any) -> None:
    assert "No snapshot of this universe was taken before." in quality(evidence, cfg, {"previous": None, "by_table": []}).text
    assert "It holds the rows of the snapshot before, a, and no others." in quality(evidence, cfg, {"previous": "a", "by_table": []}).text
    assert quality(evidence, cfg, None) == quality(evidence, cfg, None) and "snapshot" not in " ".join(quality(evidence, cfg, None).text)
