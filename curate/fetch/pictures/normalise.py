"""Turns received bytes into the stored picture: sRGB or greyscale, 8 bits, upright, resized, without metadata.

    picture = Normaliser(settings)(received)

File type, size, amount of metadata and a JPEG's number of scans are checked before anything is decoded. Then one frame
is decoded, its colour profile converted to sRGB, alpha composited on white, 16 bits scaled to 8, and the orientation
applied. The result is resized and encoded without metadata. A plain JPEG that none of this would change keeps its
bytes, once a decode has read all of them. So every later reader sees the same picture.

The result depends on the bytes and the settings alone.
"""

import functools
import io
import math

from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageCms,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    WebPImagePlugin,
    features,
)

from curate import jpeg
from curate.decoding import limits, metadata
from curate.decoding.broken import BROKEN
from curate.fetch.pictures import sniff
from curate.fetch.pictures.picture import Picture, Refused
from curate.fetch.pictures.resize import Geometry, Size, geometry
from curate.fetch.settings import Settings

DRAFT = 1.25
"""A JPEG is decoded at the smallest of 1/2, 1/4 and 1/8 that leaves at least DRAFT times the target's pixels per side;
the remaining reduction averages pixels. On pictures of 500 to 3,000 pixels that become 512, the mean difference to
averaging all pixels is 1.0 (photographs) to 1.3 (noise of many scales) of 255. With DRAFT = 1.5 it would be 0.8 to 1.05
and take 15 % longer, with 1 it would be 1.4 to 1.75 and take 12 % less."""

PNG_LEVEL = 6
"""zlib's level for stored PNG."""

_MAX_SIDE = {"jpg": 65500, "webp": 16383, "png": 2**31 - 1}
_PILLOW_FORMAT = {"jpg": "JPEG", "webp": "WEBP", "png": "PNG"}
_MAX_PROFILE = 4 << 20

