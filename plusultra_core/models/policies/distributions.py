"""What an actor says of an action: squashed Gaussian, categorical over a grid of targets, Dirichlet over an account.

Each has `sample`, `log_prob`, `entropy` and `mode` in the units in which a rollout stores actions, and `parts`, which
turns those into what the environment is asked for. Every row depends on nothing but its own numbers.
"""

import math
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

_HALF_LOG_TAU = 0.5 * math.log(2.0 * math.pi)
_LEAST_LOG = -60.0


class Distribution(Protocol):
    """Actions of B rows; `u` is what a rollout stores."""

    def sample(self, rng: np.random.Generator) -> Tensor:
        """One draw a row."""

    def log_prob(self, u: Tensor) -> Tensor:
        """Log density or probability of stored actions. Shapes  result (B,)."""

    def entropy(self) -> Tensor:
        """Shapes  (B,)."""

    def mode(self) -> Tensor:
        """The stored action that is taken when nothing is explored."""

    def parts(self, u: Tensor) -> Tensor:
        """Wished parts of the limit (or of the account) of stored actions."""


class SquashedGaussian:
    """u ~ N(mean, std), part = tanh(u).

    `log_prob` is the density of u: the Jacobian of tanh depends on the action alone and cancels in every ratio.
    Where densities of actions are compared with those of another kind it does matter: `log_prob_part` has it. `entropy` is that of u
    as well, as in CleanRL and Stable-Baselines3: paid for alone it widens u without end, and the parts pile up at the limits.
    Shapes  mean, u (B,); logstd (1,) or (B,); allowed (B,) bool: where it is False the action teaches nothing.
    """

    def __init__(self, mean_B: Tensor, logstd: Tensor, allowed_B: Tensor | None = None) -> None:
        self.mean_B = mean_B
        self.logstd_B = logstd.expand_as(mean_B)
        self.allowed_B = torch.ones_like(mean_B, dtype=torch.bool) if allowed_B is None else allowed_B

    def sample(self, rng: np.random.Generator) -> Tensor:
        """Shapes  (B,)."""
        noise_B = torch.from_numpy(rng.standard_normal(len(self.mean_B), dtype=np.float32))
        return self.mean_B.detach().cpu() + noise_B * self.logstd_B.detach().cpu().exp()

    def log_prob(self, u: Tensor) -> Tensor:
        """Log density of u."""
        z_B = (u - self.mean_B) * torch.exp(-self.logstd_B)
        return _where(self.allowed_B, -0.5 * z_B.square() - self.logstd_B - _HALF_LOG_TAU)

    def log_prob_part(self, u: Tensor) -> Tensor:
        """Log density of the part tanh(u), with the Jacobian, exact in the tails: log(1 - tanh^2 u) = 2 (log 2 - u - softplus(-2 u))."""
        return self.log_prob(u) - _where(self.allowed_B, log_slope(u))

    def entropy(self) -> Tensor:
        """Entropy of u, the same for every row: what both learners pay for. That of the part has no closed form."""
        return _where(self.allowed_B, self.logstd_B + _HALF_LOG_TAU + 0.5)

    def mode(self) -> Tensor:
        """Mean of u."""
        return self.mean_B

    def parts(self, u: Tensor) -> Tensor:
        """In (-1, 1)."""
        return torch.tanh(u)


class GridCategorical:
    """One of G parts of the limit; what is masked has probability 0, gets no gradient, and the others share its place.

    Stored actions are places in the grid. Where nothing is allowed anything may be drawn: nobody hears it, and it teaches nothing.
    Shapes  logits (B, G); grid (G,); allowed (B, G) bool; u (B,).
    """

    def __init__(self, logits_BG: Tensor, grid_G: Tensor, allowed_BG: Tensor | None = None) -> None:
        self.grid_G = grid_G
        asked = torch.ones_like(logits_BG, dtype=torch.bool) if allowed_BG is None else allowed_BG
        self.heard_B = asked.any(dim=1)
        allowed = asked | ~self.heard_B[:, None]
        self.allowed_BG = allowed
        self.logprob_BG = logits_BG.masked_fill(~allowed, -torch.inf).log_softmax(dim=1)

    def sample(self, rng: np.random.Generator) -> Tensor:
        """By the inverse of the cumulative probabilities. Shapes  (B,), whole numbers as float32."""
        probability_BG = self.logprob_BG.detach().cpu().double().exp().numpy()
        cumulative_BG = np.cumsum(probability_BG, axis=1)
        draw_B1 = rng.random((len(cumulative_BG), 1)) * cumulative_BG[:, -1:]
        place_B = (cumulative_BG <= draw_B1).sum(axis=1)
        last_B = probability_BG.shape[1] - 1 - np.argmax(probability_BG[:, ::-1] > 0, axis=1)
        return torch.from_numpy(np.minimum(place_B, last_B).astype(np.float32))

    def log_prob(self, u: Tensor) -> Tensor:
        """Log probability; of what is masked -infinity."""
        return _where(self.heard_B, self.logprob_BG.gather(1, u.long()[:, None]).squeeze(1))

    def entropy(self) -> Tensor:
        """Over what is allowed."""
        return _where(self.heard_B, -(self.logprob_BG.exp() * _where(self.allowed_BG, self.logprob_BG)).sum(dim=1))

    def mode(self) -> Tensor:
        """The likeliest place; the first of equals."""
        return self.logprob_BG.argmax(dim=1).float()

    def parts(self, u: Tensor) -> Tensor:
        """The grid's value at each place."""
        return self.grid_G[u.long()]


