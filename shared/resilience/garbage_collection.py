"""How often Python looks for reference cycles in a service process. Knows no service.

By default it does so every 700 new objects and walks everything that survived, imports and routes included: a tenth
of a busy worker's time, in pauses. Little here makes cycles, so that rarer looks free the same memory, later.
"""

import gc

_THRESHOLDS = (10_000, 20, 50)


def calm_garbage_collector() -> None:
    """Call once, when everything that lives as long as the process has been built."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
