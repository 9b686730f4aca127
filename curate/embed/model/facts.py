"""The facts of a model that are known without running it; `curate.embed.model.describe` finds them out."""

from dataclasses import dataclass
from typing import Any

from curate.store import Json


@dataclass(frozen=True)
class ModelFacts:
    """The facts of a model that are known without running it. JSON-able: `dataclasses.asdict`.

    Attributes:
        weights_sha256: digest of the file of weights.
        config_sha256: digest of the architecture and the preprocessing, as canonical JSON.
        embed_dim: length of an embedding.
        context_length: most tokens of a caption; None for a model without a text tower.
        image_size: height and width of the vision tower's input, in pixels.
        logit_scale: factor for cosines before a softmax or sigmoid (already exponentiated); None likewise.
        logit_bias: term that SigLIP-type models then add; None for other models.
        preprocess: open_clip's preprocessing settings (size, mean, std, interpolation, resize_mode, fill_color).
        tokenizer_sha256: digest of a Hugging Face tokenizer with its vocabulary and rules; None for open_clip's own.
    """

    weights_sha256: str
    config_sha256: str
    embed_dim: int
    context_length: int | None
    image_size: tuple[int, int]
    logit_scale: float | None
    logit_bias: float | None
    preprocess: dict[str, Any]
    tokenizer_sha256: str | None = None

    @classmethod
    def from_json(cls, stored: Json) -> "ModelFacts":
        """The facts from their JSON form."""
        height, width = stored["image_size"]
        return cls(**{**stored, "image_size": (height, width)})
