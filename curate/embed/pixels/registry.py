"""The known kinds of pixel scorers, and the scorers of a recipe."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from curate.embed.pixels.contract import PixelKind, PixelScorer
from curate.registry import Registry

KINDS: Registry[PixelKind] = Registry(
    "pixel scorer",
    PixelKind,
    package="curate.embed.pixels.kinds",
    attribute="KIND",
    group="curate.pixels",
)


def scorers(pixels: Any, read: Iterable[str] | None = None) -> Iterator[PixelScorer]:
    """Yields the scorers of a recipe.

    Args:
        pixels: the recipe's section, which has a mapping from names to keys for each kind that has keys.
        read: the columns that the recipe's steps read: of the kinds without keys, those with one of these columns are
            yielded. None: all kinds without keys.
    """
    wanted = None if read is None else set(read)
    for kind in KINDS.values():
        if kind.keys is None:
            scorer = PixelScorer(kind.prefix, kind.name, kind, None, KINDS.package(kind.name), {})
            if wanted is None or not wanted.isdisjoint(scorer.columns):
                yield scorer
            continue
        for name, keys in getattr(pixels, kind.name).items():
            where = f"pixels.{kind.name}.{name}"
            yield PixelScorer(f"{kind.prefix}_{name}", where, kind, keys, KINDS.package(kind.name), {})


def opened(name: str, settings: Mapping[str, Any]) -> PixelScorer:
    """Returns a scorer in a worker, from its `settings`.

    Raises:
        RecipeError: no kind has that name, or the package that provides it is not installed here.
    """
    kind = KINDS.find(settings["kind"])
    keys = None if kind.keys is None else kind.keys.model_validate(settings["keys"])
    return PixelScorer(name, f"pixels ({name})", kind, keys, None, settings["learned"])
