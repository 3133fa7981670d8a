"""A world with a closed-form optimum, and the transitions that a behaviour leaves in it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from plusultra_core.rl.offline.learning import OfflineConfig
from plusultra_core.rl.offline.transitions import Transitions

GAMMA = 0.9


@dataclass(frozen=True)
class Quadratic:
    """A predictor f of the return of an asset that keeps `keep` of itself; a position x pays x f - x^2 / 2 - cost / 2 (x - x_before)^2.

    The observation is (f, x before), the action the position as a part of `reach`.
    """

    keep: float = 0.8
    cost: float = 2.0
    reach: float = 3.0

    def gain(self) -> np.ndarray:
        """The optimal rule x = k @ (x before, f), from the discounted Riccati recursion."""
        a, b, value = np.diag([0.0, self.keep]), np.array([1.0, 0.0]), np.zeros((2, 2))
        pay = np.array([self.cost, 1.0])
        for _ in range(2_000):
            onward = GAMMA * value
            curve = 1.0 + self.cost - b @ onward @ b
            slope = pay + a.T @ onward @ b
            value = np.diag([-self.cost, 0.0]) + a.T @ onward @ a + np.outer(slope, slope) / curve
        return slope / curve

    def play(self, act: Callable[[np.ndarray], np.ndarray], num: int, length: int, seed: int) -> tuple[Transitions, float]:
        """Trajectories of a rule from random positions, and their mean discounted reward."""
        rng = np.random.default_rng(seed)
        f, x = rng.normal(size=num), rng.uniform(-1.0, 1.0, num)
        steps: list[tuple[np.ndarray, ...]] = []
        for _ in range(length):
            obs = np.column_stack((f, x / self.reach)).astype(np.float32)
            action = np.clip(act(obs), -0.95, 0.95)
            new = self.reach * action
            reward = new * f - 0.5 * new**2 - 0.5 * self.cost * (new - x) ** 2
            f, x = self.keep * f + np.sqrt(1 - self.keep**2) * rng.normal(size=num), new
            steps.append((obs, action, reward, np.column_stack((f, x / self.reach)).astype(np.float32)))
        obs, action, reward, following = (np.stack(column, axis=1) for column in zip(*steps, strict=True))
        value = float((reward * GAMMA ** np.arange(length)).sum(axis=1).mean())
        flat = num * length
        paid, done = reward.reshape(flat).astype(np.float32), action.reshape(flat).astype(np.float32)
        data = Transitions(
            obs.reshape(flat, 2), done, paid, following.reshape(flat, 2),
            np.zeros(flat, np.bool_), np.repeat(np.arange(num), length), np.full(flat, np.nan, np.float32),
        )  # fmt: skip
        return data, value

    def optimal(self, obs: np.ndarray) -> np.ndarray:
        """The optimal rule."""
        gain = self.gain()
        return np.asarray(gain[0] * obs[:, 1] + gain[1] * obs[:, 0] / self.reach)

    def myopic(self, obs: np.ndarray) -> np.ndarray:
        """What is best for the next bar alone, and half of that: it trades too little."""
        return np.asarray(0.5 * (obs[:, 0] / self.reach + self.cost * obs[:, 1]) / (1 + self.cost))


@pytest.fixture
def quadratic() -> Any:
    """The world."""
    return Quadratic()


@pytest.fixture
def steps() -> OfflineConfig:
    """Steps enough for the world."""
    return OfflineConfig(
        num_steps=2_000, batch_size=256, learning_rate=1e-3, width=64, gamma=GAMMA, expectile=0.8, temperature=3.0, max_weight=100.0,
        target_rate=0.01,
    )  # fmt: skip
