"""Layers into groups of one size: every layer once, equally far seeing, with little memory for nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.worker.engine.kv_cache.layer_groups import group_layers

GEMMA3_1B = [None if (layer + 1) % 6 == 0 else 512 for layer in range(26)]
GEMMA3_27B = [None if (layer + 1) % 6 == 0 else 1024 for layer in range(62)]
GEMMA2_9B = [None if layer % 2 else 4096 for layer in range(42)]


@pytest.mark.parametrize("windows", [[None] * 30, [4096] * 32])
def test_layers_that_see_equally_far_are_one_group(windows: list[int | None]) -> None:
    found = group_layers(windows, max_model_tokens=32_768)
    assert found.windows == (windows[0],)
    assert found.layers_per_block == len(windows)


def test_a_window_that_no_sequence_can_leave_is_none() -> None:
    assert group_layers([4096] * 32, max_model_tokens=4096).windows == (None,)
    assert group_layers(GEMMA2_9B, max_model_tokens=4096).windows == (None,)
    assert len(group_layers(GEMMA2_9B, max_model_tokens=4097).groups) == 2


@pytest.mark.parametrize(
    ("windows", "layers_per_block", "num_groups"), [(GEMMA2_9B, 21, 2), (GEMMA3_1B, 4, 7), (GEMMA3_27B, 10, 7)]
)
def test_mixed_models_have_few_groups_and_few_empty_places(
    windows: list[int | None], layers_per_block: int, num_groups: int
) -> None:
    found = group_layers(windows, max_model_tokens=8192)
    assert (found.layers_per_block, len(found.groups)) == (layers_per_block, num_groups)
    widest = [group for group in found.groups if group.window is None]
    assert all(len(group.layers) == layers_per_block for group in widest), "long sequences live in these"
    assert layers_per_block * num_groups <= 1.13 * len(windows)


@given(st.lists(st.sampled_from([None, 4, 9]), min_size=1, max_size=70))
def test_every_layer_is_in_one_group_of_its_kind(windows: list[int | None]) -> None:
    found = group_layers(windows, max_model_tokens=100)
    layers = [layer for group in found.groups for layer in group.layers]
    assert sorted(layers) == list(range(len(windows)))
    assert len(found.groups) <= 8
    for group in found.groups:
        assert 1 <= len(group.layers) <= found.layers_per_block
        assert {windows[layer] for layer in group.layers} == {group.window}
