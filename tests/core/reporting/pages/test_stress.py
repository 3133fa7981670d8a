"""The stress page: complete, self-contained, the same bytes, and it says how each strategy decided."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from plotly.offline import get_plotlyjs

from plusultra_core.reporting.charts import Chart, Series
from plusultra_core.reporting.figures import figure
from plusultra_core.reporting.pages.stress import HTML, capacity_end, described, headline, render_stress, sentences
from plusultra_core.reporting.tables import percent

STRATEGIES = ("no_trade", "buy_and_hold", "policy", "odd<script>")
FAMILIES = {"calm": 1, "crash": 3, "bootstrap": 25}
EVENT = {"kind": "gap", "scope": "market", "size_frac": [-0.35, -0.1], "at_frac": [0.1, 0.9], "num_events": 1, "num_bars": 1}
TERMS = ("price_pnl", "spread", "impact", "latency_drift", "fees", "funding", "borrow", "turnover")


def numbers(family: str, ret: np.ndarray) -> dict[str, Any]:
    levels = {"q05": 0.05, "q25": 0.25, "median": 0.5, "q75": 0.75, "q95": 0.95}
    return {
        "decides": "calm_targets" if family == "bootstrap" else "closed_loop",
        **{key: float(np.quantile(ret, q)) for key, q in levels.items()},
        "worst": float(ret.min()),
        "worst_world": f"{family}/0",
        "max_drawdown_median": 0.1,
        "max_drawdown_worst": 0.25,
        "liquidated": 0.04 if family == "bootstrap" else 0.0,
        "halted": 0.0,
        "terms": dict.fromkeys(TERMS, 0.01),
    }


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the stress job publishes, in small."""
    folder, rng = tmp_path_factory.mktemp("stress"), np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    fans: list[dict[str, Any]] = []
    entries: dict[str, Any] = {}
    for family, num_worlds in FAMILIES.items():
        entries[family] = {"num_worlds": num_worlds, "replaced": family == "bootstrap", "made_of": {}, "strategies": {}}
        for name in STRATEGIES:
            ret = np.zeros(num_worlds) if name == "no_trade" else rng.normal(-0.05, 0.1, num_worlds)
            entries[family]["strategies"][name] = numbers(family, ret)
            rows += [{"family": family, "world": f"{family}/{i}", "strategy": name, "ret": float(r)} for i, r in enumerate(ret)]
            for k in range(5):
                level = 1.0 + k * float(ret.mean())
                q = {f"q_{p:02d}": level + 0.001 * k * p for p in (5, 25, 50, 75, 95)}
                fans.append({"family": family, "strategy": name, "ts_ns": (1_600_000_000 + 86_400 * k) * 10**9, **q, "worst": level - 0.1})
    entries["crash"]["made_of"] = {"factors": {"spread": [3.0, 3.0], "sigma": [2.0, 5.0]}, "events": [EVENT]}
    curve = [{"capital_ccy": c, "sharpe": s, "ret": 0.0, "cost": 0.01, "turnover": 1.0} for c, s in ((1e5, 1.0), (1e6, 0.5), (1e7, -0.5))]
    summary = {
        "asset_class": "equity",
        "span": {"start_ns": 1_600_000_000 * 10**9, "end_ns": 1_600_345_600 * 10**9, "num_bars": 5},
        "history": {"start_ns": 1_500_000_000 * 10**9, "num_bars": 900, "eligible": 880},
        "initial_capital_ccy": 1e6,
        "num_worlds": 31,
        "strategies": list(STRATEGIES),
        "order": list(FAMILIES),
        "families": entries,
        "left_out": ["funding_spikes"],
        "short_history": [{"symbol": "NEW<b>", "num_bars": 3, "first_ns": 1_599_700_000 * 10**9}],
        "crises": [{"rule": "drawdown", "start_ns": 1_510_000_000 * 10**9, "end_ns": 1_512_000_000 * 10**9, "size": 0.2}],
        "capacity": dict.fromkeys(STRATEGIES, curve),
    }
    (folder / "stress.json").write_text(json.dumps(summary))
    pl.DataFrame(rows).write_parquet(folder / "stress.parquet")
    pl.DataFrame(fans).write_parquet(folder / "fans.parquet")
    return folder


def summary_of(artifact: Path) -> dict[str, Any]:
    return dict(json.loads((artifact / "stress.json").read_text()))


def test_the_page_is_complete_self_contained_and_the_same_twice(artifact: Path, tmp_path: Path) -> None:
    render_stress(artifact, tmp_path / "a")
    render_stress(artifact, tmp_path / "b")
    text = (tmp_path / "a" / HTML).read_text()
    assert text == (tmp_path / "b" / HTML).read_text()
    rest = text.replace(get_plotlyjs(), "")
    assert text.count(get_plotlyjs()) == 1
    assert not re.search(r"\ssrc=|url\(|@import|<link", rest)
    ids = re.findall(r'\sid="([^"]+)"', rest)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', rest)) <= set(ids)
    for family in ("crash", "bootstrap"):
        assert f'id="family-{family}"' in text
        assert f'data-for="figure-family-{family}-ends"' in text
    assert rest.count('class="plot-data"') == 3 + 2 * (1 + 3)  # maps and capacity; of each family its ends and a fan a strategy
    assert "odd<script>" not in text


