"""The types of recipe values that have rules of their own: columns, addresses, agents, places of runs and models."""

import ipaddress
import re
from typing import Annotated

from pydantic import AfterValidator, Field

from curate import credentials, locations
from curate.keys import Allowed, Text
from curate.recipe_faults import shown

Column = Annotated[
    str,
    Field(max_length=1000, pattern=r"^[^\p{Cc}]*$"),
    Allowed("a column's name, of at most 1,000 characters and without control characters"),
]
Number = Annotated[int, Field(ge=0, le=99_999)]
"""The number of a column in a list without a header."""


def _opened(value: str) -> str:
    host, _, port = value.rpartition(":")
    is_v6 = host.startswith("[") and host.endswith("]")
    try:
        address = str((ipaddress.IPv6Address if is_v6 else ipaddress.IPv4Address)(host.strip("[]") if is_v6 else host))
    except ValueError:
        address = ""
    if not address or "%" in address or not re.fullmatch(r"[1-9][0-9]{0,4}", port) or int(port) > 65_535:
        raise ValueError(
            f"{shown(value)} is not address:port, such as 127.0.0.1:8123 or [::1]:8123, with a port from 1 to 65535"
        )
    return value


Opened = Annotated[str, Field(max_length=100), AfterValidator(_opened), Allowed("address:port, such as 127.0.0.1:8123")]

Agent = Annotated[
    str,
    Field(pattern=r"^[!-~]([ -~]*[!-~])?$", max_length=1000),
    Allowed("at most 1,000 characters of ASCII, without control characters, and without a space at either end"),
]
"""What fits into an HTTP header as it is."""


def _model_place(value: str) -> str:
    if "://" in value and not credentials.fault(value) and (fault := locations.fault(value)):
        raise ValueError(f"{shown(value)} {fault}")
    return value


ModelPlace = Annotated[Text, AfterValidator(_model_place)]


def _endpoint(value: str) -> str:
    if not credentials.fault(value) and (fault := locations.endpoint_fault(value)):
        raise ValueError(f"{shown(value)} {fault}")
    return value


Endpoint = Annotated[
    str, Field(max_length=1000), AfterValidator(_endpoint), Allowed("the address of a server, such as http://host:9000")
]


def _run_place(value: str) -> str:
    if not credentials.fault(value) and (fault := locations.fault(value, locations.RUN_SCHEMES)):
        raise ValueError(f"{shown(value)} {fault}")
    return value


RunPlace = Annotated[
    str, Field(max_length=4096), AfterValidator(_run_place), Allowed("a local path or a URL s3://bucket/prefix")
]
