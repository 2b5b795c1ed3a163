"""Keys in a frame: attention does not notice, cells of four bits do."""

import pytest
import torch

from services.worker.engine.attention.cell_layout import CellLayout
from services.worker.engine.attention.key_frame import KeyFrame
from services.worker.engine.kv_cache.cell_format import CellFormat

KV_HEADS, GROUP, HEAD_SIZE = 2, 3, 64


def keys_with_channels(num_tokens: int, *, seed: int) -> torch.Tensor:
    """[T, K, D]: every channel about a middle of its own, and of a width of its own, as keys of trained models are."""
    generator = torch.Generator().manual_seed(5)
    middles = 4 * torch.randn(KV_HEADS, HEAD_SIZE, generator=generator)
    widths = torch.logspace(-1, 0.5, HEAD_SIZE)[torch.randperm(HEAD_SIZE, generator=generator)]
    own = torch.randn(num_tokens, KV_HEADS, HEAD_SIZE, generator=torch.Generator().manual_seed(seed))
    return middles + widths * own


def scores(queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """[T, H, D] and [N, K, D] -> softmax over N, [T, H, N]."""
    own = keys.repeat_interleave(GROUP, dim=1)
    return torch.einsum("thd,nhd->thn", queries, own).div(HEAD_SIZE**0.5).softmax(dim=-1)


def frame_of(keys: torch.Tensor) -> KeyFrame:
    frame = KeyFrame.of(keys)
    assert frame is not None
    return frame


def queries_of(num_tokens: int) -> torch.Tensor:
    return torch.randn(num_tokens, KV_HEADS * GROUP, HEAD_SIZE, generator=torch.Generator().manual_seed(2))


def test_attention_is_the_same_in_the_frame() -> None:
    frame = frame_of(keys_with_channels(200, seed=1))
    keys, queries = keys_with_channels(40, seed=9), queries_of(7)
    found = scores(frame.queries(queries), frame.keys(keys))
    torch.testing.assert_close(found, scores(queries, keys), rtol=1e-4, atol=1e-6)


def test_cells_of_four_bits_lose_a_third_of_it_in_the_frame() -> None:
    """Tokens that the frame was not taken from."""
    frame = frame_of(keys_with_channels(200, seed=1))
    keys, queries = keys_with_channels(40, seed=9), queries_of(50)
    cells = CellLayout(format=CellFormat.INT4, head_size=HEAD_SIZE)
    expected = scores(queries, keys)

    def loss(queries: torch.Tensor, keys: torch.Tensor) -> float:
        found = scores(queries, cells.decode(cells.encode(keys), torch.float32))
        return float((expected * (expected / found).log()).sum(dim=-1).mean())

    assert loss(frame.queries(queries), frame.keys(keys)) < loss(queries, keys) / 3


def test_every_channel_is_about_zero_and_ranges_are_nearer_to_one_another() -> None:
    keys = keys_with_channels(200, seed=1)
    moved = frame_of(keys).keys(keys)
    lowest, highest = moved.amin(dim=0), moved.amax(dim=0)
    torch.testing.assert_close(lowest, -highest, rtol=1e-3, atol=1e-3)

    def spread(values: torch.Tensor) -> torch.Tensor:
        ranges = values.amax(dim=0) - values.amin(dim=0)
        return ranges.amax(dim=-1) / ranges.amin(dim=-1)

    torch.testing.assert_close(spread(moved), spread(keys) ** 0.5, rtol=1e-3, atol=1e-3)


def test_channels_and_heads_that_never_change_are_moved_and_not_stretched_out_of_bounds() -> None:
    keys = torch.full((10, 2, 4), 3.0)
    keys[:, 0, 1] = torch.arange(10.0)
    frame = frame_of(keys)
    assert frame.numbers.isfinite().all()
    assert torch.equal(frame.keys(keys)[:, 1], torch.zeros(10, 4))
    assert float(frame.keys(keys)[:, 0, 1].abs().max()) < 10


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_there_is_no_frame_for_what_is_not_a_number(bad: float) -> None:
    keys = keys_with_channels(10, seed=1)
    keys[3, 1, 5] = bad
    assert KeyFrame.of(keys) is None
