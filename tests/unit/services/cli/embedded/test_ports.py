"""The port asked for, the next one, or a free one."""

import socket

from services.cli.embedded.ports import choose_port, free_port, is_free


def test_a_free_port_can_be_bound() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", free_port()))


def test_a_wanted_port_that_is_free_is_taken() -> None:
    wanted = free_port()
    assert choose_port(wanted) == wanted


def test_a_taken_port_is_stepped_over() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        taken = listener.getsockname()[1]
        assert not is_free(taken)
        assert choose_port(taken) != taken


def test_a_port_that_was_promised_to_somebody_is_stepped_over() -> None:
    wanted = free_port()
    assert choose_port(wanted, taken={wanted}) != wanted


def test_zero_means_any() -> None:
    assert choose_port(0) > 0
