"""Keeps pyarrow from importing pandas in a command's process: a quarter of a second of every short command.

pyarrow imports pandas, where it is installed (img2dataset brings it), as soon as it converts any Python value, only to
know whether the value is a pandas object; it does this once in a process and has no setting for it.
"""

import sys
from collections.abc import Sequence
from types import ModuleType

import pyarrow as pa

from curate.registry import is_extended


class _Absent:
    """A finder to which pandas is not installed."""

    def find_spec(self, name: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError(name)


def leave_pandas_out() -> None:
    """Lets pyarrow look for pandas now and not find it; `import pandas` and `to_pandas()` work as ever afterwards.

    pyarrow then takes a pandas Series for any other sequence, in which NaN is a value. So it looks for itself where
    another package extends Curate, whose code may use pandas; Curate's own does not.
    """
    if is_extended():
        return
    absent = _Absent()
    sys.meta_path.insert(0, absent)
    try:
        pa.scalar(None)
    finally:
        sys.meta_path.remove(absent)
