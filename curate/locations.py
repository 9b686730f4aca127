"""Checks where a run, a list or a file lies, as a recipe or a command names it: paths, URLs and S3 endpoints."""

import re
from urllib.parse import urlsplit

RUN_SCHEMES = ("file", "s3", "s3a")
"""URL schemes under which a run may lie, besides local paths."""

INPUT_SCHEMES = (*RUN_SCHEMES, "http", "https", "hf", "gs", "gcs", "az", "abfs", "abfss", "hdfs", "oss", "local")
"""URL schemes from which a run may read files. Every worker has to find the same files, so `memory` is not among them.
"""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_LONGEST = 4096


def fault(place: str, schemes: tuple[str, ...] = INPUT_SCHEMES) -> str:
    """Returns what is wrong with a path or URL, and what is allowed, in a few words; empty where nothing is.

    Args:
        place: a path, a URL or a glob.
        schemes: the allowed URL schemes.
    """
    if not place.strip():
        return "is blank; write a path or a URL"
    if len(place) > _LONGEST:
        return f"has {len(place):,} characters; a path or a URL has at most {_LONGEST:,}"
    if _CONTROL.search(place):
        return "holds a control character; write a path or a URL without one"
    if re.match(r"~[^/]*(/|$)", place):
        return "begins with ~, which is not expanded; write the whole path"
    scheme, separator, rest = place.partition("://")
    if separator and scheme not in schemes:
        allowed = ", ".join(f"{known}://" for known in schemes)
        if schemes and "::" in place:
            # fsspec's own `zip://list.csv::s3://bucket/lists.zip`.
            return (
                "chains file systems by ::, which are not read here; unpack the archive, or write the path of the file "
                f"itself, local or with {allowed}"
            )
        return f"is none of the URLs that are read or written here; allowed are local paths and {allowed}"
    if separator and not rest.strip("/"):
        return "names no file or folder; write what follows the slashes"
    return ""


def endpoint_fault(endpoint: str) -> str:
    """Returns what is wrong with the address of an S3 server, and what is allowed; empty where nothing is."""
    allowed = "write http://host:port or https://host, with a port from 1 to 65535"
    if not re.fullmatch(r"https?://[!-~]+", endpoint):
        return f"is not the address of a server; {allowed}"
    try:
        parts = urlsplit(endpoint)
        is_right = bool(parts.hostname) and parts.port != 0 and not endpoint.endswith(":")
    except ValueError:
        is_right = False
    return "" if is_right else f"is not the address of a server; {allowed}"
