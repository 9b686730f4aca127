"""Types of command-line arguments with their bounds, and a parser whose errors are one line like every other error."""

import argparse
import math
import re
from collections.abc import Callable
from typing import NoReturn

from curate import locations
from curate.credentials import has_user_info
from curate.errors import UsageError, shortened


class Parser(argparse.ArgumentParser):
    """A parser that raises an error where argparse would print its usage and end the process."""

    def error(self, message: str) -> NoReturn:
        """Raises UsageError: the command, what is wrong, and where its arguments are listed."""
        raise UsageError(f"{shortened(message)}; `{self.prog} --help` lists what is allowed")


def whole_number(least: int, most: int) -> Callable[[str], int]:
    """Returns the type of an argument that is a whole number between two bounds, both included."""

    def read(text: str) -> int:
        if not re.fullmatch(r"[+-]?[0-9]{1,20}", text) or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{_shown(text)} is not a whole number from {least:,} to {most:,}")
        return int(text)

    return read


def share(text: str) -> float:
    """Returns the value of an argument that is a share of a whole, above 0 and at most 1."""
    try:
        number = float(text) if text.isascii() else math.nan
    except ValueError:
        number = math.nan
    if not 0 < number <= 1:
        raise argparse.ArgumentTypeError(
            f"{_shown(text)} is not a share: write a number above 0, at most 1, such as 0.01"
        )
    return number


def file_path(text: str) -> str:
    """Returns the path of a local file or folder."""
    if fault := locations.fault(text, ()):
        raise argparse.ArgumentTypeError(f"{_shown(text)} {fault}")
    return text


def run_place(text: str) -> str:
    """Returns the place of a run: a local path or a URL."""
    if not has_user_info(text) and (fault := locations.fault(text, locations.RUN_SCHEMES)):
        raise argparse.ArgumentTypeError(f"{_shown(text)} {fault}")
    return text


def endpoint(text: str) -> str:
    """Returns the address of an S3 server."""
    if not has_user_info(text) and (fault := locations.endpoint_fault(text)):
        raise argparse.ArgumentTypeError(f"{_shown(text)} {fault}")
    return text


def cluster(text: str) -> str:
    """Returns the address of a Ray cluster: `auto`, `host:port` or a URL of a Ray client (`ray://host:port`)."""
    port = re.fullmatch(r"(?:ray://)?(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})", text)
    if text not in ("auto", "local") and not (port and 0 < int(port[1]) <= 65_535):
        raise argparse.ArgumentTypeError(f"{_shown(text)} is no address: write auto, or host:port")
    return text


def words(text: str) -> list[str]:
    """Returns the words of a list that is separated by commas."""
    found = [word.strip() for word in text.split(",")]
    if not all(found):
        raise argparse.ArgumentTypeError(f"{_shown(text)} is not a list of words, separated by commas")
    return found


def _shown(text: str) -> str:
    return repr(shortened(text) if len(text) > 80 else text)
