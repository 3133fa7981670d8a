"""The learner of any policy: equal to the compiled one where both are, and right where it is alone."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from plusultra_core.errors import ConfigError
from plusultra_core.models.policies.distributions import GridCategorical, SimplexDirichlet, SquashedGaussian
from plusultra_core.models.policy import Policy, PolicyConfig, build_policy
from plusultra_core.rl.env import Outcome
from plusultra_core.rl.learning.autograd import TorchConfig, TorchLearner
from plusultra_core.rl.learning.learner import Learner
from plusultra_core.rl.ppo import losses, update
from plusultra_core.rl.rollout import Rollout, collect

CPU = TorchConfig(device="cpu", precision="32-true", compile=False, chunk=4_096)


class Adapted(nn.Module):
    """The default policy in the words of the interface."""

    num_state, has_memory = 0, False

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy

    def remember(self, obs: Tensor, state: Tensor) -> Tensor:
        return state

    def distribution(self, obs: Tensor, state: Tensor, allowed: Tensor | None = None) -> SquashedGaussian:
        return self.policy.distribution(obs, state, allowed)

    def value(self, obs: Tensor, state: Tensor) -> Tensor:
        return self.policy.value(obs)


class Small(nn.Module):
    """A policy of any head over a GRU, a shared trunk, or nothing."""

    def __init__(self, head: str, num_columns: int, kind: str = "none", num_choices: int = 5) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head, self.kind = head, kind
        self.num_state = 8 if kind != "none" else 0
        self.has_memory = kind == "gru"
        self.cell = nn.GRUCell(num_columns, 8) if kind == "gru" else nn.Linear(num_columns, 8)
        width = num_columns + self.num_state
        self.actor, self.critic = nn.Linear(width, 1 if head == "gaussian" else num_choices), nn.Linear(width, 1)
        self.logstd = nn.Parameter(torch.zeros(1))
        self.register_buffer("grid", torch.linspace(-1, 1, num_choices))

    def remember(self, obs: Tensor, state: Tensor) -> Tensor:
        return self.cell(obs, state) if self.has_memory else torch.tanh(self.cell(obs)) if self.kind == "trunk" else state

    def distribution(self, obs: Tensor, state: Tensor, allowed: Tensor | None = None) -> Any:
        score = self.actor(torch.cat((obs, state), dim=1))
        if self.head == "gaussian":
            return SquashedGaussian(score.squeeze(-1), self.logstd)
        return GridCategorical(score, self.grid, allowed) if self.head == "categorical" else SimplexDirichlet(score, allowed)

    def value(self, obs: Tensor, state: Tensor) -> Tensor:
        return self.critic(torch.cat((obs, state), dim=1)).squeeze(-1)


class Recall:
    """E episodes of 4 bars: the sign shown at the first bar is paid for at every bar; with a mask, the first choice is never allowed."""

    def __init__(self, num_accounts: int, num_slots: int = 1, masked: int = 0) -> None:
        self.rng = np.random.default_rng(0)
        self.sign_E, self.age_E = self.rng.choice([-1.0, 1.0], num_accounts), np.zeros(num_accounts, np.int64)
        self.slots = num_slots
        if masked:
            mask = np.ones((num_accounts, masked), np.bool_)
            mask[:, 0] = False
            self.allowed = lambda: mask
        self.obs_EP = self._observe()

    def _observe(self) -> np.ndarray:
        return np.column_stack((np.where(self.age_E == 0, self.sign_E, 0.0), self.age_E / 4)).astype(np.float32)

    def present(self) -> np.ndarray:
        return np.ones(self.age_E.size, np.bool_)

    def step(self, action: np.ndarray, rng: Any) -> Outcome:
        assert action.shape == ((self.age_E.size,) if self.slots == 1 else (self.age_E.size, self.slots))
        reward = self.sign_E * (action if action.ndim == 1 else action[:, 0] - action[:, 1])
        self.age_E = self.age_E + 1
        ended, final = self.age_E == 4, self._observe()
        self.age_E[ended] = 0
        self.sign_E[ended] = self.rng.choice([-1.0, 1.0], int(ended.sum()))
        self.obs_EP = self._observe()
        return Outcome(reward, reward, np.zeros_like(ended), ended, final)


def batch(num: int = 700) -> tuple[Policy, Rollout]:
    policy = build_policy(PolicyConfig(width=16, num_layers=2, init_std=0.4), 6, 5, 3)
    made = torch.Generator().manual_seed(num)
    obs, u, advantage, target = (torch.randn(*shape, generator=made) for shape in ((num, 11), (num,), (num,), (num,)))
    with torch.no_grad():
        policy.actor[-1].weight.mul_(30.0)
        u = policy.mean(obs) + 0.4 * u
        logprob, value = policy.logprob(policy.mean(obs), u) + 0.3 * torch.randn(num, generator=made), policy.value(obs)
    heard = (torch.rand(num, generator=made) < 0.8).float()
    return policy, Rollout(obs, u, logprob, value, advantage, target, heard)


@pytest.mark.parametrize("chunk", [4_096, 100])
@pytest.mark.parametrize("entropy", [0.0, 0.02])
def test_it_learns_what_the_compiled_learner_learns(lab: Any, entropy: float, chunk: int) -> None:
    cfg = replace(lab.run.ppo, ent_coef=entropy, update_epochs=2, num_minibatches=3)
    policy, rollout = batch()
    twin, _ = batch()
    compiled, by_autograd = Learner(policy, 1e-3), TorchLearner(Adapted(twin), 1e-3, replace(CPU, chunk=chunk))
    said = [update(learner, rollout, cfg, np.random.default_rng(5)) for learner in (compiled, by_autograd)]
    for name in ("pg_loss", "v_loss", "approx_kl", "clipfrac", "entropy"):
        assert said[0][name] == pytest.approx(said[1][name], abs=1e-6), name
    assert said[0]["grad_norm"] == pytest.approx(said[1]["grad_norm"], rel=1e-5)
    assert said[0]["clipfrac"] > 0.1
    for (name, a), b in zip(policy.named_parameters(), twin.parameters(), strict=True):
        assert float((a - b).detach().abs().max()) < 1e-6, name


def test_both_learners_and_the_written_loss_pay_for_the_entropy_before_the_squashing(lab: Any) -> None:
    policy, rollout = batch()
    twin, _ = batch()
    arguments = (rollout, np.arange(700), float(rollout.heard_B.sum()), 700.0, 0.2, 0.5, 0.02, 0.5)
    wanted = float(torch.distributions.Normal(0.0, policy.logstd.detach().exp()).entropy())
    written = losses(policy, rollout, lab.run.ppo)[1]["entropy"]
    found = [learner.step(*arguments)[5] for learner in (Learner(policy, 1e-3), TorchLearner(Adapted(twin), 1e-3, CPU))]
    assert [*found, written] == pytest.approx([wanted] * 3, abs=1e-6)


def test_its_rollout_is_the_compiled_one(lab: Any) -> None:
    """Noise is drawn a step at a time here and at once there, so the densities are held against the policy instead of each other."""
    from plusultra_core.rl.train import make_env

    world = lab.world()
    policy = lab.policy(world)
    env = make_env(lab.run, world, 16, (0, 200))
    env.reset(np.random.default_rng(0))
    rollout, _ = collect(TorchLearner(Adapted(policy), 1e-3, CPU), env, 50, 0.9, 0.9, np.random.default_rng(1))
    found = Learner(policy, 1e-3).networks.outputs(rollout.obs_BP, 2)
    assert np.abs(found[1] - rollout.value_B.numpy()).max() < 2e-6
    with torch.no_grad():
        logprob = policy.logprob(torch.from_numpy(found[0]), rollout.u_B)
    assert float((logprob - rollout.logprob_B).abs().max()) < 2e-5
    env.reset(np.random.default_rng(0))
    compiled, _ = collect(Learner(policy, 1e-3), env, 50, 0.9, 0.9, np.random.default_rng(1))
    assert rollout.obs_BP.shape == compiled.obs_BP.shape


@pytest.mark.parametrize("kind", ["none", "trunk", "gru"])
@pytest.mark.parametrize("head", ["gaussian", "categorical", "dirichlet"])
def test_the_ratio_is_exactly_one_before_the_first_update(lab: Any, head: str, kind: str) -> None:
    masked = {"gaussian": 0, "categorical": 5, "dirichlet": 3}[head]
    learner = TorchLearner(Small(head, 2, kind, masked or 5), 1e-3, replace(CPU, chunk=64))
    env = Recall(24, num_slots=2 if head == "dirichlet" else 1, masked=masked)
    for _ in range(2):
        rollout, _ = collect(learner, env, 7, 0.9, 0.9, np.random.default_rng(1))
        row = update(learner, rollout, lab.run.ppo, np.random.default_rng(2))
        assert row["ratio_first"] == 0.0
        assert row["grad_norm"] > 0
        assert all(np.isfinite(v) for v in row.values())


def test_what_is_not_allowed_is_never_done_and_has_no_gradient(lab: Any) -> None:
    learner = TorchLearner(Small("categorical", 2), 1e-2, CPU)
    before = learner.policy.actor.weight[0].detach().clone()
    for _ in range(3):
        rollout, _ = collect(learner, Recall(32, masked=5), 8, 0.9, 0.9, np.random.default_rng(1))
        assert rollout.allowed_BC.shape == (256, 5)
        assert float(rollout.u_B.min()) >= 1.0
        update(learner, rollout, lab.run.ppo, np.random.default_rng(2))
    assert torch.equal(before, learner.policy.actor.weight[0].detach())
    assert not torch.equal(before, learner.policy.actor.weight[1].detach())


def learned(kind: str, lab: Any) -> float:
    learner = TorchLearner(Small("gaussian", 2, kind), 1e-2, CPU)
    env, reward = Recall(48), 0.0
    for number in range(24):
        rollout, summary = collect(learner, env, 8, 0.9, 0.9, np.random.default_rng(number))
        update(learner, rollout, lab.run.ppo, np.random.default_rng(number))
        reward = summary.reward_mean
    return reward


def test_only_a_policy_with_a_memory_learns_what_must_be_remembered(lab: Any) -> None:
    """Paid for at 4 bars, shown at one: without a memory nothing is to be had at the other three."""
    assert learned("none", lab) < 0.3
    assert learned("gru", lab) > 0.6


def test_the_memory_of_an_episode_goes_on_between_rollouts_and_is_empty_in_the_next_episode() -> None:
    learner = TorchLearner(Small("gaussian", 2, "gru"), 1e-3, CPU)
    env = Recall(6)
    first, _ = collect(learner, env, 3, 0.9, 0.9, np.random.default_rng(0))
    second, _ = collect(learner, env, 2, 0.9, 0.9, np.random.default_rng(1))
    assert float(first.state_ES.abs().max()) == 0.0
    assert float(second.state_ES.abs().min()) > 0.0
    assert second.ended_TE.tolist() == [[True] * 6, [False] * 6]
    with torch.no_grad():
        fresh = learner.policy.remember(second.obs_BP[6:], torch.zeros(6, 8))
        assert torch.allclose(learner.policy.value(second.obs_BP[6:], fresh), second.value_B[6:], atol=1e-6)


def test_a_truncated_episode_is_valued_with_the_memory_it_had() -> None:
    learner = TorchLearner(Small("gaussian", 2, "gru"), 1e-3, CPU)
    env = Recall(5)
    from plusultra_core.rl.rollout import roll

    record = roll(learner, env, 4, np.random.default_rng(0)).record
    obs = torch.from_numpy(record.obs_TEP)
    state = torch.zeros(5, 8)
    with torch.no_grad():
        for t in range(4):
            state = learner.policy.remember(obs[t], state)
        last = torch.from_numpy(np.column_stack((np.zeros(5), np.ones(5))).astype(np.float32))
        expected = learner.policy.value(last, learner.policy.remember(last, state))
    assert record.next_TE[-1] == pytest.approx(expected.numpy(), abs=1e-6)
    assert np.array_equal(record.next_TE[:-1], record.value_TE[1:])


def test_a_state_goes_on_bit_for_bit(lab: Any) -> None:
    a, b = (TorchLearner(Small("gaussian", 2, "gru"), 1e-3, CPU) for _ in range(2))
    env, twin = Recall(8), Recall(8)
    for episodes in (env, twin):
        rollout, _ = collect(a if episodes is env else b, episodes, 3, 0.9, 0.9, np.random.default_rng(0))
    update(a, rollout, lab.run.ppo, np.random.default_rng(0))
    b.load_state({k: v.clone() for k, v in a.policy.state_dict().items()}, a.state())
    rows = []
    for learner, episodes in ((a, env), (b, twin)):
        rollout, _ = collect(learner, episodes, 3, 0.9, 0.9, np.random.default_rng(1))
        rows.append(update(learner, rollout, lab.run.ppo, np.random.default_rng(1)))
    assert rows[0] == rows[1]
    assert all(torch.equal(p, q) for p, q in zip(a.policy.parameters(), b.policy.parameters(), strict=True))


def test_weights_learn_at_their_part_of_the_rate_and_frozen_ones_not_at_all(lab: Any) -> None:
    policies = [Small("gaussian", 2, "trunk") for _ in range(2)]
    for policy in policies:
        policy.logstd.requires_grad_(False)
    start = policies[0].actor.weight.detach().clone()
    parts = [{}, {"actor.weight": 0.1}]
    for policy, part in zip(policies, parts, strict=True):
        learner = TorchLearner(policy, 1e-3, CPU, rate_parts=part)
        rollout, _ = collect(learner, Recall(32), 4, 0.9, 0.9, np.random.default_rng(0))
        update(learner, rollout, replace(lab.run.ppo, update_epochs=1, num_minibatches=1), np.random.default_rng(0))
        assert float(policy.logstd.detach()) == 0.0
    moved = [float((policy.actor.weight.detach() - start).abs().max()) for policy in policies]
    assert moved[1] == pytest.approx(0.1 * moved[0], rel=1e-3)


def test_bf16_networks_learn_with_float32_densities(lab: Any) -> None:
    policy, _ = batch()
    learner = TorchLearner(Adapted(policy), 1e-3, replace(CPU, precision="bf16-mixed"))
    world = lab.world()
    from plusultra_core.rl.train import make_env

    env = make_env(lab.run, world, 16, (0, 200))
    env.reset(np.random.default_rng(0))
    rollout, _ = collect(learner, env, 16, 0.9, 0.9, np.random.default_rng(1))
    row = update(learner, rollout, lab.run.ppo, np.random.default_rng(2))
    assert row["ratio_first"] == 0.0
    assert rollout.logprob_B.dtype == torch.float32
    exact = policy.logprob(policy.mean(rollout.obs_BP), rollout.u_B).detach()
    assert float((exact - rollout.logprob_B).abs().max()) > 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_graph_learns_what_eager_does(lab: Any) -> None:
    found = []
    for is_compiled in (False, True):
        policy, rollout = batch()
        learner = TorchLearner(Adapted(policy), 1e-3, replace(CPU, compile=is_compiled))
        update(learner, rollout, replace(lab.run.ppo, update_epochs=1), np.random.default_rng(0))
        found.append(torch.cat([p.detach().flatten() for p in policy.parameters()]))
    assert float((found[0] - found[1]).abs().max()) < 2e-6


@pytest.mark.gpu
def test_a_gpu_learns_what_the_cpu_does(lab: Any) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    found = []
    for device in ("cpu", "cuda"):
        policy, rollout = batch()
        learner = TorchLearner(Adapted(policy), 1e-3, replace(CPU, device=device))
        update(learner, rollout, replace(lab.run.ppo, update_epochs=1), np.random.default_rng(0))
        found.append(torch.cat([p.detach().cpu().flatten() for p in policy.parameters()]))
    assert float((found[0] - found[1]).abs().max()) < 1e-5


def test_a_config_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ConfigError, match="chunk"):
        replace(CPU, chunk=0)
