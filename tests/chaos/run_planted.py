"""`python -m tests.chaos.run_planted`: the oracle must convict each planted bug, and acquit the same run without it.

CHAOS_SEED (1). Status 1 when a bug went unseen or innocence was doubted: then the oracle proves nothing.
"""

import asyncio
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.asks import Ask
from tests.chaos.chaos_run import ChaosRun, Outcome, Plan
from tests.chaos.load_mix import next_null_ask, next_queued_ask
from tests.chaos.planted_worker import COMMIT_EARLY, SKIP_FENCE
from tests.chaos.run import print_outcome
from tests.chaos.schedule import Fault


@dataclass(frozen=True, slots=True)
class Trial:
    """Faults under which a bug shows, and which part of the verdict has to name it."""

    plant: str
    charge: str
    faults: tuple[Fault, ...]
    pause_seconds: tuple[float, float]
    asks_per_second: float = 2.5
    next_ask: Callable[[random.Random, int], Ask] = next_null_ask


TRIALS = (
    Trial(SKIP_FENCE, "differing", (Fault.FREEZE_WORKER,), (2.0, 4.0)),
    # What is claimed is found again by the ledger whatever was committed, so the bug bites what is taken and not
    # claimed yet: a record that waits for others of its key. A worker that dies here has several of them in hand.
    Trial(COMMIT_EARLY, "lost", (Fault.KILL_WORKER,), (3.0, 5.0), asks_per_second=3.0, next_ask=next_queued_ask),
)


def _outcome(trial: Trial, *, seed: int, has_plant: bool) -> Outcome:
    directory = Path(tempfile.mkdtemp(prefix="penstock-chaos-planted-"))
    plan = Plan(
        seconds=30.0,
        seed=seed,
        directory=directory,
        faults=trial.faults,
        pause_seconds=trial.pause_seconds,
        asks_per_second=trial.asks_per_second,
        next_null_ask=trial.next_ask,
        settle_seconds=60.0,
        worker_module="tests.chaos.planted_worker" if has_plant else "tests.chaos.mixed_worker",
        environment={"CHAOS_PLANT": trial.plant} if has_plant else {},
    )
    try:
        return asyncio.run(ChaosRun(plan).run())
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def main() -> int:
    seed, failures = int(os.environ.get("CHAOS_SEED", "1")), []
    for trial in TRIALS:
        for has_plant in (False, True):
            outcome = _outcome(trial, seed=seed, has_plant=has_plant)
            print(f"== {trial.plant}: {'planted' if has_plant else 'the same faults without it'}")
            print_outcome(outcome)
            if has_plant and not getattr(outcome.verdict, trial.charge):
                failures.append(f"{trial.plant} went unseen")
            if not has_plant and outcome.verdict.num_violations:
                failures.append(f"the run without {trial.plant} was convicted")
    print("\n".join(failures) or "both planted bugs were convicted, and the same faults without them acquitted")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
