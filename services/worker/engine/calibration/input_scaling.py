"""Moves a scale of each input channel from activations into weights: X / s and s W multiply to the same.

The division goes where the activations come from, so that nothing is left to do while running: into the norm before
the site, or into the rows of the linear before it. Source: Xiao et al. 2023 (SmoothQuant), section 4; Lin et al. 2024
(AWQ), section 3.2.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from services.worker.engine.calibration.layer_shape import SiteShape
from services.worker.engine.checkpoints.model_config import DecoderConfig


def can_scale(shape: SiteShape) -> bool:
    return shape.norm is not None or shape.producer is not None


def shared_per_kv_head(values: torch.Tensor, shape: SiteShape, config: DecoderConfig) -> torch.Tensor:
    """Statistics [columns] of a site, made equal for columns that one row of its producer feeds.

    Query heads of a group share a value head: what its rows are divided by, all of them get.
    """
    if shape.producer is None or not shape.producer.endswith("v_proj"):
        return values
    heads = values.view(config.num_kv_heads, -1, config.head_size)
    return heads.amax(dim=1, keepdim=True).expand_as(heads).reshape(-1)


def apply_scales(
    weights: Mapping[str, torch.Tensor], shape: SiteShape, scales: torch.Tensor, config: DecoderConfig
) -> dict[str, torch.Tensor]:
    """The tensors of the layer that change, float32: linears of the site and what stands before it."""
    changed = {f"{name}.weight": weights[f"{name}.weight"].float() * scales for name in shape.linears}
    if shape.norm is not None:
        name = f"{shape.norm}.weight"
        offset = 1 if config.norm_weights_from_one else 0
        changed[name] = (weights[name].float() + offset) / scales - offset
    elif shape.producer is not None:
        rows = _rows_of_producer(scales, shape, config)
        changed[f"{shape.producer}.weight"] = weights[f"{shape.producer}.weight"].float() / rows[:, None]
        bias = weights.get(f"{shape.producer}.bias")
        if bias is not None:
            changed[f"{shape.producer}.bias"] = bias.float() / rows
    return changed


def _rows_of_producer(scales: torch.Tensor, shape: SiteShape, config: DecoderConfig) -> torch.Tensor:
    if shape.producer is None or not shape.producer.endswith("v_proj"):
        return scales
    return scales.view(config.num_kv_heads, -1, config.head_size)[:, 0].reshape(-1)
