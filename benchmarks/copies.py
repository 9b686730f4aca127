"""Measures which duplicates steps tell edited copies of pictures from pictures that merely look alike.

    python benchmarks/copies.py [--photos FOLDER] [--scenes 200] [--model NAME --pretrained WEIGHTS]

The sets:

- scenes: the demo's drawings, 640 × 480, each with a look-alike: the same shapes, colours and background, with some
  shape at another place;
- photos: the photographs of a folder (JPEGs); look-alikes are those that happen to be in it;
- halves: the left and the right halves of these photographs, look-alikes with the same subject, light and colours.

Each picture is copied by each of the edits of the web (`EDITS`): made smaller, encoded again as JPEG or WebP, cropped
by up to 5 % of each side, made lighter or darker, with a logo, with a line of text. Pictures and copies pass through
the functions of fetch (`Normaliser`, with the defaults of the recipe) and of the embed pass (`Prepare`, the model, the
perceptual hashes). Two errors are counted:

- left: copies that no step counts as duplicates of their picture;
- lost: pictures that a step counts as duplicates of a different picture.

Measured are one cosine, one hash, `all` of a cosine and a hash, the last of the steps of
pipelines/recipes/cc12m.yaml, and these steps together. The thresholds, except those of the recipe, are the ones with
the lowest sum of both errors' shares on one half of the pictures; all figures are of the other half. The last line is
JSON: `sets`, with the errors of each of them, and these errors ÷ those of the best cosine.
"""

import argparse
import io
import json
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageEnhance, ImageFont

from curate.dedup.cosine import cosines
from curate.dedup.hashes import shares_of_equal_bits
from curate.dedup.kinds.pdq import PdqSearch
from curate.demo.scenes import Scene, draw_scene, sample_scene
from curate.embed.decode.prepare import Prepare, Prepared
from curate.embed.model.loading import load
from curate.embed.model.towers import Model
from curate.embed.pixels.contract import PixelScorer
from curate.embed.pixels.registry import KINDS
from curate.fetch.pictures.normalise import Normaliser
from curate.fetch.settings import Settings
from curate.phash import perceptual_hashes
from curate.recipe import Fetch
from curate.recipe import load as load_recipe

RECIPE = Path(__file__).parents[1] / "pipelines" / "recipes" / "cc12m.yaml"

COSINES = [round(0.9 + 0.005 * step, 3) for step in range(20)]
"""From the default of `dedup.floor`: a lower floor stores many pairs of unrelated pictures."""

BITS = {"phash": range(17), "pdq": range(65)}
"""The values of `within` that a recipe may have."""

ELSEWHERE = 0.2
"""How far a shape of a look-alike is from each such shape of its scene at least, in sides of the central square."""

TRIES = 500
"""Scenes that are tried as a scene's look-alike, before another scene is taken."""

SINGLE = (0.9, 0.93, 0.95, 0.97, 0.985)
"""Cosines that are shown besides the best one."""

BATCH = 64
SIZE = (640, 480)

Floats = npt.NDArray[np.float64]
Edit = Callable[[Image.Image, random.Random], bytes]
Step = tuple[tuple[str, float], ...]
"""By measure the least cosine, or the most bits that differ; images are duplicates where they are by all of them."""


def encoded(picture: Image.Image, kind: str = "JPEG", quality: int = 90) -> bytes:
    """Returns a picture as a file."""
    sink = io.BytesIO()
    picture.save(sink, kind, quality=quality)
    return sink.getvalue()


def smaller(picture: Image.Image, rng: random.Random) -> bytes:
    """Makes it smaller, to 30 to 80 % of its sides."""
    share = rng.uniform(0.3, 0.8)
    width, height = (max(32, round(side * share)) for side in picture.size)
    return encoded(picture.resize((width, height), rng.choice((Image.Resampling.BICUBIC, Image.Resampling.BILINEAR))))


def jpeg(picture: Image.Image, rng: random.Random) -> bytes:
    """Encodes it as JPEG of quality 40 to 75."""
    return encoded(picture, "JPEG", rng.randint(40, 75))


def webp(picture: Image.Image, rng: random.Random) -> bytes:
    """Encodes it as WebP of quality 40 to 75."""
    return encoded(picture, "WEBP", rng.randint(40, 75))


