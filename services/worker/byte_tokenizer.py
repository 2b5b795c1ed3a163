"""A tokenizer without a model: one token per byte. For the null engine, so that benchmarks need no checkpoint.

It is the real `Tokenizer` over a byte-level vocabulary without merges, not a second implementation: benchmarks and
tests run the code that production runs.
"""

from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as BackendTokenizer

from shared.tokenization.byte_level import byte_table
from shared.tokenization.chat_template import ChatTemplate
from shared.tokenization.tokenizer import Tokenizer

END_TOKEN = "<|end|>"
_CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
_SAMPLE = "the quick brown fox jumps over the lazy dog and runs away; "
MAX_VOCABULARY = 64


def byte_tokenizer() -> Tokenizer:
    """256 bytes and an end token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = BackendTokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(END_TOKEN, special=True)])
    end_token_id = backend.token_to_id(END_TOKEN)
    assert end_token_id is not None
    return Tokenizer(
        backend,
        eos_token_ids=(end_token_id,),
        chat_template=ChatTemplate(_CHAT_TEMPLATE),
        bytes_of=byte_table(backend.get_vocab(with_added_tokens=True), {end_token_id}),
    )


def null_vocabulary(tokenizer: Tokenizer) -> tuple[int, ...]:
    """A few token ids of plain text, none of which ends a text: what the null engine may say."""
    ids = sorted(set(tokenizer.encode(_SAMPLE)) - set(tokenizer.eos_token_ids))
    return tuple(ids[:MAX_VOCABULARY])
