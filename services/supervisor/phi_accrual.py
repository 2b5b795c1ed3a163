"""How suspicious a worker's silence is, by how regular it was before: phi = -log10 P(a heartbeat this late). Pure.

A fixed time-out is too long for a steady worker and too short for a bumpy network; phi 8 is one false suspicion in
10^8 heartbeats if their distances are normally distributed, which here they are only roughly.

Source: N. Hayashibara, X. Defago, R. Yared, T. Katayama, "The phi Accrual Failure Detector", SRDS 2004, section 4.
"""

import math
from collections import deque

_LEAST_SAMPLES = 5
_MOST_PHI = 99.0


class PhiAccrual:
    """The heartbeats of one life of one worker."""

    def __init__(self, *, kept: int = 100, least_deviation_seconds: float = 0.1) -> None:
        self._distances: deque[float] = deque(maxlen=kept)
        self._least_deviation_seconds = least_deviation_seconds
        self._heard_at: float | None = None

    def heard(self, now: float) -> None:
        if self._heard_at is not None:
            self._distances.append(now - self._heard_at)
        self._heard_at = now

    def phi(self, now: float) -> float:
        """0: as expected, or too little known."""
        if self._heard_at is None or len(self._distances) < _LEAST_SAMPLES:
            return 0.0
        mean = sum(self._distances) / len(self._distances)
        variance = sum((distance - mean) ** 2 for distance in self._distances) / len(self._distances)
        deviation = max(math.sqrt(variance), self._least_deviation_seconds)
        late = math.erfc((now - self._heard_at - mean) / (deviation * math.sqrt(2))) / 2
        return _MOST_PHI if late <= 10**-_MOST_PHI else max(0.0, -math.log10(late))
