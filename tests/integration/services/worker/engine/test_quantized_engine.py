"""An engine with quantized weights: the same tokens in every batch, its own fingerprint, and what is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from services.worker.engine.calibration.method_choice import QuantizationChoice
from services.worker.engine.checkpoints.weights import open_checkpoint
from services.worker.engine.config import EngineConfig
from services.worker.engine.engine import Engine
from services.worker.engine.models.quantized_reference import DequantizingLinear
from services.worker.engine.quantization.load_time import UnknownQuantization, parse_rounding
from services.worker.engine.quantization.quantization_error import GroupSizeDoesNotDivide
from services.worker.engine.quantization.rounding import quantize
from services.worker.engine.quantization.scheme import integers
from services.worker.offline.quantize_model import quantize_checkpoint
from tests.builders import tiny_checkpoint
from tests.engine_driver import drive, make_submit
from tests.fixtures.tiny_gguf import write_tiny_gguf

NAMES = ["rtn-int8", "rtn-int8-a16", "rtn-int4-g16-a8", "rtn-int4-g16", "rtn-int4-asym", "rtn-fp8"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("checkpoint"))


def load(model: Path, **changes: Any) -> Engine:
    return Engine.load(EngineConfig(**{"model": model, "num_kv_blocks": 256, "dtype": "bfloat16", **changes}))


def submissions() -> list[Any]:
    return [make_submit(f"{index}", list(range(index, 3 * index + 5)), max_tokens=12) for index in range(9)]


@pytest.mark.parametrize("name", NAMES)
def test_tokens_are_the_same_alone_and_in_a_batch(checkpoint: Path, name: str) -> None:
    engine = load(checkpoint, quantization=name, enable_prefix_cache=False)
    alone = {key: tokens for one in submissions() for key, tokens in drive(engine, one).tokens.items()}
    together = drive(engine, *submissions())
    assert together.tokens == alone
    assert engine.ready.quantization == name
    assert " by " in engine.ready.quantization_note


@pytest.mark.parametrize("chunk", [3, 16])
def test_tokens_are_the_same_when_prompts_come_in_chunks(checkpoint: Path, chunk: int) -> None:
    options = {"quantization": "rtn-int8", "dtype": "float32"}
    whole = drive(load(checkpoint, **options), *submissions())
    narrow = load(checkpoint, max_tokens_per_step=chunk, max_running_sequences=3, **options)
    chunked = drive(narrow, *submissions())
    assert chunked.tokens == whole.tokens


def test_every_way_of_rounding_has_its_own_fingerprint(checkpoint: Path) -> None:
    found = [load(checkpoint, quantization=name).ready.fingerprint for name in ["none", "keep", "keep-head8", *NAMES]]
    assert len(set(found)) == len(found)
    assert load(checkpoint).ready.fingerprint == found[0]


def test_a_name_that_means_nothing_stops_the_load_and_tells_the_names(checkpoint: Path) -> None:
    with pytest.raises(UnknownQuantization, match=r"unknown quantization 'int5'.*rtn-int4-g64-a8"):
        load(checkpoint, quantization="int5")
    with pytest.raises(GroupSizeDoesNotDivide, match="48"):
        load(checkpoint, quantization="rtn-int4-g48")


def test_the_engine_computes_with_the_rounded_weights(checkpoint: Path) -> None:
    """The head's product with a known hidden state is that of the weights as they were rounded."""
    decoder = load(checkpoint, quantization="rtn-int4-g16", dtype="float32")._runner._decoder
    rounding = parse_rounding("rtn-int4-g16")
    assert rounding is not None
    stored = open_checkpoint(checkpoint)
    name = "model.embed_tokens.weight" if stored.config.tie_word_embeddings else "lm_head.weight"
    expected = DequantizingLinear(quantize(stored.tensor(name), rounding.head), None, wide_output=True)
    inputs = torch.randn(3, stored.config.hidden_size)
    assert torch.equal(decoder._head(inputs), expected(inputs))


