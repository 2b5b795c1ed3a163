"""Reads a draft's checkpoint and gives it a cache; refuses by name one that does not speak the target's tokens."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer

from services.worker.engine.batch import ScheduledBatch
from services.worker.engine.checkpoints.checkpoint_error import CheckpointError
from services.worker.engine.checkpoints.weights import open_checkpoint
from services.worker.engine.config import EngineRefused
from services.worker.engine.execution.cache_memory import CacheMemory, cache_shape
from services.worker.engine.execution.row_runner import RowRunner
from services.worker.engine.kv_cache.cache_geometry import CacheGeometry
from services.worker.engine.kv_cache.layer_groups import group_layers
from services.worker.engine.kv_cache.paged_cache import PagedCache
from services.worker.engine.speculation.draft_decoder import build_decoder
from services.worker.engine.speculation.draft_method import DraftContext
from services.worker.engine.speculation.draft_model import DraftModel
from services.worker.engine.speculation.model_drafting import ComputesLogits

_TOKENIZER = "tokenizer.json"
_NEVER = -1e30
"""A logit that no draw takes. Not infinity: that is what a broken model says."""


def build_draft_model(context: DraftContext) -> DraftModel:
    """Raises EngineRefused."""
    if context.draft_checkpoint is None:
        raise EngineRefused("draft-model: no draft_model is set, the directory of a smaller checkpoint")
    try:
        return _load(context, context.draft_checkpoint)
    except (CheckpointError, torch.OutOfMemoryError) as error:
        raise EngineRefused(f"draft-model: {error}") from error


def _load(context: DraftContext, directory: Path) -> DraftModel:
    checkpoint = open_checkpoint(directory)
    shape, model = checkpoint.config, context.model
    has_tokenizers = _compare_tokenizers(context.checkpoint, directory)
    if not has_tokenizers and shape.vocabulary_size != model.vocabulary_size:
        raise EngineRefused(
            f"draft-model: {directory} has a vocabulary of {shape.vocabulary_size} tokens, the model one of"
            f" {model.vocabulary_size}"
        )
    device, dtype = torch.device(model.device), getattr(torch, model.dtype)
    most = min(shape.max_position_embeddings, model.max_model_tokens)
    decoder = build_decoder(model, shape, lambda name: checkpoint.tensor(name, dtype).to(device), max_model_tokens=most)
    groups = group_layers([layer.sliding_window for layer in shape.layers], max_model_tokens=most)
    geometry = CacheGeometry(
        block_size_tokens=model.geometry.block_size_tokens,
        max_step_tokens=context.max_tokens_per_step,
        windows=groups.windows,
    )
    # As many tokens as the target's cache holds, and one sequence of the longest in any case.
    capacity = model.geometry.capacity_tokens(model.num_blocks, max_model_tokens=model.max_model_tokens)
    num_blocks = max(geometry.blocks_for(capacity) * len(groups.windows), geometry.most_blocks(most))
    memory = CacheMemory(
        cache_shape(shape, groups, block_size_tokens=geometry.block_size_tokens, dtype=dtype),
        groups,
        num_blocks=num_blocks,
        device=device,
    )
    runner = RowRunner(decoder, memory.layers, block_size_tokens=geometry.block_size_tokens, device=device)
    return DraftModel(
        WithVocabulary(runner, shape.vocabulary_size, model.vocabulary_size),
        PagedCache(geometry, num_blocks=num_blocks, enable_prefix_cache=False),
        vocabulary_size=shape.vocabulary_size,
        max_model_tokens=most,
        max_tokens_per_step=context.max_tokens_per_step,
        shares_noise=context.shares_noise,
    )


class WithVocabulary:
    """The same tokens, but not as many rows behind the last of them: families pad their heads to different sizes."""

    def __init__(self, runner: ComputesLogits, own_size: int, wanted_size: int) -> None:
        self._runner = runner
        self._num_missing = max(wanted_size - own_size, 0)
        self._num_unwanted = max(own_size - wanted_size, 0)
        self._wanted_size = wanted_size

    def logits(self, batch: ScheduledBatch) -> torch.Tensor:
        logits = self._runner.logits(batch)[:, : self._wanted_size]
        if not self._num_missing:
            return logits
        return torch.nn.functional.pad(logits, (0, self._num_missing), value=_NEVER)

    def largest(self, batch: ScheduledBatch) -> torch.Tensor | None:
        return None if self._num_unwanted else self._runner.largest(batch)


def _compare_tokenizers(target: Path, draft: Path) -> bool:
    """Whether both have one. Raises EngineRefused where they mean different tokens by the same numbers."""
    files = [directory / _TOKENIZER for directory in (target, draft)]
    if not all(file.is_file() for file in files):
        return False
    ours, theirs = (Tokenizer.from_file(str(file)).get_vocab(with_added_tokens=True) for file in files)
    if ours == theirs:
        return True
    odd = min(
        (token for token in ours.keys() | theirs.keys() if ours.get(token) != theirs.get(token)),
        key=lambda token: (min(ours.get(token, len(ours)), theirs.get(token, len(theirs))), token),
    )
    raise EngineRefused(
        f"draft-model: {draft} has another vocabulary than the model: {odd!r} is token {theirs.get(odd)} there and"
        f" {ours.get(odd)} here"
    )
