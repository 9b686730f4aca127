"""The registry of list formats, and the format of a file by its name."""

from curate.credentials import shown, without_signature
from curate.errors import SourceError, UsageError, nearest
from curate.plan.formats.compression import CODECS
from curate.plan.formats.contract import Format, ListFile
from curate.registry import Registry

FORMATS: Registry[Format] = Registry(
    "list format",
    Format,  # type: ignore[type-abstract] # its subclasses' instances are held
    package="curate.plan.formats",
    attribute="FORMAT",
    group="curate.formats",
)


def list_file(url: str, endpoint: str | None = None) -> ListFile:
    """The list at a path or URL, which may be signed, with the format and compression that its name states.

    Raises:
        SourceError: its name does not end in a known suffix.
    """
    path = shown(url)
    suffix, codec = _suffixes(url)
    found = _format_of(suffix, codec)
    if found is not None:
        return ListFile(path, found, codec, endpoint, signed=url if url != path else None)
    if suffix == "tar":
        raise SourceError(f"{path} is not a list; for tars of samples say source.kind: samples")
    known = {f".{name}": of for name, of in sorted(by_suffix().items())}
    packed = [name for name, of in known.items() if of.compressible]
    hint = nearest(f".{suffix}", known)
    raise SourceError(
        f"{path}: a list's name ends in {', '.join(known)}; {', '.join(packed)} may be followed by "
        f"{' or '.join(f'.{name}' for name in CODECS)}{hint if 'did you mean' in hint else ''}"
    )


def is_list(path: str) -> bool:
    """Whether a name ends in the suffix of a list format."""
    return _format_of(*_suffixes(path)) is not None


def by_suffix() -> dict[str, Format]:
    """Every format by each of its suffixes.

    Raises:
        UsageError: two formats claim one suffix.
    """
    found: dict[str, Format] = {}
    for name, of in FORMATS.items():
        for suffix in of.suffixes:
            if suffix in found:
                both = f"{FORMATS.origin(found[suffix].name)} and {FORMATS.origin(name)}"
                raise UsageError(f"two list formats claim the suffix .{suffix}: {both}")
            found[suffix] = of
    return found


def _format_of(suffix: str, codec: str | None) -> Format | None:
    found = by_suffix().get(suffix)
    return None if found is None or (codec and not found.compressible) else found


def _suffixes(path: str) -> tuple[str, str | None]:
    """A name's last suffix before that of a compression, and Arrow's name of the compression, or None."""
    path = without_signature(path)
    if path.startswith(("http://", "https://")) and "?" in path and is_list(name := path.partition("?")[0]):
        path = name
    *_, before, last = ["", "", *path.rsplit("/", 1)[-1].lower().split(".")]
    return (before, CODECS[last]) if last in CODECS else (last, None)
