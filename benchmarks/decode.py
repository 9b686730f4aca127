"""Measures how `embed.decode: fast` changes embeddings and clip_similarity, and how much time it saves.

    python benchmarks/decode.py --photos FOLDER [--captions captions.tsv] [--model NAME --pretrained WEIGHTS]

libjpeg decodes a JPEG at 1/2, 1/4 or 1/8 of its size for a fraction of the work. For each model, this script measures
how long the shorter side must stay, in multiples of the model's input, for embeddings and scores to stay the same for
all practical purposes, and how much the vectorised resize changes them. Sources:

- photos: photographs, encoded as fetch stores them (JPEG, quality 95);
- mosaics: 3 × 3 photos side by side, which are large and as sharp as photographs;
- scenes: the demo's drawings, 640 × 480, with their true captions: the kind of picture that the pocket model was
  trained on.

Models: the pocket model (trained, 64 pixels) and ViT-B-32 with random weights (224 pixels; it shows how much the input
changes, not how a trained model reacts). Every row compares with the decode at full size: cosine of the two image
embeddings (median, worst), shift of clip_similarity with the picture's own caption and with another picture's (median,
worst), the shift with the own caption in standard deviations of clip_similarity over the pictures, and Spearman's rank
correlation. The row `bf16` is the reference for these shifts: decoded at full size, with a forward pass in bfloat16.

Measured on two cores of an AMD EPYC, 140 photographs of ImageNet (most 500 × 375), Pillow 13 with libjpeg-turbo. Shift
of clip_similarity with the own caption (`own`), with another picture's (`other`), and with the own in standard
deviations; each as median and worst:

    model    source   decode    n  cosine             own              other            deviations     spearman
    pocket   photos   >= 1x    137  0.999325 0.990939  0.00209 0.03366  0.00227 0.02815  0.0355 0.5714  0.99544
    pocket   photos   >= 1.5x  129  0.999825 0.989456  0.00088 0.02371  0.00108 0.02371  0.0151 0.4076  0.99782
    pocket   photos   >= 2x    122  0.999855 0.989456  0.00080 0.02371  0.00097 0.02371  0.0137 0.4059  0.99818
    pocket   photos   >= 3x     23  0.999967 0.998575  0.00056 0.00966  0.00071 0.00696  0.0083 0.1425  1.00000
    pocket   photos   resize   140  1.000000 0.999997  0.00002 0.00019  0.00002 0.00019  0.0003 0.0032  0.99999
    pocket   photos   fast     140  1.000000 0.999997  0.00002 0.00019  0.00002 0.00019  0.0003 0.0032  0.99999
    pocket   photos   bf16     140  0.999981 0.999543  0.00038 0.00405  0.00043 0.00345  0.0065 0.0693  0.99981
    pocket   mosaics  >= 1x     60  0.999957 0.999827  0.00048 0.00475  0.00048 0.00316  0.0110 0.1087  0.99889
    pocket   mosaics  >= 3x     60  0.999989 0.999922  0.00025 0.00264  0.00024 0.00245  0.0057 0.0604  0.99917
    pocket   mosaics  kept      60  0.999993 0.999928  0.00022 0.00240  0.00017 0.00246  0.0050 0.0549  0.99956
    pocket   mosaics  resize    60  1.000000 1.000000  0.00001 0.00005  0.00001 0.00007  0.0002 0.0011  1.00000
    pocket   mosaics  fast      60  0.999993 0.999929  0.00022 0.00239  0.00017 0.00243  0.0050 0.0547  0.99967
    pocket   mosaics  bf16      60  0.999989 0.999957  0.00030 0.00163  0.00028 0.00134  0.0069 0.0373  0.99972
    pocket   scenes   >= 1x    100  0.999982 0.999752  0.00033 0.00579  0.00087 0.00598  0.0054 0.0945  0.99964
    pocket   scenes   >= 2x    100  0.999996 0.999972  0.00015 0.00119  0.00032 0.00194  0.0024 0.0194  0.99984
    pocket   scenes   resize   100  1.000000 0.999999  0.00001 0.00023  0.00002 0.00020  0.0002 0.0038  1.00000
    pocket   scenes   fast     100  1.000000 0.999999  0.00001 0.00023  0.00002 0.00020  0.0002 0.0038  1.00000
    pocket   scenes   bf16     100  0.999993 0.999968  0.00026 0.00122  0.00049 0.00187  0.0042 0.0199  0.99986
    random   photos   >= 1x     16  0.999953 0.999249  0.00016 0.00177  0.00023 0.00181  0.0089 0.0983  1.00000
    random   photos   resize   140  1.000000 1.000000  0.00001 0.00006  0.00001 0.00004  0.0006 0.0033  1.00000
    random   photos   fast     140  1.000000 1.000000  0.00001 0.00006  0.00001 0.00004  0.0006 0.0033  1.00000
    random   photos   bf16     140  0.999958 0.999946  0.00034 0.00127  0.00030 0.00126  0.0188 0.0701  0.99936
    random   mosaics  >= 1x     60  0.999928 0.999891  0.00036 0.00117  0.00038 0.00104  0.0203 0.0661  0.99894
    random   mosaics  >= 1.5x   60  0.999993 0.999987  0.00012 0.00044  0.00012 0.00047  0.0068 0.0248  0.99978
    random   mosaics  resize    60  1.000000 1.000000  0.00000 0.00002  0.00000 0.00002  0.0000 0.0011  1.00000
    random   mosaics  fast      60  0.999993 0.999987  0.00011 0.00044  0.00012 0.00047  0.0062 0.0248  0.99983
    random   mosaics  bf16      60  0.999955 0.999939  0.00023 0.00092  0.00022 0.00097  0.0130 0.0519  0.99917
    random   scenes   >= 1x    100  0.999993 0.999928  0.00008 0.00088  0.00010 0.00062  0.0030 0.0330  0.99993
    random   scenes   resize   100  1.000000 0.999997  0.00000 0.00004  0.00000 0.00002  0.0000 0.0015  1.00000
    random   scenes   fast     100  1.000000 0.999997  0.00000 0.00004  0.00000 0.00002  0.0000 0.0015  1.00000
    random   scenes   bf16     100  0.999960 0.999951  0.00031 0.00126  0.00030 0.00099  0.0116 0.0473  0.99959

(n: number of pictures compared, in the rows `>=` only those that were decoded reduced; a row that reduces the same
pictures as the row above is left out. `kept` is the reduced decode of `fast`, `resize` its vectorised resize, `fast`
both.)

Milliseconds per picture in one thread, for the decode + for the exact resize and crop to 224 (for the vectorised one):
photos 1.1 + 2.5 (0.5); scenes 0.9 + 3.5 (0.7); mosaics at full size 7.7 + 10.1 (1.3), at 1/2 6.7 + 3.5 (0.65), at 1/4
6.1 + 1.4 (0.4).

Conclusions. The vectorised resize shifts scores less than bf16 does. A decode reduced to twice a model's size shifts
them more, on photographs unlike the model's training data: one of 122 shifts by 0.024, six times the worst of bf16.
`fast` therefore keeps twice the model's size, and at least 448 pixels. The worst shift of clip_similarity is then
0.0024 (mosaics), below that of bf16 on photographs. Pictures that fetch stores by default are too small to be reduced
at all; their worst shift is 0.0002. No trained model of 224 pixels was available here; `--model` measures another one.
"""

