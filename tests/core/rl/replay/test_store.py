"""What is learned from again: old rollouts of a capped age, weighed and told of, the same bytes after a kill."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from plusultra_core.errors import ConfigError
from plusultra_core.rl.curriculum.stages import CurriculumConfig, StageConfig
from plusultra_core.rl.learning.learner import Alone
from plusultra_core.rl.ppo import _standardised, update
from plusultra_core.rl.replay.store import Replay, ReplayConfig
from plusultra_core.rl.reward import RewardScale
from plusultra_core.rl.rollout import Rollout, collect
from plusultra_core.rl.train import Trained, make_env, make_learner, train_policy
from plusultra_core.rl.world import Spans

ON = ReplayConfig(max_age=2, max_ratio=1.0, num_trajectories=2)
SPANS = Spans((0, 300), (300, 400))


class Stop:
    """Progress that stops the run at a given report."""

    def __init__(self, stop_at: int) -> None:
        self.left = stop_at

    def report(self, message: str, **numbers: float) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def train(lab: Any, place: Path, run: Any, stop_at: int = -1) -> Trained:
    world = lab.world()
    return train_policy(run, lab.place(world, SPANS, run), lab.policy(world, run=run), place, Stop(stop_at))


def begun(lab: Any, run: Any = None) -> tuple[Any, Any]:
    run, world = run or lab.run, lab.world()
    learner, env = make_learner(run, lab.policy(world, run=run), Alone()), make_env(run, world, 32, (0, 200), 20)
    env.reset(np.random.default_rng(0))
    return learner, env


def gather(replay: Replay, number: int, learner: Any, env: Any, scale: RewardScale | None = None) -> Rollout:
    return replay.collect(number, learner, env, 16, 0.9, 0.9, np.random.default_rng(number), scale)[0]


def test_switched_off_a_rollout_is_what_it_was(lab: Any) -> None:
    replay, (learner, env), (twin, other) = Replay(lab.run.replay), begun(lab), begun(lab)
    for number in range(2):
        found = gather(replay, number, learner, env)
        plain, _ = collect(twin, other, 16, 0.9, 0.9, np.random.default_rng(number))
        assert all(torch.equal(a, b) for a, b in zip(found[:7], plain[:7], strict=True))
        assert found.weight_B is None
        assert replay.fresh_obs(found) is found.obs_BP
    assert replay.row == {}


def test_before_the_policy_moves_old_samples_count_as_new_ones(lab: Any) -> None:
    """Beside each other stand the very samples of both rollouts, all with weight 1."""
    replay, (learner, env), (twin, other) = Replay(ON), begun(lab), begun(lab)
    plain = [collect(twin, other, 16, 0.9, 0.9, np.random.default_rng(number))[0] for number in range(2)]
    gather(replay, 0, learner, env)
    found = gather(replay, 1, learner, env)
    for name in ("u_B", "logprob_B", "advantage_B", "return_B", "heard_B"):
        columns = getattr(found, name).view(16, 64).split(32, dim=1)
        for a, b in zip(columns, (plain[1], plain[0]), strict=True):
            assert torch.allclose(a.flatten(), getattr(b, name), rtol=0, atol=1e-5), name
    assert torch.equal(found.weight_B, torch.ones(1024))
    assert torch.equal(replay.fresh_obs(found), plain[1].obs_BP)
    assert replay.row == {"replay_age": 0.5, "replay_ratio": 1.0, "replay_ess": 1.0}


@pytest.mark.parametrize("max_ratio", [1.0, 3.0])
def test_weights_are_ratios_of_densities_cut_at_the_most_that_is_allowed(lab: Any, max_ratio: float) -> None:
    replay, (learner, env) = Replay(replace(ON, max_ratio=max_ratio)), begun(lab)
    first = gather(replay, 0, learner, env)
    update(learner, first, replace(lab.run.ppo, clip_coef=10.0), np.random.default_rng(5))
    found = gather(replay, 1, learner, env)
    weight, then = found.weight_B.view(16, 64), first.logprob_B.view(16, 32)
    now = found.logprob_B.view(16, 64)[:, 32:]
    ratio = torch.where(first.heard_B.view(16, 32) > 0, (now.double() - then.double()).exp(), 1.0)
    assert torch.equal(weight[:, :32], torch.ones(16, 32))
    assert torch.allclose(weight[:, 32:].double(), ratio.clamp_max(max_ratio), atol=1e-6)
    assert float(ratio.max()) > 1.01
    assert float(ratio.min()) < 0.99
    assert replay.row["replay_ratio"] == pytest.approx(float(ratio.clamp_max(max_ratio).mean()), rel=1e-6)
    assert replay.row["replay_ess"] == pytest.approx(float(ratio.sum() ** 2 / ratio.square().sum()) / 512, rel=1e-6)
    assert update(learner, found, lab.run.ppo, np.random.default_rng(6))["ratio_first"] == 0.0


def test_what_is_too_old_or_too_many_is_dropped(lab: Any) -> None:
    learner, env = begun(lab)
    for cfg, expected in ((replace(ON, num_trajectories=9), [0.0, 0.5, 1.0, 1.0]), (replace(ON, num_trajectories=1), [0.0, 0.5, 0.5, 0.5])):
        replay, ages = Replay(cfg), []
        for number in range(4):
            gather(replay, number, learner, env)
            ages.append(replay.row["replay_age"])
        assert ages == expected
    for number, clear in ((9, False), (10, False), (11, True)):
        if clear:
            replay.forget()
        gather(replay, number, learner, env)
        assert replay.row["replay_age"] == (0.5 if number == 10 else 0.0), number


def test_old_rewards_are_told_in_the_units_of_now(lab: Any) -> None:
    """The scale moves with new rewards alone, once."""
    replay, scale, (learner, env) = Replay(ON), RewardScale(32), begun(lab)
    plain, (twin, other) = RewardScale(32), begun(lab)
    for number in range(2):
        found = gather(replay, number, learner, env, scale)
        collect(twin, other, 16, 0.9, 0.9, np.random.default_rng(number), plain)
    assert np.array_equal(scale.state["moments"], plain.state["moments"])
    old = gather(Replay(ON), 0, *begun(lab))
    value = learner.review(replay._kept[1][1].record, replay._kept[1][1].ended_TE, None).value_TE
    assert torch.allclose(old.value_B, torch.from_numpy(value).flatten(), atol=1e-6)
    gap = (found.advantage_B.view(16, 64)[-1, 32:] + torch.from_numpy(value)[-1]).double().numpy()
    kept = replay._kept[1][1]
    expected = scale.in_units(kept.reward_TE)[-1] + 0.9 * np.where(kept.terminated_TE[-1], 0.0, kept.record.next_TE[-1])
    assert gap == pytest.approx(expected, abs=1e-5)


def test_advantages_are_centred_before_they_are_weighed() -> None:
    """So that a constant in the advantage moves nothing."""
    made = torch.Generator().manual_seed(0)
    advantage, weight = torch.randn(500, generator=made), torch.rand(500, generator=made)
    heard, none = (torch.rand(500, generator=made) < 0.8).float(), torch.zeros(500)
    rollout = Rollout(none[:, None], none, none, none, advantage, none, heard, weight_B=weight)
    found = _standardised(rollout, Alone())
    assert torch.allclose(found, _standardised(rollout._replace(advantage_B=advantage + 7.0), Alone()), atol=1e-5)
    assert float((found * heard).sum()) == pytest.approx(0.0, abs=1e-4)
    assert float((found**2 / weight * heard).sum() / (weight * heard).sum()) == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize(("recipe", "num_workers"), [({}, 1), ({}, 2), ({"memory": "gru"}, 1), ({"head": "dirichlet"}, 1)])
def test_a_killed_run_ends_with_the_bytes_of_one_that_was_not(lab: Any, tmp_path: Path, recipe: dict[str, str], num_workers: int) -> None:
    """Killed after the second update, with two rollouts kept; ratios begin at 1 for every policy."""
    run = lab.recipe(**recipe, norm_obs="running" if recipe else "train_span")
    run = replace(run, replay=ON, train=replace(run.train, num_accounts=16, num_steps=16, num_workers=num_workers))
    whole = train(lab, tmp_path / "whole.pt", run)
    with pytest.raises(KeyboardInterrupt):
        train(lab, tmp_path / "p.pt", run, stop_at=3)
    resumed = train(lab, tmp_path / "p.pt", run)
    assert resumed.history == whole.history
    assert all(torch.equal(resumed.tensors[name], tensor) for name, tensor in whole.tensors.items())
    assert all(row["ratio_first"] == 0.0 for row in whole.history[1:])
    assert [row["replay_age"] for row in whole.history[1:]] == [0.0, 0.5, 1.0, 1.0]
    assert all(0.0 < row["replay_ess"] < 1.0 for row in whole.history[2:])


def test_without_replay_nobody_tells_of_it_and_with_it_the_first_update_is_the_same(lab: Any, tmp_path: Path) -> None:
    run = lab.changed(num_accounts=16, num_steps=16)
    off, on = (train(lab, tmp_path / name, replace(run, replay=cfg)) for name, cfg in (("off.pt", lab.run.replay), ("on.pt", ON)))
    assert all("replay_age" not in row for row in off.history)
    assert off.history[1].items() <= on.history[1].items()
    assert off.history[2]["v_loss"] != on.history[2]["v_loss"]


def test_a_stage_of_a_curriculum_begins_without_the_rollouts_of_the_last(lab: Any, tmp_path: Path) -> None:
    stage = StageConfig(num_updates=2, episode_bars=20, window_bars=0, gamma=0.8, cost_factor=0.0)
    run = replace(lab.run, replay=ON, curriculum=CurriculumConfig(stages=(stage,)))
    assert [row["replay_age"] for row in train(lab, tmp_path / "p.pt", run).history[1:]] == [0.0, 0.5, 0.0, 0.5]


@pytest.mark.parametrize("wrong", [{"max_age": -1}, {"num_trajectories": 0}, {"max_ratio": 0.5}, {"max_ratio": float("inf")}])
def test_a_config_that_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="replay: expected max_age"):
        replace(ON, **wrong)
