"""The protocol between the decoder and whatever computes attention over the paged cache."""

from typing import Protocol

import torch

from services.worker.engine.attention.attention_rule import AttentionRule
from services.worker.engine.attention.step_layout import StepLayout


class AttentionBackend(Protocol):
    """Called by the decoder, from the engine's thread, once per layer; this step's keys are already written."""

    name: str
    is_capturable: bool
    """Steps of single tokens read every length on the device and cost what the lengths say, not what the tables
    hold: such a launch may be recorded in a CUDA graph and replayed for other lengths."""

    def attend(
        self,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        layout: StepLayout,
        rule: AttentionRule,
    ) -> torch.Tensor:
        """queries [T, H, D]; keys and values [N, P, K, D], one layer's cache -> [T, H * D], queries' dtype.

        Causal: a token sees itself and what comes before it in its own sequence, as far as `rule` lets it. Every
        backend does all of `rule`, or `backend_selection` does not pick it.
        """
