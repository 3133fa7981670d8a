"""Densities are those of a reference and sum to one; what is masked is not drawn and learns nothing."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, Dirichlet, Normal, TanhTransform, TransformedDistribution

from plusultra_core.models.policies.distributions import GridCategorical, SimplexDirichlet, SquashedGaussian, log_slope

GRID = torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0])


def made(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_density_of_a_squashed_action_has_its_jacobian() -> None:
    mean, logstd = made(50), torch.full((1,), -0.4, dtype=torch.float64)
    ours = SquashedGaussian(mean, logstd)
    u = mean + 0.5 * made(50, seed=1)
    peer = TransformedDistribution(Normal(mean, logstd.exp()), [TanhTransform()])
    assert torch.allclose(ours.log_prob(u), Normal(mean, logstd.exp()).log_prob(u), atol=1e-12)
    assert torch.allclose(ours.log_prob_part(u), peer.log_prob(ours.parts(u)), atol=1e-9)


def test_the_density_of_a_squashed_action_integrates_to_one() -> None:
    mean = torch.tensor([0.3, -1.5], dtype=torch.float64)
    u = torch.linspace(-9, 9, 200_001, dtype=torch.float64)
    for row in mean:
        density = SquashedGaussian(row.expand(u.numel()), torch.tensor([-0.2], dtype=torch.float64)).log_prob_part(u).exp()
        assert float(torch.trapezoid(density, torch.tanh(u))) == pytest.approx(1.0, abs=1e-6)


def test_the_entropy_of_a_squashed_action_is_that_before_the_squashing_and_none_where_nothing_is_allowed() -> None:
    mean, logstd = made(4), torch.tensor([-0.2], dtype=torch.float64)
    allowed = torch.tensor([True, True, False, True])
    wanted = Normal(mean, logstd.exp()).entropy() * allowed
    assert torch.allclose(SquashedGaussian(mean, logstd, allowed).entropy(), wanted, atol=1e-12)


def test_the_slope_of_tanh_keeps_its_digits_in_the_tails() -> None:
    u = torch.tensor([-30.0, -2.0, 0.0, 2.0, 30.0], dtype=torch.float64)
    exact = [-60 + math.log(4), math.log(1 - math.tanh(2) ** 2), 0.0, math.log(1 - math.tanh(2) ** 2), -60 + math.log(4)]
    assert log_slope(u).tolist() == pytest.approx(exact, abs=1e-12)


def test_a_categorical_is_torchs_and_renormalises_over_what_is_allowed() -> None:
    logits = made(6, 5)
    allowed = torch.tensor([[True] * 5] * 3 + [[True, False, True, False, False]] * 3)
    ours = GridCategorical(logits, GRID, allowed)
    peer = Categorical(logits=logits.masked_fill(~allowed, -1e30))
    u = torch.tensor([0.0, 3.0, 4.0, 0.0, 2.0, 2.0])
    assert torch.allclose(ours.log_prob(u), peer.log_prob(u.long()), atol=1e-12)
    assert torch.allclose(ours.entropy(), peer.entropy(), atol=1e-9)
    assert torch.allclose(ours.logprob_BG.exp().sum(dim=1), torch.ones(6, dtype=torch.float64))
    assert ours.log_prob(torch.full((6,), 1.0))[3:].tolist() == [-math.inf] * 3
    assert ours.parts(u).tolist() == [-1.0, 0.5, 1.0, -1.0, 0.0, 0.0]
    assert set(ours.mode()[3:].tolist()) <= {0.0, 2.0}


def test_a_categorical_draws_as_often_as_it_says_and_never_what_is_masked() -> None:
    logits = torch.tensor([[0.0, 1.0, -1.0, 0.5, 2.0]]).repeat(40_000, 1)
    allowed = torch.tensor([[True, True, False, True, False]]).repeat(40_000, 1)
    ours = GridCategorical(logits, GRID, allowed)
    share = np.bincount(ours.sample(np.random.default_rng(0)).long().numpy(), minlength=5) / 40_000
    assert share == pytest.approx(ours.logprob_BG[0].exp().numpy(), abs=0.01)
    assert share[2] == share[4] == 0.0


def test_masked_actions_get_no_gradient() -> None:
    logits = made(4, 5).requires_grad_()
    allowed = torch.tensor([[True, True, False, True, False]]).repeat(4, 1)
    ours = GridCategorical(logits, GRID, allowed)
    (ours.log_prob(torch.tensor([0.0, 1.0, 3.0, 0.0])).sum() + ours.entropy().sum()).backward()
    assert logits.grad is not None
    assert torch.equal(logits.grad[:, ~allowed[0]], torch.zeros(4, 2, dtype=torch.float64))
    assert float(logits.grad[:, allowed[0]].abs().min()) > 0
    score = made(4, 5).requires_grad_()
    simplex = SimplexDirichlet(score, torch.tensor([[True, False, True, True, True]]).repeat(4, 1))
    (simplex.log_prob(simplex.sample(np.random.default_rng(0)).double()).sum() + simplex.entropy().sum()).backward()
    assert score.grad is not None
    assert torch.equal(score.grad[:, 1], torch.zeros(4, dtype=torch.float64))
    assert float(score.grad[:, [0, 2, 3, 4]].abs().min()) > 0


def test_weights_are_torchs_dirichlet_over_what_takes_part() -> None:
    score = made(5, 4)
    allowed = torch.tensor([[True, False, True, True]]).repeat(5, 1)
    kept = [0, 2, 3]
    for ours, columns in ((SimplexDirichlet(score), [0, 1, 2, 3]), (SimplexDirichlet(score, allowed), kept)):
        peer = Dirichlet(ours.alpha_BW[:, columns])
        u = ours.sample(np.random.default_rng(1)).double()
        weight = u.exp()[:, columns]
        assert torch.allclose(weight.sum(dim=1), torch.ones(5, dtype=torch.float64), atol=1e-6)
        weight = weight / weight.sum(dim=1, keepdim=True)
        assert torch.allclose(ours.log_prob(u), peer.log_prob(weight), atol=1e-5)
        assert torch.allclose(ours.entropy(), peer.entropy(), atol=1e-9)
        assert torch.allclose(ours.mode()[:, columns].exp(), peer.mode, atol=1e-9)
    assert ours.parts(u)[:, 1].tolist() == [0.0] * 5
    assert ours.parts(u).shape == (5, 3)


def test_the_density_of_a_certain_book_keeps_its_digits() -> None:
    """Concentrations of thousands: a ratio of two densities may not be off by percents because their logarithms are large."""
    score_BW = torch.linspace(900.0, 1100.0, 33).repeat(8, 1)
    certain = SimplexDirichlet(score_BW, None, 10.0)
    exact = Dirichlet(1.0 + certain.excess_BW.double(), validate_args=False)
    u = exact.sample().log().float()
    assert float((certain.log_prob(u).double() - exact.log_prob(u.double().exp())).abs().max()) < 1e-4
    assert float((certain.entropy().double() - exact.entropy()).abs().max()) < 1e-4
    assert certain.log_prob(u).dtype == certain.entropy().dtype == torch.float32


def test_weights_are_drawn_around_their_mean() -> None:
    score = torch.tensor([[1.0, -1.0, 2.0, 0.0]]).repeat(20_000, 1)
    ours = SimplexDirichlet(score, torch.tensor([[True, False, True, True]]).repeat(20_000, 1))
    drawn = ours.parts(ours.sample(np.random.default_rng(0)))
    mean = ours.alpha_BW[0] / ours.alpha_BW[0, [0, 2, 3]].sum()
    assert drawn.mean(dim=0)[[0, 2]].tolist() == pytest.approx(mean[[0, 2]].tolist(), abs=0.01)
    assert float(drawn.sum(dim=1).max()) < 1.0


def test_where_all_assets_are_masked_cash_is_certain() -> None:
    ours = SimplexDirichlet(made(3, 4), torch.tensor([[False, False, False, True]]).repeat(3, 1))
    u = ours.sample(np.random.default_rng(0))
    assert ours.parts(u).tolist() == [[0.0] * 3] * 3
    assert ours.log_prob(u.double()).tolist() == pytest.approx([0.0] * 3, abs=1e-12)
    assert ours.entropy().tolist() == pytest.approx([0.0] * 3, abs=1e-12)


@pytest.mark.parametrize("kind", ["gaussian", "categorical", "dirichlet"])
def test_a_row_depends_on_itself_alone(kind: str) -> None:
    score = made(8, 5).float()

    def of(rows: slice) -> SquashedGaussian | GridCategorical | SimplexDirichlet:
        if kind == "gaussian":
            return SquashedGaussian(score[rows, 0], torch.zeros(1))
        return GridCategorical(score[rows], GRID) if kind == "categorical" else SimplexDirichlet(score[rows])

    whole = of(slice(0, 8))
    u = whole.sample(np.random.default_rng(3))
    assert torch.equal(whole.log_prob(u)[2:4], of(slice(2, 4)).log_prob(u[2:4]))
    assert torch.equal(u, whole.sample(np.random.default_rng(3)))
