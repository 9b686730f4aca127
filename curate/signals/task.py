"""What a scorer is asked to do."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from curate.store import Inputs


@dataclass(frozen=True)
class Task:
    """One scorer and one part.

    Attributes:
        scorer: the scorer's name, `caption` or `concept_watermark`.
        params: its parameters.
        part: which part.
        inputs: the committed folders that its parameters may name.
        pairs: the part's pairs without the repeated ones: pair_id, image_id, caption.
    """

    scorer: str
    params: Mapping[str, Any]
    part: int
    inputs: Inputs
    pairs: pa.Table
