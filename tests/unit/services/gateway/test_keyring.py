"""What a gateway makes of the records of the key topic."""

from collections.abc import Sequence

from services.gateway.keyring import Keyring
from shared.contracts.api_key_codec import encode_api_key
from shared.contracts.api_keys import ApiKey, digest_of
from shared.messaging.compacted_topic import TopicChange
from shared.messaging.records import SourceRecord

KEY = ApiKey(key_id="a1", digest=digest_of("sk-1"), tenant="alpha")


def change(*values: bytes | None, is_complete: bool = False) -> TopicChange:
    records: Sequence[SourceRecord] = [
        SourceRecord(
            topic="platform.api-keys",
            partition=0,
            offset=offset,
            timestamp_ms=1,
            key=b"k",
            value=value,
            headers=(),
        )
        for offset, value in enumerate(values)
    ]
    return TopicChange(records=tuple(records), is_complete=is_complete)


def test_a_key_is_found_by_its_digest_alone() -> None:
    keyring = Keyring()
    keyring.observe(change(encode_api_key(KEY)))
    assert keyring.find(digest_of("sk-1")) == KEY
    assert keyring.find(digest_of("sk-2")) is None


def test_a_revoked_key_opens_nothing_and_is_not_forgotten() -> None:
    keyring = Keyring()
    keyring.observe(change(encode_api_key(KEY), encode_api_key(KEY.revoked(9))))
    assert keyring.find(KEY.digest) is None
    assert keyring.has_keys


def test_a_key_issued_again_under_its_name_replaces_the_old_one() -> None:
    keyring = Keyring()
    renewed = ApiKey(key_id="a1", digest=digest_of("sk-2"), tenant="alpha")
    keyring.observe(change(encode_api_key(KEY), encode_api_key(renewed)))
    assert keyring.find(digest_of("sk-1")) is None
    assert keyring.find(digest_of("sk-2")) == renewed


def test_a_broken_record_hides_no_other() -> None:
    keyring = Keyring()
    keyring.observe(change(b"\xff\xff", None, encode_api_key(KEY)))
    assert keyring.find(KEY.digest) == KEY


def test_complete_once_complete_for_good() -> None:
    keyring = Keyring()
    keyring.observe(change())
    assert not keyring.is_complete
    keyring.observe(change(is_complete=True))
    keyring.observe(change(encode_api_key(KEY)))
    assert keyring.is_complete
