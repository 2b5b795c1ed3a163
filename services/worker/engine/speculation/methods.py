"""The methods that an engine has: those that cost nothing to have, and those that its configuration asks for."""

from collections.abc import Callable

from services.worker.engine.config import EngineConfig, EngineRefused, Verifier
from services.worker.engine.execution.model_loading import LoadedModel
from services.worker.engine.speculation.draft_method import DraftContext, DraftMethod
from services.worker.engine.speculation.draft_model_loading import build_draft_model
from services.worker.engine.speculation.lookahead import Lookahead
from services.worker.engine.speculation.prompt_lookup import PromptLookup
from services.worker.engine.speculation.self_draft import build_int8_self, build_quantspec
from services.worker.engine.speculation.speculation import NO_SPECULATION

Builder = Callable[[DraftContext], DraftMethod]


def _prompt_lookup(context: DraftContext) -> DraftMethod:
    return PromptLookup(shared_text_tokens=context.shared_text_tokens)


def _lookahead(context: DraftContext) -> DraftMethod:
    return Lookahead()


_ALWAYS: dict[str, Builder] = {"prompt-lookup": _prompt_lookup, "lookahead": _lookahead}
_WHEN_ASKED: dict[str, Builder] = {
    "quantspec": build_quantspec,
    "int8-self": build_int8_self,
    "draft-model": build_draft_model,
}
"""They load weights or take memory: the one that is the default, and what has a model of its own set."""


def build_methods(config: EngineConfig, model: LoadedModel) -> dict[str, DraftMethod]:
    """By name. Raises EngineRefused for a default that does not exist, or that lacks what it needs."""
    known = [NO_SPECULATION, *_ALWAYS, *_WHEN_ASKED]
    if config.speculation not in known:
        raise EngineRefused(f"speculation: {config.speculation} is none of {', '.join(known)}")
    context = DraftContext(
        model=model,
        checkpoint=config.model,
        draft_checkpoint=config.draft_model,
        shares_noise=config.verifier is Verifier.COUPLED,
        max_running_sequences=config.max_running_sequences,
        max_tokens_per_step=config.max_tokens_per_step,
        max_draft_tokens=config.max_draft_tokens,
        shared_text_tokens=config.shared_text_tokens,
    )
    asked = {config.speculation} | ({"draft-model"} if config.draft_model is not None else set())
    builders = {**_ALWAYS, **{name: build for name, build in _WHEN_ASKED.items() if name in asked}}
    return {name: build(context) for name, build in builders.items()}
