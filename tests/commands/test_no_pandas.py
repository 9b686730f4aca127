"""pyarrow is kept from importing pandas, and nothing else is."""

import json
import subprocess
import sys

AFTER = """
import json, sys
import pyarrow as pa
from curate.commands.no_pandas import leave_pandas_out
{before}
leave_pandas_out()
left_out = pa.array([1, 2]) is not None and "pandas" not in sys.modules
frame = pa.table({{"a": [1.0, None]}}).to_pandas()
import pandas
print(json.dumps([left_out, int(frame["a"].isna().sum()), pa.array(pandas.Series([1.0, None])).null_count]))
"""
EXTENDED = (
    "from curate import registry; registry._installed = lambda path: type('Points', (), {'groups': ['curate.steps']})"
)


def after(before: str) -> list[object]:
    ran = subprocess.run(
        [sys.executable, "-c", AFTER.format(before=before)], capture_output=True, text=True, check=True
    )
    return json.loads(ran.stdout)


def test_pandas_is_left_out_and_can_be_had_all_the_same():
    assert after("") == [True, 1, 1]


def test_pandas_is_looked_for_where_another_package_extends_curate():
    assert after(EXTENDED) == [False, 1, 1]
