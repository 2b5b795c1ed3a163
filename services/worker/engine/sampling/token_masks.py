"""What a grammar forbids becomes impossible: masks of those rows that have a constraint, all in one operation."""

import math

import numpy as np
import torch

from services.worker.engine.device_transfer import upload
from services.worker.engine.sampling.draw import Draw


def apply_masks(logits: torch.Tensor, draws: list[Draw]) -> None:
    """logits [R, V] float32, in place. A row whose constraint has a problem stays as it is: its request will fail.

    So does one behind a draft that the constraint ends before: nobody will look at it.
    """
    rows: list[int] = []
    masks: list[bytes] = []
    for row, draw in enumerate(draws):
        constraint = draw.sequence.constraint
        if constraint is not None and (mask := constraint.mask(len(draw.drafted))) is not None:
            rows.append(row)
            masks.append(mask)
    if not rows:
        return
    words = np.frombuffer(b"".join(masks), dtype=np.uint8).reshape(len(rows), -1)
    allowed = np.unpackbits(words, axis=1, count=logits.shape[1], bitorder="little").view(np.bool_)  # [r, V]
    forbidden = upload(~allowed, logits.device)
    if len(rows) == len(draws):
        logits.masked_fill_(forbidden, -math.inf)
    else:
        places = upload(rows, logits.device)
        logits[places] = logits[places].masked_fill(forbidden, -math.inf)
