"""Cells of a low-precision cache: what is read back, that C and torch write the same bytes, and attention over them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from services.worker.engine.attention.attention_rule import AttentionRule
from services.worker.engine.attention.cell_layout import CellLayout
from services.worker.engine.attention.layer_cache import LayerCache
from services.worker.engine.attention.low_precision_attention import LowPrecisionAttention
from services.worker.engine.attention.reference_attention import ReferenceAttention
from services.worker.engine.attention.step_layout import StepLayout
from services.worker.engine.kv_cache.cell_format import CellFormat
from services.worker.engine.native.quantized_library import QuantizedKernels, load_quantized_kernels

FORMATS = list(CellFormat)
DTYPES = [torch.float32, torch.bfloat16]
BLOCK_SIZE, NUM_BLOCKS = 4, 40


def kernels() -> QuantizedKernels:
    found = load_quantized_kernels()
    if found is None:
        pytest.skip("no C compiler")
    return found


def numbers(seed: int, *shape: int) -> torch.Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    values[0] = 0
    return values * torch.logspace(-3, 2, shape[-1])


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(FORMATS), st.integers(1, 65).map(lambda half: 2 * half), st.integers(0, 99))
def test_what_is_read_back_is_half_a_step_off_at_most(cell_format: CellFormat, head_size: int, seed: int) -> None:
    cells = CellLayout(format=cell_format, head_size=head_size)
    values = numbers(seed, 6, head_size)
    encoded = cells.encode(values)
    assert encoded.shape == (6, cells.num_bytes)
    error = (cells.decode(encoded, torch.float32) - values).abs()
    if cell_format is CellFormat.INT8:
        limit = values.abs().amax(dim=-1, keepdim=True) / 254 * 1.001
    elif cell_format is CellFormat.INT8_UPPER:  # half of a step sixteen times as wide
        limit = values.abs().amax(dim=-1, keepdim=True) / 127 * 8 * 1.001
    elif cell_format is CellFormat.FP8:
        limit = values.abs() / 16 * 1.001 + values.abs().amax(dim=-1, keepdim=True) / 448 / 512
    else:  # half a step of a span, and what bfloat16 rounds off scale and minimum
        limit = 0.06 * torch.stack(
            [values[:, d // 32 * 32 : d // 32 * 32 + 32].abs().amax(dim=-1) * 2 for d in range(head_size)], dim=1
        )
    assert bool((error <= limit + 1e-30).all())
    zeros = cells.decode(cells.encode(torch.zeros(2, head_size)), torch.float32)
    assert float(zeros.abs().max()) < 1e-36


def test_the_upper_half_is_an_int4_of_the_same_bytes() -> None:
    """One cache: what the draft reads and what the verification reads differ by less than one of its steps."""
    values = numbers(3, 6, 64)
    whole, upper = (CellLayout(format=f, head_size=64) for f in (CellFormat.INT8, CellFormat.INT8_UPPER))
    encoded = whole.encode(values)
    assert torch.equal(encoded, upper.encode(values))
    scales = encoded[:, 64:].contiguous().view(torch.float32)
    codes = ((upper.decode(encoded, torch.float32) / scales + 120.5) / 16).round()
    assert codes.min() >= 0
    assert codes.max() <= 15
    difference = (whole.decode(encoded, torch.float32) - upper.decode(encoded, torch.float32)).abs()
    assert bool((difference <= 7.5 * scales * 1.001).all())
    lower_zeroed = encoded.clone()
    lower_zeroed[:, 32:64] = 0
    assert torch.equal(upper.decode(lower_zeroed, torch.float32), upper.decode(encoded, torch.float32))


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(FORMATS), st.integers(1, 65).map(lambda half: 2 * half), st.sampled_from(DTYPES), st.integers(0, 99)
)
def test_c_and_torch_write_the_same_bytes(
    cell_format: CellFormat, head_size: int, dtype: torch.dtype, seed: int
) -> None:
    cells = CellLayout(format=cell_format, head_size=head_size)
    keys, values = numbers(seed, 5, 3, head_size).to(dtype), numbers(seed + 1, 5, 3, head_size).to(dtype)
    slots = torch.tensor([7, 0, 3, 15, 8])
    caches = [empty_cache(cells, 3, 4) for _ in range(2)]
    LowPrecisionAttention(ReferenceAttention(), kernels()).store(cells, caches[0], keys, values, slots)
    LowPrecisionAttention(ReferenceAttention(), None).store(cells, caches[1], keys, values, slots)
    assert torch.equal(caches[0].keys, caches[1].keys)
    assert torch.equal(caches[0].values, caches[1].values)


def empty_cache(cells: CellLayout, num_kv_heads: int, num_blocks: int = NUM_BLOCKS) -> LayerCache:
    pair = torch.zeros(2, num_blocks, BLOCK_SIZE, num_kv_heads, cells.num_bytes, dtype=torch.uint8)
    return LayerCache(keys=pair[0], values=pair[1], group=0, cells=cells)


def layout_of(contexts: list[int], num_new: list[int], seed: int) -> StepLayout:
    """Sequences with these contexts, of which so many tokens are new; single ones first."""
    tables = torch.randperm(NUM_BLOCKS, generator=torch.Generator().manual_seed(seed))[: 3 * len(contexts)]
    tables = tables.view(len(contexts), 3).int()
    positions = [context - new + i for context, new in zip(contexts, num_new, strict=True) for i in range(new)]
    starts = torch.tensor([0, *num_new]).cumsum(0)
    rows = torch.repeat_interleave(torch.arange(len(contexts)), torch.tensor(num_new))
    places = torch.tensor(positions)
    return StepLayout(
        positions=places,
        slots=tables[rows, places // BLOCK_SIZE].long() * BLOCK_SIZE + places % BLOCK_SIZE,
        block_tables=tables,
        context_lengths=torch.tensor(contexts, dtype=torch.int32),
        query_starts=starts.int(),
        context_length_list=contexts,
        query_start_list=starts.tolist(),
        num_single=sum(new == 1 for new in num_new),
        block_size_tokens=BLOCK_SIZE,
    )


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(FORMATS),
    st.sampled_from(DTYPES),
    st.sampled_from([(4, 4, 8), (6, 2, 64), (14, 2, 34)]),
    st.lists(st.integers(1, 12), min_size=1, max_size=5),
    st.sampled_from([(None, None), (5, None), (None, 20.0), (3, 5.0)]),
    st.integers(0, 99),
)
def test_attention_over_cells_is_attention_over_what_they_say(
    cell_format: CellFormat,
    dtype: torch.dtype,
    heads: tuple[int, int, int],
    contexts: list[int],
    limits: tuple[int | None, float | None],
    seed: int,
) -> None:
    """In registers and read back, single tokens beside a chunk."""
    num_query_heads, num_kv_heads, head_size = heads
    cells = CellLayout(format=cell_format, head_size=head_size)
    cache = empty_cache(cells, num_kv_heads)
    generator = torch.Generator().manual_seed(seed)
    filling = torch.randn(2, NUM_BLOCKS, BLOCK_SIZE, num_kv_heads, head_size, generator=generator)
    cache.keys.copy_(cells.encode(filling[0]))
    cache.values.copy_(cells.encode(filling[1]))
    layout = layout_of([*contexts, 11], [1] * len(contexts) + [7], seed)
    queries = torch.randn(len(contexts) + 7, num_query_heads, head_size, generator=generator).to(dtype)
    rule = AttentionRule(scale=head_size**-0.5, window=limits[0], soft_cap=limits[1])
    plain = ReferenceAttention()
    expected = plain.attend(queries, cells.decode(cache.keys, dtype), cells.decode(cache.values, dtype), layout, rule)
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype is torch.float32 else {"rtol": 2e-2, "atol": 1e-2}
    for own in (kernels(), None):
        found = LowPrecisionAttention(plain, own).attend(queries, cells, cache, layout, rule)
        torch.testing.assert_close(found, expected, **tolerance)


@pytest.mark.parametrize("cell_format", FORMATS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_a_number_is_not_hidden_and_stays_in_its_cell(cell_format: CellFormat, bad: float) -> None:
    cells = CellLayout(format=cell_format, head_size=64)
    values = torch.ones(3, 1, 64)
    values[1, 0, 5] = bad
    for own in (kernels(), None):
        cache = empty_cache(cells, 1, 1)
        LowPrecisionAttention(ReferenceAttention(), own).store(cells, cache, values, values, torch.arange(3))
        found = cells.decode(cache.keys, torch.float32)[0, :3, 0]
        assert found.isfinite().all(dim=1).tolist() == [True, False, True]


def test_the_first_plane_of_int8_is_an_int4_of_the_same_number() -> None:
    """What a draft would read: the upper half of every byte, half the memory."""
    cells = CellLayout(format=CellFormat.INT8, head_size=64)
    values = torch.randn(20, 64, generator=torch.Generator().manual_seed(1))
    encoded = cells.encode(values)
    plane, scales = encoded[:, :32], encoded[:, 64:].contiguous().view(torch.float32)
    upper = torch.cat([plane & 15, plane >> 4], dim=-1).float()
    coarse = (upper * 16 + 7.5 - 128) * scales
    assert bool(((coarse - values).abs() <= 8.01 * scales).all())
