"""The sampler's randomness: a counter, not a stream. The same (seed, position) gives the same number on any machine.

Nothing is remembered between tokens, so the batch around a sequence, a preemption or a failover cannot change what
it draws. Source: Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators" (the SplitMix64 mixer).
"""

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


def _mix(value: int) -> int:
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def uniform(seed: int, position: int) -> float:
    """In [0, 1), a multiple of 2**-53."""
    key = _mix((seed + _GOLDEN) & _MASK)
    return (_mix((key + (position + 1) * _GOLDEN) & _MASK) >> 11) * 2.0**-53
