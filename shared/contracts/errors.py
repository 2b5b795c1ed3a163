"""Every error of the platform, with what each means for blame, retries and the caller.

    PlatformError              code, blame, retry, public message
    ├── RequestError           the caller's fault, never retried
    │   ├── InvalidRequest         ├── PromptTooLong        ├── UnknownModel
    │   ├── Unauthorized           ├── Forbidden            ├── BodyTooLarge
    │   ├── RequestNotFound        └── IdempotencyConflict
    ├── CapacityError          nobody's fault, retry later (carries retry_after_seconds)
    │   ├── RateLimited            ├── QueueFull            ├── NoWorkerReady
    │   └── EngineSaturated        (internal: intake pauses)
    ├── TransientError         ours, retried elsewhere while the deadline allows
    │   ├── BrokerUnavailable      ├── LedgerUnavailable    ├── WorkerLost
    │   └── WorkerDraining         └── EngineFailed
    ├── DeadlineExceeded       never retried
    ├── RequestCancelled       benign: no error log, no error metric
    ├── PoisonMessage          dead letter with the reason
    ├── UnsupportedVersion     written by a newer release; kept for one, dead letter with its name
    ├── OutcomeTooLarge        the answer does not fit the results topic
    └── InvariantViolated      our bug: fail the request, dump state, stop the worker

The HTTP status of each code is the gateway's table; a test proves that the two name the same set.
"""

from enum import StrEnum
from typing import ClassVar


class Blame(StrEnum):
    CALLER = "caller"
    PLATFORM = "platform"
    NOBODY = "nobody"


class Retry(StrEnum):
    NEVER = "never"
    LATER = "later"
    ELSEWHERE = "elsewhere"


class PlatformError(Exception):
    """Root of the tree. The message is public: it names the field or the limit, never another tenant's data."""

    code: ClassVar[str] = "platform_error"
    blame: ClassVar[Blame] = Blame.PLATFORM
    retry: ClassVar[Retry] = Retry.NEVER

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class RequestError(PlatformError):
    code = "request_error"
    blame = Blame.CALLER


class InvalidRequest(RequestError):
    code = "invalid_request"


class PromptTooLong(RequestError):
    code = "context_length_exceeded"


class UnknownModel(RequestError):
    code = "model_not_found"


class Unauthorized(RequestError):
    code = "invalid_api_key"


class Forbidden(RequestError):
    code = "forbidden"


class BodyTooLarge(RequestError):
    code = "body_too_large"


class RequestNotFound(RequestError):
    code = "request_not_found"


class IdempotencyConflict(RequestError):
    code = "idempotency_conflict"


class CapacityError(PlatformError):
    code = "over_capacity"
    blame = Blame.NOBODY
    retry = Retry.LATER

    def __init__(self, message: str, *, retry_after_seconds: float, param: str | None = None) -> None:
        super().__init__(message, param=param)
        self.retry_after_seconds = retry_after_seconds


class RateLimited(CapacityError):
    code = "rate_limit_exceeded"
    blame = Blame.CALLER


class QueueFull(CapacityError):
    code = "queue_full"


class NoWorkerReady(CapacityError):
    code = "no_worker_ready"


class EngineSaturated(CapacityError):
    code = "engine_saturated"


class TransientError(PlatformError):
    code = "temporarily_unavailable"
    retry = Retry.ELSEWHERE


class BrokerUnavailable(TransientError):
    code = "broker_unavailable"


class LedgerUnavailable(TransientError):
    code = "ledger_unavailable"


class WorkerLost(TransientError):
    code = "worker_lost"


class WorkerDraining(TransientError):
    code = "worker_draining"


class EngineFailed(TransientError):
    code = "engine_failed"


class DeadlineExceeded(PlatformError):
    code = "deadline_exceeded"
    blame = Blame.NOBODY


class RequestCancelled(PlatformError):
    code = "request_cancelled"
    blame = Blame.NOBODY


class PoisonMessage(PlatformError):
    code = "poison_message"
    blame = Blame.CALLER


class UnsupportedVersion(PlatformError):
    code = "unsupported_schema_version"


class OutcomeTooLarge(PlatformError):
    code = "outcome_too_large"
    blame = Blame.CALLER


class InvariantViolated(PlatformError):
    code = "internal_error"


def _subclasses(root: type[PlatformError]) -> list[type[PlatformError]]:
    return [root, *(found for child in root.__subclasses__() for found in _subclasses(child))]


def error_classes() -> dict[str, type[PlatformError]]:
    """Every class of the tree above by its code, grouping classes included."""
    return {error.code: error for error in _subclasses(PlatformError) if error.__module__ == __name__}


def error_type(blame: Blame, code: str) -> str:
    """OpenAI's `type` field."""
    if code == RateLimited.code:
        return "rate_limit_error"
    if code == Unauthorized.code:
        return "authentication_error"
    return "invalid_request_error" if blame is Blame.CALLER else "server_error"
