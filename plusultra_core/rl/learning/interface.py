"""What a learner asks of a policy: any module that offers this is learned by autograd, collected with, and served.

Tanh networks with a Gaussian (`models.policy.Policy`) have a compiled learner of their own that needs none of it.
The policies live a floor below and know nothing of this file: these are the words, not a class to inherit from.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn


class Distribution(Protocol):
    """Distribution of the action of B observations, in the variable u that its density is written in.

    A squashed Gaussian draws u before squashing, (B,) or (B, A); a categorical the place of a choice, (B,); Dirichlet weights
    their logarithms, (B, W). Always float32: whoever stores a sample stores u, and `parts` says what it means.
    """

    def sample(self, rng: np.random.Generator) -> Tensor:
        """Draw u, on the CPU: the same numbers whatever the device of the policy."""

    def mode(self) -> Tensor:
        """The u that is taken when nothing is explored."""

    def log_prob(self, u: Tensor) -> Tensor:
        """Exact log density of u over what is allowed, in float32. Shapes  -> (B,), 0 where nothing is allowed.

        Densities of u and of `parts(u)` differ by what depends on u alone, which cancels in every ratio.
        """

    def entropy(self) -> Tensor:
        """Entropy over what is allowed. Shapes  -> (B,), 0 where nothing is allowed."""

    def parts(self, u: Tensor) -> Tensor:
        """What the environment is told: parts of the limit in [-1, 1]. Shapes  (B,), or (B, A) of a book of A slots."""


class ActorCritic(Protocol):
    """A policy and its critic; in all but these words an `nn.Module`.

    `state` is what an episode has seen so far, the newest observation included: `remember` makes it, the other two read it.
    Without memory it may hold what both networks share (a trunk), so that this is computed once; or nothing, S = 0.
    Fresh episodes begin with zeros. `allowed` masks what may be done, True is allowed: choices of a categorical, slots of a book;
    None allows all. No dropout and no batch statistics: an update sees what the rollout saw.
    """

    num_state: int
    """S, columns of the state."""
    has_memory: bool
    """Whether `remember` reads the state it is given; then updates go through whole sequences in the order of time."""

    def remember(self, obs_BP: Tensor, state_BS: Tensor) -> Tensor:
        """State after the observation, given the one before. Shapes  (B, P), (B, S) -> (B, S)."""

    def distribution(self, obs_BP: Tensor, state_BS: Tensor, allowed_BC: Tensor | None = None) -> Distribution:
        """What the policy would do. Shapes  (B, P), (B, S), (B, C) bool."""

    def value(self, obs_BP: Tensor, state_BS: Tensor) -> Tensor:
        """What the critic expects. Shapes  (B, P), (B, S) -> (B,)."""

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """As `nn.Module` has it; those that require no gradient stay as they are."""

    def state_dict(self) -> dict[str, Any]:
        """As `nn.Module` has it."""

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any:
        """As `nn.Module` has it."""

    def to(self, device: str) -> Any:
        """As `nn.Module` has it."""