def test_it_says_who_decided_how_and_what_was_left_out(artifact: Path, tmp_path: Path) -> None:
    render_stress(artifact, tmp_path)
    text = (tmp_path / HTML).read_text()
    assert "calm targets" in text
    assert "closed loop" in text
    told = " ".join(sentences(summary_of(artifact)))
    assert "no forecast was ever made" in told
    assert "Closed by force in some worlds: " in told
    assert "policy is no longer positive at a capital of 10,000,000" in told
    assert "funding spikes" in told
    assert "not counted on in it: NEW<b> (3 bars, from 2020-09-10 on)." in told
    assert "NEW<b>" not in text
    assert headline(summary_of(artifact)).startswith("In the worst of 31 worlds: policy ")


def test_who_no_longer_trades_at_a_capital_is_not_said_to_lose_there(artifact: Path) -> None:
    summary = summary_of(artifact)
    for point in summary["capacity"]["policy"][2:]:
        point |= {"sharpe": 0.0, "turnover": 0.0}
    assert "positive at a capital of 10,000,000: nothing is traded there." in " ".join(sentences(summary))


def test_a_family_is_told_by_what_it_is_made_of(artifact: Path) -> None:
    entry = summary_of(artifact)["families"]["crash"]
    assert (
        described("crash", entry)
        == "Spread x3; volatility x2 to x5; a move of the whole market of −35\u00a0% to −10\u00a0% before an open."
    )
    assert "random blocks" in described("bootstrap", {"made_of": {}})


def test_capacity_ends_where_a_positive_sharpe_is_lost_and_not_where_none_was() -> None:
    def curve(*sharpes: float) -> list[dict[str, float]]:
        return [{"capital_ccy": 10.0**k, "sharpe": value} for k, value in enumerate(sharpes)]

    assert capacity_end(curve(1.0, 0.2, -0.1)) == 100.0
    assert capacity_end(curve(-1.0, -2.0)) is None
    assert capacity_end(curve(1.0, 0.5)) is None


def test_many_outcomes_are_a_violin_and_few_are_points_and_fans_have_their_bands() -> None:
    few, many = (Series(f"s{n}", (), np.zeros(n, np.float32), "#2f6fed", notes=("a",) * n) for n in (5, 30))
    kinds = [trace.type for trace in figure(Chart("x", "x", "spread", (few, many))).data]
    assert kinds == ["box", "violin"]
    y = np.ones(3, np.float32)
    band = Series("", ("a", "b", "c"), y, "#2f6fed", low=y - 1, high=y + 1)
    drawn = figure(Chart("y", "y", "fan", (band, Series("median", ("a", "b", "c"), y, "#2f6fed"))))
    assert [trace.fill for trace in drawn.data] == ["toself", None]
    assert list(drawn.data[0].y) == [2.0, 2.0, 2.0, 0.0, 0.0, 0.0]


def test_a_model_that_never_traded_does_not_head_the_page(artifact: Path) -> None:
    summary = summary_of(artifact)
    summary["strategies"].append("sized_hybrid")
    for family in summary["families"].values():
        family["strategies"]["sized_hybrid"] = {**family["strategies"]["policy"], "worst": -0.4}
    assert "policy" in headline(summary) and "sized hybrid" not in headline(summary)
    assert not any("Never traded" in line for line in sentences(summary))
    for family in summary["families"].values():
        family["strategies"]["policy"] |= {"worst": 0.0, "terms": dict.fromkeys(TERMS, 0.0)}
    assert "policy" not in headline(summary) and f"sized hybrid {percent(-0.4)}" in headline(summary)
    assert "Never traded in any world, and so lost nothing: policy." in sentences(summary)


def test_gains_of_a_stretched_window_are_called_what_they_are(artifact: Path) -> None:
    summary = summary_of(artifact)
    for family in summary["families"].values():
        for found in family["strategies"].values():
            found["median"] = -0.1
    assert not any("stretched" in line for line in sentences(summary))
    summary["families"]["bootstrap"]["strategies"]["policy"]["median"] = 0.9  # not stretched: other bars
    assert not any("stretched" in line for line in sentences(summary))
    summary["families"]["crash"]["strategies"]["policy"]["median"] = 0.5
    told = [line for line in sentences(summary) if "stretched" in line]
    assert len(told) == 1 and f"policy has a median of {percent(0.5)} in crash, {percent(-0.1)} in the calm world" in told[0]
