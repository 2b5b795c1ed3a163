"""A step in one native call against the same layers operator by operator."""

import pytest
import torch

from services.worker.engine.attention.cell_layout import CellLayout
from services.worker.engine.attention.key_frame import KeyFrame
from services.worker.engine.attention.layer_cache import LayerCache
from services.worker.engine.attention.native_attention import NativeAttention
from services.worker.engine.attention.reference_attention import ReferenceAttention
from services.worker.engine.attention.step_layout import StepLayout
from services.worker.engine.checkpoints.model_config import Activation, DecoderConfig, parse_model_config
from services.worker.engine.checkpoints.tensor_shapes import expected_shapes
from services.worker.engine.kv_cache.cell_format import layer_formats
from services.worker.engine.models.decoder import Decoder
from services.worker.engine.models.linear_reader import RoundedLinears
from services.worker.engine.models.native_operators import NativeOperators
from services.worker.engine.models.quantized_linear import QuantizedLinears
from services.worker.engine.models.quantized_native import NEVER
from services.worker.engine.native.library import load_kernels, load_products
from services.worker.engine.quantization.load_time import parse_rounding

BLOCK_SIZE, NUM_BLOCKS = 16, 64
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 192,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "intermediate_size": 336,
    "vocab_size": 301,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}
QWEN3 = {**LLAMA, "architectures": ["Qwen3ForCausalLM"], "tie_word_embeddings": True}
CASES = {
    "llama": LLAMA,
    "llama, tied": {**LLAMA, "tie_word_embeddings": True},
    "llama, as many kv heads": {**LLAMA, "num_key_value_heads": 6, "head_dim": 48},
    "llama, one kv head": {**LLAMA, "num_key_value_heads": 1, "head_dim": 16},
    "mistral, window": {**LLAMA, "architectures": ["MistralForCausalLM"], "sliding_window": 21},
    "qwen2, biases": {**LLAMA, "architectures": ["Qwen2ForCausalLM"]},
    "qwen2, inner values that fill no last strip": {
        **LLAMA,
        "architectures": ["Qwen2ForCausalLM"],
        "intermediate_size": 368,
    },
    "qwen3, head norms": QWEN3,
    "smollm3, layers without rope": {
        **LLAMA,
        "architectures": ["SmolLM3ForCausalLM"],
        "no_rope_layer_interval": 2,
        "head_dim": 32,
    },
}
ROUNDED = ["rtn-int8", "rtn-int4-g16-a8", "rtn-int4-g48-asym-a8", "rtn-int4-g16", "rtn-int8-a16", "rtn-fp8"]
LENGTHS = {
    "one token": [(1, 1)],
    "single tokens": [(1, 16), (1, 17), (1, 300), (1, 40), (1, 2), (1, 33), (1, 100)],
    "fifteen tokens": [(1, 20 + n) for n in range(15)],
    "a prompt": [(150, 150)],
    "a chunk behind a prefix": [(70, 200)],
    "single tokens and chunks": [(1, 33), (1, 5), (7, 100), (20, 20), (64, 64), (2, 18)],
}


def config_of(case: str) -> DecoderConfig:
    from pathlib import Path

    return parse_model_config({**CASES[case], "dtype": "bfloat16"}, source=Path("config.json"))


def build(config: DecoderConfig, *, is_reference: bool = False, quantization: str = "none") -> Decoder:
    kernels = load_kernels(torch.bfloat16)
    products = load_products()
    if kernels is None or products is None or not products.are_fast:
        pytest.skip("neither AVX-512 nor AVX2 on this processor, or no C compiler")
    shapes = expected_shapes(config)
    torch.manual_seed(5)
    weights = {
        name: (torch.randn(shape) * 0.3 + (1.0 if "norm" in name else 0.0)).bfloat16() for name, shape in shapes.items()
    }
    attention = ReferenceAttention() if is_reference else NativeAttention(kernels)
    read = weights.__getitem__
    rounding = parse_rounding(quantization)
    kinds = QuantizedLinears(torch.bfloat16, torch.device("cpu"))
    linears = None if rounding is None else RoundedLinears(read, rounding, kinds)
    operators = NativeOperators(kernels)
    decoder = Decoder(config, read, attention=attention, operators=operators, linears=linears)
    decoder.prepare_positions(512)
    return decoder


