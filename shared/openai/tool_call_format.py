"""How a model's authors have it call tools, read from its chat template and its vocabulary."""

from shared.openai.tool_calls import CLOSING, OPENING
from shared.openai.tool_grammar import ToolCallFormat
from shared.tokenization.tokenizer import Tokenizer


def call_format_of(tokenizer: Tokenizer) -> ToolCallFormat:
    """Tags that are tokens and do not show in the text cannot be demanded: the call is the whole answer then."""
    template = tokenizer.tool_template_source
    if template is None or OPENING not in template:
        return ToolCallFormat.JSON
    if not any(tokenizer.has_token(tag) for tag in (OPENING, CLOSING)):
        return ToolCallFormat.HERMES
    are_visible = all(tokenizer.has_token(tag, is_visible=True) for tag in (OPENING, CLOSING))
    return ToolCallFormat.HERMES_TOKENS if are_visible else ToolCallFormat.JSON
