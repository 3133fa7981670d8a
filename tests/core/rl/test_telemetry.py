"""What is told of a training is what happened in it, and the same for the same seed."""

from typing import Any

import numpy as np
import pytest

from plusultra_core.rl.learning.learner import Learner
from plusultra_core.rl.learning.recorder import Record
from plusultra_core.rl.rollout import Trajectory, roll
from plusultra_core.rl.train import make_env
from plusultra_core.rl.workers.telemetry import Clock, Telemetry, follow

EMPTY = np.zeros((0, 0))


def trajectory(ret: np.ndarray, action: np.ndarray, ended: np.ndarray, terminated: np.ndarray | None = None) -> Trajectory:
    record = Record(EMPTY, None, EMPTY, EMPTY, EMPTY, EMPTY, None, None)
    none = np.zeros_like(ended) if terminated is None else terminated
    return Trajectory(record, 2 * ret, ret, none, ended, np.ones_like(ended), action)


def test_an_episode_is_followed_from_rollout_to_rollout() -> None:
    """One account: four bars in two rollouts, then a new one that has not ended."""
    ret = np.array([[0.1], [-0.2], [0.05], [0.3], [1.0], [1.0]])
    action = np.array([[0.5], [-0.5], [-0.5], [0.0], [1.0], [1.0]])
    ended = np.array([[False], [False], [False], [True], [False], [False]])
    telemetry = Telemetry(1)
    first = telemetry.absorb(trajectory(ret[:2], action[:2], ended[:2]))
    assert "episode_ret" not in first
    row = telemetry.absorb(trajectory(ret[2:], action[2:], ended[2:], ended[2:]), staleness=1)
    assert row["episode_bars"] == 4
    assert row["episode_ret"] == pytest.approx(0.25)
    assert row["episode_reward"] == row["episode_reward_p50"] == pytest.approx(0.5)
    assert row["episode_drawdown"] == row["episode_drawdown_max"] == pytest.approx(1 - np.exp(-0.2))
    assert row["episode_turnover"] == pytest.approx(0.5 + 1.0 + 0.0 + 0.5)
    assert row["staleness"] == row["num_liquidated"] == 1.0
    assert telemetry.state["episode_E6"][0, 0] == 2.0


def test_quantiles_are_those_of_the_episodes() -> None:
    ret = np.arange(101.0)[None] / 100
    row = Telemetry(101).absorb(trajectory(ret, np.zeros_like(ret), np.ones(ret.shape, np.bool_)))
    assert [row[f"episode_reward_p{level}"] for level in ("05", "25", "50", "75", "95")] == pytest.approx([0.1, 0.5, 1.0, 1.5, 1.9])
    assert [row[f"reward_p{level}"] for level in ("05", "95")] == pytest.approx([0.1, 1.9])


def test_a_wish_that_is_not_heard_is_no_turnover() -> None:
    made = trajectory(np.zeros((2, 1)), np.array([[1.0], [1.0]]), np.array([[False], [True]]))
    assert Telemetry(1).absorb(made._replace(heard_TE=np.zeros((2, 1), np.bool_)))["episode_turnover"] == 0.0
    book = made._replace(action_TE=np.array([[[0.5, -0.25]], [[0.0, 0.0]]]))
    assert Telemetry(1).absorb(book)["episode_turnover"] == 1.5


def test_rows_of_the_same_rollouts_are_the_same_and_have_no_time_in_them(lab: Any) -> None:
    rows = []
    for _ in range(2):
        world = lab.world()
        env = make_env(lab.run, world, 16, (0, 200))
        env.reset(np.random.default_rng(0))
        learner, telemetry, clock = Learner(lab.policy(world), 1e-3), Telemetry(16), Clock()
        rows.append([telemetry.absorb(roll(learner, env, 25, np.random.default_rng(n))) for n in range(2)])
        clock.lap("collect")
        read = clock.read(800)
        assert read["collect_samples_per_s"] == pytest.approx(800 / read["collect_seconds"])
        assert clock.read(1) == {}
        assert not set(read) & set(rows[-1][0])
    assert rows[0] == rows[1]
    assert rows[0][1]["episode_bars"] == 40.0


def test_a_state_goes_on() -> None:
    rng = np.random.default_rng(0)
    ret, ended = rng.normal(size=(8, 5)), rng.random((8, 5)) < 0.3
    whole, cut, later = Telemetry(5), Telemetry(5), Telemetry(5)
    for part in (slice(0, 4), slice(4, 8)):
        expected = whole.absorb(trajectory(ret[part], ret[part], ended[part]))
    cut.absorb(trajectory(ret[:4], ret[:4], ended[:4]))
    later.state = {name: array.copy() for name, array in cut.state.items()}
    assert later.absorb(trajectory(ret[4:], ret[4:], ended[4:])) == expected


def test_the_compiled_walk_is_its_python() -> None:
    rng = np.random.default_rng(0)
    ended = rng.random((9, 4)) < 0.3
    found = []
    for walk in (follow, getattr(follow, "py_func", follow)):
        state, action, done = np.zeros((4, 6)), np.zeros(4), np.zeros((int(ended.sum()), 6))
        walk(*np.random.default_rng(1).normal(size=(3, 9, 4)), ended, action, state, done)
        found.append(np.concatenate((state.ravel(), action, done.ravel())))
    assert np.array_equal(*found)