class SimplexDirichlet:
    """Weights of A assets and, last, cash: w ~ Dirichlet(1 + scale x softplus(score)); what is masked takes no part and gets no gradient.

    Every concentration is above 1, so that the density has one mode, inside, and is bounded. Stored actions are logarithms of the
    weights; `log_prob` is the density of the weights over the simplex of those that take part. Of a certain policy it is a small
    difference of large logarithms, so density and entropy are summed in float64.
    Shapes  score (B, A + 1); allowed (B, A + 1) bool, cash always True; scale (1,); u (B, A + 1), masked 0.
    """

    def __init__(self, score_BW: Tensor, allowed_BW: Tensor | None = None, scale: Tensor | float = 1.0) -> None:
        allowed = torch.ones_like(score_BW, dtype=torch.bool) if allowed_BW is None else allowed_BW
        self.allowed_BW = allowed
        self.excess_BW = _where(allowed, scale * functional.softplus(score_BW))
        self.alpha_BW = 1.0 + self.excess_BW
        self.num_B = allowed.sum(dim=1)

    @property
    def _total_B(self) -> Tensor:
        return self.excess_BW.double().sum(dim=1) + self.num_B

    def sample(self, rng: np.random.Generator) -> Tensor:
        """Logarithms of gamma draws over their sum. Shapes  (B, A + 1) float32, masked 0."""
        alpha_BW, allowed_BW = self.alpha_BW.detach().cpu().double().numpy(), self.allowed_BW.cpu().numpy()
        gamma_BW = np.where(allowed_BW, rng.standard_gamma(alpha_BW), 0.0)
        log_BW = np.log(np.maximum(gamma_BW / gamma_BW.sum(axis=1, keepdims=True), 1e-26))
        return torch.from_numpy(np.where(allowed_BW, log_BW, 0.0).astype(np.float32))

    def log_prob(self, u: Tensor) -> Tensor:
        """Log density of the weights exp(u)."""
        excess_BW = self.excess_BW.double()
        of_each_BW = excess_BW * u.clamp_min(_LEAST_LOG).double() - torch.lgamma(1.0 + excess_BW)
        return (_where(self.allowed_BW, of_each_BW).sum(dim=1) + torch.lgamma(self._total_B)).to(u.dtype)

    def entropy(self) -> Tensor:
        """Differential entropy of the weights. Source  the closed form with the digamma function."""
        total_B, excess_BW = self._total_B, self.excess_BW.double()
        of_each_BW = torch.lgamma(1.0 + excess_BW) - excess_BW * torch.digamma(1.0 + excess_BW)
        left_B = _where(self.allowed_BW, of_each_BW).sum(dim=1)
        return (left_B - torch.lgamma(total_B) + (total_B - self.num_B) * torch.digamma(total_B)).to(self.excess_BW.dtype)

    def mode(self) -> Tensor:
        """Logarithms of the densest weights: each excess over their sum."""
        weight_BW = self.excess_BW / self.excess_BW.sum(dim=1, keepdim=True).clamp_min(1e-30)
        return _where(self.allowed_BW, weight_BW.clamp_min(1e-26).log())

    def parts(self, u: Tensor) -> Tensor:
        """Weights of the assets, without cash; masked 0. Shapes  (B, A)."""
        return _where(self.allowed_BW, u.exp())[:, :-1]


def log_slope(u: Tensor) -> Tensor:
    """log d tanh(u) / du without a loss of digits where tanh is flat. Source  Haarnoja et al. 2018, appendix C."""
    return 2.0 * (math.log(2.0) - u - functional.softplus(-2.0 * u))


def _where(condition: Tensor, value: Tensor) -> Tensor:
    return torch.where(condition, value, torch.zeros_like(value))
