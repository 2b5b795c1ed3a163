"""Every kind of linear layer against the definition, and what the native one promises about batches."""

import math
from collections.abc import Callable, Iterator

import pytest
import torch
from torch.nn import functional

from services.worker.engine.models.linear import (
    Float32Linear,
    NativeLinear,
    PackedLinear,
    PlainLinear,
    make_linear,
    onednn_packs_bfloat16,
)
from services.worker.engine.native.library import choose_products, load_products, open_library

SHAPES = [(96, 64), (64, 2), (1, 8), (15, 32), (17, 576), (50, 96), (130, 80), (960, 576)]
"""(columns, inner); full strips of 64, groups of 16, and what is left over."""


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(4)


def native(weight: torch.Tensor, bias: torch.Tensor | None = None, *, wide: bool = False) -> NativeLinear:
    products = load_products()
    if products is None:
        pytest.skip("no C compiler here")
    return NativeLinear(products, weight, bias, torch.float32 if wide else torch.bfloat16)


def exact(inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    return functional.linear(inputs.double(), weight.double(), None if bias is None else bias.double())


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 6, 7, 8, 11, 13, 24, 64])
@pytest.mark.parametrize(("columns", "inner"), SHAPES)
def test_the_native_product_is_the_product(rows: int, columns: int, inner: int) -> None:
    inputs, weight = torch.randn(rows, inner).bfloat16(), torch.randn(columns, inner).bfloat16()
    bias = torch.randn(columns).bfloat16()
    found = native(weight, bias)(inputs)
    assert found.dtype is torch.bfloat16
    torch.testing.assert_close(found.double(), exact(inputs, weight, bias), rtol=8e-3, atol=1e-2)
    wide = native(weight, wide=True)(inputs)
    assert wide.dtype is torch.float32
    torch.testing.assert_close(wide.double(), exact(inputs, weight), rtol=1e-5, atol=1e-4)


def test_a_row_is_the_same_bit_by_bit_in_every_batch_and_on_every_number_of_threads() -> None:
    inputs, weight = torch.randn(70, 576).bfloat16(), torch.randn(960, 576).bfloat16()
    linear = native(weight, wide=True)
    alone = torch.cat([linear(inputs[row : row + 1]) for row in range(70)])
    num_threads = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            for size in (2, 6, 7, 8, 13, 16, 24, 25, 32, 70):
                assert torch.equal(linear(inputs[:size]), alone[:size])
    finally:
        torch.set_num_threads(num_threads)


@pytest.fixture
def ways() -> Iterator[Callable[[NativeLinear, torch.Tensor], list[torch.Tensor]]]:
    """A product by pairs in one instruction and by float32, whichever is the faster here."""
    products, library = load_products(), open_library()
    if products is None or library is None or not products.are_fast:
        pytest.skip("there is one way here")

    def both(linear: NativeLinear, inputs: torch.Tensor) -> list[torch.Tensor]:
        found = []
        for is_wide in (0, 1):
            products.use_wide(is_wide)
            found.append(linear(inputs))
        return found

    yield both
    choose_products(library)


Ways = Callable[[NativeLinear, torch.Tensor], list[torch.Tensor]]


@pytest.mark.parametrize("rows", [1, 2, 5, 8, 9, 24, 100, 300])
@pytest.mark.parametrize(("columns", "inner"), [*SHAPES, (1600, 130), (33, 1000)])
def test_pairs_and_float32_give_the_same_bits(rows: int, columns: int, inner: int, ways: Ways) -> None:
    inputs, weight = torch.randn(rows, inner).bfloat16(), torch.randn(columns, inner).bfloat16()
    by_pairs, by_floats = ways(native(weight, wide=True), inputs)
    assert torch.equal(by_pairs, by_floats)


@pytest.mark.parametrize("rows", [1, 7, 20])
def test_they_do_so_for_numbers_of_all_sizes_and_for_none(rows: int, ways: Ways) -> None:
    exponents = torch.randint(0, 256, (rows + 40, 300)).to(torch.int16) << 7
    bits = (
        exponents | torch.randint(0, 128, exponents.shape).to(torch.int16) | torch.randint(0, 2, exponents.shape) << 15
    )
    numbers = bits.to(torch.int16).view(torch.bfloat16)
    by_pairs, by_floats = ways(native(numbers[rows:], wide=True), numbers[:rows])
    assert torch.equal(by_pairs.nan_to_num(7.0), by_floats.nan_to_num(7.0))
    assert torch.equal(by_pairs.isnan(), by_floats.isnan())
    tiny = torch.full((rows, 64), 2.0**-130).bfloat16()
    by_pairs, by_floats = ways(native(torch.full((17, 64), 3.0).bfloat16(), wide=True), tiny)
    assert not by_pairs.any(), "denormal inputs are zeros"
    assert torch.equal(by_pairs, by_floats)
    assert torch.full((1,), 2.0**-140).mul(1.0).item() > 0, "and only there"


