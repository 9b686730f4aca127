"""The values of pixel scorers over a part, and the table that is written of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from curate.embed.pixels.contract import BATCH, Crop, PixelScorer, Value
from curate.errors import BrokenResult

Score = Callable[[Crop], Sequence[Sequence[Value]]]


@dataclass
class Batches:
    """Crops of one `PixelModel` and one part, scored as soon as a batch is full.

    Attributes:
        score: the opened model.
        rows: of the images, in the order in which they came.
        waiting: crops of the batch that is not full yet.
        values: a row of values for each image that was scored.
    """

    score: Score
    rows: list[int] = field(default_factory=list)
    waiting: list[Crop] = field(default_factory=list)
    values: list[Sequence[Value]] = field(default_factory=list)

    def add(self, row: int, crop: Crop) -> None:
        """Takes an image's crop."""
        self.rows.append(row)
        self.waiting.append(crop)
        if len(self.waiting) == BATCH:
            self._run()

    def by_row(self) -> dict[int, Sequence[Value]]:
        """All values by the image's row; scores what waits."""
        if self.waiting:
            self._run()
        return dict(zip(self.rows, self.values, strict=True))

    def _run(self) -> None:
        count = len(self.waiting)
        filled = [*self.waiting, *[self.waiting[-1]] * (BATCH - count)]
        self.values += list(self.score(np.stack(filled)))[:count]
        self.waiting = []


def table(scorer: PixelScorer, image_ids: pa.Array, values: Mapping[int, Sequence[Value]]) -> pa.Table:
    """The table `pixels.parquet` of a scorer: image_id and its columns, null for images without values.

    Args:
        scorer: whose.
        image_ids: of all the part's images.
        values: by row, of the decoded images.

    Raises:
        BrokenResult: a kind gives another number of values than it has columns, or values of other types.
    """
    declared = scorer.columns
    columns: dict[str, pa.Array] = {"image_id": image_ids}
    if wrong := next((found for found in values.values() if len(found) != len(declared)), None):
        raise BrokenResult(f"{scorer.where} gave {len(wrong)} values for its columns {list(declared)}")
    for number, (name, kind) in enumerate(declared.items()):
        by_row = [values[row][number] if row in values else None for row in range(len(image_ids))]
        try:
            columns[name] = pa.array(by_row, kind)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            said = " ".join(str(error).split())
            raise BrokenResult(f"{scorer.where} gave values of {name} that are no {kind}: {said}") from error
    return pa.table(columns)
