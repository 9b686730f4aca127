"""Finds credentials in URLs: refuses user names and passwords, and hides signatures where a URL is stored or printed.

A signed URL (`?X-Amz-Signature=…`, `?sig=…`, `?token=…`) gives its holder access, so a run reads it and never keeps it.
What is kept is the URL without the parameters of the signature, and `signature=REDACTED` in their place. No digest of a
signature is kept either: a short token could be guessed from it. A file is identified by its name, size and content, so
that a URL that was signed again is the same source.
"""

import itertools
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

MARK = "REDACTED"
_SIGNATURE = f"signature={MARK}"

_SCHEMES = ("x-amz-", "x-goog-", "x-oss-", "x-obs-", "x-cos-", "x-tos-", "q-sign-", "q-ak", "q-signature", "hdn")
"""Beginnings of the names of a signature's parameters: AWS, Google, Alibaba, Huawei, Tencent, Akamai."""

_WORDS = (
    "accesskey",
    "access_key",
    "access-key",
    "api_key",
    "api-key",
    "apikey",
    "auth",
    "credential",
    "passw",
    "secret",
    "session",
    "signature",
    "token",
)
"""Words inside the names of other secret parameters."""

_NAMES = frozenset({"googleaccessid", "hmac", "jwt", "key", "pass", "pwd", "sig", "sign"})
"""Whole names of further ones."""

# fmt: off
_BESIDE = frozenset({
    "e", "exp", "expires", "expiry", "key-pair-id", "policy", "q-header-list", "q-key-time", "q-url-param-list",
    "saoid", "scid", "sdd", "se", "si", "sip", "ske", "skoid", "sks", "skt", "sktid", "skv", "sp", "spr", "sr",
    "srt", "ss", "st", "suoid", "sv",
})
# fmt: on
"""Names of parameters that belong to a signature (its times, rights and version), where there is one."""

_CONTAINERS = ("abfs", "abfss", "wasb", "wasbs")
"""Protocols of Azure, whose URLs have a container before the `@`: `abfs://container@account.dfs.core.windows.net`."""

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/{1,3}[^\s\"'<>]*[^\s\"'<>,.;:)\]]")
_PARAMETER = re.compile(r"(?<=[?&])([^\s=&?\"'<>]+)=([^\s&\"'<>)]*)")
_BARE = re.compile(r"[\w.~%+-]{16,}=*")
"""A query of a single word, such as a token."""


def has_user_info(url: str) -> bool:
    """Whether a URL has a user name, a password or a key before its host; also a key that holds a slash.

    A container of Azure is none, and neither is an `@` after the first slash (`s3://bucket/a@b.csv`).
    """
    for before, after in itertools.pairwise(url.split("://")):
        protocol = before.rpartition("::")[2].rpartition("/")[2].lower()
        authority = re.split(r"[/?#]", after, maxsplit=1)[0]
        name, _, port = authority.rpartition(":")
        if "@" in authority:
            if protocol not in _CONTAINERS or ":" in authority:
                return True
        # A colon before the first slash and an `@` after it: a port, or a key that holds a slash.
        elif name and "@" in after and not authority.startswith(("[", "arn:")):
            is_port = port.isdecimal() and protocol not in ("s3", "s3a")
            if not is_port:
                return True
    return False


def is_signed(url: str) -> bool:
    """Whether a URL has a parameter that gives its holder access."""
    return without_signature(url) != url


def is_redacted(url: str) -> bool:
    """Whether a URL is one that was stored without its signature."""
    return "://" in url and _SIGNATURE in re.split(r"[?&#]", url)


