"""The version that records and ledger keys carry, and what a reader makes of another one. Pure.

A newer *minor* has fields that we do not know: they are skipped, and survive us where bytes are copied. A newer
*major* has another meaning: it is refused by name, and left for a reader that knows it. What carries no version was
written before there was one, and counts as 1.0.
"""

import re
from typing import NamedTuple

from shared.contracts.errors import PoisonMessage, UnsupportedVersion

_VERSION = re.compile(r"([0-9]{1,6})\.([0-9]{1,6})", re.ASCII)


class SchemaVersion(NamedTuple):
    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


OURS = SchemaVersion(1, 1)
UNVERSIONED = SchemaVersion(1, 0)


def parse_version(text: str | None) -> SchemaVersion | None:
    """None for what is no version; without a text it is the one before versions were written."""
    if text is None:
        return UNVERSIONED
    found = _VERSION.fullmatch(text)
    return None if found is None else SchemaVersion(int(found[1]), int(found[2]))


def require_known(version: SchemaVersion, what: str) -> None:
    """Raises `UnsupportedVersion` for a major that is newer than ours."""
    if version.major > OURS.major:
        raise UnsupportedVersion(f"{what} has schema version {version}, this release knows {OURS.major}.x")


def require_readable(header: bytes | None, what: str) -> None:
    """Of a record's header. Raises `PoisonMessage` for what is no version, `UnsupportedVersion` for a newer major."""
    version = parse_version(None if header is None else header.decode("utf-8", "replace"))
    if version is None:
        raise PoisonMessage(f"{what} has a schema version that is not <major>.<minor>")
    require_known(version, what)
