"""Triton on a cache in cells: the bytes that torch writes, attention over what they say; interpreted or compiled."""

import pytest
import torch

from services.worker.engine.attention.attention_rule import AttentionRule
from services.worker.engine.attention.cell_layout import INT4_SPAN, CellLayout
from services.worker.engine.attention.layer_cache import LayerCache
from services.worker.engine.attention.low_precision_attention import LowPrecisionAttention
from services.worker.engine.attention.reference_attention import ReferenceAttention
from services.worker.engine.attention.triton_cells import TritonCells
from services.worker.engine.kv_cache.cell_format import CellFormat
from services.worker.engine.triton_kernels.cell_attention import attend_cells
from tests.attention_cases import AttentionCase, make_case

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
FORMATS = list(CellFormat)
DTYPES = [torch.float32, torch.bfloat16]


def numbers(*shape: int) -> torch.Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(3))
    values[0] = 0
    return values * torch.logspace(-3, 2, shape[-1])


@pytest.mark.parametrize("cell_format", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head_size", [64, 34, 6])
def test_the_bytes_are_those_that_torch_writes(cell_format: CellFormat, dtype: torch.dtype, head_size: int) -> None:
    cells = CellLayout(format=cell_format, head_size=head_size)
    values = numbers(5, 2, head_size).to(dtype)
    slots = torch.tensor([7, 0, -1, 15, 8])
    found = torch.zeros(4, 4, 2, cells.num_bytes, dtype=torch.uint8, device=DEVICE)
    TritonCells().write(found, values.to(DEVICE), slots.to(DEVICE), cells)
    expected = torch.zeros(16, 2, cells.num_bytes, dtype=torch.uint8)
    expected[[7, 0, 15, 8]] = cells.encode(values[[0, 1, 3, 4]])
    assert torch.equal(found.cpu().view(16, 2, -1), expected)


@pytest.mark.parametrize("cell_format", FORMATS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_a_number_is_not_hidden_and_stays_in_its_cell(cell_format: CellFormat, bad: float) -> None:
    cells = CellLayout(format=cell_format, head_size=64)
    values = torch.ones(3, 1, 64)
    values[1, 0, 5] = bad
    found = torch.zeros(1, 4, 1, cells.num_bytes, dtype=torch.uint8, device=DEVICE)
    TritonCells().write(found, values.to(DEVICE), torch.arange(3, device=DEVICE), cells)
    read = cells.decode(found.cpu(), torch.float32)[0, :3, 0]
    assert read.isfinite().all(dim=1).tolist() == [True, False, True]


def in_cells(case: AttentionCase, cell_format: CellFormat) -> tuple[CellLayout, LayerCache]:
    cells = CellLayout(format=cell_format, head_size=case.queries.shape[2])
    keys, values = cells.encode(case.cache[0]).to(DEVICE), cells.encode(case.cache[1]).to(DEVICE)
    return cells, LayerCache(keys=keys, values=values, group=0, cells=cells)


@pytest.mark.parametrize("cell_format", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_size", "window", "soft_cap"),
    [(9, 3, 64, None, None), (4, 1, 34, 5, 3.0)],
)
def test_single_tokens_beside_a_chunk_see_what_the_cells_say(
    cell_format: CellFormat,
    dtype: torch.dtype,
    heads: int,
    kv_heads: int,
    head_size: int,
    window: int | None,
    soft_cap: float | None,
) -> None:
    case = make_case(
        [(1, 33), (1, 5), (7, 40)],
        heads=heads,
        kv_heads=kv_heads,
        head_size=head_size,
        block_size=16,
        dtype=dtype,
        window=window,
        soft_cap=soft_cap,
    )
    cells, cache = in_cells(case, cell_format)
    rule = AttentionRule(scale=case.rule.scale, window=window, soft_cap=soft_cap)
    plain = ReferenceAttention()
    keys, values = cells.decode(cache.keys.cpu(), dtype), cells.decode(cache.values.cpu(), dtype)
    expected = plain.attend(case.queries, keys, values, case.layout, rule)
    found = LowPrecisionAttention(plain, None, TritonCells()).attend(case.queries, cells, cache, case.layout, rule)
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype is torch.float32 else {"rtol": 2e-2, "atol": 1e-2}
    torch.testing.assert_close(found, expected, **tolerance)


@pytest.mark.parametrize("num_splits", [1, 3])
def test_splits_of_a_context_change_nothing(num_splits: int) -> None:
    case = make_case([(1, 200)], heads=2, kv_heads=1, head_size=32, block_size=16, dtype=torch.float32)
    cells, cache = in_cells(case, CellFormat.INT8)
    options = {"scale": case.rule.scale, "window": None, "soft_cap": None, "num_splits": num_splits, "tile_tokens": 16}
    options |= {"cell_format": int(cells.format), "span": INT4_SPAN}
    layout = case.layout
    found = attend_cells(case.queries, cache.keys, cache.values, layout.block_tables, layout.context_lengths, **options)
    keys, values = cells.decode(cache.keys, torch.float32), cells.decode(cache.values, torch.float32)
    expected = ReferenceAttention().attend(case.queries, keys, values, layout, case.rule)
    torch.testing.assert_close(found.flatten(1), expected, rtol=1e-4, atol=1e-5)
