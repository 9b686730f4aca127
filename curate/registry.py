"""Registries: finds plug-ins of one kind by name, in modules of this package and in entry points of others.

A plug-in of this package is one new file in the package that a registry searches:

    FORMATS = Registry("list format", Format, package="curate.plan.formats", attribute="FORMAT", group="curate.formats")
    FORMATS.find("parquet")

Another package brings a plug-in by an entry point in the registry's group:

    [project.entry-points."curate.formats"]
    avro = "their_package.avro:FORMAT"
"""

import functools
import importlib
import pkgutil
import sys
import threading
from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol, TypeVar

from curate.errors import RecipeError, UsageError, nearest


class Named(Protocol):
    """A plug-in: an object that a registry can hold."""

    @property
    def name(self) -> str:
        """The name by which it is found; unique in its registry."""
        ...


T = TypeVar("T", bound=Named)

_BROKEN = (
    ArithmeticError,
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)
"""The exceptions that importing a module of another package may raise: faults of that package, not of Curate."""


class Registry(Mapping[str, T]):
    """The plug-ins of one kind by name, loaded when the registry is first read.

    Iteration yields the plug-ins of this package in the order of their modules' names, then those of other packages in
    the order of package and entry point.

    Args:
        kind: the noun for a plug-in in messages, such as `list format`.
        of: the class of all its plug-ins.
        package: the dotted name of the package whose modules are searched; None for none.
        attribute: the module attribute that holds the plug-in, or a tuple of several; modules without it are skipped.
        group: the entry-point group of other packages; None for none.
    """

    def __init__(
        self, kind: str, of: type[T], *, package: str | None = None, attribute: str = "", group: str | None = None
    ) -> None:
        self.kind = kind
        self._of = of
        self._package = package
        self._attribute = attribute
        self._group = group
        self._lock = threading.RLock()
        self._found: dict[str, tuple[T, str]] | None = None

    def __getitem__(self, name: str) -> T:
        return self._loaded()[name][0]

    def __iter__(self) -> Iterator[str]:
        return iter(self._loaded())

    def __len__(self) -> int:
        return len(self._loaded())

    def find(self, name: str) -> T:
        """Returns the plug-in of that name.

        Raises:
            RecipeError: there is none; the message suggests the nearest name, or lists all names.
        """
        loaded = self._loaded()
        if name not in loaded:
            raise RecipeError(f"there is no {self.kind} {name!r}{nearest(name, loaded)}")
        return loaded[name][0]

    def origin(self, name: str) -> str:
        """The origin of a plug-in: the name of its module, or its package with version and entry point."""
        return self._loaded()[name][1]

    def package(self, name: str) -> str | None:
        """The name of the package that brings a plug-in; None for a plug-in of this package."""
        origin = self.origin(name)
        return origin.split()[0] if " " in origin else None

    def add(self, thing: T, origin: str) -> None:
        """Adds a plug-in.

        Args:
            thing: the plug-in, of the registry's class.
            origin: its origin, for messages.

        Raises:
            UsageError: it is of another class, or its name is taken; the message names both origins.
        """
        with self._lock:
            _take(self._loaded(), self.kind, self._of, thing, origin)

    def _loaded(self) -> dict[str, tuple[T, str]]:
        with self._lock:
            if self._found is None:
                loaded: dict[str, tuple[T, str]] = {}
                for thing, origin in self._discovered():
                    _take(loaded, self.kind, self._of, thing, origin)
                self._found = loaded
            return self._found

    def _discovered(self) -> Iterator[tuple[object, str]]:
        if self._package is not None:
            yield from objects_of_modules(self._package, self._attribute)
        if self._group is not None:
            yield from objects_of_entry_points(self._group, self.kind)


def objects_of_modules(package: str, attribute: str) -> Iterator[tuple[object, str]]:
    """Imports every module of a package; yields the object of that attribute name and the module's name.

    A tuple counts as several objects. Modules without the attribute are skipped; sub-packages are not searched.
    """
    for module in sorted(pkgutil.iter_modules(importlib.import_module(package).__path__), key=lambda info: info.name):
        if module.ispkg:
            continue
        name = f"{package}.{module.name}"
        found = getattr(importlib.import_module(name), attribute, ())
        for thing in found if isinstance(found, tuple) else (found,):
            yield thing, name


def objects_of_entry_points(group: str, kind: str) -> Iterator[tuple[object, str]]:
    """Loads every entry point of a group; yields its object and `<package> <version> (<module>:<attribute>)`.

    Args:
        group: the entry-point group.
        kind: the noun for the entry points' plug-ins, for messages.

    Raises:
        UsageError: an entry point cannot be loaded; the message names its package.
    """
    for point in sorted(
        _installed(tuple(sys.path)).select(group=group), key=lambda point: (_origin(point), point.name)
    ):
        try:
            found = point.load()
        except _BROKEN as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise UsageError(
                f"the {kind} {point.name!r} of {_origin(point)} cannot be loaded: {reason}; repair or uninstall it"
            ) from error
        for thing in found if isinstance(found, tuple) else (found,):
            yield thing, _origin(point)


def is_extended() -> bool:
    """Whether an installed package brings plug-ins of any kind."""
    return any(group.startswith("curate.") for group in _installed(tuple(sys.path)).groups)


@functools.cache
def _installed(_path: tuple[str, ...]) -> Any:
    """All entry points on a module search path: finding them reads the metadata of every installed package, 20 ms."""
    return entry_points()


def _origin(point: EntryPoint) -> str:
    package = f"{point.dist.name} {point.dist.version}" if point.dist else "a package without metadata"
    return f"{package} ({point.value})"


def _take(found: dict[str, tuple[T, str]], kind: str, of: type[T], thing: object, origin: str) -> None:
    if not isinstance(thing, of):
        raise UsageError(f"{origin} is not a {kind}: expected {of.__name__}, found {type(thing).__name__}")
    if thing.name in found:
        raise UsageError(f"the {kind} {thing.name!r} is defined twice: by {found[thing.name][1]} and by {origin}")
    found[thing.name] = (thing, origin)
