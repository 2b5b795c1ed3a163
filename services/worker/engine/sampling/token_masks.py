"""What a grammar forbids becomes impossible: masks of those rows that have a constraint, all in one operation."""

import math

import numpy as np
import torch

from services.worker.engine.device_transfer import upload
from services.worker.engine.sequence import Sequence


def apply_masks(logits: torch.Tensor, sequences: list[Sequence]) -> None:
    """logits [R, V] float32, in place. A row whose constraint has a problem stays as it is: its request will fail."""
    rows: list[int] = []
    masks: list[bytes] = []
    for row, sequence in enumerate(sequences):
        if sequence.constraint is not None and (mask := sequence.constraint.mask()) is not None:
            rows.append(row)
            masks.append(mask)
    if not rows:
        return
    words = np.frombuffer(b"".join(masks), dtype=np.uint8).reshape(len(rows), -1)
    allowed = np.unpackbits(words, axis=1, count=logits.shape[1], bitorder="little").view(np.bool_)  # [r, V]
    forbidden = upload(~allowed, logits.device)
    if len(rows) == len(sequences):
        logits.masked_fill_(forbidden, -math.inf)
    else:
        places = upload(rows, logits.device)
        logits[places] = logits[places].masked_fill(forbidden, -math.inf)
