"""Stable-Baselines3 on the same batch: advantages, densities, one whole step of the update.

Skipped where it is not installed (`pip install "stable-baselines3>=2.9,<3"`).
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from plusultra_core.models.policy import PolicyConfig, build_policy
from plusultra_core.rl.gae import advantages
from plusultra_core.rl.learning.learner import Learner
from plusultra_core.rl.ppo import update
from plusultra_core.rl.rollout import Rollout

pytestmark = pytest.mark.filterwarnings("ignore")
sb3 = pytest.importorskip("stable_baselines3", reason="stable-baselines3 is not installed")


def spaces(num_columns: int) -> Any:
    import gymnasium

    box = gymnasium.spaces.Box
    return box(-np.inf, np.inf, (num_columns,), np.float32), box(-1e3, 1e3, (1,), np.float32)


def test_advantages_are_those_of_its_rollout_buffer() -> None:
    """It bootstraps a truncated episode by adding the discounted value of its last observation to the reward."""
    from stable_baselines3.common.buffers import RolloutBuffer

    rng = np.random.default_rng(0)
    reward, value, final = rng.normal(size=(3, 40, 6))
    terminated = rng.random((40, 6)) < 0.05
    ended = terminated | (rng.random((40, 6)) < 0.1)
    following = np.vstack((value[1:], rng.normal(size=(1, 6))))
    following[ended] = final[ended]
    buffer = RolloutBuffer(40, *spaces(3), device="cpu", gae_lambda=0.9, gamma=0.97, n_envs=6)
    started = np.ones(6, np.bool_)
    for t in range(40):
        paid = reward[t] + np.where(ended[t] & ~terminated[t], 0.97 * final[t], 0.0)
        buffer.add(np.zeros((6, 3)), np.zeros((6, 1)), paid, started, torch.from_numpy(value[t]), torch.zeros(6))
        started = ended[t]
    buffer.compute_returns_and_advantage(torch.from_numpy(following[-1]), ended[-1])
    found = advantages(reward, value, following, terminated, ended, 0.97, 0.9)
    assert np.abs(found - buffer.advantages).max() < 2e-6


def test_densities_are_those_of_its_distributions() -> None:
    from stable_baselines3.common.distributions import DiagGaussianDistribution, SquashedDiagGaussianDistribution

    policy = build_policy(PolicyConfig(width=8, num_layers=2, init_std=0.4), 3, 5, 0)
    mean, u = torch.randn(2, 500, generator=torch.Generator().manual_seed(0))
    learner = Learner(policy, 1e-3)
    for found in (policy.logprob(mean, u).detach(), torch.from_numpy(learner.logprobs(mean.numpy(), u.numpy()))):
        plain = DiagGaussianDistribution(1).proba_distribution(mean[:, None], policy.logstd.detach())
        assert torch.allclose(found, plain.log_prob(u[:, None]), atol=2e-6)
        squashed = SquashedDiagGaussianDistribution(1).proba_distribution(mean[:, None], policy.logstd.detach())
        action = torch.tanh(u)
        jacobian = torch.log(1 - action**2 + squashed.epsilon)
        assert torch.allclose(found - jacobian, squashed.log_prob(action[:, None], u[:, None]), atol=4e-6)
    assert float(policy.entropy().detach()) == pytest.approx(float(plain.entropy()[0]), abs=1e-6)


@pytest.mark.parametrize("entropy", [0.0, 0.02])
def test_a_step_of_the_update_is_its_step(lab: Any, entropy: float) -> None:
    """Same weights, same batch, one minibatch: the weights after the step and all that is said about it are equal."""
    num = 512
    cfg = replace(lab.run.ppo, update_epochs=1, num_minibatches=1, ent_coef=entropy, learning_rate=1e-3)
    policy = build_policy(PolicyConfig(width=16, num_layers=2, init_std=0.5), 3, 5, 0)
    made = torch.Generator().manual_seed(1)
    obs, noise, shift = (torch.randn(*shape, generator=made) for shape in ((num, 8), (num,), (num,)))
    with torch.no_grad():
        policy.actor[-1].weight.mul_(30.0)
        u = policy.mean(obs) + 0.5 * noise
        value = policy.value(obs)
        logprob = policy.logprob(policy.mean(obs), u) + 0.2 * shift
    advantage, target = (torch.randn(num, generator=made) for _ in range(2))
    advantage = (advantage - advantage.mean()) / advantage.std(correction=0)
    peer = build_peer(policy, num, cfg)
    fill(peer.rollout_buffer, obs, u, logprob, value, advantage, target)
    peer.train()
    learner = Learner(policy, cfg.learning_rate)
    row = update(learner, Rollout(obs, u, logprob, value, advantage, target, torch.ones(num)), cfg, np.random.default_rng(0))
    said = peer.logger.name_to_value
    assert row["pg_loss"] == pytest.approx(said["train/policy_gradient_loss"], abs=1e-6)
    assert 2 * row["v_loss"] == pytest.approx(said["train/value_loss"], abs=2e-6)
    assert row["approx_kl"] == pytest.approx(said["train/approx_kl"], abs=1e-6)
    assert row["clipfrac"] == pytest.approx(said["train/clip_fraction"], abs=1e-6)
    assert row["clipfrac"] > 0.1
    for ours, theirs in zip(ordered(policy), peer_parameters(peer), strict=True):
        assert float((ours - theirs).detach().abs().max()) < 1e-6


def ordered(policy: Any) -> list[torch.Tensor]:
    return [policy.logstd, *policy.actor.parameters(), *policy.critic.parameters()]


def peer_parameters(peer: Any) -> list[torch.Tensor]:
    net = peer.policy.mlp_extractor
    actor = [*net.policy_net.parameters(), *peer.policy.action_net.parameters()]
    return [peer.policy.log_std, *actor, *net.value_net.parameters(), *peer.policy.value_net.parameters()]


def build_peer(policy: Any, num: int, cfg: Any) -> Any:
    """Its PPO with the weights of `policy`; its value loss lacks the half."""
    import gymnasium
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.logger import Logger

    class Still(gymnasium.Env):
        observation_space, action_space = spaces(8)

        def reset(self, *, seed: Any = None, options: Any = None) -> Any:
            return np.zeros(8, np.float32), {}

        def step(self, action: Any) -> Any:
            return np.zeros(8, np.float32), 0.0, False, False, {}

    peer = sb3.PPO(
        "MlpPolicy", make_vec_env(Still, 1), learning_rate=cfg.learning_rate, n_steps=num, batch_size=num, n_epochs=1, gamma=cfg.gamma,
        gae_lambda=cfg.gae_lambda, clip_range=cfg.clip_coef, normalize_advantage=False, ent_coef=cfg.ent_coef, vf_coef=cfg.vf_coef / 2,
        max_grad_norm=cfg.max_grad_norm, policy_kwargs={"net_arch": [16, 16], "activation_fn": torch.nn.Tanh}, device="cpu",
    )  # fmt: skip
    peer.set_logger(Logger(folder=None, output_formats=[]))
    with torch.no_grad():
        for theirs, ours in zip(peer_parameters(peer), ordered(policy), strict=True):
            theirs.copy_(ours)
    return peer


def fill(buffer: Any, obs: Any, u: Any, logprob: Any, value: Any, advantage: Any, target: Any) -> None:
    buffer.reset()
    for i in range(len(u)):
        buffer.add(obs[i : i + 1].numpy(), u[i : i + 1, None].numpy(), np.zeros(1), np.zeros(1), value[i : i + 1], logprob[i : i + 1])
    buffer.advantages[:, 0], buffer.returns[:, 0] = advantage.numpy(), target.numpy()
