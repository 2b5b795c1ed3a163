"""Between the start of a step and the copy of its tokens the host never waits for the device.

A step that reads one number in its middle leaves the card idle while the host catches up. Proved on fake CUDA tensors:
the code is the card's, an operator that would wait is named and refused.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from services.worker.engine.attention.attention_backend import AttentionBackend
from services.worker.engine.attention.flash_attention import FlashAttention2, FlashAttention3
from services.worker.engine.attention.triton_attention import TritonAttention
from services.worker.engine.batch import Draft, ScheduledBatch, ScheduledSequence
from services.worker.engine.checkpoints.model_config import parse_model_config
from services.worker.engine.checkpoints.tensor_shapes import expected_shapes
from services.worker.engine.events import LogprobEntry
from services.worker.engine.execution.cache_memory import cache_shape
from services.worker.engine.execution.model_runner import ModelRunner
from services.worker.engine.kv_cache.layer_groups import group_layers
from services.worker.engine.models.decoder import Decoder
from services.worker.engine.models.triton_operators import TritonOperators
from services.worker.engine.sequence import BlockTable, Sequence
from tests.engine_driver import make_sequence
from tests.fakes.synchronisation import SynchronisationGuard, Synchronised, fake_card
from tests.fixtures.tiny_checkpoint import TINY_CONFIG

CUDA = torch.device("cuda")
BLOCK_SIZE, MAX_TOKENS = 16, 64
SAMPLING: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 1.0, "top_p": 0.9},
    {"temperature": 0.7, "top_k": 5, "min_p": 0.1, "logprobs": 3},
    {"temperature": 0.0, "repetition_penalty": 1.2, "frequency_penalty": 0.5, "logit_bias": ((3, 1.0),)},
    {"temperature": 1.0, "min_tokens": 9, "ending_token_ids": frozenset({2})},
]


class FakeFlash:
    """The package's functions by shape only."""

    @staticmethod
    def flash_attn_with_kvcache(q: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        return torch.empty_like(q)

    @staticmethod
    def flash_attn_varlen_func(q: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        return torch.empty_like(q)


class EverySecondToken:
    """A grammar of sorts; its masks are the host's."""

    field, problem, is_finished = "response_format", None, False

    def count_allowed(self, token_ids: Iterable[int]) -> int:
        raise NotImplementedError

    def begin_mask(self, draft: Iterable[int] = ()) -> None: ...

    def mask(self, index: int = 0) -> bytes:
        return bytes([0b01010101]) * 250

    def advance(self, token_ids: list[int]) -> None: ...


def make_runner(attention: AttentionBackend, **changes: Any) -> ModelRunner:
    raw = {**TINY_CONFIG, "vocab_size": 2000, "torch_dtype": "bfloat16", **changes}
    config = parse_model_config(raw, source=Path("config.json"))
    shapes = expected_shapes(config)
    decoder = Decoder(
        config,
        lambda name: torch.empty(shapes[name], dtype=torch.bfloat16, device=CUDA),
        attention=attention,
        operators=TritonOperators(),
    )
    decoder.prepare_positions(MAX_TOKENS)
    groups = group_layers([layer.sliding_window for layer in config.layers], max_model_tokens=MAX_TOKENS)
    shape = cache_shape(config, groups, block_size_tokens=BLOCK_SIZE, dtype=torch.bfloat16)
    return ModelRunner(decoder, num_blocks=40, groups=groups, cache_shape=shape, device=CUDA)


def sequences(runner: ModelRunner) -> list[Sequence]:
    made = []
    for index, sampling in enumerate(SAMPLING):
        sequence = make_sequence(list(range(3, 23 + index)), num_output_tokens=2, **sampling)
        sequence.block_tables = [BlockTable(block_ids=[2 * index, 2 * index + 1]) for _ in range(runner._num_groups)]
        made.append(sequence)
    made[1].constraint = made[4].constraint = EverySecondToken()
    return made


def launch(runner: ModelRunner, batch: ScheduledBatch) -> None:
    """Without `inference_mode`, under which operators that are made of others hide what they are made of."""
    with torch.no_grad():
        inspect.unwrap(ModelRunner.launch)(runner, batch)


def decode(sequence: Sequence) -> ScheduledSequence:
    last = len(sequence.token_ids) - 1
    return ScheduledSequence(sequence=sequence, start=last, num_tokens=1, samplers=(sequence,), is_decode=True)


def mixed_step(runner: ModelRunner) -> ScheduledBatch:
    """Single tokens, a whole prompt that is scored, a part of a prompt; a block is copied first."""
    batch = sequences(runner)
    whole, part = batch[2], batch[3]
    prompt_logprobs: list[LogprobEntry | None] = [None] * (len(whole.token_ids) - 1)
    whole.prompt_logprobs = prompt_logprobs
    items = [decode(sequence) for sequence in (batch[0], batch[1], batch[4])]
    items.append(
        ScheduledSequence(sequence=whole, start=0, num_tokens=len(whole.token_ids), samplers=(whole,), is_decode=False)
    )
    items.append(ScheduledSequence(sequence=part, start=4, num_tokens=9, samplers=(), is_decode=False))
    return ScheduledBatch(items=items, block_copies={30: 1, 31: 2})


ATTENTION = {
    "triton": TritonAttention,
    "flash-attn-2": lambda: FlashAttention2(FakeFlash),
    "flash-attn-3": lambda: FlashAttention3(FakeFlash),
}


@pytest.mark.parametrize("name", ATTENTION)
@pytest.mark.parametrize("changes", [{}, {"architectures": ["Gemma2ForCausalLM"], "sliding_window": 8}], ids=str)
def test_a_decode_step_waits_for_nothing_and_copies_only_its_tokens(
    monkeypatch: pytest.MonkeyPatch, name: str, changes: dict[str, Any]
) -> None:
    with fake_card(monkeypatch) as launched:
        runner = make_runner(ATTENTION[name](), **changes)
        batch = ScheduledBatch(items=[decode(sequence) for sequence in sequences(runner)])
        with SynchronisationGuard() as guard:
            launch(runner, batch)
    assert guard.downloads == [5, 5, 1, 20, 20], "tokens, whether they are valid, one row's log probabilities"
    assert guard.num_operators > 50
    assert ("_attend_split" in launched) is (name == "triton")


@pytest.mark.parametrize("name", ATTENTION)
def test_a_step_with_prompts_scores_and_copied_blocks_waits_for_nothing(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with fake_card(monkeypatch) as launched:
        runner = make_runner(ATTENTION[name]())
        with SynchronisationGuard() as guard:
            launch(runner, mixed_step(runner))
    num_scored = 19
    assert guard.downloads[:3] == [num_scored, 3 * num_scored, 3 * num_scored]
    assert len(guard.downloads) == 3 + 5
    assert ("_attend_tile" in launched) is (name == "triton")


@pytest.mark.parametrize("judges_by_rejection", [False, True])
def test_a_step_that_verifies_drafts_waits_for_nothing(
    monkeypatch: pytest.MonkeyPatch, judges_by_rejection: bool
) -> None:
    """Of a lookup, and of a model whose draws have probabilities; others of the step have no draft."""
    with fake_card(monkeypatch):
        runner = make_runner(TritonAttention())
        runner._judges_by_rejection = judges_by_rejection
        items = [decode(sequence) for sequence in sequences(runner)]
        items[0] = replace(items[0], draft=Draft(token_ids=(5, 6, 7)))
        drawn_from = torch.full((2, 2000), 1 / 2000, device=CUDA)
        items[1] = replace(items[1], draft=Draft(token_ids=(8, 9), probabilities=drawn_from))
        with SynchronisationGuard() as guard:
            launch(runner, ScheduledBatch(items=items))
    assert guard.downloads[:2] == [5 + 3 + 2, 5 + 3 + 2], "a token, and whether it is one, of every row"


PLANTS = {
    ".item()": (lambda hidden: hidden.sum().item(), "_local_scalar_dense"),
    ".tolist()": (lambda hidden: hidden[0].tolist(), "_local_scalar_dense"),
    ".cpu()": (lambda hidden: hidden.cpu(), "_to_copy from cuda to cpu that blocks"),
    "torch.tensor": (lambda hidden: torch.tensor([1.0], device="cuda"), "_to_copy from cpu to cuda that blocks"),
    "a mask": (lambda hidden: hidden[hidden > 0], "with a mask"),
    "nonzero": (lambda hidden: hidden.nonzero(), "aten.nonzero"),
    "a list as index": (lambda hidden: hidden[[0, 1]], "_to_copy from cpu to cuda that blocks"),
    "if": (lambda hidden: bool((hidden > 0).any()), "_local_scalar_dense|is_nonzero"),
}


@pytest.mark.parametrize("plant", PLANTS)
def test_one_planted_read_is_found(monkeypatch: pytest.MonkeyPatch, plant: str) -> None:
    read, named = PLANTS[plant]
    with fake_card(monkeypatch):
        runner = make_runner(TritonAttention())
        logits_of = runner._decoder.logits

        def planted(hidden: torch.Tensor) -> torch.Tensor:
            read(hidden)
            return logits_of(hidden)

        monkeypatch.setattr(runner._decoder, "logits", planted)
        batch = ScheduledBatch(items=[decode(sequence) for sequence in sequences(runner)])
        with SynchronisationGuard(), pytest.raises(Synchronised, match=named):
            launch(runner, batch)


def test_a_download_that_does_not_wait_is_allowed_but_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_card(monkeypatch), SynchronisationGuard() as guard:
        torch.empty(7).copy_(torch.empty(7, device=CUDA), non_blocking=True)
    assert guard.downloads == [7]
