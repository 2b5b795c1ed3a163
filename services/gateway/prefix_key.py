"""What names the beginning of a request's prompt, so that requests that begin alike can go to one worker. Pure.

The KV cache shares prefixes within a tenant only, so the tenant is part of the name.
"""

import hashlib

from shared.contracts.requests import InferenceRequest, RequestKind

_PREFIX_CHARACTERS = 512
_INSTRUCTING_ROLES = ("system", "developer")


def prefix_key(request: InferenceRequest, tenant: str) -> bytes:
    """Of a chat: its tools and instructions, without any the first message; of a completion: how its prompt begins."""
    digest = hashlib.blake2b(tenant.encode("utf-8", "surrogateescape"), digest_size=16)
    for part in _beginning(request):
        digest.update(b"\0" + part.encode("utf-8", "surrogateescape"))
    return digest.digest()


def _beginning(request: InferenceRequest) -> list[str]:
    if request.kind is RequestKind.CHAT:
        instructions = [message.content for message in request.messages if message.role in _INSTRUCTING_ROLES]
        if instructions or request.tools:
            return [*(tool.name for tool in request.tools), *instructions]
        return [message.content[:_PREFIX_CHARACTERS] for message in request.messages[:1]]
    prompt = request.prompts[0] if request.prompts else None
    if prompt is None:
        return []
    if prompt.token_ids is not None:
        return [repr(prompt.token_ids[: _PREFIX_CHARACTERS // 4])]
    return [(prompt.text or "")[:_PREFIX_CHARACTERS]]