def without_signature(url: str) -> str:
    """Returns a URL without the parameters of its signature; a local path is returned as it is."""
    if "://" not in url or not re.search(r"[?#]", url):
        return url
    path, sign, rest = re.split(r"([?#])", url, maxsplit=1)
    query, hash_, fragment = rest.partition("#") if sign == "?" else ("", "#", rest)
    is_http = url.startswith(("http://", "https://"))
    kept, kept_after = list(_open(query, is_http=is_http)), list(_open(fragment, is_http=is_http))
    if kept == query.split("&") and kept_after == fragment.split("&"):
        return url
    if kept != query.split("&"):
        kept = [word for word in kept if _name(word) not in _BESIDE]
    after = "&".join(kept_after)
    return path + ("?" + "&".join(kept) if any(kept) else "") + (hash_ + after if after else "")


def shown(url: str) -> str:
    """Returns a URL as it may be stored and printed: without its signature, with a mark that it has one."""
    plain = without_signature(url)
    if plain == url:
        return url
    path, hash_, fragment = plain.partition("#")
    return f"{path}{'&' if '?' in path else '?'}{_SIGNATURE}{hash_}{fragment}"


def redacted(text: str) -> str:
    """Returns a message, a traceback or another text with the credentials of all URLs in it hidden."""
    if not re.search(r"[?&#@]", text):
        return text
    text = _URL.sub(lambda found: shown(_without_user_info(found[0])), text)
    # Some libraries name a URL by its path and query alone.
    return _PARAMETER.sub(lambda found: f"{found[1]}={MARK}" if _is_secret(_name(found[1])) else found[0], text)


def fault(value: Any, *, may_be_signed: bool = False) -> str:
    """Returns what is wrong with a recipe's value, in one line that holds no secret; empty where nothing is.

    Args:
        value: a text, or texts in lists and mappings; only a text that is a URL as a whole is looked at.
        may_be_signed: whether a signature is accepted.
    """
    for url in _urls(value):
        kind = f"a URL ({url.partition('://')[0].rpartition('::')[2]}://…)"
        if has_user_info(url):
            return (
                f"{kind} holds a user name, a password or a key, which a run would store; leave it out: credentials "
                "belong into the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or "
                "FSSPEC_HTTP; docs/recipes.md)"
            )
        if is_redacted(url):
            return (
                f"{shown(url)} is without its signature, which no run stores: give the signed URL again, in the recipe "
                "or by --set source.paths=…"
            )
        if not may_be_signed and is_signed(url):
            return (
                f"{kind} is signed, which only source.paths may be: it would be stored, and expires; download the "
                "file, or give credentials by the environment (docs/recipes.md)"
            )
    return ""


def _urls(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        if re.fullmatch(r"[A-Za-z][A-Za-z0-9+.:-]*://\S+(\s.*@.*)?", value.strip(), re.DOTALL):
            yield value.strip()
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _urls(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _urls(key)
            yield from _urls(item)


def _open(query: str, *, is_http: bool) -> Iterator[str]:
    """The parameters of a query that do not belong to a signature; what follows one after a `;` is left out with it."""
    for word in query.split("&"):
        parts = word.split(";")
        secret = next((n for n, part in enumerate(parts) if _is_secret(_name(part)) and "=" in part), None)
        if secret is None and not (is_http and "=" not in word.rstrip("=") and _BARE.fullmatch(word)):
            yield word
        elif secret:
            yield ";".join(parts[:secret])


def _name(parameter: str) -> str:
    return unquote(parameter.partition("=")[0]).strip().lower()


def _is_secret(name: str) -> bool:
    return name in _NAMES or name.startswith(_SCHEMES) or any(word in name for word in _WORDS)


def _without_user_info(url: str) -> str:
    protocol, slashes, rest = re.split(r"(:/{1,3})", url, maxsplit=1)
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" in authority and protocol.lower() not in _CONTAINERS:
        return f"{protocol}{slashes}{MARK}@{authority.rpartition('@')[2]}{rest[len(authority) :]}"
    if has_user_info(f"{protocol}://{rest}"):
        return f"{protocol}{slashes}{MARK}@{rest.rpartition('@')[2]}"
    return url