def cropped(picture: Image.Image, rng: random.Random) -> bytes:
    """Cuts off up to 5 % of its width and of its height."""
    width, height = picture.size
    across, down = rng.uniform(0.01, 0.05) * width, rng.uniform(0.01, 0.05) * height
    left, top = rng.uniform(0, across), rng.uniform(0, down)
    return encoded(picture.crop((round(left), round(top), round(left + width - across), round(top + height - down))))


def brighter(picture: Image.Image, rng: random.Random) -> bytes:
    """Makes it lighter or darker by 10 to 30 %."""
    change = rng.choice((-1, 1)) * rng.uniform(0.1, 0.3)
    return encoded(ImageEnhance.Brightness(picture).enhance(1 + change))


def with_logo(picture: Image.Image, rng: random.Random) -> bytes:
    """Puts a disc with a letter into a corner, a sixth to a tenth of the shorter side wide."""
    marked, side = picture.copy(), min(picture.size)
    wide, gap = rng.uniform(1 / 10, 1 / 6) * side, side / 40
    left = rng.choice((gap, picture.width - gap - wide))
    top = rng.choice((gap, picture.height - gap - wide))
    draw = ImageDraw.Draw(marked)
    colour = tuple(rng.randint(0, 255) for _ in range(3))
    draw.ellipse((left, top, left + wide, top + wide), fill=colour)
    font = ImageFont.load_default(0.6 * wide)
    draw.text((left + wide / 2, top + wide / 2), rng.choice("ABCDE"), "white", font, anchor="mm")
    return encoded(marked)


def with_text(picture: Image.Image, rng: random.Random) -> bytes:
    """Writes a line of text along the lower edge."""
    marked = picture.copy()
    height = rng.uniform(0.04, 0.07) * min(picture.size)
    place = (picture.width * rng.uniform(0.3, 0.7), picture.height - height)
    draw = ImageDraw.Draw(marked)
    text = f"www.{''.join(rng.choices('abcdefghijklmnop', k=8))}.example"
    draw.text(place, text, "white", ImageFont.load_default(height), anchor="mm", stroke_width=1, stroke_fill="black")
    return encoded(marked)


EDITS: dict[str, Edit] = {
    "smaller": smaller,
    "jpeg": jpeg,
    "webp": webp,
    "cropped": cropped,
    "brighter": brighter,
    "logo": with_logo,
    "text": with_text,
}


def scenes(count: int) -> Iterator[Image.Image]:
    """Yields pairs of scenes that look alike, one after the other."""
    rng = random.Random(0)
    while count:
        scene = sample_scene(rng)
        others = (moved(scene, sample_scene(rng)) for _ in range(TRIES))
        # Four equal shapes fill their places and have no look-alike.
        other = next((one for one in others if one and is_elsewhere(scene, one)), None)
        if other:
            yield draw_scene(scene, SIZE)
            yield draw_scene(other, SIZE)
            count -= 1


def moved(scene: Scene, other: Scene) -> Scene | None:
    """Returns a scene with its groups at the places of another scene's, in their sizes; None where they do not fit."""
    if [group.count for group in scene.groups] != [group.count for group in other.groups]:
        return None
    both = zip(scene.groups, other.groups, strict=True)
    groups = tuple(replace(group, places=at.places, size=at.size) for group, at in both)
    return replace(scene, groups=groups)


def is_elsewhere(scene: Scene, other: Scene) -> bool:
    """Whether some shape of the other scene is not where the scene has such a shape."""
    return any(
        all(math.dist((place.x, place.y), (own.x, own.y)) >= ELSEWHERE for own in group.places)
        for group, of_other in zip(scene.groups, other.groups, strict=True)
        for place in of_other.places
    )


def photos(folder: Path) -> Iterator[Image.Image]:
    """Yields the photographs of a folder."""
    for path in sorted(folder.glob("*.jpg")):
        with Image.open(path) as picture:
            yield picture.convert("RGB")


def halves(folder: Path) -> Iterator[Image.Image]:
    """Yields the left and the right half of each photograph."""
    for picture in photos(folder):
        middle = picture.width // 2
        yield picture.crop((0, 0, middle, picture.height))
        yield picture.crop((middle, 0, 2 * middle, picture.height))


