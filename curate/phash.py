"""The 64-bit perceptual hash of a stored picture: the column `phash`, also compared with `fetch.phash_blocklists`.

Pictures that look alike have hashes that differ in few bits.
"""

import numpy as np
import numpy.typing as npt
from PIL import Image

from curate.decoding.images import REDUCED, decode

BITS = 64
DIGITS = BITS // 4
"""The length of a hash in hex digits."""

_SIDE = 32


def of_stored(data: bytes) -> str | None:
    """Returns the hash of a stored picture, in 16 hex digits; None where it cannot be decoded."""
    picture = decode(data, REDUCED)
    return None if picture is None else perceptual_hashes(thumbnail(reduced(picture).convert("L"))[None])[0]


def reduced(image: Image.Image) -> Image.Image:
    """Returns in RGB the picture that `decode` returned for a shorter side of REDUCED.

    Where its shorter side is at least twice as long (a large PNG), it is shrunk by a whole factor. So the hash depends
    on the stored picture alone, and the work is bounded.
    """
    return shrunk(image if image.mode == "RGB" else image.convert("RGB"), REDUCED)


def shrunk(image: Image.Image, shorter_side: int) -> Image.Image:
    """Averages boxes of pixels by the largest whole factor that leaves the shorter side at least this long."""
    factor = min(image.size) // shorter_side
    return image.reduce(factor) if factor > 1 else image


def thumbnail(luma: Image.Image) -> npt.NDArray[np.uint8]:
    """Returns a picture's luma at 32 × 32 pixels, uint8[32, 32], from which its hash is computed."""
    return np.asarray(luma.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS))


def perceptual_hashes(thumbnails: npt.NDArray[np.uint8]) -> list[str]:
    """Computes 64-bit DCT hashes, equal to those of `imagehash.phash`.

    Each of the 8 × 8 lowest frequencies gives one bit: whether it is above their median.

    Args:
        thumbnails: uint8[n, 32, 32], luma.

    Returns:
        n strings of 16 hex digits.
    """
    place, frequency = np.arange(_SIDE), np.arange(8)
    basis = 2 * np.cos(np.pi * np.outer(frequency, 2 * place + 1) / (2 * _SIDE))
    low = basis @ thumbnails.astype(np.float64) @ basis.T
    # Thumbnails hold whole numbers, so digits beyond the sixth are rounding errors, which must not decide bits.
    low = np.round(low, 6).reshape(len(thumbnails), BITS)
    bits = low > np.median(low, axis=1, keepdims=True)
    return [packed.tobytes().hex() for packed in np.packbits(bits, axis=1)]
