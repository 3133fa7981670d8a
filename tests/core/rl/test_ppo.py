"""The update: exactly 1 before it begins, clipped as PPO is, and it learns what is planted."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from plusultra_core.errors import ConfigError
from plusultra_core.rl.learning.learner import Learner
from plusultra_core.rl.ppo import explained_variance, losses, update
from plusultra_core.rl.rollout import Rollout, collect
from plusultra_core.rl.train import make_env


@pytest.fixture
def collected(lab: Any) -> tuple[Any, Rollout]:
    world = lab.world()
    learner = Learner(lab.policy(world), 1e-3)
    env = make_env(lab.run, world, 32, (0, 200))
    env.reset(np.random.default_rng(0))
    rollout, _ = collect(learner, env, 16, 0.9, 0.9, np.random.default_rng(1))
    return learner.policy, rollout


def test_the_ratio_is_exactly_one_before_the_first_update(lab: Any, collected: Any) -> None:
    policy, rollout = collected
    learner = Learner(policy, 1e-3)
    found = learner.logprobs(learner.networks.outputs(rollout.obs_BP, 2)[0], rollout.u_B.numpy())
    assert np.array_equal(found, rollout.logprob_B.numpy())
    assert update(learner, rollout, lab.run.ppo, np.random.default_rng(2))["ratio_first"] == 0.0


def test_the_policy_has_no_layer_that_behaves_differently_in_training(collected: Any) -> None:
    policy, rollout = collected
    policy.train()
    a = policy.mean(rollout.obs_BP)
    policy.eval()
    assert torch.equal(a, policy.mean(rollout.obs_BP))


def test_the_loss_is_the_clipped_surrogate_written_out(lab: Any, collected: Any) -> None:
    policy, rollout = collected
    with torch.no_grad():
        policy.actor[-1].weight.add_(0.5)
        policy.logstd.add_(-0.2)
    loss, row = losses(policy, rollout, replace(lab.run.ppo, ent_coef=0.1))
    with torch.no_grad():
        ratio = (policy.logprob(policy.mean(rollout.obs_BP), rollout.u_B) - rollout.logprob_B).exp().numpy()
        value = policy.value(rollout.obs_BP).numpy()
    advantage, target = rollout.advantage_B.numpy(), rollout.return_B.numpy()
    surrogate = np.minimum(advantage * ratio, advantage * np.clip(ratio, 0.8, 1.2)).mean()
    entropy = 0.5 * np.log(2 * np.pi * np.e) + float(policy.logstd.detach())
    assert float(loss.detach()) == pytest.approx(-surrogate - 0.1 * entropy + 0.5 * 0.5 * ((value - target) ** 2).mean(), rel=1e-4)
    assert row["clipfrac"] == pytest.approx((np.abs(ratio - 1) > 0.2).mean(), abs=1e-6)
    assert row["clipfrac"] > 0


def test_actions_that_were_not_heard_do_not_move_the_actor(lab: Any, collected: Any) -> None:
    policy, rollout = collected
    loss, _ = losses(policy, rollout._replace(heard_B=torch.zeros_like(rollout.heard_B)), lab.run.ppo)
    loss.backward()
    assert all(float(p.grad.abs().max()) == 0.0 for p in policy.actor.parameters())
    assert any(float(p.grad.abs().max()) > 0.0 for p in policy.critic.parameters())


def test_an_update_stops_when_the_policy_has_moved_too_far(lab: Any, collected: Any) -> None:
    policy, rollout = collected
    learner = Learner(policy, 0.05)
    cfg = replace(lab.run.ppo, target_kl=1e-4, update_epochs=10)
    assert update(learner, rollout, cfg, np.random.default_rng(2))["num_epochs"] < 10


def test_the_density_is_that_of_a_normal(collected: Any) -> None:
    policy, rollout = collected
    mean = policy.mean(rollout.obs_BP)
    normal = torch.distributions.Normal(mean, policy.logstd.exp())
    assert torch.allclose(policy.logprob(mean, rollout.u_B), normal.log_prob(rollout.u_B), atol=1e-5)
    assert float(policy.entropy().detach()) == pytest.approx(float(normal.entropy()[0].detach()), rel=1e-6)


def test_explained_variance_is_one_for_a_perfect_critic_and_zero_for_a_mean() -> None:
    target = torch.randn(100, generator=torch.Generator().manual_seed(0))
    assert explained_variance(target, target) == 1.0
    assert explained_variance(torch.full_like(target, float(target.mean())), target) == pytest.approx(0.0, abs=1e-6)


def test_a_config_that_makes_no_sense_is_refused(lab: Any) -> None:
    with pytest.raises(ConfigError, match="gamma"):
        replace(lab.run.ppo, gamma=1.5)
    with pytest.raises(ConfigError, match="clip_coef"):
        replace(lab.run.ppo, clip_coef=0.0)
