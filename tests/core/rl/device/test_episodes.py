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
from plusultra_core.simulation.market import with_delisting

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


def rough(lab: Any, rng: np.random.Generator) -> Any:
    """The planted world with holes, jumps, thin bars, dividends, two assets that leave, missing forecasts and room to be ruined."""
    world = lab.world()
    shape = world.market.tradable.shape
    here = rng.random(shape) > 0.2
    jump = np.exp(np.cumsum(rng.normal(0, 0.3, shape) * (rng.random(shape) < 0.05), axis=0))
    prices = {name: np.where(here, getattr(world.market, name) * jump, np.nan) for name in ("open", "high", "low", "close")}
    prices["open"][rng.random(shape) < 0.1] = np.nan
    volume = np.where(here, rng.choice([0.0, 1e2, 1e4, 1e9], shape), 0.0)
    dividend = np.where(rng.random(shape) < 0.05, 0.5, 0.0)
    market = world.market._replace(**prices, volume=volume, tradable=here, dividend=dividend)
    return replace(
        world,
        market=with_delisting(market, np.array([200, 999, 300, 999]), np.array([-1.0, 0.0, -0.4, 0.0])),
        present_TN=rng.random(shape) > 0.3,
        simulation=replace(world.simulation, permanent_coef=0.5, permanent_decay_frac=0.1),
        costs=replace(world.costs, margin=replace(world.costs.margin, max_leverage=5.0, maintenance_margin=0.15)),
        guard=replace(world.guard, max_weight=3.0, max_gross=3.0, max_net=3.0),
    )


def test_over_several_resets_to_the_last_bar_it_is_the_environment_where_accounts_are_ruined_and_actions_missing(lab: Any) -> None:
    rng = np.random.default_rng(3)
    world, reward, num = rough(lab, rng), replace(lab.run.reward, drawdown_coef=0.3), 64
    ours, theirs = (kind(world, num, (10, 400), BARS, 0.1, reward, **more) for kind, more in
                    ((TensorEpisodes, {"dtype": torch.float64, "device": "cpu"}), (TradingEnv, {})))  # fmt: skip

    def follow(rows: np.ndarray) -> None:
        t, n = ours.start.numpy()[rows], ours.env.accounts.asset.numpy()[rows]
        theirs.env.reset(rows, t, n, ours.stream.numpy()[rows])
        theirs.start_E[rows] = t
        theirs._observe()

    follow(np.arange(num))
    ended, ruined = 0, 0
    for _ in range(150):
        assert np.allclose(ours.obs.numpy(), theirs.obs_EP, atol=2e-6)
        action = np.clip(rng.normal(0, 1, num), -1, 1) * 3
        action[rng.random(num) < 0.05] = np.nan
        here, there = ours.step(torch.from_numpy(action)), theirs.step(action, None)
        assert np.allclose(here.reward.numpy(), there.reward_E, rtol=1e-7, atol=1e-7)
        assert np.array_equal(here.ended.numpy(), there.ended_E)
        assert np.array_equal(here.terminated.numpy(), there.terminated_E)
        assert np.allclose(here.final_obs.numpy(), there.final_obs_EP, atol=2e-6)
        ended, ruined = ended + there.ended_E.sum(), ruined + there.terminated_E.sum()
        follow(np.flatnonzero(there.ended_E))
    assert ended > 2 * num
    assert ruined > 10


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
    with pytest.raises(ContractError, match="starts in bars 0 to 359, found 10 to 360"):
        device_env(lab, lab.world(), 2).start_at(torch.tensor([10, 360]), torch.tensor([0, 1]))
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