import argparse
import csv
import io
import json
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import open_clip
import torch
from PIL import Image

from curate.decoding.images import REDUCED, decode
from curate.demo.captions import caption
from curate.demo.scenes import draw_scene, sample_scene
from curate.embed.model.loading import load
from curate.embed.model.towers import Model

QUALITY = 95
MOSAICS = 60
SCENES = 100
MULTIPLES = (1.0, 1.5, 2.0, 3.0)
KEPT = 2
"""`fast` keeps this many times the model's size, and at least REDUCED pixels (curate/embed/decode/prepare.py)."""
Floats = npt.NDArray[np.float32]
Pictures = list[tuple[bytes, str]]
"""For each picture, the bytes of a JPEG and a caption."""


def main() -> None:
    """Measures and prints tables; the last line is one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--photos", type=Path, required=True, help="a folder of JPEG photographs")
    parser.add_argument("--captions", type=Path, help="a tsv with the columns file and caption")
    parser.add_argument("--model", help="an open_clip model of your own, with --pretrained, instead of the two")
    parser.add_argument("--pretrained", help="its tag, or a path to its weights")
    parser.add_argument("--rounds", type=int, default=3, help="of timing, the best counts (3)")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    sources = {"photos": photos(arguments.photos, arguments.captions)}
    sources["mosaics"] = mosaics(sources["photos"])
    sources["scenes"] = scenes()
    cpu = torch.device("cpu")
    if name := arguments.model:
        models = {name: both(lambda precision: load(name, arguments.pretrained, precision, cpu))}
    else:
        models = {
            "pocket": both(lambda precision: load("pocket", None, precision, cpu)),
            "ViT-B-32 random": both(random_model),
        }
    result: dict[str, Any] = {"shifts": [], "milliseconds": []}
    for name, (exact, half) in models.items():
        for source, pictures in sources.items():
            for row in shifts(exact, half, pictures):
                result["shifts"].append({"model": name, "source": source, **row})
                print(name, source, json.dumps(row))
    for source, pictures in sources.items():
        for row in timings(exact, pictures, arguments.rounds):
            result["milliseconds"].append({"source": source, **row})
            print(source, json.dumps(row))
    print(json.dumps(result))


def both(load_in: Callable[[str], Model]) -> tuple[Model, Model]:
    """Returns a model in float32 and in bfloat16."""
    return load_in("fp32"), load_in("bf16")


def photos(folder: Path, captions: Path | None) -> Pictures:
    """Returns the photographs as fetch would store them, with their captions, or their names where there are none."""
    said = {}
    if captions:
        with captions.open(newline="") as opened:
            said = {row["file"]: row["caption"] for row in csv.DictReader(opened, delimiter="\t")}
    found = []
    for path in sorted(folder.glob("*.jpg")):
        with Image.open(path) as image:
            found.append((stored(image.convert("RGB")), said.get(path.name, path.stem.replace("_", " "))))
    return found


def mosaics(singles: Pictures) -> Pictures:
    """Returns mosaics of 3 × 3 photographs cut to 400 × 400, with the caption of the one in the middle."""
    rng = random.Random(0)
    large = [(data, text) for data, text in singles if min(Image.open(io.BytesIO(data)).size) >= 300]
    found = []
    for _ in range(MOSAICS):
        chosen = rng.sample(large, 9)
        canvas = Image.new("RGB", (1200, 1200))
        for place, (data, _text) in enumerate(chosen):
            tile: Image.Image = decoded(data, None)
            left, top = ((side - 400) // 2 for side in tile.size)
            tile = tile.crop((left, top, left + 400, top + 400))
            canvas.paste(tile, (400 * (place % 3), 400 * (place // 3)))
        found.append((stored(canvas), chosen[4][1]))
    return found


def scenes() -> Pictures:
    """Returns drawings of the demo with true captions."""
    rng = random.Random(1)
    found = []
    for _ in range(SCENES):
        scene = sample_scene(rng)
        found.append((stored(draw_scene(scene, (640, 480))), caption(scene, rng)))
    return found


def stored(image: Image.Image) -> bytes:
    """Encodes a picture as fetch stores it by default."""
    sink = io.BytesIO()
    image.save(sink, "JPEG", quality=QUALITY)
    return sink.getvalue()


def random_model(precision: str) -> Model:
    """Returns ViT-B-32 with random weights, the same in both precisions."""
    torch.manual_seed(0)
    clip = open_clip.create_model("ViT-B-32", pretrained_image=False)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "weights.pt"
        torch.save(clip.state_dict(), path)
        return load("ViT-B-32", str(path), precision, torch.device("cpu"))


def decoded(data: bytes, shorter_side: int | None) -> Image.Image:
    """Decodes a picture as Curate does; every picture here can be decoded."""
    image = decode(data, shorter_side)
    assert image
    return image


def embedded(model: Model, images: Sequence[Image.Image], *, exact: bool = True) -> Floats:
    """Embeds pictures; returns float32[n, dim], L2-normalised."""
    prepared = [model.preprocess(image, exact=exact) for image in images]
    rows = [model.encode_images(prepared[at : at + 32], 32).float().numpy() for at in range(0, len(prepared), 32)]
    return np.concatenate(rows)


def shifts(exact: Model, half: Model, pictures: Pictures) -> list[dict[str, Any]]:
    """Returns one row of figures for each multiple of the model's size, and one for bfloat16."""
    whole = [decoded(data, None) for data, _ in pictures]
    text = exact.encode_captions([said for _, said in pictures], 32)
    reference = embedded(exact, whole)
    rows = []
    sides = {f">= {multiple:g}x": round(multiple * exact.image_side) for multiple in MULTIPLES}
    sides["kept"] = max(REDUCED, KEPT * exact.image_side)
    for name, side in sides.items():
        reduced = [decoded(data, side) for data, _ in pictures]
        chosen = [n for n, image in enumerate(reduced) if image.size != whole[n].size]
        if len(chosen) < 10:
            continue
        other = embedded(exact, [reduced[n] for n in chosen])
        rows.append({"decode": name, **compared(reference[chosen], other, text[chosen])})
    rows.append({"decode": "resize", **compared(reference, embedded(exact, whole, exact=False), text)})
    fast = [decoded(data, sides["kept"]) for data, _ in pictures]
    rows.append({"decode": "fast", **compared(reference, embedded(exact, fast, exact=False), text)})
    rows.append({"decode": "bf16", **compared(reference, embedded(half, whole), text)})
    return rows


