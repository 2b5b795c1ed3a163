"""A real Redis that asks for a password, and one behind TLS: the ledger gets in, or says that it cannot."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from services.cli.embedded.ports import free_port
from services.cli.embedded.redis import EmbeddedRedis
from shared.contracts.errors import LedgerUnavailable
from shared.ledger.ledger import Ledger
from shared.settings.redis import RedisSettings

pytestmark = pytest.mark.redis

PASSWORD = "turbine-7"


class GuardedRedis(EmbeddedRedis):
    """Asks for a password; with `identity` also listens under TLS on `tls_port`."""

    def __init__(self, identity: Path | None = None) -> None:
        super().__init__()
        self.tls_port = free_port()
        self._identity = identity

    def _command(self, program: Path, directory: Path) -> list[str]:
        tls = {
            "tls-port": str(self.tls_port),
            "tls-cert-file": str(self._identity),
            "tls-key-file": str(self._identity),
            "tls-ca-cert-file": str(self._identity),
            "tls-auth-clients": "no",
        }
        options = {"requirepass": PASSWORD} | (tls if self._identity else {})
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        return [*super()._command(program, directory), *words]


def has_tls(program: str) -> bool:
    """A server built without TLS refuses the option; one built with it misses its certificate."""
    try:
        told = subprocess.run(
            [program, "--port", "0", "--tls-port", str(free_port())],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return True
    return "Failed to configure TLS" in told.stdout and "Missing implement" not in told.stdout


@pytest.fixture(scope="module")
def guarded() -> Iterator[GuardedRedis]:
    with GuardedRedis() as server:
        yield server  # type: ignore[misc]


@pytest.fixture
def encrypted(tmp_path: Path) -> Iterator[tuple[GuardedRedis, Path]]:
    """A server under TLS, and the certificate of who vouches for it."""
    program = shutil.which("redis-server")
    if program is None or not has_tls(program):
        pytest.skip("no redis-server with TLS on the PATH (Debian's has it: apt-get install redis-server)")
    authority = trustme.CA()
    identity, trust = tmp_path / "identity.pem", tmp_path / "authority.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(identity))
    authority.cert_pem.write_to_path(str(trust))
    server = GuardedRedis(identity)
    with server:
        yield server, trust


async def ping(url: str) -> None:
    async with Ledger(RedisSettings(url=url)) as ledger:
        await ledger.ping()


@pytest.mark.parametrize("user", ["", "default"])
async def test_the_password_in_the_url_opens_the_ledger(guarded: GuardedRedis, user: str) -> None:
    await ping(f"redis://{user}:{PASSWORD}@127.0.0.1:{guarded.port}/0")


@pytest.mark.parametrize("login", ["", ":wrong@"])
async def test_without_the_right_one_the_ledger_is_unavailable_and_the_password_is_not_shown(
    guarded: GuardedRedis, login: str
) -> None:
    with pytest.raises(LedgerUnavailable, match="refused the login") as refused:
        await ping(f"redis://{login}127.0.0.1:{guarded.port}/0")
    assert "wrong" not in str(refused.value)


async def test_the_ledger_speaks_tls_to_a_server_it_can_trust(encrypted: tuple[GuardedRedis, Path]) -> None:
    server, trust = encrypted
    await ping(f"rediss://:{PASSWORD}@127.0.0.1:{server.tls_port}/0?ssl_ca_certs={trust}")
    with pytest.raises(LedgerUnavailable):
        await ping(f"rediss://:{PASSWORD}@127.0.0.1:{server.tls_port}/0")
