"""Ports for processes we start: the one asked for, or a free one."""

import socket


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


def choose_port(wanted: int) -> int:
    """`wanted` when it is free, the next free one after it otherwise, any free one for 0."""
    if wanted == 0:
        return free_port()
    return next((port for port in range(wanted, min(wanted + 50, 65536)) if is_free(port)), 0) or free_port()
