"""A decoder without an engine: logits at every position of one sequence, computed in pieces of any size."""

from __future__ import annotations

from pathlib import Path

import torch

from services.worker.engine.attention.backend_selection import attention_needs, select_attention
from services.worker.engine.batch import ScheduledBatch, ScheduledSequence
from services.worker.engine.checkpoints.model_config import DecoderConfig
from services.worker.engine.checkpoints.weights import open_checkpoint
from services.worker.engine.execution.cache_memory import CacheMemory, cache_shape
from services.worker.engine.execution.step_inputs import prepare_inputs
from services.worker.engine.kv_cache.cell_format import layer_formats
from services.worker.engine.kv_cache.layer_groups import group_layers
from services.worker.engine.models.decoder import Decoder
from services.worker.engine.models.linear_reader import ReadTensor
from services.worker.engine.models.operator_selection import select_operators
from services.worker.engine.sequence import BlockTable
from tests.engine_driver import make_sequence

BLOCK_SIZE = 16
DEVICE = torch.device("cpu")


def read_checkpoint(path: Path) -> tuple[DecoderConfig, ReadTensor]:
    checkpoint = open_checkpoint(path)
    return checkpoint.config, lambda name: checkpoint.tensor(name, torch.float32)


@torch.inference_mode()
def all_logits(
    config: DecoderConfig,
    read: ReadTensor,
    token_ids: list[int],
    *,
    backend: str = "auto",
    pieces: list[int],
    kv_cache: str = "16bit",
) -> torch.Tensor:
    """[T, V] float32. `pieces` are the numbers of tokens of the steps; the last one is repeated to the end."""
    decoder = Decoder(
        config,
        read,
        attention=select_attention(
            backend, attention_needs(config, device=DEVICE, dtype=torch.float32, block_size_tokens=BLOCK_SIZE)
        )[0],
        operators=select_operators(backend, device=DEVICE, dtype=torch.float32),
    )
    decoder.prepare_positions(len(token_ids))
    num_blocks = -(-len(token_ids) // BLOCK_SIZE)
    sequence = make_sequence(token_ids)
    groups = group_layers([layer.sliding_window for layer in config.layers], max_model_tokens=len(token_ids))
    places = torch.randperm((num_blocks + 3) * len(groups.groups), generator=torch.Generator().manual_seed(0)).tolist()
    sequence.block_tables = [
        BlockTable(block_ids=places[group :: len(groups.groups)]) for group in range(len(groups.groups))
    ]
    shape = cache_shape(
        config, groups, layer_formats(kv_cache, config.num_layers), block_size_tokens=BLOCK_SIZE, dtype=torch.float32
    )
    caches = CacheMemory(shape, groups, num_blocks=len(places), device=DEVICE).layers
    rows: list[torch.Tensor] = []
    start, step = 0, 0
    while start < len(token_ids):
        count = min(pieces[min(step, len(pieces) - 1)], len(token_ids) - start)
        item = ScheduledSequence(sequence=sequence, start=start, num_tokens=count, samplers=(), is_decode=False)
        inputs = prepare_inputs(ScheduledBatch(items=[item]), block_size_tokens=BLOCK_SIZE).to(DEVICE)
        rows.append(decoder.logits(decoder.forward(inputs.token_ids, caches, inputs.layouts)))
        start, step = start + count, step + 1
    return torch.cat(rows)