def compared(a: Floats, b: Floats, text: Floats) -> dict[str, Any]:
    """Returns how far embeddings `b` of pictures are from `a`, by themselves and in their scores with captions."""
    found: dict[str, Any] = {"pictures": len(a)}
    cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    found["cosine"] = [round(float(np.median(cosines)), 6), round(float(cosines.min()), 6)]
    for name, captions in (("own", text), ("other", np.roll(text, 1, axis=0))):
        before, after = (a * captions).sum(1), (b * captions).sum(1)
        shift = abs(after - before)
        found[name] = [round(float(np.median(shift)), 5), round(float(shift.max()), 5)]
        if name == "own":
            found["in_deviations"] = [round(value / float(before.std()), 4) for value in found[name]]
            found["spearman"] = round(float(np.corrcoef(ranks(before), ranks(after))[0, 1]), 5)
    return found


def ranks(values: Floats) -> npt.NDArray[np.float64]:
    """Returns each value's rank among all values."""
    return np.argsort(np.argsort(values)).astype(np.float64)


def timings(model: Model, pictures: Pictures, rounds: int) -> list[dict[str, Any]]:
    """Returns the milliseconds per picture in one thread of decoding and of the model's resize and crop."""
    sides: list[int | None] = [None, *(round(multiple * model.image_side) for multiple in MULTIPLES)]
    sizes = [decoded(data, None).size for data, _ in pictures]
    rows = []
    for side in sides:
        images = [decoded(data, side) for data, _ in pictures]

        def decode_all(side: int | None = side) -> None:
            for data, _ in pictures:
                decoded(data, side)

        def prepare_all(images: list[Image.Image] = images, *, exact: bool = True) -> None:
            for image in images:
                model.preprocess(image, exact=exact)

        rows.append(
            {
                "shorter_side_at_least": side,
                "reduced": sum(image.size != size for image, size in zip(images, sizes, strict=True)),
                "decode": best(decode_all, rounds, len(pictures)),
                "prepare": best(prepare_all, rounds, len(pictures)),
                "vectorised": best(partial(prepare_all, exact=False), rounds, len(pictures)),
            }
        )
    return rows


def best(work: Callable[[], None], rounds: int, count: int) -> float:
    """Returns the milliseconds per picture in the fastest of some rounds."""
    took = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        took.append(time.perf_counter() - start)
    return round(min(took) / count * 1000, 3)


if __name__ == "__main__":
    main()
