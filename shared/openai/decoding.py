"""A record's value into an `InferenceRequest`, in whichever format its envelope says."""

from dataclasses import replace

from shared.contracts.errors import InvalidRequest, PoisonMessage
from shared.contracts.request_codec import decode_request
from shared.contracts.requests import InferenceRequest, RequestEnvelope, WireFormat
from shared.contracts.schema_version import require_known
from shared.openai.limits import check_request, positive_seed
from shared.openai.output_constraints import check_output
from shared.openai.requests import parse_request


def decode_value(envelope: RequestEnvelope, value: bytes | None) -> InferenceRequest:
    """Raises `PoisonMessage` (dead letter), `InvalidRequest` (a failed result that names the field or header), or
    `UnsupportedVersion` (both).
    """
    require_known(envelope.version, "The request")
    if (problem := envelope.problem) is not None:
        refusal = PoisonMessage if problem.is_poison else InvalidRequest
        raise refusal(problem.message, param=problem.header)
    if value is None:
        raise PoisonMessage("The record has no value.")
    if envelope.wire_format is WireFormat.JSON:
        return parse_request(value, kind=envelope.kind)
    return _checked(decode_request(value))


def _checked(request: InferenceRequest) -> InferenceRequest:
    check_request(request)
    check_output(request)
    sampling = replace(request.sampling, seed=positive_seed(request.sampling.seed))
    return replace(request, sampling=sampling)
