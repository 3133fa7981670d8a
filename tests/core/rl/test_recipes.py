"""Every kind of policy trains, goes on from a checkpoint bit for bit, and finds what is planted."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from plusultra_core.errors import ConfigError, ContractError
from plusultra_core.models.policies.acting import Acting
from plusultra_core.rl.curriculum.risk import Schedule
from plusultra_core.rl.curriculum.stages import CurriculumConfig, StageConfig
from plusultra_core.rl.episodes.book import BookEnv
from plusultra_core.rl.train import Trained, train_policy
from plusultra_core.rl.world import Spans

SPANS, FEW = Spans((0, 300), (300, 400)), Spans((0, 300), (300, 320))
SHORT = {"num_accounts": 16, "num_steps": 8, "num_updates": 3, "valid_every": 1, "episode_bars": 12}
KINDS = [
    ("mlp", "gaussian", "window"),
    ("mlp", "gaussian", "gru"),
    ("mlp", "categorical", "none"),
    ("mlp", "dirichlet", "none"),
    ("mlp", "dirichlet", "gru"),
    ("backbone", "gaussian", "none"),
    ("backbone", "categorical", "window"),
]


class Listener:
    """Progress that can stop the run at a given report."""

    def __init__(self, stop_at: int = -1) -> None:
        self.left = stop_at

    def report(self, message: str, **numbers: float) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def train(lab: Any, place: Path, run: Any, stop_at: int = -1, **world: Any) -> Trained:
    made = lab.world(**world)
    return train_policy(
        run, lab.place(made, FEW if run.train.valid_every == 1 else SPANS, run), lab.policy(made, run=run), place, Listener(stop_at)
    )


def same(a: Trained, b: Trained) -> bool:
    return a.history == b.history and all(torch.equal(a.tensors[name], tensor) for name, tensor in b.tensors.items())


@pytest.mark.parametrize(("kind", "head", "memory"), KINDS)
def test_every_kind_of_policy_goes_on_from_a_checkpoint_bit_for_bit(lab: Any, tmp_path: Path, kind: str, head: str, memory: str) -> None:
    run = lab.recipe(kind, head, memory, norm_obs="running" if memory == "gru" else "train_span")
    run = replace(run, train=replace(run.train, **SHORT), warmstart=replace(run.warmstart, num_steps=20))
    whole = train(lab, tmp_path / "whole.pt", run)
    with pytest.raises(KeyboardInterrupt):
        train(lab, tmp_path / "p.pt", run, stop_at=2)
    assert same(train(lab, tmp_path / "p.pt", run), whole)
    assert all(row["ratio_first"] == 0.0 for row in whole.history[1:])
    assert len({row["approx_kl"] for row in whole.history[1:]}) == 3


@pytest.mark.slow
def test_two_workers_with_a_memory_and_risk_go_on_bit_for_bit(lab: Any, tmp_path: Path) -> None:
    run = lab.recipe(memory="gru", norm_obs="running")
    ramp = Schedule(kind="linear", start=0.0, end=1.0)
    run = replace(run, train=replace(run.train, **SHORT, num_workers=2), risk=replace(run.risk, cvar=ramp, drawdown=ramp))
    whole = train(lab, tmp_path / "whole.pt", run)
    with pytest.raises(KeyboardInterrupt):
        train(lab, tmp_path / "p.pt", run, stop_at=2)
    assert same(train(lab, tmp_path / "p.pt", run), whole)


@pytest.mark.parametrize("head", ["categorical", "dirichlet"])
def test_other_heads_find_the_planted_signal_too(lab: Any, tmp_path: Path, head: str) -> None:
    """A book may only buy, so it is asked for less."""
    run = lab.recipe("mlp", head)
    size = {"num_updates": 40, "num_accounts": 64, "num_steps": 16, "valid_every": 10}
    run = replace(run, train=replace(run.train, **size), ppo=replace(run.ppo, learning_rate=4e-3, norm_reward=True))
    trained = train(lab, tmp_path / "p.pt", run)
    assert trained.metrics["valid_ret"] > (1.2e-3 if head == "categorical" else 5e-4)
    assert trained.metrics["is_flat"] == 0.0


@pytest.mark.parametrize("head", ["categorical", "dirichlet"])
def test_other_heads_are_cloned_from_the_rule(lab: Any, tmp_path: Path, head: str) -> None:
    run = lab.recipe("mlp", head)
    run = replace(run, train=replace(run.train, **{**SHORT, "num_updates": 1, "valid_every": 2}))
    run = replace(run, warmstart=run.warmstart.__class__(num_steps=400, batch_size=128, learning_rate=5e-3))
    trained = train(lab, tmp_path / "a.pt", run)
    assert trained.history[0]["valid_ret"] > (1.5e-3 if head == "categorical" else 5e-4)


def test_a_backbone_that_may_learn_moves_and_a_frozen_one_does_not(lab: Any, tmp_path: Path) -> None:
    moved = {}
    for tuning in ("frozen", "discriminative", "full"):
        run = lab.recipe("backbone", backbone=replace(lab.run.policy.backbone, tuning=tuning, depth_decay=0.1))
        run = replace(run, train=replace(run.train, **SHORT))
        world = lab.world()
        policy = lab.policy(world, run=run)
        before = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
        train_policy(run, lab.place(world, FEW, run), policy, tmp_path / f"{tuning}.pt", Listener())
        change = {name: float((tensor - before[name]).abs().mean()) for name, tensor in policy.state_dict().items()}
        moved[tuning] = change["body.rows.forecaster.backbone.remainder.weight"]
        assert change["actor.0.weight"] > 0
        assert change["body.rows.forecaster.quantile_head.project.weight"] == 0.0
    assert moved["frozen"] == 0.0
    assert 0.0 < moved["discriminative"] < 0.5 * moved["full"]


STAGES = CurriculumConfig(
    stages=(
        StageConfig(num_updates=2, episode_bars=6, window_bars=1, gamma=0.5, cost_factor=0.0),
        StageConfig(num_updates=2, episode_bars=9, window_bars=0, gamma=0.8, cost_factor=0.5),
    )
)


@pytest.mark.parametrize(("kind", "memory"), [("mlp", "gru"), ("backbone", "none")])
@pytest.mark.parametrize("stop_at", [1, 2])
def test_a_curriculum_goes_on_inside_a_stage_and_at_its_end_bit_for_bit(
    lab: Any, tmp_path: Path, kind: str, memory: str, stop_at: int
) -> None:
    run = lab.recipe(kind, memory=memory)
    run = replace(run, train=replace(run.train, **{**SHORT, "num_updates": 6}), curriculum=STAGES)
    whole = train(lab, tmp_path / "whole.pt", run)
    with pytest.raises(KeyboardInterrupt):
        train(lab, tmp_path / "p.pt", run, stop_at=stop_at)
    assert same(train(lab, tmp_path / "p.pt", run), whole)
    assert [row["stage"] for row in whole.history[1:]] == [0, 0, 1, 1, 2, 2]
    assert [row["cost_factor"] for row in whole.history[1:]] == [0, 0, 0.5, 0.5, 1, 1]
    assert [row["stage_episode_bars"] for row in whole.history[1:]] == [6, 6, 9, 9, 12, 12]


def book(lab: Any, num: int, run: Any) -> Any:
    world = lab.world()
    env = BookEnv(world, num, (0, 300), 20, 1.0, 0.0, run.reward)
    env.reset(np.random.default_rng(0))
    return env


def test_a_book_of_episodes_holds_what_its_weights_ask_for(lab: Any) -> None:
    env = book(lab, 6, lab.run)
    weight = np.tile([0.4, 0.0, 0.3, 0.1], (6, 1))
    for t in range(3):
        env.step(weight, np.random.default_rng(t))
    assert np.allclose(env.env.accounts.weight_EA, weight, atol=0.03)
    assert env.obs_EP.shape == (6, 4 * 11)
    assert np.allclose(env.obs_EP.reshape(6, 4, 11)[:, :, 6], env.env.accounts.weight_EA, atol=1e-5)


def test_an_asset_without_a_forecast_keeps_its_place_in_the_book(lab: Any) -> None:
    env = book(lab, 3, lab.run)
    for t in range(3):
        env.step(np.tile([0.5, 0.0, 0.0, 0.2], (3, 1)), np.random.default_rng(t))
    env._world.present_TN[:, 0] = False
    assert env.allowed()[:, 0].tolist() == [False] * 3
    held = env.env.accounts.position_EA[:, 0].copy()
    env.step(np.tile([0.0, 0.0, 1.0, 0.0], (3, 1)), np.random.default_rng(9))
    assert np.array_equal(env.env.accounts.position_EA[:, 0], held)
    assert np.allclose(env.env.accounts.weight_EA[:, 2], 0.5, atol=0.05)


def test_a_book_needs_forecasts_in_its_span(lab: Any) -> None:
    with pytest.raises(ContractError, match="longer than 20 bars"):
        BookEnv(lab.world(), 2, (10, 20), 20, 1.0, 0.0, lab.run.reward)


def test_validation_acts_as_training_does(lab: Any) -> None:
    """The mode of what the learner samples from, bar by bar, with what is remembered."""
    run = lab.recipe("mlp", "gaussian", "gru")
    world = lab.world()
    policy = lab.policy(world, run=run)
    acting, state = Acting(policy, 3), torch.zeros(3, policy.num_state)
    for seed in range(3):
        obs = torch.randn(3, policy.body.num_obs, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            state = policy.remember(obs, state)
            expected = torch.tanh(policy.distribution(obs, state).mode())
        assert np.array_equal(acting.act(obs.numpy()), expected.double().numpy())


def test_a_policy_with_a_memory_needs_an_account_for_every_minibatch(lab: Any) -> None:
    run = lab.recipe(memory="gru")
    with pytest.raises(ConfigError, match="num_minibatches: expected at most the 2 accounts"):
        replace(run, train=replace(run.train, num_accounts=4, num_workers=2))


@pytest.mark.gpu
@pytest.mark.parametrize(("kind", "head", "memory"), KINDS)
def test_every_kind_of_policy_trains_and_is_validated_on_a_gpu(lab: Any, tmp_path: Path, kind: str, head: str, memory: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    found = []
    for device in ("cpu", "cuda"):
        run = lab.recipe(kind, head, memory, norm_obs="running")
        run = replace(run, autograd=replace(run.autograd, device=device), train=replace(run.train, **{**SHORT, "num_updates": 1}))
        run = replace(run, warmstart=replace(run.warmstart, num_steps=3))
        found.append(train(lab, tmp_path / device, run))
    assert found[0].history[0]["clone_loss"] == pytest.approx(found[1].history[0]["clone_loss"], abs=1e-4)
    assert found[0].history[1]["valid_reward"] == pytest.approx(found[1].history[1]["valid_reward"], abs=0.05)
    assert all(tensor.device.type == "cpu" for tensor in found[1].tensors.values())
