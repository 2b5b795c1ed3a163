"""The error tree: the drawing, the codes and the classes are one set."""

import re

import pytest

from shared.contracts import errors
from shared.contracts.errors import (
    Blame,
    CapacityError,
    InvalidRequest,
    PlatformError,
    Retry,
    error_classes,
    error_type,
)


def all_classes() -> set[type[PlatformError]]:
    return {cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, PlatformError)}


def test_every_class_has_a_code_of_its_own() -> None:
    assert set(error_classes().values()) == all_classes()


def test_the_drawing_names_every_class_and_no_other() -> None:
    drawn = set(re.findall(r"(?:[├└]── |^    )([A-Z]\w+)", (errors.__doc__ or ""), re.MULTILINE))
    assert drawn == {cls.__name__ for cls in all_classes()}


def test_callers_faults_are_never_retried() -> None:
    assert {cls.retry for cls in all_classes() if issubclass(cls, errors.RequestError)} == {Retry.NEVER}


def test_ours_are_retried_elsewhere_and_capacity_later() -> None:
    assert {cls.retry for cls in all_classes() if issubclass(cls, errors.TransientError)} == {Retry.ELSEWHERE}
    assert {cls.retry for cls in all_classes() if issubclass(cls, CapacityError)} == {Retry.LATER}


def test_an_error_names_its_field() -> None:
    error = InvalidRequest("temperature must be at most 2", param="temperature")
    assert (str(error), error.param) == ("temperature must be at most 2", "temperature")


def test_a_capacity_error_says_when_to_come_back() -> None:
    assert errors.QueueFull("full", retry_after_seconds=2.5).retry_after_seconds == 2.5


@pytest.mark.parametrize(
    ("cls", "expected"),
    [
        (errors.InvalidRequest, "invalid_request_error"),
        (errors.Unauthorized, "authentication_error"),
        (errors.RateLimited, "rate_limit_error"),
        (errors.QueueFull, "server_error"),
        (errors.EngineFailed, "server_error"),
    ],
)
def test_openais_type_follows_from_blame_and_code(cls: type[PlatformError], expected: str) -> None:
    assert error_type(cls.blame, cls.code) == expected


def test_benign_ends_are_nobodys_fault() -> None:
    assert errors.RequestCancelled.blame is Blame.NOBODY
    assert errors.DeadlineExceeded.blame is Blame.NOBODY
