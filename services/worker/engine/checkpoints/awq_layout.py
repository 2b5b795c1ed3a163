"""The AutoAWQ layout ("gemm"): codes of eight output channels in a word, in an order of their own.

Source: AutoAWQ 0.2.9 (awq/modules/linear/gemm.py, awq/utils/packing_utils.py); Lin et al. 2024 (AWQ).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from services.worker.engine.checkpoints.config_fields import ConfigFields
from services.worker.engine.checkpoints.weight_layout import FLOATS, LAYERS, Part, unpack_words
from services.worker.engine.quantization.packing import pack_codes
from services.worker.engine.quantization.quantization_error import UnsupportedScheme
from services.worker.engine.quantization.quantized_tensor import QuantizedTensor
from services.worker.engine.quantization.scheme import integers

_BITS = 4
_PER_WORD = 8
_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)
"""Where in a word, counted from the lowest bits, the next output channel is."""


class AwqLayout:
    """Satisfies `WeightLayout`."""

    def __init__(self, group_size: int | None, plain_modules: tuple[str, ...]) -> None:
        self._scheme = integers(_BITS, group_size=group_size, is_symmetric=False)
        self._plain_modules = plain_modules

    def parts(self, module: str, shape: tuple[int, int]) -> Mapping[str, Part] | None:
        if not module.startswith(LAYERS) or any(name in module for name in self._plain_modules):
            return None
        rows, columns = shape
        if rows % _PER_WORD:
            raise UnsupportedScheme(f"{rows} output channels are no whole words of {_PER_WORD}")
        groups = self._scheme.num_groups(columns)
        return {
            "qweight": Part(shapes=((columns, rows // _PER_WORD),), dtypes=("I32",)),
            "qzeros": Part(shapes=((groups, rows // _PER_WORD),), dtypes=("I32",)),
            "scales": Part(shapes=((groups, rows),), dtypes=FLOATS),
        }

    def assemble(self, module: str, shape: tuple[int, int], stored: Mapping[str, torch.Tensor]) -> QuantizedTensor:
        return QuantizedTensor(
            scheme=self._scheme,
            shape=shape,
            codes=pack_codes(_in_order(stored["qweight"]).T, _BITS),
            scales=stored["scales"].T.contiguous(),
            zero_points=_in_order(stored["qzeros"]).T.contiguous(),
        )


def _in_order(words: torch.Tensor) -> torch.Tensor:
    """int32 [rows, words] -> uint8 [rows, 8 * words]."""
    codes = unpack_words(words, _BITS).view(words.shape[0], -1, _PER_WORD)
    return codes[..., list(_PLACES)].flatten(1)


def read_awq(fields: ConfigFields) -> AwqLayout:
    """`fields` are those of quantization_config. Raises CheckpointError by the field's name."""
    if fields.positive_integer("bits", default=_BITS) != _BITS:
        raise fields.error("bits", f"{fields.raw['bits']} is not supported, only {_BITS}")
    if fields.raw.get("version", "gemm") not in ("gemm", "GEMM"):
        raise fields.error("version", f"{fields.raw['version']!r} is not supported, only gemm")
    if not fields.boolean("zero_point", default=True):
        raise fields.error("zero_point", "files without zero points are not supported")
    plain = fields.raw.get("modules_to_not_convert") or []
    if not isinstance(plain, list) or not all(isinstance(name, str) for name in plain):
        raise fields.error("modules_to_not_convert", f"must be a list of names, not {plain!r}")
    size = fields.raw.get("group_size")
    group_size = None if size == -1 else fields.positive_integer("group_size", default=128)
    return AwqLayout(group_size, tuple(plain))
