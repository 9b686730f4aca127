"""Fingerprints that a release must not change without saying so."""

import json

import pytest
from helpers import frozen

STORED = json.loads(frozen.FILE.read_text())


@pytest.mark.parametrize("name", frozen.RECIPES)
def test_a_frozen_recipe_has_the_folders_that_it_had(name):
    assert frozen.folders(frozen.RECIPES[name]) == STORED["folders"][name], (
        "runs that were made before would be computed anew. Where a pass now writes something else, raise its version, "
        "and write tests/frozen.json anew: PYTHONPATH=tests python -m helpers.frozen"
    )


def test_a_default_that_changes_needs_a_version():
    present = frozen.defaults()
    changed = {key: (value, present.get(key)) for key, value in STORED["defaults"].items() if present.get(key) != value}
    assert not changed, (
        "a default is in no fingerprint: raise the version of the passes that depend on these keys, then write "
        "tests/frozen.json anew"
    )
    assert present.keys() == STORED["defaults"].keys(), (
        "a new key: write tests/frozen.json anew, folders stay as they are"
    )
