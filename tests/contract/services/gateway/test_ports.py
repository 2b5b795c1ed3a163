"""The real ledger and producer fit the gateway's ports, name by name and parameter by parameter; so do the fakes."""

import inspect

import pytest

from services.gateway.ports import GatewayLedger, RequestProducer
from shared.ledger.ledger import Ledger
from shared.messaging.producer import RecordProducer
from tests.fakes.in_memory_ledger import InMemoryLedger
from tests.fakes.scripted_worker import FakeProducer


def methods_of(port: type) -> list[str]:
    return [name for name, value in vars(port).items() if inspect.isfunction(value) and not name.startswith("_")]


def accepts(implementation: object, wanted: inspect.Signature) -> bool:
    """Whether a call that the port allows is a call that the implementation takes."""
    offered = inspect.signature(implementation).parameters  # type: ignore[arg-type]
    takes_any_keyword = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in offered.values())
    return all(
        name in offered or (takes_any_keyword and parameter.kind is inspect.Parameter.KEYWORD_ONLY)
        for name, parameter in wanted.parameters.items()
    )


@pytest.mark.parametrize(
    ("port", "implementation"),
    [
        (GatewayLedger, Ledger),
        (GatewayLedger, InMemoryLedger),
        (RequestProducer, RecordProducer),
        (RequestProducer, FakeProducer),
    ],
)
def test_it_fits_its_port(port: type, implementation: type) -> None:
    names = methods_of(port)
    assert names
    for name in names:
        wanted = inspect.signature(getattr(port, name))
        assert accepts(getattr(implementation, name), wanted), f"{implementation.__name__}.{name}"
