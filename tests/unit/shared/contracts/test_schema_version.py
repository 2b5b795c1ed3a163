"""What a reader makes of a version that is not its own."""

import pytest

from shared.contracts.errors import PoisonMessage, UnsupportedVersion
from shared.contracts.schema_version import (
    OURS,
    UNVERSIONED,
    SchemaVersion,
    parse_version,
    require_known,
    require_readable,
)


def test_what_carries_no_version_is_older_than_versions_are() -> None:
    assert parse_version(None) == UNVERSIONED < OURS


@pytest.mark.parametrize("text", ["", "1", "1.", "v1.0", "1.0.0", "-1.0", "1.x"])
def test_what_is_no_version_is_none(text: str) -> None:
    assert parse_version(text) is None


def test_any_minor_of_our_major_is_known() -> None:
    require_known(SchemaVersion(OURS.major, OURS.minor + 40), "It")


def test_a_newer_major_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedVersion, match=r"The request has schema version 2\.0, this release knows 1\.x"):
        require_known(SchemaVersion(2, 0), "The request")


def test_a_version_is_written_as_it_is_read() -> None:
    assert parse_version(str(OURS)) == OURS


@pytest.mark.parametrize("header", [None, b"1.0", str(OURS).encode(), f"{OURS.major}.{OURS.minor + 1}".encode()])
def test_a_record_without_a_version_or_of_this_major_is_readable(header: bytes | None) -> None:
    require_readable(header, "the record")


@pytest.mark.parametrize(
    ("header", "error"),
    [(b"2.0", UnsupportedVersion), (b"newest", PoisonMessage), (b"\xff", PoisonMessage), (b"", PoisonMessage)],
)
def test_a_record_of_a_newer_major_or_of_no_version_is_not_readable(header: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        require_readable(header, "the record")
