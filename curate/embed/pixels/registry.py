"""The kinds of pixel scorers that there are, and the scorers that a recipe asks for."""

from collections.abc import Iterator, Mapping
from typing import Any

from curate.embed.pixels.contract import PixelKind, PixelScorer
from curate.registry import Registry

KINDS: Registry[PixelKind] = Registry(
    "pixel scorer",
    PixelKind,
    group="curate.pixels",
)


def scorers(pixels: Any) -> Iterator[PixelScorer]:
    """Every scorer that a recipe's section `pixels` asks for: a field for each kind, from names to keys."""
    for kind in KINDS.values():
        for name, keys in getattr(pixels, kind.name).items():
            where = f"pixels.{kind.name}.{name}"
            yield PixelScorer(f"{kind.prefix}_{name}", where, kind, keys, KINDS.package(kind.name), {})


def opened(name: str, settings: Mapping[str, Any]) -> PixelScorer:
    """A scorer in a worker, from its `settings`.

    Raises:
        RecipeError: there is no kind of that name; the package that brings it is not installed here.
    """
    kind = KINDS.find(settings["kind"])
    keys = kind.keys.model_validate(settings["keys"])
    return PixelScorer(name, f"pixels ({name})", kind, keys, None, settings["learned"])
