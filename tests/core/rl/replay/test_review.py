"""Old rows, looked at with the weights of now: as recorded where those have not moved, else what the policy says step by step."""

from typing import Any

import numpy as np
import pytest
import torch

from plusultra_core.rl.learning.learner import Alone, Learner
from plusultra_core.rl.learning.recorder import closed
from plusultra_core.rl.rollout import Trajectory, roll, table_of
from plusultra_core.rl.train import make_env, make_learner
from plusultra_core.rl.workers.crew import merge

RECIPES = [("gaussian", "none"), ("categorical", "none"), ("dirichlet", "none"), ("gaussian", "gru"), ("categorical", "window")]


def rolled(lab: Any, run: Any, columns: int = 6, num_steps: int = 15, rolls: int = 1) -> tuple[Any, Any, list[Trajectory]]:
    """A learner, its episodes and what they did; episodes of 6 bars, so that many end within."""
    world = lab.world(columns=columns)
    learner = make_learner(run, lab.policy(world, run=run), Alone())
    env = make_env(run, world, 24, (0, 200), 6)
    env.reset(np.random.default_rng(0))
    return learner, env, [roll(learner, env, num_steps, np.random.default_rng(n)) for n in range(rolls)]


def moved(learner: Any) -> None:
    made = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in learner.policy.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=made))


def assert_same(found: Any, record: Any, tolerance: float = 0.0) -> None:
    for name in ("logprob_TE", "value_TE"):
        assert np.abs(getattr(found, name) - getattr(record, name)).max() <= tolerance, name
    assert np.allclose(found.next_TE, record.next_TE, rtol=0, atol=2e-6)


@pytest.mark.parametrize("columns", [6, 64])
def test_the_compiled_learner_finds_what_it_recorded(lab: Any, columns: int) -> None:
    """With 64 columns market rows are looked up, and the whole of what followed is kept beside them."""
    learner, env, (trajectory,) = rolled(lab, lab.run, columns, num_steps=100)
    assert isinstance(learner, Learner)
    assert (trajectory.record.row_TE is not None) == (columns == 64)
    found = learner.review(trajectory.record, trajectory.ended_TE, table_of(env))
    assert_same(found, trajectory.record)
    assert np.array_equal(found.next_TE, trajectory.record.next_TE)


@pytest.mark.parametrize("recipe", RECIPES)
def test_autograd_finds_what_it_recorded(lab: Any, recipe: tuple[str, str]) -> None:
    run = lab.recipe(head=recipe[0], memory=recipe[1], norm_obs="running")
    learner, env, trajectories = rolled(lab, run, rolls=2)
    memory = learner.state()["memory"].clone()
    for trajectory in trajectories[1:]:
        assert_same(learner.review(trajectory.record, trajectory.ended_TE, table_of(env)), trajectory.record)
    assert torch.equal(memory, learner.state()["memory"])


def test_after_a_move_the_compiled_learner_says_what_the_policy_says(lab: Any) -> None:
    learner, env, (trajectory,) = rolled(lab, lab.run)
    moved(learner)
    record, policy = trajectory.record, learner.policy
    found = learner.review(record, trajectory.ended_TE, table_of(env))
    obs, u = torch.from_numpy(record.obs_TEP).flatten(0, 1), torch.from_numpy(record.u_TE).flatten()
    with torch.no_grad():
        logprob, value = policy.logprob(policy.mean(obs), u).numpy(), policy.value(obs).numpy().reshape(15, 24)
        final = policy.value(torch.from_numpy(record.final_CP)).numpy()
    following = np.vstack((value[1:], value[:1])).astype(np.float64)
    following[closed(trajectory.ended_TE)] = final
    assert np.abs(found.logprob_TE.ravel() - logprob).max() < 1e-4
    assert np.abs(found.value_TE - value).max() < 1e-5
    assert np.abs(found.next_TE - following).max() < 1e-5
    assert np.abs(found.logprob_TE - record.logprob_TE).max() > 0.1


def test_after_a_move_a_memory_is_followed_anew_from_where_the_rollout_began(lab: Any) -> None:
    learner, env, (_, trajectory) = rolled(lab, lab.recipe(memory="gru"), rolls=2)
    moved(learner)
    record, policy = trajectory.record, learner.policy
    found = learner.review(record, trajectory.ended_TE, table_of(env))
    state, final = torch.from_numpy(record.state_ES), iter(torch.from_numpy(record.final_CP))
    assert float(state.abs().max()) > 0
    with torch.no_grad():
        for t, obs in enumerate(torch.from_numpy(record.obs_TEP)):
            state = policy.remember(obs, state)
            distribution = policy.distribution(obs, state)
            assert np.allclose(found.logprob_TE[t], distribution.log_prob(torch.from_numpy(record.u_TE[t])), atol=1e-5)
            assert np.allclose(found.value_TE[t], policy.value(obs, state), atol=1e-5)
            for e in np.flatnonzero(closed(trajectory.ended_TE)[t]):
                after = next(final)[None]
                assert found.next_TE[t, e] == pytest.approx(float(policy.value(after, policy.remember(after, state[e][None]))), abs=1e-5)
            state = torch.where(torch.from_numpy(trajectory.ended_TE[t])[:, None], 0.0, state)
    assert next(final, None) is None


@pytest.mark.parametrize("memory", ["none", "gru"])
def test_rollouts_side_by_side_are_reviewed_as_each_alone(lab: Any, memory: str) -> None:
    """What followed finds its account again."""
    learner, env, trajectories = rolled(lab, lab.recipe(memory=memory), rolls=3)
    moved(learner)
    merged = merge(trajectories)
    found = learner.review(merged.record, merged.ended_TE, table_of(env))
    for place, trajectory in enumerate(trajectories):
        alone, of = learner.review(trajectory.record, trajectory.ended_TE, table_of(env)), slice(24 * place, 24 * (place + 1))
        for name in ("logprob_TE", "value_TE", "next_TE"):
            assert np.allclose(getattr(found, name)[:, of], getattr(alone, name), rtol=0, atol=2e-5), name