@pytest.mark.parametrize("bits_of_inputs", [None, 8])
def test_a_head_in_sixteen_bits_is_rounded_when_that_is_asked_for(
    checkpoint: Path, tmp_path: Path, bits_of_inputs: int | None
) -> None:
    """Its inputs have as many bits as those of the layers, whose weights stay what they are."""
    made = tmp_path / "made"
    quantize_checkpoint(checkpoint, made, QuantizationChoice(method="rtn", bits=8, activation_bits=bits_of_inputs))
    engine = load(made, quantization="keep-head8")
    assert drive(engine, make_submit("a", [3, 5, 7, 9], max_tokens=8)).tokens
    head = engine._runner._decoder._head
    stored = open_checkpoint(made)
    name = "model.embed_tokens.weight" if stored.config.tie_word_embeddings else "lm_head.weight"
    plain = stored.tensor(name).bfloat16()
    scheme = integers(8, group_size=None if plain.shape[1] % 64 else 64)
    rounded = replace(quantize(plain, scheme), activations=scheme if bits_of_inputs else None)
    inputs = torch.randn(3, plain.shape[1]).bfloat16()
    torch.testing.assert_close(head(inputs), DequantizingLinear(rounded, None, wide_output=True)(inputs))
    kept = load(made, quantization="keep")._runner._decoder._head
    assert not torch.equal(head(inputs), kept(inputs))


def test_a_gguf_file_is_kept_as_it_is_stored(tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    write_tiny_gguf(file)
    stored = open_checkpoint(file)
    kept = [name for name in stored.tensor_names() if name.endswith("proj.weight") and stored.quantized(name)]
    plain, same = load(file, dtype="float32"), load(file, dtype="float32", quantization="keep")
    prompt = make_submit("a", [3, 5, 7, 9], max_tokens=8)
    assert drive(plain, prompt).tokens == drive(same, prompt).tokens
    assert bool(kept) is bool(same.ready.quantization_note)


CACHES = ["int8", "fp8", "int4", "int4*1,16bit"]


@pytest.mark.parametrize("kv_cache", CACHES)
def test_a_cache_of_low_precision_gives_the_same_tokens_alone_batched_in_chunks_and_after_a_prefix_hit(
    checkpoint: Path, kv_cache: str
) -> None:
    options = {"kv_cache": kv_cache, "dtype": "float32"}
    engine = load(checkpoint, enable_prefix_cache=False, **options)
    alone = {key: tokens for one in submissions() for key, tokens in drive(engine, one).tokens.items()}
    batched = load(checkpoint, **options)
    assert drive(batched, *submissions()).tokens == alone
    again = drive(batched, *submissions())
    assert again.tokens == alone
    assert sum(timing.cached_prompt_tokens for timing in again.timings.values()) > 0
    narrow = load(checkpoint, max_tokens_per_step=5, max_running_sequences=3, **options)
    assert drive(narrow, *submissions()).tokens == alone
    assert batched.ready.kv_cache == kv_cache


@pytest.mark.parametrize("kv_cache", CACHES)
def test_a_step_in_one_native_call_reads_cells_alone_as_in_a_batch(checkpoint: Path, kv_cache: str) -> None:
    engine = load(checkpoint, kv_cache=kv_cache, quantization="rtn-int8", enable_prefix_cache=False)
    alone = {key: tokens for one in submissions() for key, tokens in drive(engine, one).tokens.items()}
    assert drive(engine, *submissions()).tokens == alone


@pytest.mark.parametrize("kv_cache", CACHES)
def test_every_way_of_attention_sees_the_same_cells(checkpoint: Path, kv_cache: str) -> None:
    told = [
        drive(load(checkpoint, kv_cache=kv_cache, dtype="float32", attention_backend=name), *submissions()).tokens
        for name in ("auto", "gather", "reference")
    ]
    assert told[0] == told[1] == told[2]


def test_choices_copy_the_cells_they_write_into(checkpoint: Path) -> None:
    """Six choices share a prompt that ends within a block."""
    prompt = list(range(50, 87))
    together = drive(load(checkpoint, kv_cache="int8"), make_submit("n", prompt, n=6, seed=40, temperature=1.0))
    engine = load(checkpoint, kv_cache="int8", enable_prefix_cache=False)
    for choice in range(6):
        single = drive(engine, make_submit("1", prompt, seed=40 + choice, temperature=1.0))
        assert together.tokens["n", choice] == single.tokens["1", 0]


def test_the_precision_of_the_cache_is_part_of_the_fingerprint_and_of_the_size(checkpoint: Path) -> None:
    sizes = {"kv_cache_bytes": 1 << 20, "num_kv_blocks": None, "max_running_sequences": 64}
    found = {name: load(checkpoint, kv_cache=name, **sizes).ready for name in ("16bit", *CACHES)}
    assert len({ready.fingerprint for ready in found.values()}) == len(found)
    blocks = {name: ready.num_kv_blocks for name, ready in found.items()}
    assert blocks["16bit"] < blocks["int8"] < blocks["int4"], "the same bytes hold more"


def test_a_cascade_that_does_not_fit_the_layers_stops_the_load(checkpoint: Path) -> None:
    with pytest.raises(ValueError, match="every one of"):
        load(checkpoint, kv_cache="int4*99,16bit")
