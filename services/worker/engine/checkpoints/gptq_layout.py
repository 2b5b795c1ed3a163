"""The AutoGPTQ layout, versions 1 and 2: codes of neighbouring input columns in a word, and a group for each column.

Source: GPTQModel 7.7.0 (nn_modules/qlinear, utils/model.py) and AutoGPTQ; Frantar et al. 2023 (GPTQ).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from services.worker.engine.checkpoints.config_fields import ConfigFields
from services.worker.engine.checkpoints.weight_layout import FLOATS, LAYERS, Part, unpack_words
from services.worker.engine.quantization.packing import pack_codes
from services.worker.engine.quantization.quantization_error import QuantizationError, UnsupportedScheme
from services.worker.engine.quantization.quantized_tensor import QuantizedTensor
from services.worker.engine.quantization.scheme import QuantizationScheme, integers

_WORD_BITS = 32


class GptqLayout:
    """Satisfies `WeightLayout`. In version 1 a stored zero point is one too small."""

    def __init__(self, scheme: QuantizationScheme, *, is_symmetric: bool, version: int) -> None:
        self._scheme = scheme
        self._is_symmetric = is_symmetric
        self._version = version

    def parts(self, module: str, shape: tuple[int, int]) -> Mapping[str, Part] | None:
        if not module.startswith(LAYERS):
            return None
        rows, columns = shape
        per_word = _WORD_BITS // self._scheme.bits
        if rows % per_word or columns % per_word:
            raise UnsupportedScheme(f"{rows} x {columns} is no whole number of words of {per_word}")
        groups = self._scheme.num_groups(columns)
        return {
            "qweight": Part(shapes=((columns // per_word, rows),), dtypes=("I32",)),
            "qzeros": Part(shapes=((groups, rows // per_word),), dtypes=("I32",)),
            "scales": Part(shapes=((groups, rows),), dtypes=FLOATS),
            "g_idx": Part(shapes=((columns,),), dtypes=("I32",), is_optional=True),
        }

    def assemble(self, module: str, shape: tuple[int, int], stored: Mapping[str, torch.Tensor]) -> QuantizedTensor:
        scheme = self._scheme
        words = stored["qzeros"]
        if self._version == 1:
            # One is added to every field at once, as GPTQModel takes it away: a borrow between fields is undone.
            words = words + _ones(scheme.bits)
        zero_points = unpack_words(words, scheme.bits).T.contiguous()
        if self._is_symmetric and bool(zero_points.eq(scheme.implied_zero_point).all()):
            return replace(self._assembled(shape, stored, None), scheme=replace(scheme, is_symmetric=True))
        return self._assembled(shape, stored, zero_points)

    def _assembled(
        self, shape: tuple[int, int], stored: Mapping[str, torch.Tensor], zero_points: torch.Tensor | None
    ) -> QuantizedTensor:
        scheme = self._scheme
        return QuantizedTensor(
            scheme=scheme,
            shape=shape,
            codes=pack_codes(unpack_words(stored["qweight"].T.contiguous(), scheme.bits), scheme.bits),
            scales=stored["scales"].T.contiguous(),
            zero_points=zero_points,
            group_index=self._group_index(stored.get("g_idx"), shape[1]),
        )

    def _group_index(self, index: torch.Tensor | None, columns: int) -> torch.Tensor | None:
        if index is None or self._scheme.group_size is None:
            return None
        if int(index.min()) < 0 or int(index.max()) >= columns // self._scheme.group_size:
            raise UnsupportedScheme("g_idx names a group that there is not")
        in_order = torch.arange(columns, dtype=torch.int32) // self._scheme.group_size
        return None if torch.equal(index, in_order) else index


def _ones(bits: int) -> torch.Tensor:
    """A word with a one in every field."""
    word = sum(1 << shift for shift in range(0, _WORD_BITS, bits))
    return torch.tensor(word, dtype=torch.int32)


def read_gptq(fields: ConfigFields) -> GptqLayout:
    """`fields` are those of quantization_config. Raises CheckpointError by the field's name."""
    stored_as = fields.raw.get("checkpoint_format") or "gptq"
    if stored_as not in ("gptq", "gptq_v2"):
        raise fields.error("checkpoint_format", f"{stored_as!r} is not supported, only gptq and gptq_v2")
    if fields.raw.get("dynamic"):
        raise fields.error("dynamic", "schemes that differ between modules are not supported")
    if fields.boolean("lm_head", default=False):
        raise fields.error("lm_head", "a quantized head is not supported")
    size = fields.raw.get("group_size")
    group_size = None if size == -1 else fields.positive_integer("group_size", default=128)
    try:
        scheme = integers(fields.positive_integer("bits"), group_size=group_size, is_symmetric=False)
    except QuantizationError as error:
        raise fields.error("bits", str(error)) from error
    is_symmetric = fields.boolean("sym", default=False)
    return GptqLayout(scheme, is_symmetric=is_symmetric, version=2 if stored_as == "gptq_v2" else 1)