def make_step(lengths: list[tuple[int, int]]) -> StepLayout:
    """(new tokens, context) of each sequence, those with one new token first; blocks in random places."""
    longest = max(-(-context // BLOCK_SIZE) for _, context in lengths)
    tables = torch.randperm(NUM_BLOCKS * 4, dtype=torch.int32)[: len(lengths) * longest].view(len(lengths), longest)
    starts, positions, slots = [0], [], []
    for row, (new, context) in enumerate(lengths):
        starts.append(starts[-1] + new)
        for position in range(context - new, context):
            positions.append(position)
            slots.append(int(tables[row, position // BLOCK_SIZE]) * BLOCK_SIZE + position % BLOCK_SIZE)
    contexts = [context for _, context in lengths]
    return StepLayout(
        positions=torch.tensor(positions),
        slots=torch.tensor(slots),
        block_tables=tables.contiguous(),
        context_lengths=torch.tensor(contexts, dtype=torch.int32),
        query_starts=torch.tensor(starts, dtype=torch.int32),
        context_length_list=contexts,
        query_start_list=starts,
        num_single=sum(1 for new, _ in lengths if new == 1),
        block_size_tokens=BLOCK_SIZE,
    )


def make_cache(config: DecoderConfig) -> torch.Tensor:
    shape = (config.num_layers, 2, NUM_BLOCKS * 4, BLOCK_SIZE, config.num_kv_heads, config.head_size)
    return torch.randn(shape).bfloat16()


def layer_caches(cache: torch.Tensor) -> list[LayerCache]:
    return [LayerCache(keys=pair[0], values=pair[1], group=0) for pair in cache]


def run(decoder: Decoder, cache: torch.Tensor, layout: StepLayout, *, natively: bool) -> torch.Tensor:
    assert decoder._native is not None, decoder.not_native
    native = decoder._native
    if not natively:
        decoder._native = None
    tokens = torch.arange(len(layout.positions)) * 7 % 301
    try:
        return decoder.forward(tokens, layer_caches(cache), [layout])
    finally:
        decoder._native = native


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("lengths", LENGTHS)
def test_a_step_is_the_operators_one_after_another(case: str, lengths: str) -> None:
    config = config_of(case)
    decoder, layout, cache = build(config), make_step(LENGTHS[lengths]), make_cache(config)
    own_cache = cache.clone()
    expected = run(decoder, cache, layout, natively=False)
    found = run(decoder, own_cache, layout, natively=True)
    if layout.num_single == layout.num_sequences:
        assert torch.equal(found, expected), "single tokens take the same sums in the same order"
        assert torch.equal(own_cache, cache)
    else:
        error = (found.float() - expected.float()).norm() / expected.float().norm()
        assert error < 0.05, "chunks are summed in another order"


@pytest.mark.parametrize("quantization", ROUNDED)
@pytest.mark.parametrize("lengths", ["one token", "single tokens", "single tokens and chunks"])
def test_a_step_with_quantized_weights_is_the_operators_one_after_another(quantization: str, lengths: str) -> None:
    config = config_of("qwen2, biases")
    decoder, layout, cache = build(config, quantization=quantization), make_step(LENGTHS[lengths]), make_cache(config)
    own_cache = cache.clone()
    expected = run(decoder, cache, layout, natively=False)
    found = run(decoder, own_cache, layout, natively=True)
    if layout.num_single == layout.num_sequences:
        assert torch.equal(found, expected)
        assert torch.equal(own_cache, cache)
    else:
        error = (found.float() - expected.float()).norm() / expected.float().norm()
        assert error < 0.1, "chunks are summed in another order"


def test_a_step_looks_weights_up_once_for_many_rows_and_changes_no_bit() -> None:
    config = config_of("llama")
    decoder, layout, cache = build(config, quantization="rtn-int4-g16"), make_step([(40, 60)]), make_cache(config)
    assert decoder._native is not None
    found = []
    for rows in (NEVER, 1):
        for linear in decoder._native._coded:
            linear.structure.expand_from_rows = rows
        found.append(run(decoder, cache.clone(), layout, natively=True))
    assert torch.equal(found[0], found[1])


@pytest.mark.parametrize("quantization", ["rtn-int8", "rtn-int4-g48-asym"])
def test_the_largest_logit_of_a_quantized_head_is_the_one_of_the_logits(quantization: str) -> None:
    decoder = build(config_of("llama, tied"), quantization=quantization)
    hidden = torch.randn(9, 192).bfloat16()
    hidden[4, 7] = float("nan")
    largest = decoder.largest(hidden.clone())
    assert largest is not None
    expected = decoder.logits(hidden).argmax(dim=1).tolist()
    expected[4] = -1
    assert largest.tolist() == expected


def test_layers_find_their_blocks_in_the_layout_of_their_group() -> None:
    config = config_of("mistral, window")
    decoder, cache = build(config), make_cache(config)
    layouts = [make_step(LENGTHS["single tokens and chunks"]) for _ in range(2)]
    tokens = torch.arange(len(layouts[0].positions)) * 7 % 301
    found = []
    for native in (decoder._native, None):
        decoder._native = native
        caches = [LayerCache(keys=pair[0], values=pair[1], group=place % 2) for place, pair in enumerate(cache.clone())]
        found.append(decoder.forward(tokens, caches, layouts).float())
    assert (found[0] - found[1]).norm() / found[1].norm() < 0.05


@pytest.mark.parametrize("case", ["llama", "mistral, window", "qwen3, head norms"])
def test_one_layer_over_a_chunk_is_the_reference(case: str) -> None:
    """Of one layer only rounding is left: a cell too many or too few would show."""
    raw = {**CASES[case], "num_hidden_layers": 1}
    CASES["one layer"] = raw
    config = config_of("one layer")
    layout, cache = make_step(LENGTHS["single tokens and chunks"]), make_cache(config)
    native, reference = build(config), build(config, is_reference=True)
    assert reference.not_native == "reference attention"
    tokens = torch.arange(len(layout.positions)) * 7 % 301
    expected = reference.forward(tokens, layer_caches(cache.clone()), [layout]).float()
    found = native.forward(tokens, layer_caches(cache), [layout]).float()
    errors = (found - expected).norm(dim=1) / expected.norm(dim=1)
    assert errors.max() < 0.015


def test_a_step_is_the_same_bit_by_bit_on_one_thread_and_on_three() -> None:
    config = config_of("qwen2, biases")
    decoder, layout, cache = build(config), make_step(LENGTHS["single tokens and chunks"]), make_cache(config)
    num_threads, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(run(decoder, cache.clone(), layout, natively=True))
    finally:
        torch.set_num_threads(num_threads)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_a_longer_step_after_a_shorter_one_has_room() -> None:
    config = config_of("llama")
    decoder = build(config)
    cache = make_cache(config)
    short = run(decoder, cache.clone(), make_step([(1, 9)]), natively=True)
    layout = make_step([(130, 130)])
    assert run(decoder, cache.clone(), layout, natively=True).shape == (130, 192)
    assert torch.isfinite(short.float()).all()


def test_what_is_not_a_number_stays_in_its_sequence() -> None:
    config = config_of("llama")
    decoder, layout, cache = build(config), make_step([(1, 20), (1, 20), (30, 30)]), make_cache(config)
    cache[0, 0, int(layout.block_tables[0, 0]), 3] = float("nan")
    found = run(decoder, cache, layout, natively=True)
    assert found[0].isnan().all()
    assert torch.isfinite(found[1:].float()).all()


def test_the_largest_logit_is_the_one_of_the_logits() -> None:
    config = config_of("llama, tied")
    decoder = build(config)
    hidden = torch.randn(9, 192).bfloat16()
    largest = decoder.largest(hidden.clone())
    assert largest is not None
    assert largest.tolist() == decoder.logits(hidden).argmax(dim=1).tolist()


def test_a_tied_embedding_is_kept_once() -> None:
    config = config_of("llama, tied")
    decoder = build(config)
    assert decoder._embed == decoder._head.weight_rows  # type: ignore[attr-defined]
    assert torch.equal(decoder._embed(torch.tensor([300, 0])), build(config)._embed(torch.tensor([300, 0])))


def test_gelu_is_computed_too() -> None:
    import dataclasses

    config = dataclasses.replace(config_of("llama"), activation=Activation.GELU)
    decoder, layout, cache = build(config), make_step(LENGTHS["single tokens"]), make_cache(config)
    expected = run(decoder, cache.clone(), layout, natively=False)
    assert torch.equal(run(decoder, cache.clone(), layout, natively=True), expected)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"head_dim": 24}, "heads of 24"),
        ({"intermediate_size": 100}, "100 inner values"),
        ({"architectures": ["MixtralForCausalLM"], "num_local_experts": 4, "num_experts_per_tok": 2}, "experts"),
    ],
)
def test_what_a_step_cannot_do_is_named_and_done_by_operators(changes: dict[str, object], reason: str) -> None:
    CASES["unusual"] = {**LLAMA, **changes}
    decoder = build(config_of("unusual"))
    assert reason in decoder.not_native
    layout = make_step([(1, 9)])
    found = decoder.forward(torch.tensor([3]), layer_caches(make_cache(decoder.config)), [layout])
    assert torch.isfinite(found.float()).all()


def test_the_parts_of_a_step_are_timed_only_while_asked() -> None:
    decoder = build(config_of("llama"))
    cache, layout = make_cache(decoder.config), make_step(LENGTHS["single tokens and chunks"])
    assert decoder._native is not None
    with decoder._native.timed() as seconds:
        assert seconds == {}
        expected = run(decoder, cache.clone(), layout, natively=True)
    assert len(seconds) == 6
    assert min(seconds.values()) > 0
    before = dict(seconds)
    assert torch.equal(run(decoder, cache.clone(), layout, natively=True), expected)
    assert seconds == before


CACHES = ["int8", "fp8", "int4", "int4*1,int8*1,16bit*1"]


def caches_of(
    config: DecoderConfig, kv_cache: str, *, for_draft: bool = False, has_frames: bool = False
) -> list[LayerCache]:
    caches = []
    torch.manual_seed(7)
    for cell_format in layer_formats(kv_cache, config.num_layers):
        shape = (2, NUM_BLOCKS * 4, BLOCK_SIZE, config.num_kv_heads, config.head_size)
        numbers = torch.randn(shape).bfloat16()
        cells = None if cell_format is None else CellLayout(format=cell_format, head_size=config.head_size)
        keys, values = numbers if cells is None else cells.encode(numbers)
        frame = None
        if has_frames and cells is not None:
            channels = torch.linspace(0.1, 3, config.head_size)
            frame = KeyFrame.of(channels + channels * torch.randn(20, config.num_kv_heads, config.head_size))
        cache = LayerCache(keys=keys.contiguous(), values=values.contiguous(), group=0, cells=cells, frame=frame)
        caches.append(cache.drafts_view() if for_draft else cache)
    return caches


def forward(decoder: Decoder, caches: list[LayerCache], layout: StepLayout, *, natively: bool) -> torch.Tensor:
    native = decoder._native
    decoder._native = native if natively else None
    try:
        return decoder.forward(torch.arange(len(layout.positions)) * 7 % 301, caches, [layout])
    finally:
        decoder._native = native


@pytest.mark.parametrize("case", ["mistral, window", "qwen3, head norms"])
@pytest.mark.parametrize("kv_cache", CACHES)
@pytest.mark.parametrize("lengths", ["single tokens", "a chunk behind a prefix", "single tokens and chunks"])
def test_a_step_over_cells_of_low_precision_is_the_operators_one_after_another(
    case: str, kv_cache: str, lengths: str
) -> None:
    config = config_of(case)
    decoder, layout = build(config), make_step(LENGTHS[lengths])
    caches, own_caches = caches_of(config, kv_cache), caches_of(config, kv_cache)
    expected = forward(decoder, caches, layout, natively=False)
    found = forward(decoder, own_caches, layout, natively=True)
    if layout.num_single == layout.num_sequences:
        assert torch.equal(found, expected)
        for own, other in zip(own_caches, caches, strict=True):
            assert torch.equal(own.keys, other.keys)
            assert torch.equal(own.values, other.values)
    else:
        error = (found.float() - expected.float()).norm() / expected.float().norm()
        assert error < 0.08, "chunks are summed in another order, and what differs is rounded to cells"


@pytest.mark.parametrize("kv_cache", ["int4", "int4*1,int8*1,16bit*1"])
@pytest.mark.parametrize("case", ["llama", "qwen3, head norms"])
def test_a_step_with_keys_in_frames_is_the_operators_one_after_another(case: str, kv_cache: str) -> None:
    config, layout = config_of(case), make_step(LENGTHS["single tokens"])
    decoder = build(config)
    caches, own_caches = (caches_of(config, kv_cache, has_frames=True) for _ in range(2))
    expected = forward(decoder, caches, layout, natively=False)
    found = forward(decoder, own_caches, layout, natively=True)
    assert torch.equal(found, expected)
    for own, other in zip(own_caches, caches, strict=True):
        assert torch.equal(own.keys, other.keys)
    without = forward(decoder, caches_of(config, kv_cache), layout, natively=True)
    assert not torch.equal(found, without)


def test_a_draft_reads_the_upper_halves_in_one_call_too() -> None:
    config, layout = config_of("llama"), make_step(LENGTHS["single tokens"])
    decoder = build(config)
    expected = forward(decoder, caches_of(config, "int8", for_draft=True), layout, natively=False)
    found = forward(decoder, caches_of(config, "int8", for_draft=True), layout, natively=True)
    whole = forward(decoder, caches_of(config, "int8"), layout, natively=True)
    assert torch.equal(found, expected)
    assert not torch.equal(found, whole)
