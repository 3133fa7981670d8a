"""Episodes on a device are those of the environment, number for number; rollouts of them can be learned from."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from plusultra_core.errors import ConfigError, ContractError
from plusultra_core.rl.device.episodes import TensorEpisodes
from plusultra_core.rl.device.loop import collect
from plusultra_core.rl.env import TradingEnv
from plusultra_core.rl.learning.autograd import TorchLearner
from plusultra_core.rl.ppo import update

SPAN, BARS = (10, 390), 40


def device_env(lab: Any, world: Any, num: int, **changes: Any) -> TensorEpisodes:
    reward = replace(lab.run.reward, drawdown_coef=0.3)
    return TensorEpisodes(world, num, SPAN, BARS, 0.1, reward, **{"dtype": torch.float64, "device": "cpu", **changes})


def test_a_step_is_that_of_the_environment_number_for_number(lab: Any) -> None:
    world = lab.world()
    theirs = TradingEnv(world, 32, SPAN, BARS, 0.1, replace(lab.run.reward, drawdown_coef=0.3))
    ours = device_env(lab, world, 32)
    t, n = ours.start.clone(), ours.env.accounts.asset[:, 0].clone()
    theirs.start_at(n.numpy(), t.numpy())
    rng = np.random.default_rng(0)
    for _ in range(BARS - 1):
        assert np.allclose(ours.obs.numpy(), theirs.obs_EP, atol=1e-6)
        assert np.array_equal(ours.present().numpy(), theirs.present())
        action = np.clip(rng.normal(0, 0.6, 32), -1, 1)
        here, there = ours.step(torch.from_numpy(action)), theirs.step(action, None)
        assert np.allclose(here.reward.numpy(), there.reward_E, rtol=1e-9, atol=1e-9)
        assert np.allclose(here.ret.numpy(), there.ret_E, rtol=1e-9, atol=1e-12)
        assert np.array_equal(here.ended.numpy(), there.ended_E)
        assert np.allclose(here.final_obs.numpy(), there.final_obs_EP, atol=1e-6)


def test_an_ended_episode_starts_anew_under_another_name(lab: Any) -> None:
    env = device_env(lab, lab.world(), 16)
    names = env.stream.clone()
    for step in range(BARS):
        outcome = env.step(torch.full((16,), 0.5, dtype=torch.float64))
        assert bool(outcome.ended.all()) == (step == BARS - 1)
    assert torch.equal(env.stream, names + 16)
    accounts = env.env.accounts
    assert torch.equal(accounts.equity, torch.full((16,), 1e6, dtype=torch.float64))
    assert not accounts.held.any()
    assert bool(((env.start >= SPAN[0]) & (env.start < SPAN[1] - BARS)).all())
    assert len(env.start.unique()) > 8
    assert torch.equal(env.obs[:, -1], torch.ones(16))


def test_the_same_episodes_whatever_the_number_of_accounts(lab: Any) -> None:
    few, many = device_env(lab, lab.world(), 4), device_env(lab, lab.world(), 16)
    assert torch.equal(few.obs, many.obs[:4])


def _learner(lab: Any, memory: str = "none", head: str = "gaussian") -> TorchLearner:
    run = lab.recipe(memory=memory, head=head, norm_obs="running")
    return TorchLearner(lab.policy(lab.world(), run=run), 1e-3, run.autograd)


def test_a_rollout_on_the_device_is_learned_from_and_the_ratio_begins_at_one(lab: Any) -> None:
    learner, env = _learner(lab), device_env(lab, lab.world(), 64, dtype=torch.float32)
    rollout, summary = collect(learner, env, 16, 0.9, 0.9, torch.Generator().manual_seed(0))
    assert rollout.obs_BP.shape == (16 * 64, env.obs.shape[1])
    assert summary.num_ended == 0
    row = update(learner, rollout, lab.run.ppo, np.random.default_rng(0))
    assert row["ratio_first"] < 1e-5
    assert np.isfinite(list(row.values())).all()


def test_what_cannot_be_done_on_a_device_is_refused(lab: Any) -> None:
    with pytest.raises(ConfigError, match="sharpe_coef"):
        TensorEpisodes(
            lab.world(), 4, SPAN, BARS, 0.1, replace(lab.run.reward, sharpe_coef=0.1), dtype=torch.float32, device="cpu"
        )  # fmt: skip
    with pytest.raises(ContractError, match="shorter episodes"):
        TensorEpisodes(lab.world(), 4, (10, 30), 40, 0.1, lab.run.reward, dtype=torch.float32, device="cpu")
    with pytest.raises(ConfigError, match="squashed Gaussians"):
        collect(_learner(lab, memory="gru"), device_env(lab, lab.world(), 4), 2, 0.9, 0.9, torch.Generator())
    with pytest.raises(ConfigError, match="squashed Gaussians"):
        collect(_learner(lab, head="categorical"), device_env(lab, lab.world(), 4), 2, 0.9, 0.9, torch.Generator())


@pytest.mark.gpu
def test_the_device_trains_as_the_processor_does(lab: Any) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    world = lab.world()
    here, there = (device_env(lab, world, 128, dtype=torch.float32, device=device) for device in ("cpu", "cuda"))
    for _ in range(20):
        action = torch.full((128,), 0.4)
        a, b = here.step(action), there.step(action.cuda())
        assert torch.allclose(a.reward, b.reward.cpu(), atol=1e-3)
        assert torch.allclose(a.final_obs, b.final_obs.cpu(), atol=1e-5)
