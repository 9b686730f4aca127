"""The geometry of the recipe's `resize`: img2dataset's modes, with its rounding."""

from dataclasses import dataclass

Size = tuple[int, int]


@dataclass(frozen=True)
class Geometry:
    """The sizes of a resize: a picture is scaled to `scaled`, then cropped or padded around its centre to `final`."""

    scaled: Size
    final: Size


def geometry(size: Size, mode: str, target: int, *, only_if_bigger: bool) -> Geometry:
    """Returns the geometry for a picture of this (width, height) in pixels.

    keep_ratio and center_crop scale the shorter side to `target`, keep_ratio_largest and border the longer one. With
    `only_if_bigger`, a picture whose side is not longer than `target` is not scaled, cropped or padded.
    """
    side = min(size) if mode in ("keep_ratio", "center_crop") else max(size)
    if mode == "no" or (only_if_bigger and side <= target):
        return Geometry(size, size)
    scale = target / side
    scaled = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
    return Geometry(scaled, (target, target) if mode in ("center_crop", "border") else scaled)
