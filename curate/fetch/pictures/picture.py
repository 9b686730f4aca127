"""The result of normalising received bytes: a picture, or why they are not stored. Imports nothing else of Curate."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Picture:
    """A picture as it is stored; the original size is that of the received picture with its orientation applied.

    `phash` is the perceptual hash of `data` (`curate.phash`), None where it is not needed.
    """

    data: bytes
    width: int
    height: int
    original_width: int
    original_height: int
    phash: str | None = None


class Refused(Exception):
    """Bytes that are not stored as a picture; the text says why.

    Args:
        error_class: one of REFUSALS.
        message: the reason, which may contain text of the file.
    """

    def __init__(self, error_class: str, message: str) -> None:
        assert error_class in REFUSALS, error_class
        super().__init__(message)
        self.error_class = error_class


REFUSALS = frozenset({"not_an_image", "too_large", "undecodable"})
"""The error classes (`schema.ERROR_CLASSES`) of bytes that are not stored."""
