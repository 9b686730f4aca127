"""Pictures and settings for the tests of fetching."""

import io
from typing import Any

import numpy as np
from PIL import Image

from curate.fetch.settings import Settings


def settings(**changes: Any) -> Settings:
    return Settings.of(section(**changes))


def section(**changes: Any) -> dict[str, Any]:
    return {
        "image_size": 128,
        "resize": "keep_ratio_largest",
        "only_if_bigger": True,
        "format": "jpg",
        "quality": 95,
        "timeout": 1.0,
        "max_bytes": 400_000,
        "max_pixels": 4_000_000,
        "max_redirects": 3,
        "agent": "curate-test/1 (+mailto:tests@example.org)",
        "agent_token": "curate",
        "allow": [],
        "processes": 1,
        "threads": 8,
        "robots": False,
        "noml": True,
        "content_usage": True,
        "c2pa": True,
        "tdmrep": False,
        "blocklists": [],
        "blocked": "",
        "phash_blocklists": [],
        "phash_within": 4,
        "blocked_phash": "",
        "changed": "drop",
        "expects": [],
        "endpoint": None,
        "host_connections": 64,
        "host_rate": None,
        "host_failures": 1000,
        "retries": 0,
        "min_speed": 0,
        "part_timeout": 600.0,
        "waiting_bytes": 100_000_000,
        **changes,
    }


def drawing(width: int = 96, height: int = 64, seed: int = 0) -> Image.Image:
    """A smooth picture with a different colour in each corner, so that turns and mix-ups show."""
    rng = np.random.default_rng(seed)
    corners = rng.integers(20, 236, (2, 2, 3)).astype(np.uint8)
    return Image.fromarray(corners).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def with_scans(image: Image.Image, scans: int, **options: Any) -> bytes:
    """A valid progressive JPEG of so many scans, 10 or more, of which those behind the tenth are a head and no data."""
    data = encoded(image, progressive=True, **options)
    last = data.rindex(b"\xff\xda")
    length = 2 + int.from_bytes(data[last + 2 : last + 4])
    return data[:-2] + data[last : last + length] * (scans - data.count(b"\xff\xda")) + b"\xff\xd9"


def decoded(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def difference(one: Image.Image, other: Image.Image) -> float:
    """The mean difference of two pictures' RGB values, of 255."""
    assert one.size == other.size
    pair = [np.asarray(image.convert("RGB")).astype(float) for image in (one, other)]
    return float(np.abs(pair[0] - pair[1]).mean())


def picture(number: int) -> bytes:
    """A grey JPEG, another one for every number."""
    sink = io.BytesIO()
    Image.linear_gradient("L").rotate(number * 7).resize((90 + number, 80)).save(sink, "JPEG", quality=90)
    return sink.getvalue()
