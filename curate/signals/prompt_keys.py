"""What recipe keys that hold prompts and labels may say."""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator


def one_line(text: str) -> str:
    """A text as every tokenizer reads it: no space but those between words."""
    return " ".join(text.split())


def ensemble(prompt: str | Sequence[str]) -> str:
    """A prompt, or those of an ensemble, in one text; their order changes nothing."""
    return " / ".join(sorted(map(one_line, [prompt] if isinstance(prompt, str) else prompt)))


def repeated(texts: Sequence[str]) -> str | None:
    """The first text that stood before; None where each stands once."""
    return next((text for place, text in enumerate(texts) if text in texts[:place]), None)


def is_text(value: Any) -> bool:
    """Whether a value is a text that is not blank."""
    return isinstance(value, str) and bool(value.strip())


def are_texts(value: Any) -> bool:
    """Whether a value is a list of such texts, and not empty."""
    return isinstance(value, list) and bool(value) and all(is_text(text) for text in value)


# Of a union pydantic reports what one of its branches says; this says what is wanted.
def _prompt(value: Any) -> Any:
    if not (is_text(value) or are_texts(value)):
        raise ValueError("a prompt is a text, or a list of texts (an ensemble); neither may be empty")
    return value


Prompt = Annotated[str | list[str], BeforeValidator(_prompt)]
"""A prompt, or an ensemble of some, whose embeddings are averaged."""
