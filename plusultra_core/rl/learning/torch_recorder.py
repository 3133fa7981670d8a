"""The rollout of any policy."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from plusultra_core.arrays import BoolArray, Float32Array, Float64Array, Int64Array
from plusultra_core.rl.learning.batches import Batch
from plusultra_core.rl.learning.recorder import Record, closed

if TYPE_CHECKING:
    from plusultra_core.rl.learning.autograd import TorchLearner


class TorchRecorder:
    """Acts on the learner's device; what comes back lies on the CPU."""

    def __init__(
        self, learner: "TorchLearner", shape: tuple[int, int], num_columns: int, memory_ES: Tensor, rng: np.random.Generator
    ) -> None:
        self._learner, self._rng, self._shape = learner, rng, shape
        self._obs_TEP = np.empty((*shape, num_columns), dtype=np.float32)
        self._logprob_TE, self._value_TE = torch.empty(shape), torch.empty(shape)
        self._u: list[Tensor] = []
        self._closed: list[tuple[int, BoolArray, Float64Array]] = []
        self._final: list[Float32Array] = []
        self._allowed: list[BoolArray] = []
        self._begin_ES, self._state_ES = memory_ES.clone(), memory_ES
        self._seen_ES = memory_ES

    def act(self, t: int, obs_EP: Float32Array, row_E: Int64Array | None, allowed_EC: BoolArray | None) -> Float64Array:
        """Draw the actions of step t. Shapes  (E, P), (E, C) -> (E,) or (E, A)."""
        learner, policy = self._learner, self._learner.policy
        self._obs_TEP[t] = obs_EP
        obs = torch.from_numpy(self._obs_TEP[t]).to(learner.cfg.device)
        allowed = None if allowed_EC is None else torch.from_numpy(allowed_EC.copy())
        if allowed is not None:
            self._allowed.append(allowed.numpy())
        with torch.no_grad(), learner.mixed():
            self._seen_ES = policy.remember(obs, self._state_ES)
            distribution = policy.distribution(obs, self._seen_ES, None if allowed is None else allowed.to(learner.cfg.device))
            u = distribution.sample(self._rng)
            self._u.append(u)
            there = u.to(learner.cfg.device)
            self._logprob_TE[t], self._value_TE[t] = distribution.log_prob(there), policy.value(obs, self._seen_ES)
            parts: Float64Array = distribution.parts(there).double().cpu().numpy()
        return parts

    def follow(self, obs_EP: Float32Array, ended_E: BoolArray, is_last: bool) -> None:
        """The value of what followed where the episode ended or the rollout does; the memory of what ended is emptied."""
        closed_E = np.ones_like(ended_E) if is_last else ended_E
        device = self._learner.cfg.device
        if closed_E.any():
            obs, closed = torch.from_numpy(obs_EP[closed_E]).to(device), torch.from_numpy(closed_E.copy()).to(device)
            with torch.no_grad(), self._learner.mixed():
                value = self._learner.policy.value(obs, self._learner.policy.remember(obs, self._seen_ES[closed]))
            self._closed.append((len(self._u) - 1, closed_E.copy(), value.double().cpu().numpy()))
            self._final.append(obs_EP[closed_E])
        ended = torch.from_numpy(ended_E.copy()).to(device)
        self._state_ES = torch.where(ended[:, None], 0.0, self._seen_ES.float())

    def record(self, ended_TE: BoolArray) -> Record:
        """The rows, once all steps are made."""
        self._learner.keep(self._state_ES)
        u_TE = torch.stack(self._u)
        allowed_TEC = np.stack(self._allowed) if self._allowed else None
        state_ES = self._begin_ES.cpu() if self._learner.policy.has_memory else None
        self._settle(u_TE, allowed_TEC, state_ES, ended_TE)
        value_TE = self._value_TE.numpy()
        next_TE: Float64Array = np.empty(value_TE.shape)
        next_TE[:-1] = value_TE[1:]
        for t, closed_E, value_R in self._closed:
            next_TE[t, closed_E] = value_R
        state = None if state_ES is None else state_ES.numpy()
        final_CP = np.concatenate(self._final)
        return Record(self._obs_TEP, None, u_TE.numpy(), self._logprob_TE.numpy(), value_TE, next_TE, allowed_TEC, state, final_CP)

    def _settle(self, u_TE: Tensor, allowed_TEC: BoolArray | None, state_ES: Tensor | None, ended_TE: BoolArray) -> None:
        """Where a step alone rounds otherwise than the pieces of an update, take densities and values from those."""
        logprob_B = self._logprob_TE.view(-1)
        batch = _batch(self._learner, torch.from_numpy(self._obs_TEP), u_TE, logprob_B, allowed_TEC, state_ES, ended_TE)
        value_B = self._value_TE.view(-1)
        for piece in range(self._learner.num_pieces(batch)):
            rows_M, logprob_M, value_M = (x.cpu() for x in self._learner.judged(batch, piece))
            if piece == 0 and torch.equal(logprob_B[rows_M], logprob_M) and torch.equal(value_B[rows_M], value_M):
                return
            logprob_B[rows_M], value_B[rows_M] = logprob_M, value_M


