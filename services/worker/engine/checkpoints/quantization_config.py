"""Which layout a checkpoint's `quantization_config` names. What nobody here can read is refused by its name."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from services.worker.engine.checkpoints.awq_layout import read_awq
from services.worker.engine.checkpoints.compressed_tensors_layout import read_compressed_tensors
from services.worker.engine.checkpoints.config_fields import ConfigFields
from services.worker.engine.checkpoints.gptq_layout import read_gptq
from services.worker.engine.checkpoints.weight_layout import WeightLayout

FIELD = "quantization_config"

_READERS: dict[str, Callable[[ConfigFields], WeightLayout]] = {
    "compressed-tensors": read_compressed_tensors,
    "awq": read_awq,
    "gptq": read_gptq,
}


def read_weight_layout(raw: Mapping[str, Any], *, source: Path) -> WeightLayout | None:
    """`raw` is the content of config.json, `source` its path. None: every weight is stored plain."""
    fields = ConfigFields(raw, source).section(FIELD)
    if fields is None:
        return None
    method = fields.raw.get("quant_method")
    if not isinstance(method, str) or method not in _READERS:
        raise fields.error("quant_method", f"{method!r} is not one of {', '.join(_READERS)}")
    return _READERS[method](fields)
