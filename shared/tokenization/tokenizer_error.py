"""What can be wrong with a model's tokenizer files."""

from pathlib import Path


class TokenizerError(ValueError):
    """A tokenizer file is damaged or asks for something we do not do; the message names file and field."""

    def __init__(self, file: Path, problem: str) -> None:
        self.file = file
        super().__init__(f"{file}: {problem}")


class TokenizerMissing(TokenizerError):
    """The directory has no tokenizer: the model can still serve prompts of token ids."""
