"""Stages come first, the world as configured comes last; costs grow with their factor; a person may look before."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plusultra_core.errors import ConfigError
from plusultra_core.rl.curriculum.__main__ import main
from plusultra_core.rl.curriculum.stages import StageConfig, cheaper, plan, preview, stage_of
from plusultra_core.rl.env import TradingEnv

FREE = StageConfig(num_updates=3, episode_bars=8, window_bars=4, gamma=0.5, cost_factor=0.0)
HALF = StageConfig(num_updates=2, episode_bars=16, window_bars=0, gamma=0.9, cost_factor=0.5)


def test_stages_follow_each_other_and_the_whole_world_is_last() -> None:
    stages = plan((FREE, HALF), 10, 64, 0.95)
    assert [(stage.first, stage.last) for stage in stages] == [(0, 3), (3, 5), (5, 10)]
    assert [stage_of(stages, update).number for update in range(10)] == [0, 0, 0, 1, 1, 2, 2, 2, 2, 2]
    assert stages[-1][3:] == (64, 0, 0.95, 1.0)
    assert plan((), 10, 64, 0.95)[0][1:3] == (0, 10)


def test_stages_must_leave_updates_for_the_whole_world() -> None:
    with pytest.raises(ConfigError, match="take 5 of 5 updates"):
        plan((FREE, HALF), 5, 64, 0.95)
    with pytest.raises(ConfigError, match="cost_factor in"):
        StageConfig(num_updates=1, episode_bars=8, window_bars=0, gamma=0.9, cost_factor=2.0)


def test_a_cheaper_world_costs_its_part(lab: Any) -> None:
    """The same actions from the same bars; what is left at a factor grows as costs fall, and without costs nothing is lost to them."""
    world = lab.world(half_spread_bps=20.0)
    equity = {}
    for factor in (0.0, 0.5, 1.0):
        env = TradingEnv(cheaper(world, factor), 4, None, 50, 0.0, lab.run.reward)
        env.start_at(np.arange(4), np.full(4, 10))
        for t in range(30):
            env.step(np.full(4, 0.5 * (-1.0) ** t), None)
        equity[factor] = env.env.accounts.equity_E.copy()
    assert np.all(equity[0.0] > equity[0.5])
    assert np.all(equity[0.5] > equity[1.0])
    lost = [(equity[0.0] - equity[factor]).mean() for factor in (0.5, 1.0)]
    assert lost[1] / lost[0] == pytest.approx(2.0, abs=0.15)
    assert cheaper(world, 1.0) is world


def test_a_preview_counts_samples_and_horizons() -> None:
    rows = preview(plan((FREE, HALF), 10, 64, 0.95), 100)
    assert [row["samples"] for row in rows] == [300, 200, 500]
    assert [row["horizon_bars"] for row in rows] == pytest.approx([2.0, 10.0, 20.0])


def test_the_table_of_stages_is_printed_before_anything_runs(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (root / "configs" / "base" / "rl.yaml").read_text()
    stage = "{num_updates: 20, episode_bars: 16, window_bars: 8, gamma: 0.9, cost_factor: 0.25}"
    text = text.replace("stages: []", f"stages: [{stage}]").replace(
        "cvar: {kind: constant, start: 0.0, end: 0.0}", "cvar: {kind: cosine, start: 0.0, end: 0.5}"
    )
    path = tmp_path / "rl.yaml"
    path.write_text(text)
    assert main([str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == [
        "stage",
        "first_update",
        "last_update",
        "samples",
        "episode_bars",
        "window_bars",
        "horizon_bars",
        "cost_factor",
    ]
    assert lines[1].split() == ["0", "1", "20", "163840", "16", "8", "10", "0.25"]
    assert lines[2].split() == ["1", "21", "100", "655360", "64", "0", "20", "1"]
    assert lines[3] == "risk.cvar: cosine from 0 to 0.5"
    assert main([]) == 2
    assert main([str(tmp_path / "no.yaml")]) == 1
    assert "cannot be read" in capsys.readouterr().err
