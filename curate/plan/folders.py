"""Reads samples from a folder of images with captions next to them.

Files that differ only in their last suffix form a sample: `cats/1.jpg`, `cats/1.txt`, `cats/1.json`.
"""

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from curate.plan.formats.contract import readable
from curate.plan.places import AT_ONCE, LooseFile, Place
from curate.plan.shards import IMAGES, MAX_TEXT, Sample, take

_CHUNK = 1024


def samples(place: Place) -> Iterator[Sample]:
    """The samples of a folder, ordered by key; captions and jsons without an image are left out.

    Raises:
        SourceError: a file cannot be read.
    """
    with ThreadPoolExecutor(AT_ONCE) as pool:
        groups = _groups(place)
        while chunk := list(itertools.islice(groups, _CHUNK)):
            yield from pool.map(lambda group: _read(place, *group), chunk)


def left_out(place: Place) -> int:
    """The number of captions and jsons in a folder that have no image of the same name."""
    with_image = {_parts(file.name)[0] for file in place.files or () if _parts(file.name)[1] in IMAGES}
    return sum(_parts(file.name)[0] not in with_image for file in place.files or ())


def _groups(place: Place) -> Iterator[tuple[str, list[LooseFile]]]:
    files = sorted(place.files or (), key=lambda file: (_parts(file.name)[0], file.name))
    for key, group in itertools.groupby(files, lambda file: _parts(file.name)[0]):
        found = list(group)
        if any(_parts(file.name)[1] in IMAGES for file in found):
            yield key, found


def _parts(name: str) -> tuple[str, str]:
    stem, _, suffix = name.rpartition(".")
    return stem, suffix.lower()


def _read(place: Place, key: str, files: list[LooseFile]) -> Sample:
    sample = Sample(key)
    for file in files:
        suffix = _parts(file.name)[1]
        sample.members.append(suffix)
        if suffix in IMAGES:
            sample.images.append((file.name, 0, file.bytes))
            continue
        data = None
        if file.bytes <= MAX_TEXT:
            with readable(place.path):
                data = place.store.read(file.name)
        if data is not None and suffix == "txt":
            # Some editors write a byte order mark at the start and a line end at the end of a file.
            data = data.removeprefix(b"\xef\xbb\xbf").removesuffix(b"\n").removesuffix(b"\r")
        take(sample, suffix, data)
    return sample
