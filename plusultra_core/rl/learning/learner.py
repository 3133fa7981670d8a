"""Gradient steps on a rollout: the networks, the optimiser, and the team that shares the gradient."""

import math
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from plusultra_core.arrays import BoolArray, Float32Array, Float64Array, Int64Array
from plusultra_core.models.policy import Policy
from plusultra_core.rl.learning import kernels
from plusultra_core.rl.learning.networks import CHUNK, Networks
from plusultra_core.rl.learning.recorder import CompiledRecorder, Record, Recorder, reviewed
from plusultra_core.rl.learning.tables import Market

_HALF_LOG_TAU_E = 0.5 * math.log(2.0 * math.pi * math.e)


class Team(Protocol):
    """Processes that learn one policy, each from its own samples."""

    rank: int
    size: int

    def total(self, *arrays: Any) -> None:
        """Replace every array by its sum over the team, in the order of the members, everywhere the same."""


class Alone:
    """The team of one process."""

    rank = 0
    size = 1

    def total(self, *arrays: Any) -> None:
        """The sum over one process is what it has."""


class Samples(Protocol):
    """The columns of a rollout that a step reads; `rollout.Rollout` has them."""

    @property
    def obs_BP(self) -> Tensor: ...
    @property
    def u_B(self) -> Tensor: ...
    @property
    def logprob_B(self) -> Tensor: ...
    @property
    def advantage_B(self) -> Tensor: ...
    @property
    def return_B(self) -> Tensor: ...
    @property
    def heard_B(self) -> Tensor: ...
    @property
    def market(self) -> Market | None: ...
    @property
    def allowed_BC(self) -> Tensor | None: ...
    @property
    def state_ES(self) -> Tensor | None: ...
    @property
    def ended_TE(self) -> Tensor | None: ...


class Learns(Protocol):
    """What rollouts and updates ask of a learner, compiled or not."""

    team: Team
    learning_rate: float
    looks_up: bool
    """Whether market rows may be left in their table."""

    def record(
        self, num_steps: int, num_accounts: int, num_columns: int, table_RF: Float32Array | None, rng: np.random.Generator
    ) -> Recorder:
        """Room for a rollout in which the policy acts."""

    def review(self, record: Record, ended_TE: BoolArray, table_RF: Float32Array | None) -> Record:
        """The rows with the densities and values of the weights as they are now; as recorded where those have not moved."""

    def first_distance(self, samples: Samples) -> float:
        """Largest distance of the ratio from 1, over the first rows."""

    def parts(self, samples: Samples, num_parts: int, rng: np.random.Generator) -> list[Int64Array]:
        """Minibatches, at random."""

    def step(
        self, samples: Samples, index_M: Int64Array, num_heard: float, num_all: float, clip_coef: float, vf_coef: float, ent_coef: float,
        max_grad_norm: float,
    ) -> Float64Array:  # fmt: skip
        """One gradient step on a minibatch of the team."""


class Learner:
    """What is learned, how far the optimiser is, and with whom."""

    looks_up = True

    def __init__(self, policy: Policy, learning_rate: float, team: Team | None = None) -> None:
        self.policy = policy
        self.networks = Networks(policy)
        self.team: Team = team or Alone()
        self.learning_rate = learning_rate
        self._first = torch.zeros_like(self.networks.flat)
        self._second = torch.zeros_like(self.networks.flat)
        self._num_steps = 0

    def record(
        self, num_steps: int, num_accounts: int, num_columns: int, table_RF: Float32Array | None, rng: np.random.Generator
    ) -> CompiledRecorder:
        """Room for a rollout in which this policy acts; with a table the columns are the own state's."""
        return CompiledRecorder(self.networks, (num_steps, num_accounts), num_columns, table_RF, rng)

    def review(self, record: Record, ended_TE: BoolArray, table_RF: Float32Array | None) -> Record:
        """The rows with the densities and values of the weights as they are now; as recorded where those have not moved."""
        return reviewed(self.networks, record, ended_TE, table_RF)

    def logprobs(self, mean_B: Float32Array, u_B: Float32Array) -> Float32Array:
        """Log density of u, in the arithmetic of the loss."""
        out_B = np.empty_like(mean_B)
        kernels.logprobs(mean_B, u_B, self.networks.logstd, out_B)
        return out_B

    def first_distance(self, samples: Samples) -> float:
        """Largest distance of the ratio from 1, over the first rows."""
        u_B, logprob_B = samples.u_B[:CHUNK].numpy(), samples.logprob_B[:CHUNK].numpy()
        mean_B = self.networks.rows(samples.obs_BP.numpy(), np.arange(u_B.size), samples.market)[0]
        return float(np.abs(np.expm1(self.logprobs(mean_B, u_B) - logprob_B)).max())

    def parts(self, samples: Samples, num_parts: int, rng: np.random.Generator) -> list[Int64Array]:
        """Minibatches, at random: of samples, or of the market's rows where those are looked up."""
        if samples.market is not None:
            return samples.market.parts(num_parts, rng)
        return np.array_split(rng.permutation(len(samples.u_B)), num_parts)

    def step(
        self, samples: Samples, index_M: Int64Array, num_heard: float, num_all: float, clip_coef: float, vf_coef: float, ent_coef: float,
        max_grad_norm: float,
    ) -> Float64Array:  # fmt: skip
        """One gradient step on a minibatch of the team; returns policy loss, value loss, approx_kl, clipfrac, norm of gradient, entropy.

        `num_heard` and `num_all` count the whole minibatch, this process's part of it is `index_M`.
        """
        entropy = self.networks.logstd + _HALF_LOG_TAU_E
        sums = self.gradient(samples, index_M, num_heard, num_all, clip_coef, vf_coef)
        grad = self.networks.grad.numpy()
        self.team.total(grad, sums)
        grad[-1] = sums[4] - ent_coef
        self._num_steps += 1
        flat, first, second = self.networks.flat.numpy(), self._first.numpy(), self._second.numpy()
        sums[4] = kernels.adam(flat, grad, first, second, self._num_steps, self.learning_rate, max_grad_norm)
        return np.append(sums, entropy)

    def gradient(
        self, samples: Samples, index_M: Int64Array, num_heard: float, num_all: float, clip_coef: float, vf_coef: float
    ) -> Float64Array:
        """Gradient of this process's part, without the entropy, left in `networks.grad`; returns the sums of `loss_gradient`."""
        sums: Float64Array = np.zeros(kernels.NUM_SUMS)
        columns = [x.numpy() for x in (samples.u_B, samples.logprob_B, samples.advantage_B, samples.return_B, samples.heard_B)]
        obs_BP, logstd = samples.obs_BP.numpy(), self.networks.logstd
        self.networks.grad.zero_()
        for first in range(0, index_M.size, CHUNK):
            chunk_M = index_M[first : first + CHUNK]
            out_KM = self.networks.rows(obs_BP, chunk_M, samples.market)
            d_KM = np.empty_like(out_KM)
            kernels.loss_gradient(chunk_M, out_KM, *columns, logstd, clip_coef, vf_coef, num_heard, num_all, d_KM, sums)
            self.networks.backward(d_KM, samples.market)
        self.networks.grad[-1] = sums[4]
        return sums

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs of the optimiser."""
        return {"first": self._first, "second": self._second, "num_steps": self._num_steps}

    def load_state(self, weights: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Go on from the weights of a policy and a `state`, bit for bit."""
        self.policy.load_state_dict(weights)
        self._first.copy_(state["first"])
        self._second.copy_(state["second"])
        self._num_steps = int(state["num_steps"])
