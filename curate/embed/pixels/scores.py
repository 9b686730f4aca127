"""Collects the values of pixel scorers over a part, and makes their table."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from curate.embed.pixels.contract import BATCH, Crop, PixelScorer, Value
from curate.errors import BrokenResult

Score = Callable[[Crop], Sequence[Sequence[Value]]]


@dataclass
class Batches:
    """Collects the crops of one `PixelModel` and one part, and scores each batch once it is full.

    Attributes:
        score: the opened model.
        rows: rows of the images, in the order in which they were added.
        waiting: crops of the batch that is not yet full.
        values: a row of values for each image that was scored.
    """

    score: Score
    rows: list[int] = field(default_factory=list)
    waiting: list[Crop] = field(default_factory=list)
    values: list[Sequence[Value]] = field(default_factory=list)

    def add(self, row: int, crop: Crop) -> None:
        """Adds the crop of an image; scores the batch once it is full."""
        self.rows.append(row)
        self.waiting.append(crop)
        if len(self.waiting) == BATCH:
            self._run()

    def by_row(self) -> dict[int, Sequence[Value]]:
        """Scores the remaining crops and returns all values by the image's row."""
        if self.waiting:
            self._run()
        return dict(zip(self.rows, self.values, strict=True))

    def _run(self) -> None:
        count = len(self.waiting)
        filled = [*self.waiting, *[self.waiting[-1]] * (BATCH - count)]
        self.values += list(self.score(np.stack(filled)))[:count]
        self.waiting = []


def table(scorer: PixelScorer, image_ids: pa.Array, values: Mapping[int, Sequence[Value]]) -> pa.Table:
    """Returns the table `pixels.parquet` of a scorer: image_id and its columns, null for images without values.

    Args:
        scorer: the scorer.
        image_ids: the ids of all the part's images.
        values: by row, the values of the decoded images.

    Raises:
        BrokenResult: the scorer returned more or fewer values than it has columns, or values of other types.
    """
    declared = scorer.columns
    columns: dict[str, pa.Array] = {"image_id": image_ids}
    if wrong := next((given for given in values.values() if len(given) != len(declared)), None):
        raise BrokenResult(f"{scorer.where} gave {len(wrong)} values for its columns {list(declared)}")
    for number, (name, kind) in enumerate(declared.items()):
        by_row = [values[row][number] if row in values else None for row in range(len(image_ids))]
        try:
            columns[name] = pa.array(by_row, kind)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            reason = " ".join(str(error).split())
            raise BrokenResult(f"{scorer.where} gave values of {name} that are not {kind}: {reason}") from error
    return pa.table(columns)
