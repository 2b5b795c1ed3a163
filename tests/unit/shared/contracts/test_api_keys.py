"""API keys: what is remembered of one, and what a record of one may not be."""

from dataclasses import replace

import pytest

from shared.contracts.api_key_codec import decode_api_key, encode_api_key
from shared.contracts.api_keys import digest_of, issue_key
from shared.contracts.errors import PoisonMessage


def test_what_is_remembered_finds_the_key_and_does_not_contain_it() -> None:
    text, key = issue_key(tenant="alpha", models=("tiny",), label="ci", now_ms=5)
    secret = text.rpartition("-")[2]
    assert key.digest == digest_of(text)
    assert secret.encode() not in encode_api_key(key)
    assert secret not in repr(key)


def test_two_keys_share_neither_name_nor_text() -> None:
    (first_text, first), (second_text, second) = (
        issue_key(tenant="alpha", models=(), label="", now_ms=5) for _ in range(2)
    )
    assert first_text != second_text
    assert first.key_id != second.key_id


def test_a_revoked_key_keeps_the_time_of_its_first_revocation() -> None:
    _, key = issue_key(tenant="alpha", models=(), label="", now_ms=5)
    assert not key.is_revoked
    assert key.revoked(7).revoked(9).revoked_at_ms == 7


def test_limits_survive_the_wire_and_none_is_none() -> None:
    _, key = issue_key(tenant="alpha", models=(), label="", now_ms=5, requests_per_minute=60)
    found = decode_api_key(encode_api_key(key))
    assert (found.requests_per_minute, found.tokens_per_minute) == (60, None)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"tenant": ""}, "tenant"),
        ({"key_id": ""}, "key_id"),
        ({"digest": b""}, "32 bytes, not 0"),
        ({"tokens_per_minute": 0}, "tokens_per_minute of an ApiKey is 0"),
    ],
)
def test_a_record_that_could_let_in_anybody_is_refused(change: dict[str, object], complaint: str) -> None:
    _, key = issue_key(tenant="alpha", models=(), label="", now_ms=5)
    with pytest.raises(PoisonMessage, match=complaint):
        decode_api_key(encode_api_key(replace(key, **change)))  # type: ignore[arg-type]
