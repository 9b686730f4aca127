"""The registry of result layouts."""

from collections.abc import Sequence

from curate.pack.layouts.contract import ResultLayout
from curate.registry import Registry

LAYOUTS: Registry[ResultLayout] = Registry(
    "result layout",
    ResultLayout,  # type: ignore[type-abstract] # its subclasses' instances are held
    package="curate.pack.layouts",
    attribute="LAYOUT",
    group="curate.layouts",
)


def layouts(names: Sequence[str]) -> list[ResultLayout]:
    """Returns the layouts of these names, in their order.

    Raises:
        RecipeError: there is no layout of a name; the message suggests the nearest name, or lists all names.
    """
    return [LAYOUTS.find(name) for name in names]
