"""The learner of any policy: autograd on its device, in the words of the compiled one."""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from plusultra_core.arrays import BoolArray, Float32Array, Float64Array, Int64Array
from plusultra_core.errors import ConfigError
from plusultra_core.rl.learning.batches import Batch, Charged, batch_of, charge
from plusultra_core.rl.learning.interface import ActorCritic
from plusultra_core.rl.learning.learner import Alone, Samples, Team
from plusultra_core.rl.learning.recorder import Record
from plusultra_core.rl.learning.torch_recorder import TorchRecorder, reviewed


@dataclass(frozen=True, kw_only=True, slots=True)
class TorchConfig:
    """Where and how autograd runs."""

    device: Literal["cpu", "cuda"]
    """Of policy and update; environments stay where they are."""
    precision: Literal["32-true", "bf16-mixed"]
    """Of the networks; densities, losses and the optimiser stay in float32."""
    compile: bool
    """Compile what an update evaluates with torch.compile."""
    chunk: int
    """Samples in one pass at most (whole sequences where the policy has a memory); gradients add up."""

    def __post_init__(self) -> None:
        if self.chunk < 1:
            raise ConfigError(f"chunk: expected >= 1, found {self.chunk}")


Terms = Callable[[Tensor, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor, Tensor]]


class TorchLearner:
    """What is learned by autograd, how far the optimiser is, and with whom."""

    looks_up = False

    def __init__(
        self,
        policy: ActorCritic,
        learning_rate: float,
        cfg: TorchConfig,
        team: Team | None = None,
        rate_parts: Mapping[str, float] | None = None,
    ) -> None:
        """`rate_parts` are parts of the learning rate, by the name of a weight; what is not named learns at the whole rate."""
        self.policy = policy
        policy.to(cfg.device)
        self.cfg = cfg
        self.team: Team = team or Alone()
        named = [(name, parameter) for name, parameter in policy.named_parameters() if parameter.requires_grad]
        self._parameters = [parameter for _, parameter in named]
        self._rate_parts = [(rate_parts or {}).get(name, 1.0) for name, _ in named]
        self._optimizer = torch.optim.Adam([{"params": [parameter]} for parameter in self._parameters], lr=learning_rate, eps=1e-5)
        self.learning_rate = learning_rate
        self._terms: Terms = torch.compile(self._judge) if cfg.compile else self._judge
        self._memory_ES: Tensor | None = None
        self._seen: tuple[Samples, Batch] | None = None

    def record(
        self, num_steps: int, num_accounts: int, num_columns: int, table_RF: Float32Array | None, rng: np.random.Generator
    ) -> TorchRecorder:
        """Room for a rollout in which this policy acts. The memory of the accounts goes on from the last one."""
        if self._memory_ES is None or self._memory_ES.shape != (num_accounts, self.policy.num_state):
            self._memory_ES = torch.zeros(num_accounts, self.policy.num_state, device=self.cfg.device)
        return TorchRecorder(self, (num_steps, num_accounts), num_columns, self._memory_ES, rng)

    def review(self, record: Record, ended_TE: BoolArray, table_RF: Float32Array | None) -> Record:
        """The rows with the densities and values of the weights as they are now; what accounts remembered at the start stays."""
        return reviewed(self, record, ended_TE)

    def keep(self, memory_ES: Tensor) -> None:
        """What the accounts remember after a rollout."""
        self._memory_ES = memory_ES

    def first_distance(self, samples: Samples) -> float:
        """Largest distance of the ratio from 1, over the first rows."""
        batch = self._on_device(samples)
        rows_M, logprob_M, _ = self.judged(batch, 0)
        return float(torch.expm1(logprob_M - batch.logprob_B[rows_M]).abs().max())

    def parts(self, samples: Samples, num_parts: int, rng: np.random.Generator) -> list[Int64Array]:
        """Minibatches, at random: of samples, or of whole accounts where the policy has a memory."""
        if samples.ended_TE is None:
            return np.array_split(rng.permutation(len(samples.u_B)), num_parts)
        num_steps, num_accounts = samples.ended_TE.shape
        first_T1 = num_accounts * np.arange(num_steps)[:, None]
        return [(first_T1 + part_M).ravel() for part_M in np.array_split(rng.permutation(num_accounts), num_parts)]

    def step(
        self, samples: Samples, index_M: Int64Array, num_heard: float, num_all: float, clip_coef: float, vf_coef: float, ent_coef: float,
        max_grad_norm: float,
    ) -> Float64Array:  # fmt: skip
        """As the compiled learner's; the entropy is the mean over what was heard."""
        batch = self._on_device(samples)
        for parameter in self._parameters:
            parameter.grad = torch.zeros_like(parameter)
        sums = torch.zeros(6, dtype=torch.float64, device=self.cfg.device)
        for rows_M in self._pieces(batch, torch.from_numpy(index_M).to(self.cfg.device)):
            logprob_M, entropy_M, value_M = self._of(batch, rows_M)
            picked = Charged(*(column[rows_M] for column in batch[2:6]))
            terms = charge(logprob_M, entropy_M, value_M, picked, num_heard, num_all, clip_coef)
            loss = terms[0] + vf_coef * terms[1] - ent_coef * terms[5]
            loss.backward()  # type: ignore[no-untyped-call]
            sums += terms.detach()
        sums[4] = self._clip(sums, max_grad_norm)
        for group, part in zip(self._optimizer.param_groups, self._rate_parts, strict=True):
            group["lr"] = self.learning_rate * part
        self._optimizer.step()
        found: Float64Array = sums.cpu().numpy()
        return found

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs of the optimiser, and the memory of the accounts."""
        return {"optimizer": self._optimizer.state_dict(), "memory": self._memory_ES}

    def load_state(self, weights: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Go on from the weights of a policy and a `state`, bit for bit."""
        self.policy.load_state_dict(weights)
        self._optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        self._memory_ES = None if state["memory"] is None else state["memory"].to(self.cfg.device)

    @contextmanager
    def mixed(self) -> Iterator[None]:
        """Networks in bf16 where the config says so."""
        with torch.autocast(self.cfg.device, torch.bfloat16, enabled=self.cfg.precision == "bf16-mixed"):
            yield

    def judged(self, batch: Batch, piece: int) -> tuple[Tensor, Tensor, Tensor]:
        """Rows of a piece of the whole rollout, their log densities and values, in the arithmetic of the update."""
        whole = torch.arange(len(batch.logprob_B), device=self.cfg.device)
        rows_M = self._pieces(batch, whole)[piece]
        with torch.no_grad():
            logprob_M, _, value_M = self._of(batch, rows_M)
        return rows_M, logprob_M, value_M

    def remembered(self, batch: Batch) -> Tensor:
        """State after every sample of a whole rollout. Shapes  (B, S)."""
        state_BS = torch.zeros(len(batch.logprob_B), self.policy.num_state, device=self.cfg.device)
        with torch.no_grad(), self.mixed():
            for rows_M in self._pieces(batch, torch.arange(len(state_BS), device=self.cfg.device)):
                state_BS[rows_M] = self._states(batch, rows_M, batch.obs_BP[rows_M]).float()
        return state_BS

    def num_pieces(self, batch: Batch) -> int:
        """Pieces that the whole rollout is cut into."""
        return len(self._pieces(batch, torch.arange(len(batch.logprob_B), device=self.cfg.device)))

    def _on_device(self, samples: Samples) -> Batch:
        if self._seen is None or self._seen[0] is not samples:
            self._seen = (samples, batch_of(samples, self.policy.num_state, self.cfg.device))
        return self._seen[1]

    def _pieces(self, batch: Batch, index_M: Tensor) -> list[Tensor]:
        if batch.ended_TE is None:
            return list(torch.split(index_M, self.cfg.chunk))
        num_steps = len(batch.ended_TE)
        accounts = max(1, self.cfg.chunk // num_steps)
        return [piece_TM.flatten() for piece_TM in torch.split(index_M.view(num_steps, -1), accounts, dim=1)]

    def _of(self, batch: Batch, rows_M: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log density, entropy and value of some samples, in the order of the rows; sequences stand time-major."""
        obs_MP = batch.obs_BP[rows_M]
        with self.mixed():
            state_MS = self._states(batch, rows_M, obs_MP)
            allowed_MC = None if batch.allowed_BC is None else batch.allowed_BC[rows_M]
            logprob_M, entropy_M, value_M = self._terms(obs_MP, state_MS, batch.u_B[rows_M], allowed_MC)
        return logprob_M.float(), entropy_M.float(), value_M.float()

    def _states(self, batch: Batch, rows_M: Tensor, obs_MP: Tensor) -> Tensor:
        if batch.ended_TE is None:
            return self.policy.remember(obs_MP, obs_MP.new_zeros(len(rows_M), self.policy.num_state))
        num_steps, num_accounts = batch.ended_TE.shape
        accounts = rows_M[: len(rows_M) // num_steps] % num_accounts
        state_MS, states = batch.state_ES[accounts], []
        for obs, ended in zip(obs_MP.view(num_steps, len(accounts), -1), batch.ended_TE[:, accounts], strict=True):
            states.append(self.policy.remember(obs, state_MS))
            state_MS = torch.where(ended[:, None], 0.0, states[-1])
        return torch.cat(states)

    def _judge(self, obs_MP: Tensor, state_MS: Tensor, u_M: Tensor, allowed_MC: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        distribution = self.policy.distribution(obs_MP, state_MS, allowed_MC)
        return distribution.log_prob(u_M), distribution.entropy(), self.policy.value(obs_MP, state_MS)

    def _clip(self, sums: Tensor, max_grad_norm: float) -> Tensor:
        """Sum the gradient over the team and cut it; returns the norm that it had."""
        grads = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        flat = torch.cat([grad.flatten() for grad in grads])
        if self.team.size > 1:
            hosts = [x.cpu().numpy() for x in (flat, sums)]
            self.team.total(*hosts)
            for x, host in zip((flat, sums), hosts, strict=True):
                x.copy_(torch.from_numpy(host))
        norm: Tensor = flat.double().norm()
        flat *= (max_grad_norm / (norm + 1e-6)).clamp_max(1.0).float()
        for grad, part in zip(grads, torch.split(flat, [grad.numel() for grad in grads]), strict=True):
            grad.copy_(part.view_as(grad))
        return norm
