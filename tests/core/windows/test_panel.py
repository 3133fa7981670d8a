"""The panel's artifact: equal panels, equal bytes; damaged ones are refused."""

import dataclasses
import json

import numpy as np
import pytest

from plusultra_core.errors import ArtifactError
from plusultra_core.windows.panel import FILE, Panel, anchors_in, check_panel, load_panel, publish_panel, replace


def _same(a: Panel, b: Panel) -> bool:
    for field in dataclasses.fields(Panel):
        left, right = getattr(a, field.name), getattr(b, field.name)
        if field.name == "folds":
            for one, two in zip(left, right, strict=True):
                assert (one.index, one.train, one.valid, one.test) == (two.index, two.train, two.valid, two.test)
                assert np.array_equal(one.center_F, two.center_F) and np.array_equal(one.scale_F, two.scale_F)
        elif isinstance(left, np.ndarray):
            assert left.dtype == right.dtype and np.array_equal(left, right, equal_nan=left.dtype.kind == "f")
        else:
            assert left == right and type(left) is type(right)
    return True


def test_a_panel_comes_back_as_it_was(planted, tmp_path) -> None:
    panel = planted().panel
    artifact = publish_panel(panel, tmp_path, "key", {"note": "x"})
    assert _same(load_panel(artifact.path), panel)
    assert artifact.manifest["note"] == "x"


def test_equal_panels_have_equal_bytes(planted, tmp_path) -> None:
    one = publish_panel(planted().panel, tmp_path / "a", "key", {})
    two = publish_panel(planted().panel, tmp_path / "b", "key", {})
    assert one.sha256 == two.sha256


def test_damaged_bytes_are_refused(planted, tmp_path) -> None:
    path = publish_panel(planted().panel, tmp_path, "key", {}).path
    content = bytearray((path / FILE).read_bytes())
    content[-1] ^= 1
    (path / FILE).write_bytes(content)
    with pytest.raises(ArtifactError, match="make it again"):
        load_panel(path)


def test_another_schema_and_an_extra_array_are_refused(planted, tmp_path) -> None:
    path = publish_panel(planted().panel, tmp_path, "key", {}).path
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["panel"]["folds"].pop()
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="is not part of a panel"):
        load_panel(path)
    manifest["panel"]["schema"] = 99
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="expected a panel of schema 2"):
        load_panel(path)


def test_arrays_must_fit_the_header(planted) -> None:
    panel = planted().panel
    with pytest.raises(ArtifactError, match=r"panel\.sigma_NT: expected float64"):
        check_panel(dataclasses.replace(panel, sigma_NT=panel.sigma_NT.astype(np.float32)))
    with pytest.raises(ArtifactError, match="strictly increasing"):
        replace(panel, ts_ns_T=panel.ts_ns_T[::-1].copy())


@pytest.mark.parametrize("state", [-1, "one too many"])
def test_a_state_that_its_token_does_not_have_is_refused(planted, state) -> None:
    """An embedding would read it as a state of another token."""
    panel = planted().panel
    states = panel.state_NTS.copy()
    states[1, 3, 0] = panel.num_states[0] if state == "one too many" else state
    with pytest.raises(ArtifactError, match=rf"panel.state_NTS: expected {panel.tokens[0]} in \[0, {panel.num_states[0]}\), found"):
        replace(panel, state_NTS=states)
    with pytest.raises(ArtifactError, match=r"panel.num_states: expected \d, one a token"):
        replace(panel, num_states=(*panel.num_states, 4))


def test_anchors_lie_inside_the_span(planted) -> None:
    panel = planted().panel
    n, t = anchors_in(panel, (5, 30))
    assert len(n) == panel.anchor_NT[:, 5:30].sum()
    assert panel.anchor_NT[n, t].all() and t.min() >= 5 and t.max() < 30