# Pillow's plugin classes are used instead of Image.open, which would compare sizes to a process-wide limit, warn, and
# try any of forty decoders.
_DECODERS: dict[str, type[ImageFile.ImageFile]] = {
    "jpeg": JpegImagePlugin.JpegImageFile,
    "png": PngImagePlugin.PngImageFile,
    "gif": GifImagePlugin.GifImageFile,
    "webp": WebPImagePlugin.WebPImageFile,
    "bmp": BmpImagePlugin.BmpImageFile,
}
if features.check("avif"):
    from PIL import AvifImagePlugin

    _DECODERS["avif"] = AvifImagePlugin.AvifImageFile

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Normaliser:
    """Turns received bytes into stored ones.

    Args:
        settings: size, resize mode, format, quality and the limit on pixels.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def __call__(self, data: bytes) -> Picture:
        """Normalises one image.

        Raises:
            Refused: class not_an_image, too_large or undecodable.
        """
        kind = sniff.kind(data)
        if kind is None or kind not in _DECODERS:
            raise Refused("not_an_image", sniff.what_else(data) if kind is None else f"{kind} is not supported")
        size = sniff.declared_size(data, kind)
        self._bounded(size)
        # Pillow's WebP decoder allocates memory for its pixels while opening.
        limits.allow(math.prod(size or ()))
        if too_much := metadata.excess(data):
            raise Refused("too_large", too_much)
        try:
            return self._normalised(data, kind)
        except Image.DecompressionBombError as error:
            raise Refused("too_large", "more pixels than its header declares") from error
        except BROKEN as error:
            raise Refused("undecodable", str(error) or type(error).__name__) from error

    def _normalised(self, data: bytes, kind: str) -> Picture:
        image = _DECODERS[kind](io.BytesIO(data))
        self._bounded(image.size)
        limits.allow(math.prod(image.size))
        # One call for all bytes: otherwise Pillow feeds decoders in blocks and takes the GIL between blocks.
        image.decodermaxblock = max(len(data), ImageFile.MAXBLOCK)
        scans = 0
        if kind == "jpeg":
            scans = self._counted_scans(data, image.size)
        else:
            image.load()  # a PNG may state its orientation after the pixels
        turn = sniff.orientation(image.info.get("exif", b""))
        upright = (image.height, image.width) if turn in (5, 6, 7, 8) else image.size
        plan = geometry(
            upright,
            self._settings.resize,
            self._settings.image_size,
            only_if_bigger=self._settings.only_if_bigger,
        )
        self._bounded(plan.scaled)
        self._bounded(plan.final)
        limits.allow(math.prod(image.size) + math.prod(plan.scaled) + math.prod(plan.final))
        if max(plan.final) > _MAX_SIDE[self._settings.format]:
            raise Refused("too_large", f"a side of {max(plan.final)} pixels is too long for {self._settings.format}")
        if kind == "jpeg" and turn == 1 and plan.final == upright and self._is_plain(image, data, scans):
            # Decoded at 1/8 of its size, which is fast and still reads all bytes, so a broken stream raises.
            image.draft(None, (1, 1))
            image.load()
            return Picture(data, *plan.final, *upright)
        # Scaled before it is rotated: both orders give the same pixels, this one rotates fewer.
        scaled = plan.scaled[::-1] if turn in (5, 6, 7, 8) else plan.scaled
        drawn = _scaled(image, (scaled[0], scaled[1]))
        if turn != 1:
            drawn = drawn.transpose(_TURNS[turn])
        return Picture(self._encoded(_fitted(drawn, plan)), *plan.final, *upright)

    def _bounded(self, size: Size | None) -> None:
        if size is not None and size[0] * size[1] > self._settings.max_pixels:
            raise Refused("too_large", f"{size[0]} × {size[1]} pixels")
        if size is not None and 0 in size:
            raise Refused("undecodable", "no pixels")

    def _counted_scans(self, data: bytes, size: Size) -> int:
        """Returns the number of scans of a JPEG.

        Raises Refused of class too_large where there are more than its size allows, as scans cost like pixels.
        """
        scans, pixels = jpeg.count_scans(data), size[0] * size[1]
        allowed = jpeg.allowed_scans(pixels, self._settings.max_pixels)
        if scans > allowed:
            raise Refused("too_large", f"more than {allowed} scans of {pixels:,} pixels")
        return scans

    def _is_plain(self, image: Image.Image, data: bytes, scans: int) -> bool:
        """Returns whether a JPEG can be stored unchanged: nothing to convert, and little metadata beside its pixels."""
        profile = image.info.get("icc_profile")
        return (
            self._settings.format == "jpg"
            and image.mode in ("L", "RGB")
            and (not profile or _is_srgb(profile))
            and scans <= jpeg.USUAL_SCANS
            and len(data) <= 3 * image.width * image.height
            and sniff.plain_jpeg(data)
        )

    def _encoded(self, image: Image.Image) -> bytes:
        image.info = {}  # else comments, profiles and transparency would be stored too
        sink = io.BytesIO()
        if self._settings.format == "png":
            image.save(sink, "PNG", compress_level=PNG_LEVEL)
        else:
            image.save(sink, _PILLOW_FORMAT[self._settings.format], quality=self._settings.quality)
        return sink.getvalue()


def _scaled(image: Image.Image, size: Size) -> Image.Image:
    """Decodes a picture to sRGB on white, scaled to `size`; a reduction averages areas."""
    full = image.size
    box: tuple[float, float, float, float] | None = None
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        drafted = image.draft(None, (round(size[0] * DRAFT), round(size[1] * DRAFT)))
        box = drafted[1] if drafted else None
    image.load()
    drawn = _to_srgb(image)
    if drawn.size == size and box is None:
        return drawn
    if size[0] > full[0] or size[1] > full[1]:
        filtering = Image.Resampling.LANCZOS
    elif drawn.size == full:
        filtering = Image.Resampling.BOX
    else:
        # A reduced decode has averaged pixels already; averaging its few pixels again would double the error.
        filtering = Image.Resampling.HAMMING
    return drawn.resize(size, filtering, box=box)


def _fitted(image: Image.Image, plan: Geometry) -> Image.Image:
    """Crops or pads a scaled picture around its centre to `plan.final`."""
    if plan.final == plan.scaled:
        return image
    width, height = plan.final
    left, top = (image.width - width) // 2, (image.height - height) // 2
    if left >= 0 and top >= 0:
        return image.crop((left, top, left + width, top + height))
    padded = Image.new(image.mode, plan.final, "white")
    padded.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
    return padded


def _to_srgb(image: Image.Image) -> Image.Image:
    """Converts a loaded picture to 8-bit sRGB or greyscale, alpha composited on white."""
    profile = image.info.get("icc_profile")
    if image.mode == "1":
        image = image.convert("L")
    if image.mode.startswith("I"):
        image = _eight_bits(image)
    if image.mode in ("RGB", "L", "CMYK") and "transparency" not in image.info:
        return _coloured(image, profile)
    if not image.has_transparency_data:
        return _coloured(image.convert("RGB"), profile)
    layered = image.convert("RGBA")
    alpha = layered.getchannel("A")
    opaque = _coloured(layered.convert("RGB"), profile)
    if alpha.getextrema() == (255, 255):
        return opaque
    canvas = Image.new("RGB", opaque.size, "white")
    canvas.paste(opaque, mask=alpha)
    return canvas


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scales 16-bit greyscale to 8 bits; its transparent value (tRNS) becomes white."""
    # Imported here: only 16-bit pictures need it, and it doubles the start of a decoding process.
    import numpy as np

    values = np.asarray(image).astype(np.uint32)
    grey = ((values * 255 + 32767) // 65535).astype(np.uint8)
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        grey[values == clear] = 255
    return Image.fromarray(grey)


def _coloured(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Converts RGB, CMYK or greyscale to sRGB; a colour profile that is broken or of another mode is ignored."""
    if profile and len(profile) <= _MAX_PROFILE:
        transform = _transform(profile, image.mode)
        if transform is not None:
            coloured = ImageCms.applyTransform(image, transform)
            assert coloured is not None
            return coloured.convert("L") if image.mode == "L" else coloured
    return image.convert("RGB") if image.mode == "CMYK" else image


@functools.lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Returns the transform from a profile to sRGB, or None where none is needed or the profile is not usable."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if _describes_srgb(source) and mode == "RGB":
            return None
        if {"RGB": "RGB ", "L": "GRAY", "CMYK": "CMYK"}[mode] != f"{source.profile.xcolor_space:<4}":
            return None
        return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, *BROKEN):
        return None


@functools.lru_cache(maxsize=16)
def _is_srgb(profile: bytes) -> bool:
    """Returns whether a profile's description says that it is sRGB."""
    try:
        return _describes_srgb(ImageCms.ImageCmsProfile(io.BytesIO(profile)))
    except (ImageCms.PyCMSError, *BROKEN):
        return False


def _describes_srgb(profile: ImageCms.ImageCmsProfile) -> bool:
    return (profile.profile.profile_description or "").startswith("sRGB")
