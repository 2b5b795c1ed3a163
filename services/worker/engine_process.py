"""The engine's process: drain the socket, step, send one message. Knows tokens; no text, no Kafka, no Redis.

Started by `engine_client` as `python -P -m services.worker.engine_process --fd N --parent PID --config JSON`,
never forked, so that it inherits no event loop, no locks and no connections. It ends by itself when the shell is
gone: the kernel sends it SIGKILL (PDEATHSIG), and the closed socket ends its loop where that is not available.
"""

import argparse
import contextlib
import dataclasses
import os
import signal
import socket
import sys
from typing import Protocol

import msgspec

from services.worker.engine.config import EngineConfig, EngineRefused
from services.worker.engine.events import (
    Cancel,
    EngineDied,
    EngineReady,
    Shutdown,
    StepResult,
    Submit,
)
from services.worker.frames import FrameChannel, Message, PeerClosed
from services.worker.null_engine import NullEngine, NullEngineConfig
from shared.resilience.parent_death import die_with_parent

EXIT_ENGINE_FAILED = 70
EXIT_ENGINE_REFUSED = 78


class SteppingEngine(Protocol):
    """What the loop needs of an engine. Called by the engine process's only thread; all but `step` return soon."""

    @property
    def ready(self) -> EngineReady: ...
    @property
    def has_work(self) -> bool: ...
    def submit(self, submit: Submit) -> None: ...
    def cancel(self, cancel: Cancel) -> None: ...
    def step(self) -> StepResult:
        """One pass over the running batch. May block for seconds. Whatever it raises ends the process."""
        ...


class EngineProcessConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The command line's JSON. Exactly one of `real` and `null` is set."""

    real: EngineConfig | None = None
    null: NullEngineConfig | None = None
    niceness: int = 5


def encode_config(config: EngineProcessConfig) -> str:
    """For the command line; msgspec has no paths."""
    return msgspec.json.encode(config, enc_hook=str).decode()


def decode_config(text: str) -> EngineProcessConfig:
    return msgspec.json.decode(text, type=EngineProcessConfig, dec_hook=lambda kind, value: kind(value))


def load_engine(config: EngineProcessConfig) -> SteppingEngine:
    """Build the engine the configuration asks for. The real one is imported here: it brings torch."""
    if config.null is not None:
        return NullEngine(config.null)
    if config.real is None:
        raise ValueError("neither a real nor a null engine is configured")
    from services.worker.engine.engine import Engine

    engine: SteppingEngine = Engine.load(config.real)
    return engine


def serve(engine: SteppingEngine, channel: FrameChannel) -> None:
    """Until the shell says so or is gone. Raises `PeerClosed`, and whatever the engine raises."""
    channel.send(dataclasses.replace(engine.ready, process_id=os.getpid()))
    while True:
        for message in channel.receive(is_blocking=not engine.has_work):
            if isinstance(message, Shutdown):
                return
            _apply(engine, message)
        if engine.has_work:
            channel.send(engine.step())


def _apply(engine: SteppingEngine, message: Message) -> None:
    if isinstance(message, Submit):
        engine.submit(message)
    elif isinstance(message, Cancel):
        engine.cancel(message)
    else:
        raise TypeError(f"a shell does not send {type(message).__name__}")


def leave_with_shell(shell: int) -> None:
    """SIGKILL when the shell ends. Looks at the parent afterwards: it may have ended in between."""
    die_with_parent(signal.SIGKILL)
    if os.getppid() != shell:
        raise SystemExit(0)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--config", required=True)
    options = parser.parse_args(arguments)
    leave_with_shell(options.parent)
    # Ctrl-C in a terminal reaches the whole process group: stopping is the shell's decision.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    config = decode_config(options.config)
    os.nice(config.niceness)
    channel = FrameChannel(socket.socket(fileno=options.fd))
    return run(config, channel)


def run(config: EngineProcessConfig, channel: FrameChannel) -> int:
    """Load, serve, and tell the shell why when that ends in an error. Returns the exit status."""
    try:
        serve(load_engine(config), channel)
    except PeerClosed:
        return 0
    except EngineRefused as error:
        with contextlib.suppress(PeerClosed):
            channel.send(EngineDied(message=str(error), is_hopeless=True))
        return EXIT_ENGINE_REFUSED
    except Exception as error:  # noqa: BLE001 - the engine loop: whatever it is, the shell must hear of it
        with contextlib.suppress(PeerClosed):
            channel.send(EngineDied(message=f"{type(error).__name__}: {error}"))
        sys.excepthook(type(error), error, error.__traceback__)
        return EXIT_ENGINE_FAILED
    return 0


if __name__ == "__main__":
    from setproctitle import setproctitle

    setproctitle("penstock services.worker.engine_process")
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: unloading a model and its threads takes seconds and may hang; nothing here needs closing.
    os._exit(status)
