"""GPTQ: columns are rounded one after another, and those to come make up for the error so far.

Source: Frantar et al. 2023 (GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers),
sections 3.2 and 3.3, Algorithm 1; columns of large second moment first, with groups fixed beforehand ("act-order" and
"static groups" of its released code), so that nothing is permuted while running.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from services.worker.engine.calibration.clipping import clipped_scales
from services.worker.engine.calibration.layer_shape import Site, site_shapes
from services.worker.engine.calibration.method import LayerScheme, QuantizedLayer
from services.worker.engine.calibration.reference_layer import Weights
from services.worker.engine.calibration.site_statistics import SiteStatistics
from services.worker.engine.checkpoints.model_config import DecoderConfig
from services.worker.engine.quantization.packing import pack_codes
from services.worker.engine.quantization.quantized_tensor import QuantizedTensor
from services.worker.engine.quantization.rounding import to_codes
from services.worker.engine.quantization.scheme import QuantizationScheme

_BLOCK_COLUMNS = 128
_DAMPING = 0.01
_MOST_DAMPING = 1.0


class SecondOrder:
    needs_calibration = True

    def __init__(self, scheme: LayerScheme, *, act_order: bool = True) -> None:
        self._scheme = scheme
        self._act_order = act_order

    def quantize_layer(
        self, config: DecoderConfig, weights: Weights, statistics: Mapping[Site, SiteStatistics]
    ) -> QuantizedLayer:
        linears = {}
        for site, shape in site_shapes(config).items():
            gram = statistics[site].gram
            for name in shape.linears:
                weight = weights[f"{name}.weight"].float()
                tensor = second_order_quantize(
                    weight,
                    gram,
                    self._scheme.for_columns(weight.shape[1]),
                    scale_dtype=self._scheme.scale_dtype,
                    act_order=self._act_order,
                )
                linears[name] = self._scheme.finish(tensor)
        return QuantizedLayer(linears=linears)


def second_order_quantize(
    weight: torch.Tensor,
    gram: torch.Tensor,
    scheme: QuantizationScheme,
    *,
    scale_dtype: torch.dtype,
    act_order: bool = True,
) -> QuantizedTensor:
    """weight [rows, columns] float32, gram [columns, columns]. Symbols as in Algorithm 1: Q, E, H."""
    rows, columns = weight.shape
    scales, zero_points = clipped_scales(weight, scheme, gram, scale_dtype=scale_dtype)
    order = gram.diagonal().argsort(descending=True, stable=True) if act_order else torch.arange(columns)
    group_of = torch.arange(columns)[order] // (columns // scales.shape[1])
    scale_of = scales.float().expand(rows, -1)[:, group_of]
    zero_of = None if zero_points is None else zero_points.expand(rows, -1)[:, group_of]
    remaining = weight[:, order].clone()
    factor = inverse_factor(gram[order][:, order])
    codes = torch.empty(rows, columns, dtype=torch.uint8)
    for begin in range(0, columns, _BLOCK_COLUMNS):
        end = min(begin + _BLOCK_COLUMNS, columns)
        errors = torch.empty(rows, end - begin)
        for column in range(begin, end):
            values, scale = remaining[:, column], scale_of[:, column]
            zeros = None if zero_of is None else zero_of[:, column]
            codes[:, column] = to_codes(values / scale, scheme, zeros)
            offset = scheme.implied_zero_point if zeros is None else zeros.float()
            error = (values - (codes[:, column].float() - offset) * scale) / factor[column, column]
            remaining[:, column:end].addr_(error, factor[column, column:end], alpha=-1)
            errors[:, column - begin] = error
        remaining[:, end:] -= errors @ factor[begin:end, end:]
    in_place = torch.empty_like(codes)
    in_place[:, order] = codes
    return QuantizedTensor(
        scheme=scheme,
        shape=(rows, columns),
        codes=pack_codes(in_place, scheme.bits),
        scales=scales,
        zero_points=zero_points,
    )


def inverse_factor(gram: torch.Tensor) -> torch.Tensor:
    """The upper Cholesky factor of H^-1, H = gram with its diagonal raised by one per cent of the mean or more.

    A column that was always zero has no say: its diagonal is one.
    """
    hessian = gram.double()
    diagonal = hessian.diagonal()
    silent = diagonal == 0
    diagonal[silent] = 1
    damping, mean = _DAMPING, float(diagonal.mean())
    while True:
        damped = hessian + torch.eye(hessian.shape[0], dtype=torch.float64) * (damping * mean)
        factor, failed = torch.linalg.cholesky_ex(damped)
        if not int(failed) or damping >= _MOST_DAMPING:
            break
        damping *= 10
    inverse = torch.cholesky_inverse(factor)
    upper: torch.Tensor = torch.linalg.cholesky(inverse, upper=True)
    return upper.float()
