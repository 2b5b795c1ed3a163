"""Ports for processes we start: the one asked for, or a free one."""

import socket
from collections.abc import Collection


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def choose_port(wanted: int, *, taken: Collection[int] = ()) -> int:
    """`wanted` when it is free, the next free one after it otherwise, any free one for 0.

    `taken` are promised to processes that do not listen yet.
    """
    if wanted == 0:
        return free_port()
    candidates = (port for port in range(wanted, min(wanted + 50, 65536)) if port not in taken and is_free(port))
    return next(candidates, 0) or free_port()