@dataclass(frozen=True)
class Likeness:
    """The likeness of pictures and copies: cosines, and bits that differ, infinite where they cannot be compared.

    Attributes:
        pictures: by measure, of each picture and each other one, [n, n]; a picture is not alike itself.
        copies: by measure, of each picture and each of its copies, [n, edits].
    """

    pictures: dict[str, Floats]
    copies: dict[str, Floats]

    def half(self, start: int) -> "Likeness":
        """The half of the pictures with their look-alikes: every other two pictures from the first or the third."""
        count = len(self.copies["cosine"])
        rows = np.array([row for row in range(count) if row // 2 % 2 == start])
        pictures = {name: found[np.ix_(rows, rows)] for name, found in self.pictures.items()}
        return Likeness(pictures, {name: found[rows] for name, found in self.copies.items()})


@dataclass
class Measuring:
    """Stores and measures pictures as the passes fetch and embed do."""

    model: Model

    def __post_init__(self) -> None:
        kind = KINDS.find("pdq")
        scorer = PixelScorer(kind.prefix, kind.name, kind, None, None, {})
        self._stored = Normaliser(Settings.of({**Fetch().model_dump(mode="json"), "processes": 1}))
        self._prepare = Prepare([self.model.preprocess], [self.model.image_side], True, False, [scorer])

    def likeness(self, pictures: Sequence[Image.Image]) -> Likeness:
        """Measures pictures and their copies by every edit."""
        rng = random.Random(1)
        files = [encoded(picture, quality=95) for picture in pictures]
        files += [edit(picture, rng) for edit in EDITS.values() for picture in pictures]
        values = {name: np.split(found, 1 + len(EDITS)) for name, found in self._values(files).items()}
        own, *others = [{name: found[at] for name, found in values.items()} for at in range(1 + len(EDITS))]
        apart = np.diag(np.full(len(pictures), np.inf))
        between = {name: distance(own, own, name) for name in ("cosine", *BITS)}
        alike = {name: values - apart if name == "cosine" else values + apart for name, values in between.items()}
        copies = {
            name: np.stack([np.diag(distance(own, other, name)) for other in others], axis=1)
            for name in ("cosine", *BITS)
        }
        return Likeness(alike, copies)

    def _values(self, files: Sequence[bytes]) -> dict[str, npt.NDArray[Any]]:
        prepared = [self._prepared(file) for file in files]
        crops = [one.crops[0] for one in prepared]
        batches = [crops[at : at + BATCH] for at in range(0, len(crops), BATCH)]
        rows = [self.model.encode_images(batch, len(batch)) for batch in batches]
        hashes, qualities = zip(*(one.values[0] for one in prepared), strict=True)
        thumbnails = np.stack([one.measures.thumbnail for one in prepared if one.measures])
        return {
            "cosine": torch.cat(rows).float().numpy().astype(np.float16),
            "phash": words(perceptual_hashes(thumbnails)),
            "pdq": words([str(digits) for digits in hashes]),
            "quality": np.array(qualities),
        }

    def _prepared(self, file: bytes) -> Prepared:
        prepared = self._prepare(self._stored(file).data)
        assert prepared
        return prepared


def words(hashes: Sequence[str]) -> npt.NDArray[np.uint64]:
    """Returns hashes in hex digits as the searches compare them."""
    return np.frombuffer(bytes.fromhex("".join(hashes)), ">u8").astype(np.uint64).reshape(len(hashes), -1)


def distance(one: dict[str, npt.NDArray[Any]], other: dict[str, npt.NDArray[Any]], name: str) -> Floats:
    """Returns the cosine, or the bits that differ, of each of `one` and each of `other`."""
    if name == "cosine":
        return cosines(one[name], other[name])
    differ: Floats = np.round((1 - shares_of_equal_bits(one[name], other[name])) * 64 * one[name].shape[1])
    if name == "pdq":
        usable = [values["quality"] >= PdqSearch().pdq_quality for values in (one, other)]
        differ[~np.logical_and.outer(*usable)] = np.inf
    return differ


def near(found: dict[str, Floats], steps: Sequence[Step]) -> npt.NDArray[np.bool_]:
    """Returns whether any of the steps counts two pictures as duplicates."""
    by_any = np.zeros(found["cosine"].shape, np.bool_)
    for step in steps:
        by_all = np.ones(by_any.shape, np.bool_)
        for name, limit in step:
            by_all &= found[name] >= limit if name == "cosine" else found[name] <= limit
        by_any |= by_all
    return by_any


def counted(likeness: Likeness, steps: Sequence[Step]) -> tuple[npt.NDArray[np.int64], int]:
    """Returns the copies that the steps leave, by edit, and the number of pictures that they lose."""
    lost = near(likeness.pictures, steps).any(axis=1)
    return (~near(likeness.copies, steps)).sum(axis=0), int(lost.sum())


def candidates() -> dict[str, list[Step]]:
    """The steps to choose from, by kind; the best cosine may also be a lower one."""
    lower = [round(0.5 + 0.005 * step, 3) for step in range(80)]
    found: dict[str, list[Step]] = {"cosine": [(("cosine", above),) for above in lower + COSINES]}
    for name, bits in BITS.items():
        found[name] = [((name, within),) for within in bits]
        found[f"cosine and {name}"] = [(("cosine", above), (name, within)) for above in COSINES for within in bits]
    return found


def shipped() -> list[Step]:
    """Returns the steps of the recipe that drop near duplicates."""
    steps = [step.duplicates for step in load_recipe(RECIPE).select if step.duplicates]
    limits = [[(one.by, one.above, one.within) for one in step.each if one.by != "sha256"] for step in steps]
    return [
        tuple((by, within) if above is None else ("cosine", above) for by, above, within in each)
        for each in limits
        if each
    ]


def chosen(likeness: Likeness, steps: Sequence[Step]) -> Step:
    """Returns the step with the lowest sum of both shares; of several that with the fewest lost pictures."""
    copies, pictures = likeness.copies["cosine"].size, len(likeness.copies["cosine"])

    def cost(step: Step) -> tuple[float, int]:
        left, lost = counted(likeness, [step])
        return float(left.sum()) / copies + lost / pictures, lost

    return min(steps, key=cost)


def written(steps: Sequence[Step]) -> str:
    """Returns steps as text."""
    return ", or ".join(
        " and ".join(f"{name} ≥ {limit}" if name == "cosine" else f"{name} within {limit}" for name, limit in step)
        for step in steps
    )


def measured(name: str, likeness: Likeness) -> dict[str, Any]:
    """Prints the errors of the steps on the second half of a set, chosen on the first; returns them."""
    first, second = likeness.half(0), likeness.half(1)
    copies, pictures = second.copies["cosine"].size, len(second.copies["cosine"])
    print(f"\n{name}: {pictures} pictures, {copies} copies")
    measured_steps = {kind: [chosen(first, steps)] for kind, steps in candidates().items()}
    rows: dict[str, Any] = {}
    for kind, steps in {**measured_steps, "last shipped": shipped()[-1:], "shipped": shipped()}.items():
        left, lost = counted(second, steps)
        best = rows.get("cosine", {"left": int(left.sum()), "lost": lost})
        of_best = [ratio(int(left.sum()), best["left"]), ratio(lost, best["lost"])]
        by_edit = dict(zip(EDITS, left.tolist(), strict=True))
        rows[kind] = {
            "steps": written(steps),
            "left": int(left.sum()),
            "lost": lost,
            "of_best_cosine": of_best,
            "left_by_edit": by_edit,
        }
        print(f"  {written(steps):<60} left {left.sum():>4}  lost {lost:>3}  {by_edit}")
    for above in SINGLE:
        left, lost = counted(second, [(("cosine", above),)])
        print(f"  cosine ≥ {above:<51} left {left.sum():>4}  lost {lost:>3}")
    return {"pictures": pictures, "copies": copies, "steps": rows}


def ratio(error: int, of_best: int) -> float | None:
    """Returns an error ÷ that of the best cosine; None where that is 0."""
    return round(error / of_best, 3) if of_best else None


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures every set and prints the tables; the last line is one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--photos", type=Path, help="a folder of JPEG photographs")
    parser.add_argument("--scenes", type=int, default=200, help="drawn scenes, each with a look-alike (200)")
    parser.add_argument("--model", default="pocket", help="an open_clip model (pocket)")
    parser.add_argument("--pretrained", help="its tag, or a path to its weights")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(2)
    measuring = Measuring(load(asked.model, asked.pretrained, "fp32", torch.device("cpu")))
    sets = {"scenes": list(scenes(asked.scenes))}
    if asked.photos:
        sets |= {"photos": list(photos(asked.photos)), "halves": list(halves(asked.photos))}
    found = {name: measured(name, measuring.likeness(pictures)) for name, pictures in sets.items()}
    print(json.dumps({"model": asked.model, "sets": found}))


if __name__ == "__main__":
    main()