def reviewed(learner: "TorchLearner", record: Record, ended_TE: BoolArray) -> Record:
    """The rows with the densities and values of the weights as they are now, in pieces as the update reads them."""
    logprob_B = torch.from_numpy(record.logprob_TE.copy()).view(-1)
    value_B = torch.empty_like(logprob_B)
    state_ES = None if record.state_ES is None else torch.from_numpy(record.state_ES)
    obs_TEP, u_TE = torch.from_numpy(record.obs_TEP), torch.from_numpy(record.u_TE)
    batch = _batch(learner, obs_TEP, u_TE, logprob_B, record.allowed_TEC, state_ES, ended_TE)
    for piece in range(learner.num_pieces(batch)):
        rows_M, logprob_M, value_M = (x.cpu() for x in learner.judged(batch, piece))
        logprob_B[rows_M], value_B[rows_M] = logprob_M, value_M
    value_TE = value_B.view(ended_TE.shape).numpy()
    next_TE: Float64Array = np.empty(value_TE.shape)
    next_TE[:-1] = value_TE[1:]
    closed_TE = closed(ended_TE)
    next_TE[closed_TE] = _followed(learner, batch, record, closed_TE)
    return record._replace(logprob_TE=logprob_B.view(ended_TE.shape).numpy(), value_TE=value_TE, next_TE=next_TE)


def _followed(learner: "TorchLearner", batch: Batch, record: Record, closed_TE: BoolArray) -> Float64Array:
    """Values of what followed where the rows themselves do not say."""
    device, policy = learner.cfg.device, learner.policy
    final_CP = torch.from_numpy(record.final_CP).to(device)
    state_CS = torch.zeros(len(final_CP), policy.num_state, device=device)
    if policy.has_memory:
        state_CS = learner.remembered(batch)[torch.from_numpy(closed_TE.ravel()).to(device)]
    values = []
    with torch.no_grad(), learner.mixed():
        for obs, state in zip(torch.split(final_CP, learner.cfg.chunk), torch.split(state_CS, learner.cfg.chunk), strict=True):
            values.append(policy.value(obs, policy.remember(obs, state)).double().cpu())
    found: Float64Array = torch.cat(values).numpy()
    return found


def _batch(
    learner: "TorchLearner", obs_TEP: Tensor, u_TE: Tensor, logprob_B: Tensor, allowed_TEC: BoolArray | None, state_ES: Tensor | None,
    ended_TE: BoolArray,
) -> Batch:  # fmt: skip
    """A rollout on the device before anything is known of its worth."""
    device = learner.cfg.device
    unread = logprob_B.to(device)
    return Batch(
        obs_TEP.flatten(0, 1).to(device),
        u_TE.flatten(0, 1).to(device),
        unread,
        unread,
        unread,
        unread,
        None if allowed_TEC is None else torch.from_numpy(allowed_TEC).flatten(0, 1).to(device),
        (torch.zeros(0, learner.policy.num_state) if state_ES is None else state_ES).to(device),
        None if state_ES is None else torch.from_numpy(ended_TE).to(device),
    )
