"""Types and checks of recipe keys that hold prompts and labels."""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from curate.keys import Passage


def one_line(text: str) -> str:
    """Returns a text with single spaces between words and no others, as every tokenizer reads it."""
    return " ".join(text.split())


def ensemble(prompt: str | Sequence[str]) -> str:
    """Returns a prompt, or the prompts of an ensemble, as one text that does not depend on their order."""
    return " / ".join(sorted(map(one_line, [prompt] if isinstance(prompt, str) else prompt)))


def repeated(texts: Sequence[str]) -> str | None:
    """Returns the first text that occurs a second time; None where all are different."""
    return next((text for place, text in enumerate(texts) if text in texts[:place]), None)


def is_text(value: Any) -> bool:
    """Whether a value is a non-blank text."""
    return isinstance(value, str) and bool(value.strip())


def are_texts(value: Any) -> bool:
    """Whether a value is a non-empty list of non-blank texts."""
    return isinstance(value, list) and bool(value) and all(is_text(text) for text in value)


# For a union, pydantic reports the error of one branch; this message names what is expected.
def _prompt(value: Any) -> Any:
    if not (is_text(value) or are_texts(value)):
        raise ValueError("a prompt is a text, or a list of texts (an ensemble); neither may be empty")
    return value


Prompt = Annotated[Passage | Annotated[list[Passage], Field(max_length=1000)], BeforeValidator(_prompt)]
"""A prompt, or an ensemble of prompts, whose embeddings are averaged."""
