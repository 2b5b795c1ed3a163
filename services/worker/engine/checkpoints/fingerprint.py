"""A short name for "these weights under this configuration", cheap enough to take at every start.

It hashes the configuration, each weight file's size and first bytes (the header: every tensor's name, type, shape
and place) and evenly spread samples of the rest. Any retrained or re-quantized model differs in every sample;
a single flipped weight between samples is not noticed: this tells models apart, it does not prove integrity.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from services.worker.engine.checkpoints.model_config import DecoderConfig

_HEADER_BYTES = 1 << 16
_SAMPLE_BYTES = 4096
_NUM_SAMPLES = 64
_DIGEST_BYTES = 16
_DRAWS = "gumbel"
"""How (seed, position) becomes a token: a worker that draws otherwise must not go on with a stream."""

_CELLS = "framed"
"""How keys and values become cells: attention/key_frame.py."""


def numerics_fingerprint(weights: str, *, dtype: str, device: str, quantization: str, kv_cache: str) -> str:
    """What decides which tokens a worker answers with: weights and how it computes with them.

    A stream goes on only where this is the same; see the ledger's `claim`.
    """
    quantized = "" if quantization == "none" else f"-{quantization}"
    cached = "" if kv_cache == "16bit" else f"-kv-{kv_cache}-{_CELLS}"
    return f"{weights}-{dtype}-{device}{quantized}{cached}-{_DRAWS}"


def take_fingerprint(config: DecoderConfig, files: Iterable[Path], quantization: object = None) -> str:
    """32 hexadecimal digits. File names do not count, their order does. `quantization`: what the file says of it."""
    hasher = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    hasher.update(json.dumps(dataclasses.asdict(config), sort_keys=True).encode())
    if quantization is not None:
        hasher.update(json.dumps(quantization, sort_keys=True, default=str).encode())
    for file in files:
        size_bytes = file.stat().st_size
        hasher.update(size_bytes.to_bytes(8, "big"))
        with file.open("rb") as stream:
            hasher.update(stream.read(_HEADER_BYTES))
            for sample in range(1, _NUM_SAMPLES + 1):
                stream.seek(max(0, size_bytes - _SAMPLE_BYTES) * sample // _NUM_SAMPLES)
                hasher.update(stream.read(_SAMPLE_BYTES))
    return hasher.hexdigest()
