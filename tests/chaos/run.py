"""`python -m tests.chaos.run`: the stack under load and faults, then the verdict. Status 1 when a promise was broken.

CHAOS_MINUTES (5; with the null engine), CHAOS_MODEL_MINUTES (a fifth of that, three at most; then with a tiny model),
CHAOS_SEED (1), CHAOS_FAULTS (`;` between names; every one), CHAOS_PAUSE_SECONDS (6,11: between two faults),
CHAOS_OVERLAP (0.35: the share of faults that strike within a second of the one before), CHAOS_DIRECTORY (a temporary
one; kept when the run fails).
"""

import asyncio
import os
import shutil
import sys
import tempfile
from pathlib import Path

from tests.builders import tiny_checkpoint
from tests.chaos.chaos_run import ChaosRun, Outcome, Plan
from tests.chaos.report import render, rows, summary
from tests.chaos.schedule import EVERY_FAULT, MODEL_FAULTS, OVERLAP_SHARE, Fault


def print_outcome(outcome: Outcome) -> None:
    print(render(rows(outcome.injections, outcome.asks, outcome.verdict)))
    print(summary(outcome.verdict, outcome.asks, outcome.leftovers))
    for note in outcome.notes:
        print(note)
    for name in ("lost", "differing", "wrong", "streams", "out_of_order", "unasked"):
        for line in getattr(outcome.verdict, name)[:20]:
            print(f"  {name}: {line}")


def chosen_faults(names: str) -> tuple[Fault, ...]:
    """`kill worker; freeze Kafka 4 s`; nothing named: every fault. Raises ValueError."""
    return tuple(Fault(name.strip()) for name in names.split(";") if name.strip()) or EVERY_FAULT


def plans(directory: Path, environment: dict[str, str]) -> list[Plan]:
    """The run with the null engine, and the one with a model after it; a part of no length is left out."""
    minutes = float(environment.get("CHAOS_MINUTES", "5"))
    model_minutes = float(environment.get("CHAOS_MODEL_MINUTES", min(3, minutes / 5)))
    faults = chosen_faults(environment.get("CHAOS_FAULTS", ""))
    fewest, most = map(float, environment.get("CHAOS_PAUSE_SECONDS", "6,11").split(","))
    seed = int(environment.get("CHAOS_SEED", "1"))
    found = []
    if minutes:
        found.append(
            Plan(
                seconds=60 * minutes,
                seed=seed,
                directory=directory / "null",
                faults=faults,
                pause_seconds=(fewest, most),
                overlap_share=float(environment.get("CHAOS_OVERLAP", OVERLAP_SHARE)),
            )
        )
    if model_minutes:
        found.append(
            Plan(
                seconds=60 * model_minutes,
                seed=seed,
                directory=directory / "model",
                faults=tuple(fault for fault in faults if fault in MODEL_FAULTS) or MODEL_FAULTS,
                pause_seconds=(8.0, 14.0),
                asks_per_second=0.8,
                workers=2,
                model=directory / "tiny",
            )
        )
    return found


def main() -> int:
    directory = Path(os.environ.get("CHAOS_DIRECTORY") or tempfile.mkdtemp(prefix="penstock-chaos-"))
    status, num_faults = 0, 0
    for plan in plans(directory, dict(os.environ)):
        plan.directory.mkdir(parents=True, exist_ok=True)
        if plan.model is not None:
            tiny_checkpoint(
                plan.model,
                hidden_size=128,
                num_layers=4,
                max_position_embeddings=2048,
                initializer_range=0.1,  # so that rounding stays rounding: tokens are to be the same after a failover
            )
        outcome = asyncio.run(ChaosRun(plan).run())
        print(f"== {plan.model_name}: {plan.seconds / 60:g} minutes, seed {plan.seed}")
        print_outcome(outcome)
        num_faults += len(outcome.injections)
        if not outcome.is_clean:
            print(f"BROKEN PROMISES (seed {plan.seed}); logs are in {plan.directory / 'logs'}")
            status = 1
    if status == 0:
        shutil.rmtree(directory, ignore_errors=True)
        print(f"every promise held ({num_faults} faults)")
    return status


if __name__ == "__main__":
    sys.exit(main())
