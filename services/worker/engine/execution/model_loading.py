"""Builds a runner from a checkpoint: device, dtype, decoder, cache. The only place that reads weights."""

from dataclasses import dataclass

import torch

from services.worker.engine.attention.backend_selection import attention_needs, select_attention
from services.worker.engine.checkpoints.fingerprint import numerics_fingerprint
from services.worker.engine.checkpoints.model_config import DecoderConfig
from services.worker.engine.checkpoints.weights import Checkpoint, open_checkpoint
from services.worker.engine.config import EngineConfig, Verifier
from services.worker.engine.execution.cache_memory import cache_shape
from services.worker.engine.execution.cache_sizing import bytes_of_a_step, count_blocks
from services.worker.engine.execution.graph_capture import CudaGraphCapture
from services.worker.engine.execution.key_frames import MOST_TOKENS, find_key_frames
from services.worker.engine.execution.model_runner import ModelRunner
from services.worker.engine.execution.placement import choose_device, choose_dtype
from services.worker.engine.execution.step_measurement import measure_steps
from services.worker.engine.kv_cache.cache_geometry import CacheGeometry
from services.worker.engine.kv_cache.cell_format import layer_formats
from services.worker.engine.kv_cache.layer_groups import group_layers
from services.worker.engine.models.decoder import Decoder
from services.worker.engine.models.linear_reader import (
    KeptLinears,
    LinearReader,
    PlainLinears,
    ReadTensor,
    RoundedLinears,
)
from services.worker.engine.models.operator_selection import select_operators
from services.worker.engine.models.quantized_linear import QuantizedLinears
from services.worker.engine.native.weight_memory import give_back_free_memory
from services.worker.engine.quantization.load_time import KEEP, KEEP_WITH_HEAD, parse_rounding


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    runner: ModelRunner
    fingerprint: str
    vocabulary_size: int
    num_blocks: int
    geometry: CacheGeometry
    max_model_tokens: int
    device: str
    dtype: str
    attention_backend: str
    attention_note: str
    num_decode_graphs: int
    quantization: str
    quantization_note: str
    weights: str
    kv_cache: str
    num_threads: int
    step_seconds: dict[int, float]
    """Of a step of so many single tokens; empty where nothing was measured, since hardly anybody speculates."""


def load_model(config: EngineConfig) -> LoadedModel:
    """Raises CheckpointError, or ValueError for a configuration that this machine cannot run."""
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    checkpoint = open_checkpoint(config.model)
    shape = checkpoint.config
    device = choose_device(config.device)
    dtype = choose_dtype(config.dtype, checkpoint_dtype=shape.torch_dtype, device=device)
    needs = attention_needs(shape, device=device, dtype=dtype, block_size_tokens=config.block_size_tokens)
    attention, attention_note = select_attention(config.attention_backend, needs)
    limit = _context_limit(shape, config.max_model_tokens)
    kinds = QuantizedLinears(dtype, device)

    def read(tensor: str) -> torch.Tensor:
        return checkpoint.tensor(tensor, dtype).to(device)

    decoder = Decoder(
        shape,
        read,
        attention=attention,
        operators=select_operators(config.attention_backend, device=device, dtype=dtype),
        linears=_linear_reader(config.quantization, checkpoint, read, kinds),
    )
    give_back_free_memory()
    groups = group_layers([layer.sliding_window for layer in shape.layers], max_model_tokens=limit)
    geometry = CacheGeometry(
        block_size_tokens=config.block_size_tokens,
        max_step_tokens=config.max_tokens_per_step,
        windows=groups.windows,
    )
    formats = layer_formats(config.kv_cache, shape.num_layers)
    memory = cache_shape(shape, groups, formats, block_size_tokens=config.block_size_tokens, dtype=dtype)
    num_blocks = count_blocks(
        config,
        geometry,
        block_bytes=memory.block_bytes,
        step_bytes=bytes_of_a_step(shape, config, dtype=dtype),
        max_model_tokens=limit,
        device=device,
    )
    # A checkpoint may promise millions of positions; no sequence is longer than the cache.
    max_model_tokens = geometry.longest_sequence(num_blocks, limit_tokens=limit)
    num_measured = min(MOST_TOKENS, _context_limit(shape, None))
    decoder.prepare_positions(max(max_model_tokens, num_measured))
    frames = find_key_frames(
        decoder,
        formats,
        groups,
        num_tokens=num_measured,
        block_size_tokens=config.block_size_tokens,
        dtype=dtype,
        device=device,
    )
    runner = ModelRunner(
        decoder,
        num_blocks=num_blocks,
        groups=groups,
        cache_shape=memory,
        device=device,
        judges_by_rejection=config.verifier is Verifier.REJECTION,
        frames=frames,
    )
    sizes: list[int] = []
    if config.enable_cuda_graphs and device.type == "cuda" and decoder.is_capturable and not any(formats):
        sizes = runner.record_decode_graphs(
            CudaGraphCapture(), max_rows=config.max_running_sequences, max_tokens=max_model_tokens
        )
    name = str(dtype).removeprefix("torch.")
    return LoadedModel(
        runner=runner,
        fingerprint=numerics_fingerprint(
            checkpoint.fingerprint,
            dtype=name,
            device=device.type,
            quantization=config.quantization,
            kv_cache=config.kv_cache,
        ),
        vocabulary_size=shape.vocabulary_size,
        num_blocks=num_blocks,
        geometry=geometry,
        max_model_tokens=max_model_tokens,
        device=str(device),
        dtype=name,
        attention_backend=attention.name,
        attention_note=attention_note,
        num_decode_graphs=len(sizes),
        quantization=config.quantization,
        quantization_note=kinds.note,
        weights=kinds.weights if kinds.note else name,
        kv_cache=config.kv_cache,
        num_threads=torch.get_num_threads(),
        step_seconds=measure_steps(
            runner,
            block_size_tokens=config.block_size_tokens,
            num_groups=len(groups.groups),
            num_blocks=num_blocks,
            max_rows=config.max_tokens_per_step,
        )
        if config.speculation != "none" or config.draft_model is not None
        else {},
    )


def _linear_reader(
    quantization: str, checkpoint: Checkpoint, read: ReadTensor, kinds: QuantizedLinears
) -> LinearReader:
    """Raises QuantizationError for a name that means nothing."""
    if quantization in (KEEP, KEEP_WITH_HEAD):
        return KeptLinears(read, checkpoint.quantized, kinds, rounds_head=quantization == KEEP_WITH_HEAD)
    rounding = parse_rounding(quantization)
    return PlainLinears(read) if rounding is None else RoundedLinears(read, rounding, kinds)


def _context_limit(shape: DecoderConfig, asked: int | None) -> int:
    """Tokens of prompt and output. Raises ValueError where the rope's angles would change under the cache."""
    ropes = [layer.rope.scaling for layer in shape.layers if layer.rope is not None and layer.rope.scaling is not None]
    bounds = [rope.original_max_position_embeddings for rope in ropes if rope.kind.follows_length]
    most = min(bounds, default=None)
    if asked is not None and most is not None and asked > most:
        raise ValueError(
            f"max_model_tokens: {asked} is more than the {most} tokens up to which this checkpoint's rope_type "
            f"({', '.join(sorted({rope.kind for rope in ropes}))}) has fixed angles"
        )
    return asked or min(shape.max_position_embeddings, most or shape.max_position_embeddings)
