"""Losses of the supervised heads: pinball for the quantiles, negative log-likelihood for the direction."""

import torch
from torch import Tensor
from torch.nn import functional


def pinball(quantiles_BKQ: Tensor, y_BK: Tensor, levels_Q: Tensor) -> Tensor:
    """Pinball loss per sample, horizon and level: max(tau d, (tau - 1) d) with d = y - q.

    Shapes  quantiles (B, K, Q), y (B, K), levels (Q,); result (B, K, Q).
    NaN     in y propagates: mask before averaging.
    Source  Koenker & Bassett 1978.
    """
    error_BKQ = y_BK[..., None] - quantiles_BKQ
    return torch.maximum(levels_Q * error_BKQ, (levels_Q - 1) * error_BKQ)


def direction_nll(logits_BKC: Tensor, direction_BK: Tensor) -> Tensor:
    """Negative log-likelihood of the direction; 0 where it is missing (-1).

    Shapes  logits (B, K, C), direction (B, K) int64; result (B, K).
    """
    return functional.cross_entropy(logits_BKC.transpose(1, 2), direction_BK, ignore_index=-1, reduction="none")


def weighted_mean(loss_BK: Tensor, weight_BK: Tensor) -> Tensor:
    """Mean with weights; where the weight is 0 the loss does not count, even if it is NaN. 0 when nothing counts."""
    counted_BK = torch.where(weight_BK > 0, loss_BK, torch.zeros_like(loss_BK))
    return (counted_BK * weight_BK).sum() / weight_BK.sum().clamp(min=1e-12)


def forecast_loss(
    quantiles_BKQ: Tensor,
    logits_BKC: Tensor,
    y_BK: Tensor,
    direction_BK: Tensor,
    weight_B: Tensor,
    levels_Q: Tensor,
    direction_weight: float,
    target_clip: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Total loss, its pinball part (mean over levels) and its direction part, each over what is known.

    Units   y in units of sigma * sqrt(horizon), clipped to +-target_clip here and nowhere else.
    """
    known_BK = torch.isfinite(y_BK)
    target_BK = torch.where(known_BK, y_BK.clamp(-target_clip, target_clip), torch.zeros_like(y_BK))
    quantile_part = weighted_mean(pinball(quantiles_BKQ, target_BK, levels_Q).mean(dim=-1), known_BK * weight_B[:, None])
    labelled_BK = direction_BK >= 0
    direction_part = weighted_mean(direction_nll(logits_BKC, direction_BK), labelled_BK * weight_B[:, None])
    return quantile_part + direction_weight * direction_part, quantile_part, direction_part
