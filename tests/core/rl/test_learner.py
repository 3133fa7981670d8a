"""The compiled learner is autograd on the policy and torch's Adam, for any depth, width and number of rows."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from plusultra_core.errors import ContractError
from plusultra_core.models.policy import Policy, PolicyConfig, build_policy
from plusultra_core.rl.learning import kernels
from plusultra_core.rl.learning.learner import Learner
from plusultra_core.rl.learning.networks import Networks
from plusultra_core.rl.ppo import losses, update
from plusultra_core.rl.rollout import Rollout

SIZES = [(16, 1, 50), (16, 2, 1024), (24, 3, 2500)]


def make(width: int, num_layers: int, num: int) -> tuple[Policy, Rollout]:
    """A policy that has moved since it filled its rollout, so that a part of the ratios is clipped."""
    policy = build_policy(PolicyConfig(width=width, num_layers=num_layers, init_std=0.4), 6, 5, 3)
    made = torch.Generator().manual_seed(num)
    obs, u, advantage, target, value = (torch.randn(*shape, generator=made) for shape in ((num, 11), (num,), (num,), (num,), (num,)))
    with torch.no_grad():
        policy.actor[-1].weight.mul_(30.0)
        u = policy.mean(obs) + 0.4 * u
        logprob = policy.logprob(policy.mean(obs), u) + 0.3 * torch.randn(num, generator=made)
    heard = (torch.rand(num, generator=made) < 0.8).float()
    return policy, Rollout(obs, u, logprob, value, advantage, target, heard)


@pytest.mark.parametrize("size", SIZES)
def test_outputs_are_the_policys(size: tuple[int, int, int]) -> None:
    policy, rollout = make(*size)
    with torch.no_grad():
        mean, value = policy.mean(rollout.obs_BP).numpy().copy(), policy.value(rollout.obs_BP).numpy().copy()
    networks = Networks(policy)
    found = networks.outputs(rollout.obs_BP, 2)
    assert np.abs(found[0] - mean).max() < 2e-6
    assert np.abs(found[1] - value).max() < 2e-6
    assert np.array_equal(networks.outputs(rollout.obs_BP, 1)[0], found[0])


@pytest.mark.parametrize("size", SIZES)
def test_the_gradient_written_by_hand_is_that_of_autograd(lab: Any, size: tuple[int, int, int]) -> None:
    policy, rollout = make(*size)
    cfg = replace(lab.run.ppo, ent_coef=0.0)
    learner = Learner(policy, 1e-3)
    num = len(rollout.u_B)
    order = np.random.default_rng(0).permutation(num)
    sums = learner.gradient(rollout, order, float(rollout.heard_B.sum()), num, cfg.clip_coef, cfg.vf_coef)
    loss, row = losses(policy, rollout, cfg)
    loss.backward()
    views = Networks(policy)
    by_hand = learner.networks.grad.clone()
    views.flat.copy_(by_hand)
    for name, parameter in policy.named_parameters():
        assert parameter.grad is not None, name
        assert float((parameter.detach() - parameter.grad).abs().max()) < 1e-6, name
    assert sums[:4] == pytest.approx([row["pg_loss"], row["v_loss"], row["approx_kl"], row["clipfrac"]], abs=1e-6)
    assert row["clipfrac"] > 0.1


def test_an_action_that_nobody_heard_says_nothing_however_unlikely_it_has_become(lab: Any) -> None:
    """Nothing keeps the policy near it; its ratio may leave the range of floats, and 0 times infinity is no number."""
    cfg = replace(lab.run.ppo, ent_coef=0.0)
    policy, rollout = make(16, 2, 50)
    unlikely = rollout.logprob_B.where(rollout.heard_B > 0, torch.tensor(-2_000.0))
    learner, found = Learner(policy, 1e-3), []
    for logprob_B in (rollout.logprob_B, unlikely):
        sums = learner.gradient(rollout._replace(logprob_B=logprob_B), np.arange(50), 40.0, 50, cfg.clip_coef, cfg.vf_coef)
        loss, _ = losses(policy, rollout._replace(logprob_B=logprob_B), cfg)
        found.append((learner.networks.grad.clone(), sums, float(loss.detach())))
    assert torch.equal(found[0][0], found[1][0]) and bool(torch.isfinite(found[0][0]).all())
    assert np.array_equal(found[0][1], found[1][1]) and found[0][2] == found[1][2]


def test_steps_are_those_of_adam_with_clipped_gradients(lab: Any) -> None:
    cfg = replace(lab.run.ppo, ent_coef=0.01, max_grad_norm=0.05)
    policy, rollout = make(16, 2, 200)
    twin, _ = make(16, 2, 200)
    learner = Learner(policy, 3e-3)
    optimizer = torch.optim.Adam(twin.parameters(), lr=3e-3, eps=1e-5)
    for _ in range(5):
        heard = float(rollout.heard_B.sum())
        sums = learner.step(rollout, np.arange(200), heard, 200, cfg.clip_coef, cfg.vf_coef, cfg.ent_coef, cfg.max_grad_norm)
        loss, _ = losses(twin, rollout, cfg)
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(twin.parameters(), cfg.max_grad_norm)
        optimizer.step()
        assert sums[4] == pytest.approx(float(norm), rel=1e-4)
    for (name, a), b in zip(policy.named_parameters(), twin.parameters(), strict=True):
        assert float((a - b).detach().abs().max()) < 2e-6, name


def test_the_fast_tanh_is_tanh() -> None:
    x = np.linspace(-12, 12, 200_001).astype(np.float32).reshape(1, -1)
    z = x.copy()
    kernels.add_tanh(z, np.zeros(x.size, np.float32))
    assert np.abs(z - np.tanh(x.astype(np.float64))).max() < 3e-7
    assert np.abs(z).max() <= 1.0


@pytest.mark.parametrize("name", ["heads", "logprobs", "tanh_backward", "gather", "add_tanh"])
def test_kernels_are_their_python(name: str) -> None:
    rng = np.random.default_rng(1)
    kernel = getattr(kernels, name)
    m = rng.normal(size=(7, 8)).astype(np.float32)
    row = rng.normal(size=8).astype(np.float32)
    arguments = {
        "heads": (m, row, row[:2].copy(), np.zeros((2, 7), np.float32)),
        "logprobs": (row, row[::-1].copy(), -0.3, np.zeros(8, np.float32)),
        "tanh_backward": (m, m[::-1].copy(), row),
        "gather": (m, np.array([3, 1, 3]), np.zeros((3, 8), np.float32)),
        "add_tanh": (m, row),
    }[name]
    first, second = ([a.copy() if isinstance(a, np.ndarray) else a for a in arguments] for _ in range(2))
    kernel(*first)
    getattr(kernel, "py_func", kernel)(*second)
    for a, b in zip(first, second, strict=True):
        assert np.allclose(a, b, atol=1e-6)


def test_the_policy_is_always_what_was_learned_last_and_a_state_goes_on_bit_for_bit(lab: Any) -> None:
    policy, rollout = make(16, 2, 300)
    other, _ = make(16, 2, 300)
    a, b = Learner(policy, 1e-3), Learner(other, 1e-3)
    update(a, rollout, lab.run.ppo, np.random.default_rng(0))
    with torch.no_grad():
        assert np.abs(policy.mean(rollout.obs_BP).numpy() - a.networks.outputs(rollout.obs_BP, 1)[0]).max() < 2e-6
    b.load_state({k: v.clone() for k, v in policy.state_dict().items()}, a.state())
    rows = [update(learner, rollout, lab.run.ppo, np.random.default_rng(1)) for learner in (a, b)]
    assert rows[0] == rows[1]
    assert torch.equal(a.networks.flat, b.networks.flat)


def test_other_layers_are_refused() -> None:
    policy, _ = make(16, 2, 10)
    policy.actor[1] = nn.ReLU()
    with pytest.raises(ContractError, match="tanh"):
        Networks(policy)
