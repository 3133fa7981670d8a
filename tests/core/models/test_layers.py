"""Each layer against its definition."""

import math

import pytest
import torch
from torch import Tensor

from plusultra_core.models import layers
from plusultra_core.models.layers import CausalAttention, CausalConv, DiagonalSSM, FeedForward, RotaryEmbedding, StateEmbedding


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_rotary_scores_depend_on_the_lag_alone() -> None:
    rotary = RotaryEmbedding(8, 64)
    query, key = torch.randn(8), torch.randn(8)
    q_TE, k_TE = (rotary(vector.expand(1, 1, 64, 8))[0, 0] for vector in (query, key))
    score_TT = q_TE @ k_TE.T
    for lag in range(0, 60, 7):
        diagonal = score_TT.diagonal(-lag)
        assert torch.allclose(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-5)
    assert score_TT[0, 0].item() == pytest.approx(float(query @ key), abs=1e-5)
    assert (score_TT[20, 0] - score_TT[0, 0]).abs() > 1e-3


def test_rotation_keeps_norms() -> None:
    x = torch.randn(2, 3, 16, 8)
    assert torch.allclose(RotaryEmbedding(8, 16)(x).norm(dim=-1), x.norm(dim=-1), atol=1e-5)


def test_attention_equals_a_loop_over_queries() -> None:
    layer = CausalAttention(8, 2, 6, 0.0).eval()
    x, mask = torch.randn(3, 6, 8), torch.ones(3, 6, dtype=torch.bool)
    mask[1, :2] = False
    q, k, v = layer.qkv(x).view(3, 6, 3, 2, 4).permute(2, 0, 3, 1, 4)
    q, k = layer.rotary(q), layer.rotary(k)
    result = torch.zeros(3, 6, 8)
    for b in range(3):
        for t in range(6):
            seen = [s for s in range(t + 1) if mask[b, s] or s == t]
            heads = []
            for h in range(2):
                score = torch.stack([q[b, h, t] @ k[b, h, s] / math.sqrt(4) for s in seen]).softmax(0)
                heads.append(sum(score[i] * v[b, h, s] for i, s in enumerate(seen)))
            result[b, t] = torch.cat(heads)
    assert torch.allclose(layer(x, mask), layer.out(result), atol=1e-5)


def test_masked_tokens_reach_nobody_else() -> None:
    layer = CausalAttention(8, 2, 6, 0.0).eval()
    x, mask = torch.randn(2, 6, 8), torch.ones(2, 6, dtype=torch.bool)
    mask[:, 1] = False
    changed = x.clone()
    changed[:, 1] += 10
    before, after = layer(x, mask), layer(changed, mask)
    others = [0, 2, 3, 4, 5]
    assert torch.equal(before[:, others], after[:, others])
    assert torch.isfinite(layer(x, torch.zeros_like(mask))).all()


@pytest.mark.parametrize("name", ["attention", "conv", "ssm", "feedforward"])
def test_the_future_does_not_reach_the_past(name: str) -> None:
    layers = {
        "attention": lambda: CausalAttention(8, 2, 24, 0.0),
        "conv": lambda: CausalConv(8, 3, 4),
        "ssm": lambda: DiagonalSSM(8, 4),
        "feedforward": lambda: FeedForward(8, 2, 0.0),
    }
    layer = layers[name]().eval()
    mask = torch.ones(2, 24, dtype=torch.bool)

    def run(x: Tensor) -> Tensor:
        return layer(x, mask) if name == "attention" else layer(x)

    x = torch.randn(2, 24, 8)
    poisoned = x.clone()
    poisoned[:, 13:] = torch.randn(2, 11, 8) * 100
    before, after = run(x), run(poisoned)
    assert torch.allclose(before[:, :13], after[:, :13], atol=1e-6)
    assert not torch.allclose(before[:, 13:], after[:, 13:])


def test_convolution_reaches_exactly_its_receptive_field() -> None:
    layer = CausalConv(1, 3, 4)
    x = torch.randn(1, 30, 1, requires_grad=True)
    layer(x)[0, -1].sum().backward()
    assert x.grad is not None
    assert x.grad[0, :, 0].nonzero().flatten().tolist() == [21, 25, 29]


def test_convolution_equals_a_loop() -> None:
    layer = CausalConv(4, 3, 2)
    x = torch.randn(2, 12, 4)
    slow = torch.zeros_like(x)
    for t in range(12):
        for k in range(3):
            if t - 2 * k >= 0:
                slow[:, t] += layer.tap_KD[k] * x[:, t - 2 * k]
    assert torch.allclose(layer(x), layer.mix(torch.nn.functional.gelu(slow)), atol=1e-6)


def test_state_space_equals_its_recurrence() -> None:
    layer = DiagonalSSM(5, 4).double()
    x = torch.randn(2, 40, 5, dtype=torch.float64)
    factor, gain = layer.discrete()
    state = torch.zeros(2, 5, 4, dtype=torch.complex128)
    slow = []
    for t in range(40):
        state = factor * state + x[:, t, :, None]
        slow.append(2 * (gain * state).sum(-1).real + layer.skip_D * x[:, t])
    assert torch.allclose(layer.convolve(x), torch.stack(slow, dim=1), atol=1e-10)


def test_a_state_space_over_long_windows_goes_by_groups_of_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = DiagonalSSM(7, 4), torch.randn(3, 20, 7)
    whole = layer.convolve(x)
    sizes = []
    matmul = torch.Tensor.__matmul__
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda a, b: (sizes.append(a.numel()), matmul(a, b))[1])
    for most, groups in ((20 * 20 * 2, 4), (20 * 20, 7), (1, 7)):
        monkeypatch.setattr(layers, "MOST_CELLS", most)
        sizes.clear()
        assert torch.equal(layer.convolve(x), whole)
        assert len(sizes) == groups and max(sizes) <= max(most, 20 * 20)


def test_state_space_is_stable_and_remembers_longer_than_a_convolution() -> None:
    layer = DiagonalSSM(8, 4)
    factor, _ = layer.discrete()
    assert (factor.abs() < 1).all()
    response = layer.response(200)
    assert response[:, 100].abs().max() > 1e-4
    assert torch.isfinite(response).all()


def test_outputs_have_sensible_variance_at_init() -> None:
    x, mask = torch.randn(64, 24, 32), torch.ones(64, 24, dtype=torch.bool)
    for layer in (CausalConv(32, 3, 2), DiagonalSSM(32, 8), FeedForward(32, 2, 0.0)):
        assert 1e-3 < layer(x).var().item() < 10
    assert 1e-4 < CausalAttention(32, 4, 24, 0.0)(x, mask).var().item() < 10


def test_each_token_has_its_own_row_of_states() -> None:
    layer = StateEmbedding((4, 4, 3), 6)
    state = torch.tensor([[[0, 3, 2]]])
    expected = layer.table.weight[0] + layer.table.weight[7] + layer.table.weight[10]
    assert torch.allclose(layer(state)[0, 0], expected)
    assert layer.table.weight.shape == (11, 6)
