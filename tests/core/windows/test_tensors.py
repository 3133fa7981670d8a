"""Gathering by index equals slicing."""

import numpy as np
import torch

from plusultra_core.windows.tensors import gather_windows, input_tensors


def test_gathered_windows_equal_slices() -> None:
    x = torch.randn(5, 40, 3)
    n, t = torch.tensor([0, 4, 2, 4]), torch.tensor([7, 39, 20, 8])
    windows = gather_windows(x, n, t, 8)
    for i in range(4):
        assert torch.equal(windows[i], x[n[i], t[i] - 7 : t[i] + 1])
    flat = gather_windows(x[..., 0], n, t, 8)
    assert torch.equal(flat, windows[..., 0])


def test_inputs_carry_scaled_features_states_and_presence(planted) -> None:
    panel = planted().panel
    fold = panel.folds[0]
    inputs = input_tensors(panel, fold.center_F, fold.scale_F, 5.0, "cpu")
    n, t = torch.tensor([1, 2]), torch.tensor([50, 60])
    x, state, mask = inputs.gather(n, t)
    assert x.shape == (2, panel.lookback, len(panel.features))
    assert state.dtype == torch.int64
    assert bool(mask.all())
    expected = (panel.x_NTF[1, 50] - fold.center_F) / fold.scale_F
    assert np.allclose(x[0, -1].numpy(), np.clip(expected, -5, 5))
    assert np.array_equal(state[1].numpy(), panel.state_NTS[2, 60 - panel.lookback + 1 : 61])


def test_windows_read_nothing_after_their_end(planted) -> None:
    panel = planted().panel
    fold = panel.folds[0]
    inputs = input_tensors(panel, fold.center_F, fold.scale_F, 5.0, "cpu")
    n, t = torch.tensor([0, 3]), torch.tensor([100, 100])
    before = inputs.gather(n, t)
    for part in inputs[:3]:
        part[:, 101:] = 1 if part.dtype != torch.bool else False
    assert all(torch.equal(a, b) for a, b in zip(before, inputs.gather(n, t), strict=True))
