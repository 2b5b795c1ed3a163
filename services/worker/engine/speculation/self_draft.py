"""QuantSpec: the model drafts for itself, its weights in fewer bits, over the very cache that it verifies with.

There is one cache: what the draft writes for its own tokens is overwritten by the verification. Where cells are INT8
the draft reads their upper halves, an INT4 of the same number, and the verification both.

Source: Tiwari et al. 2025, "QuantSpec: Self-Speculative Decoding with Hierarchical Quantized KV Cache", 4.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch

from services.worker.engine.batch import Draft, Verdict
from services.worker.engine.calibration.draft_weights import (
    DraftWeights,
    draft_name,
    fit_draft,
    load_draft,
    round_draft,
    save_draft,
)
from services.worker.engine.calibration.quantize_model import check_can_quantize
from services.worker.engine.checkpoints.checkpoint_error import CheckpointError
from services.worker.engine.checkpoints.model_config import CONFIG_FILE, read_json
from services.worker.engine.checkpoints.weights import Checkpoint, open_checkpoint
from services.worker.engine.config import EngineRefused
from services.worker.engine.execution.own_text import write_own_text
from services.worker.engine.models.linear_reader import KeptLinears
from services.worker.engine.models.quantized_linear import QuantizedLinears
from services.worker.engine.native.build import CACHE_VARIABLE
from services.worker.engine.quantization.quantization_error import QuantizationError
from services.worker.engine.quantization.quantized_tensor import QuantizedTensor
from services.worker.engine.quantization.scheme import integers
from services.worker.engine.sequence import Sequence
from services.worker.engine.speculation.draft_decoder import build_decoder
from services.worker.engine.speculation.draft_method import DraftContext, DraftTask
from services.worker.engine.speculation.model_drafting import ComputesLogits, Writing, shadow_of, write_drafts

_TEXT_SEQUENCES, _TEXT_TOKENS = 64, 192
_FOLDER = "penstock-drafts"

Result = TypeVar("Result")


class SelfDraft:
    def __init__(self, name: str, runner: ComputesLogits, *, shares_noise: bool) -> None:
        self.name = name
        self._runner = runner
        self._shares_noise = shares_noise

    def propose(self, tasks: list[DraftTask]) -> list[Draft]:
        writings = [
            Writing(sequence=task.sequence, shadow=shadow_of(task.sequence), num_tokens=task.num_tokens)
            for task in tasks
        ]
        write_drafts(self._runner, writings, shares_noise=self._shares_noise)
        return [writing.draft() for writing in writings]

    def judged(self, verdicts: list[Verdict]) -> None:
        """Nothing to put right: the verification wrote over what the draft had written."""

    def forget(self, sequence: Sequence) -> None:
        """Nothing is kept of a sequence."""


def build_quantspec(context: DraftContext) -> SelfDraft:
    """Weights of six bits; fitted at the first start, which takes some minutes, and kept beside the model.

    Raises EngineRefused for a model whose layers cannot be quantized.
    """
    checkpoint = _own_checkpoint("quantspec", context)
    file = f"{draft_name(checkpoint.fingerprint, f'{_TEXT_SEQUENCES} x {_TEXT_TOKENS}')}.safetensors"
    places = [folder / _FOLDER / file for folder in (context.checkpoint, _cache_directory()) if folder.is_dir()]
    weights = next((found for place in places if (found := load_draft(place)) is not None), None)
    if weights is None:
        weights = _refusing("quantspec", lambda: fit_draft(checkpoint, torch.tensor(_own_text(context))))
        _keep(places, weights)
    return _self_draft("quantspec", context, checkpoint, weights)


def build_int8_self(context: DraftContext) -> SelfDraft:
    """Raises EngineRefused as `build_quantspec`."""
    checkpoint = _own_checkpoint("int8-self", context)
    return _self_draft("int8-self", context, checkpoint, _refusing("int8-self", lambda: round_draft(checkpoint)))


def _own_checkpoint(name: str, context: DraftContext) -> Checkpoint:
    checkpoint = open_checkpoint(context.checkpoint)
    _refusing(name, lambda: check_can_quantize(checkpoint, context.checkpoint))
    return checkpoint


def _refusing(name: str, act: Callable[[], Result]) -> Result:
    """What the checkpoint cannot do, another start cannot either."""
    try:
        return act()
    except (CheckpointError, QuantizationError) as error:
        raise EngineRefused(f"{name}: {error}") from error


def _own_text(context: DraftContext) -> list[list[int]]:
    model, file = context.model, context.checkpoint / CONFIG_FILE
    first = read_json(file).get("bos_token_id") if file.is_file() else None
    text = write_own_text(
        model.runner,
        first_token_id=first if isinstance(first, int) and 0 <= first < model.vocabulary_size else 0,
        num_sequences=_TEXT_SEQUENCES,
        at_once=context.max_tokens_per_step,
        length=min(_TEXT_TOKENS, model.max_model_tokens),
        block_size_tokens=model.geometry.block_size_tokens,
        num_groups=len(model.geometry.windows),
        num_blocks=model.num_blocks,
    )
    if not text:
        raise EngineRefused("quantspec: the KV cache is too small for the text that the draft is fitted to")
    return text


def _cache_directory() -> Path:
    root = os.environ.get(CACHE_VARIABLE)
    return Path(root) if root else Path.home() / ".cache" / "penstock"


def _keep(places: list[Path], weights: DraftWeights) -> None:
    """Where it may be written first; where nowhere, it is made again at every start."""
    for place in places:
        try:
            save_draft(place, weights)
        except OSError:
            continue
        return


def _self_draft(name: str, context: DraftContext, checkpoint: Checkpoint, weights: DraftWeights) -> SelfDraft:
    model = context.model
    device, dtype = torch.device(model.device), getattr(torch, model.dtype)

    def read(tensor: str) -> torch.Tensor:
        return checkpoint.tensor(tensor, dtype).to(device)

    def quantized(tensor: str) -> QuantizedTensor | None:
        weight = weights.get(tensor)
        if weight is None:
            return None
        return replace(weight, activations=integers(8, group_size=weight.scheme.group_size))

    decoder = build_decoder(
        model,
        checkpoint.config,
        read,
        linears=KeptLinears(read, quantized, QuantizedLinears(dtype, device)),
        max_model_tokens=model.max_model_tokens,
    )
    layers = [layer.drafts_view() for layer in model.runner.layers]
    return SelfDraft(name, model.runner.sharing_cache(decoder, layers), shares_noise=context.shares_noise)
