"""The shrunk covariance equals scikit-learn's, and is what its paper promises: nearer to the truth than the sample."""

import numpy as np
import pytest
from sklearn.covariance import ledoit_wolf

from plusultra_core.errors import ContractError
from plusultra_core.inference.portfolios.covariance import shrunk_covariance


@pytest.mark.parametrize(("num_bars", "num_assets"), [(250, 4), (60, 30), (20, 50), (2, 3), (40, 1)])
def test_it_equals_that_of_scikit_learn(num_bars: int, num_assets: int) -> None:
    rng = np.random.default_rng(num_bars)
    mix = rng.normal(size=(num_assets, num_assets))
    ret = 0.01 * rng.standard_t(4, size=(num_bars, num_assets)) @ mix + 0.001
    own, part = shrunk_covariance(ret)
    peer, peer_part = ledoit_wolf(ret)
    assert own == pytest.approx(peer, rel=1e-10, abs=1e-18)
    assert part == pytest.approx(peer_part, rel=1e-8, abs=1e-9)


def test_few_bars_of_many_assets_are_pulled_far_and_end_nearer_to_the_truth() -> None:
    rng = np.random.default_rng(3)
    truth = np.diag(rng.uniform(0.5, 1.5, 30)) + 0.05
    errors = []
    for _ in range(20):
        ret = rng.multivariate_normal(np.zeros(30), truth, size=40)
        own, part = shrunk_covariance(ret)
        assert 0.1 < part < 1.0 and np.linalg.eigvalsh(own).min() > 0.1
        errors.append([((found - truth) ** 2).sum() for found in (own, np.cov(ret.T, bias=True))])
    shrunk, sample = np.mean(errors, axis=0)
    assert shrunk < 0.5 * sample


def test_prices_that_stood_still_have_no_covariance() -> None:
    assert np.array_equal(shrunk_covariance(np.zeros((10, 3)))[0], np.zeros((3, 3)))


def test_missing_returns_and_single_bars_are_refused() -> None:
    for ret in (np.array([[0.1, np.nan], [0.0, 0.1]]), np.zeros((1, 2))):
        with pytest.raises(ContractError, match="at least 2 rows of finite returns"):
            shrunk_covariance(ret)
