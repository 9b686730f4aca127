"""The known kinds of pixel scorers, and the scorers of a recipe."""

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
    """Yields every scorer of a recipe's section `pixels`, which has a mapping from names to keys for each kind."""
    for kind in KINDS.values():
        for name, keys in getattr(pixels, kind.name).items():
            where = f"pixels.{kind.name}.{name}"
            yield PixelScorer(f"{kind.prefix}_{name}", where, kind, keys, KINDS.package(kind.name), {})


def opened(name: str, settings: Mapping[str, Any]) -> PixelScorer:
    """Returns a scorer in a worker, from its `settings`.

    Raises:
        RecipeError: no kind has that name, or the package that provides it is not installed here.
    """
    kind = KINDS.find(settings["kind"])
    keys = kind.keys.model_validate(settings["keys"])
    return PixelScorer(name, f"pixels ({name})", kind, keys, None, settings["learned"])
