"""The geometry of the recipe's `resize`: img2dataset's modes, with its rounding."""

from dataclasses import dataclass

Size = tuple[int, int]


@dataclass(frozen=True)
class Geometry:
    """What is done to a picture: scaled to `scaled`, then cropped or padded around its centre to `final`."""

    scaled: Size
    final: Size


def geometry(size: Size, mode: str, target: int, *, only_if_bigger: bool) -> Geometry:
    """The geometry for a picture of this (width, height).

    keep_ratio and center_crop go by the shorter side, keep_ratio_largest and border by the longer one. With
    `only_if_bigger` a picture whose side is not longer than `target` is left alone: not scaled, not cropped,
    not padded.
    """
    side = min(size) if mode in ("keep_ratio", "center_crop") else max(size)
    if mode == "no" or (only_if_bigger and side <= target):
        return Geometry(size, size)
    scale = target / side
    scaled = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
    return Geometry(scaled, (target, target) if mode in ("center_crop", "border") else scaled)
