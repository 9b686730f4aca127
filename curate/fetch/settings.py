"""The recipe's `fetch` section as typed settings."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from curate.errors import RecipeError


@dataclass(frozen=True)
class Settings:
    """The recipe's `fetch` section; each key is explained in `curate.recipe.Fetch`."""

    image_size: int
    resize: str
    only_if_bigger: bool
    format: str
    quality: int
    timeout: float
    max_bytes: int
    max_pixels: int
    max_redirects: int
    agent: str
    agent_token: str
    allow: tuple[str, ...]
    robots: bool
    noml: bool
    content_usage: bool
    c2pa: bool
    tdmrep: bool
    changed: str
    processes: int
    threads: int
    host_connections: int
    host_rate: float | None
    host_failures: int
    retries: int
    min_speed: int
    part_timeout: float
    waiting_bytes: int

    @classmethod
    def of(cls, section: Mapping[str, Any]) -> "Settings":
        """Returns the settings of the recipe's `fetch` section, without the keys that only the runner reads.

        Raises:
            RecipeError: `fetch.agent` cannot be sent in an HTTP header.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        settings = cls(**{name: section[name] for name in names if name != "allow"}, allow=tuple(section["allow"]))
        if not (settings.agent.isascii() and settings.agent.isprintable()):
            raise RecipeError("fetch.agent: only printable ASCII can be sent as a User-Agent")
        return settings
