"""What a command said on stderr."""

import re


def errors(said: str) -> list[str]:
    """The lines without those that say which model is being checked, which a check of seconds prints."""
    return [line for line in said.splitlines() if not re.fullmatch(r"curate: models\.\w+: checking .*", line)]
