"""Charts hold the scorecard's numbers, and lose no peak on the way to the screen."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from plusultra_core.artifacts import canonical_json
from plusultra_core.evaluation import metrics
from plusultra_core.reporting import charts
from plusultra_core.reporting.figures import figure
from plusultra_core.reporting.markdown import png

CONFIGS = Path(__file__).resolve().parents[3] / "configs"


@pytest.mark.parametrize("num", [1, 50, 99, 100, 101, 5000, 99_991])
def test_downsampling_keeps_the_ends_and_the_extremes(num: int) -> None:
    y = np.random.default_rng(num).normal(size=num).astype(np.float32).cumsum(dtype=np.float32)
    keep = charts.downsample(y, 100)
    assert keep.size <= 102 and keep[0] == 0 and keep[-1] == num - 1
    assert y[keep].min() == y.min() and y[keep].max() == y.max()
    assert (np.diff(keep) > 0).all()


def test_the_curves_end_where_the_table_says(evidence) -> None:  # type: ignore[no-untyped-def]
    card = evidence.scorecard
    locked = card["series"]["locked"]
    runs = {name: {"ts_ns": locked["ts_ns"], "ret": ret} for name, ret in locked["ret"].items()}
    wealth, depth = charts.equity_and_drawdown(runs, "locked", "locked window", 400)
    for name, up, down in zip(runs, wealth.series, depth.series, strict=True):
        m = card["strategies"][name]["metrics"]
        assert up.y[-1] - 1.0 == pytest.approx(m["total_return"], abs=1e-6)
        assert -down.y.min() == pytest.approx(m["max_drawdown"], abs=1e-6)
        assert (down.y >= -1.0).all() and (down.y <= 0.0).all()


def test_baselines_are_dotted_and_models_are_not() -> None:
    judged = yaml.safe_load((CONFIGS / "base" / "evaluation.yaml").read_text())
    names = (*judged["baselines"], *judged["models"])
    wealth, _ = charts.equity_and_drawdown({name: {"ts_ns": [0, 1], "ret": [0.0, 0.1]} for name in names}, "a", "b", 100)
    assert [name for name, series in zip(names, wealth.series, strict=True) if series.dashed] == judged["baselines"]


def test_the_waterfall_adds_up(evidence) -> None:  # type: ignore[no-untyped-def]
    drawn = charts.waterfall(evidence.scorecard, "policy").series[0]
    assert drawn.y[:-1].sum() == pytest.approx(drawn.y[-1], rel=1e-5)
    assert drawn.x[0] == "price gain" and drawn.x[-1] == "net"


def test_the_waterfall_begins_with_the_price_gain_also_when_the_card_was_read_from_its_artifact(evidence) -> None:  # type: ignore[no-untyped-def]
    card = json.loads(canonical_json(evidence.scorecard))
    drawn = charts.waterfall(card, "policy").series[0]
    assert drawn.x == ("price gain", "spread", "impact", "latency drift", "fees", "funding", "borrow", "net")
    terms = card["strategies"]["policy"]["costs"]["terms_ccy"]
    assert drawn.y[:3].tolist() == pytest.approx([terms[name] for name in ("price_pnl", "spread", "impact")], rel=1e-6)


def test_a_calibrated_forecast_lies_on_the_diagonal_and_pit_is_one(evidence) -> None:  # type: ignore[no-untyped-def]
    scored = evidence.scorecard["forecasts"]
    line = charts.reliability_of_levels(scored, "1").series[1]
    assert np.abs(line.y - np.array(line.x)).max() < 0.05
    assert np.abs(charts.pit(scored, "1").series[0].y - 1.0).max() < 0.5
    assert charts.coverage_by_regime(scored, "1").reference == 0.9


def test_history_has_a_line_a_fold_and_skips_what_was_not_measured() -> None:
    rows = [{"fold": f, "model": "m", "epoch": float(e), "train_loss": 1.0, "valid_loss": 2.0} for f in range(3) for e in range(4)]
    (drawn,) = charts.history("supervised", rows)
    assert len(drawn.series) == 6 and drawn.series[0].dashed
    (rewards,) = charts.history("ppo", [{"update": 0.0, "valid_reward": 1.0}, {"update": 1.0}, {"update": 2.0, "valid_reward": 3.0}])
    assert rewards.series[0].x == (0.0, 2.0)
    assert charts.history("other", [{"what": 1}]) == [] and charts.history("none", []) == []


def test_names_are_neither_markup_nor_numbers_nor_dates() -> None:
    rows = [{"name": name, "net_ccy": 1.0} for name in ("<b>x</b>", "2024", "2024-01-01", "$x^")]
    chart = charts.attribution(rows, "by_symbol", "t", "USD")
    drawn = figure(chart).to_plotly_json()
    assert "&lt;b&gt;x&lt;/b&gt;" in drawn["data"][0]["y"] and drawn["layout"]["yaxis"]["type"] == "category"
    assert png(chart, 60)[:8] == b"\x89PNG\r\n\x1a\n"


def test_a_strategy_has_one_colour_everywhere() -> None:
    assert charts.colour("policy") == charts.COLOURS["policy"]
    assert charts.colour("something") == charts.colour("something")


def test_wealth_is_drawn_from_the_one_equity_formula() -> None:
    ret = [0.1, -2.0, 0.5]
    wealth, depth = charts.equity_and_drawdown({"policy": {"ts_ns": [0, 1, 2], "ret": ret}}, "a", "b", 100)
    assert wealth.series[0].y.tolist() == metrics.equity_curve(np.array(ret)).astype(np.float32).tolist()
    assert depth.series[0].y.min() == -1.0
