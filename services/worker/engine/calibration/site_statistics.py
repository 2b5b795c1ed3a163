"""What calibration keeps of the activations at one site: second moments, magnitudes, and a few whole rows.

Their size does not grow with the text: a method can weigh any change of a weight without seeing the text again.
"""

from __future__ import annotations

import torch

_SAMPLE_ROWS = 1024


class SiteStatistics:
    """Of activations X [tokens, columns], all tokens alike."""

    def __init__(self, num_columns: int) -> None:
        self.num_tokens = 0
        self.abs_max = torch.zeros(num_columns)
        self._gram = torch.zeros(num_columns, num_columns)
        self._abs_sum = torch.zeros(num_columns)
        self._samples: list[torch.Tensor] = []

    def add(self, inputs: torch.Tensor) -> None:
        """inputs [tokens, columns]."""
        inputs = inputs.float()
        self._gram.addmm_(inputs.T, inputs)
        magnitudes = inputs.abs()
        self._abs_sum += magnitudes.sum(dim=0)
        self.abs_max = torch.maximum(self.abs_max, magnitudes.amax(dim=0))
        self._samples.append(inputs[:: max(1, inputs.shape[0] // _SAMPLE_ROWS)].clone())
        self.num_tokens += inputs.shape[0]

    @property
    def gram(self) -> torch.Tensor:
        """X^T X / tokens, [columns, columns]."""
        return self._gram / self.num_tokens

    @property
    def abs_mean(self) -> torch.Tensor:
        return self._abs_sum / self.num_tokens

    def samples(self) -> torch.Tensor:
        """At most 1024 or so rows of X, evenly spaced over the text."""
        rows = torch.cat(self._samples)
        return rows[:: max(1, rows.shape[0] // _SAMPLE_ROWS)]


def output_error(change: torch.Tensor, gram: torch.Tensor) -> float:
    """Mean squared change of X W^T when W [rows, columns] changes by `change`, summed over rows."""
    return float(((change @ gram) * change).sum())