def test_nothing_is_written_behind_the_last_column() -> None:
    weight = torch.randn(17, 8).bfloat16()
    found = native(weight)(torch.randn(3, 8).bfloat16())
    assert found.shape == (3, 17)
    whole = native(torch.cat([weight, torch.full((15, 8), 7.0).bfloat16()]))(torch.randn(3, 8).bfloat16())
    assert whole.shape == (3, 32)


def test_what_is_not_a_number_stays_in_its_row() -> None:
    inputs = torch.ones(4, 16).bfloat16()
    inputs[2, 3] = float("nan")
    found = native(torch.ones(20, 16).bfloat16())(inputs)
    assert found.isnan().any(dim=1).tolist() == [False, False, True, False]
    assert found[2].isnan().all()


def test_inputs_that_do_not_lie_in_one_piece_are_read_right() -> None:
    inputs, weight = torch.randn(6, 64).bfloat16()[:, ::2], torch.randn(16, 32).bfloat16()
    torch.testing.assert_close(native(weight)(inputs), native(weight)(inputs.contiguous()), rtol=0, atol=0)


def test_the_kind_follows_the_weight() -> None:
    assert isinstance(make_linear(torch.randn(4, 4), None), PlainLinear)
    products = load_products()
    has_matmul = products is not None and products.are_fast
    packed = make_linear(torch.randn(4, 4).bfloat16(), None)
    others = PackedLinear if onednn_packs_bfloat16() else Float32Linear
    assert isinstance(packed, NativeLinear if has_matmul else others)
    odd = make_linear(torch.randn(4, 3).bfloat16(), None)
    assert not isinstance(odd, NativeLinear), "three values are no pairs"


@pytest.mark.parametrize("inner", [3, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_wide_product_is_float32_whatever_the_kind(dtype: torch.dtype, inner: int) -> None:
    inputs, weight = torch.randn(2, inner).to(dtype), torch.randn(5, inner).to(dtype)
    found = make_linear(weight, None, wide_output=True)(inputs)
    assert found.dtype is torch.float32
    torch.testing.assert_close(found.double(), exact(inputs, weight), rtol=2e-2, atol=2e-2)


def test_without_the_kernel_weights_are_packed_for_onednn_where_it_takes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.worker.engine.models.linear.load_products", lambda: None)
    inputs, weight = torch.randn(3, 32).bfloat16(), torch.randn(48, 32).bfloat16()
    linear = make_linear(weight, None)
    assert isinstance(linear, PackedLinear if onednn_packs_bfloat16() else Float32Linear)
    torch.testing.assert_close(linear(inputs).double(), exact(inputs, weight), rtol=1e-2, atol=2e-2)


def test_weights_that_onednn_refuses_become_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.worker.engine.models.linear.load_products", lambda: None)
    monkeypatch.setattr("services.worker.engine.models.linear.onednn_packs_bfloat16", lambda: False)
    inputs, weight = torch.randn(3, 32).bfloat16(), torch.randn(48, 32).bfloat16()
    linear = make_linear(weight, None)
    assert isinstance(linear, Float32Linear)
    assert linear(inputs).dtype is torch.bfloat16
    torch.testing.assert_close(linear(inputs).double(), exact(inputs, weight), rtol=1e-2, atol=2e-2)
    wide = make_linear(weight, torch.ones(48).bfloat16(), wide_output=True)(inputs)
    assert wide.dtype is torch.float32
    torch.testing.assert_close(wide.double(), exact(inputs, weight) + 1.0, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("rows", [1, 5, 8, 13])
@pytest.mark.parametrize(("columns", "inner"), [(1, 8), (17, 16), (130, 80), (5000, 64)])
def test_the_largest_is_found_without_the_products(rows: int, columns: int, inner: int) -> None:
    inputs, weight = torch.randn(rows, inner).bfloat16(), torch.randn(columns, inner).bfloat16()
    linear = native(weight, wide=True)
    assert linear.largest(inputs).tolist() == linear(inputs).argmax(dim=1).tolist()


def test_of_equal_products_the_first_is_the_largest() -> None:
    weight = torch.ones(3000, 16).bfloat16()
    weight[:7] = 0.5
    assert native(weight).largest(torch.ones(2, 16).bfloat16()).tolist() == [7, 7]
    assert native(weight).largest(-torch.ones(2, 16).bfloat16()).tolist() == [0, 0]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_row_with_a_product_that_is_no_number_has_no_largest(value: float) -> None:
    weight = torch.ones(2000, 16).bfloat16()
    inputs = torch.ones(3, 16).bfloat16()
    inputs[1, 3] = value
    assert native(weight).largest(inputs).tolist() == [0, -1, 0]


def test_one_product_of_minus_infinity_is_only_the_smallest() -> None:
    weight = torch.ones(2000, 16).bfloat16()
    weight[0] = -math.inf
    assert native(weight).largest(torch.ones(1, 16).bfloat16()).tolist() == [1]


@pytest.mark.parametrize(("columns", "inner"), SHAPES)
def test_rows_come_back_from_the_packed_weight_as_they_were(columns: int, inner: int) -> None:
    weight = torch.randn(columns, inner).bfloat16()
    rows = torch.tensor([columns - 1, 0, columns // 2, 0])
    assert torch.equal(native(weight).weight_rows(rows), weight[rows])
