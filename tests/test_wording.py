"""The wording: a fact has the same words everywhere, and no sentence has to be read twice."""

import ast
import functools
import io
import re
import subprocess
import tokenize
from pathlib import Path

import pytest
from helpers.select_run import step

from curate.select.funnel import FACTS
from curate.select.steps.registry import read

ROOT = Path(__file__).parents[1]

DONE = (
    "benchmarks",
    "curate",
    "docs",
    "infra",
    "pipelines",
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
)
"""The paths whose English is checked, as arguments of `git ls-files`: everything but the tests."""

WORST = [
    (r"(?i)\b(?:whoever|nobody|somebody|anybody)\b", "whoever takes them", "the actor: the caller, no server"),
    (r"(?i)\bstrangers?\b", "a stranger's file", "untrusted, or whose it is: a server's text"),
    (r"\b(?:has|have|to) .{0,20}\banswer for\b", "a death has one unit to answer for", "is attributed to"),
    (
        r"\b(?:that|which|what|it|they|values|cells|rows|lines) (?:is|are|was|were) no (?!longer\b|more\b)\w+",
        "cells that are no int64",
        "values that are not …, that do not parse as …",
    ),
    (r"\bholds? other things\b", "holds other things and no run", "is not empty and is not a Curate run"),
    (r"\bno good\b", "a blocklist is no good", "is not valid, cannot be read"),
    (r"\bas (?:it|they) (?:stands?|lies?|lay|came|comes)\b", "refused as it stands", "unchanged, as received"),
    (
        r"\b(?:stands?|stood) (?:in|here|there|beside|behind|apart|alone|under|last)\b",
        "its table stands in README.md",
        "is in, is next to, comes last",
    ),
    (r"\b(?:lies?|lay) (?:beside|there|in|here|on)\b", "weights that lie beside it", "is in, is next to"),
    (r"\b(?:is|are|was|were|be) had\b", "the addresses cannot be had", "is available, can be used"),
    (r"\btold (?:of|so)\b|\band told\b", "counted and told", "reported, printed"),
    (r"\b(?:held|holds?|holding) (?:[\w']+ ){0,3}against\b", "held against the truth", "compared with"),
    (r"\bsafe for threads\b", "a cache, safe for threads", "thread-safe"),
    (r"\bunder way\b", "requests under way", "concurrent, in progress"),
    (r"\bby now\b", "is another one by now", "changed since …"),
    (r"\bfor the time being\b", "a folder for the time being", "temporary, until the end of the block"),
    (r"\banew\b", "begun anew", "again"),
    (
        r"\bthe matter with\b|\bup to something\b|\bmoods?\b|\bluggage\b|\ba bomb's fuse\b",
        "what is known of hosts' moods",
        "the fact instead of the picture",
    ),
    (r"\bgo(?:es)? (?:by|the way)\b", "goes the way of all others", "uses, follows, is treated as"),
    (r"\bof one's own\b", "machines of one's own", "your own"),
    (r"\bin words\b", "a threshold in words", "as text"),
    (r"\bknown of\b", "all that is known of a host", "the state of, the facts of"),
    (r"\bthe story\b", "the story of a run", "what it does"),
    (r"\b(?:brought|brings?) (?:\w+ )?back\b", "what the round brought back", "recovered"),
    (r"\bsays? nothing (?:of|about)\b", "`threads` says nothing of decoding", "does not affect, has no …"),
    (r"\bhow (?:it|they) (?:is|are) called\b", "how it is called in errors", "its name"),
]
"""Turns of phrase at which readers stopped: a regular expression, where it stood, what to write instead."""

FIRST_WORDS = {"What", "How", "Where", "Which", "Who", "Whose", "Whatever", "Of", "As", "To", "By", "Around", "Without"}
"""A docstring that begins with one of these says neither what is returned nor what is done."""


def done_files(suffix):
    listed = subprocess.run(["git", "ls-files", "--", *DONE], cwd=ROOT, capture_output=True, text=True, check=True)
    paths = [ROOT / name for name in listed.stdout.splitlines() if name.endswith(suffix)]
    assert paths, f"no {suffix} below {DONE}"
    return paths


def prose(path):
    """A document without its code blocks, or a module's comments and strings; white space becomes one space."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return " ".join(re.sub(r"```.*?```", "", text, flags=re.DOTALL).split())
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    kinds = (tokenize.COMMENT, tokenize.STRING)
    return " ".join(" ".join(token.string.lstrip("# ") for token in tokens if token.type in kinds).split())


@functools.cache
def done_prose():
    return {path.relative_to(ROOT): prose(path) for path in [*done_files(".py"), *done_files(".md")]}


@pytest.mark.parametrize(("pattern", "example", "better"), WORST)
def test_the_worst_turns_of_phrase_are_gone(pattern, example, better):
    assert re.search(pattern, example)
    found = [
        f"{path}: …{text[max(0, match.start() - 40) : match.end() + 40]}…"
        for path, text in done_prose().items()
        for match in re.finditer(pattern, text)
    ]
    assert not found, f"write instead: {better}\n" + "\n".join(found)


def test_a_docstring_begins_with_what_is_returned_or_done():
    found = []
    for path in done_files(".py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                first = (ast.get_docstring(node) or "").partition("\n")[0]
                if first.partition(" ")[0].rstrip(",:") in FIRST_WORDS:
                    found.append(f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}: {first}")
    assert not found, "\n".join(found)


def words(facts, **kind):
    (read_step,) = read([step("far", **kind)])
    return read_step.kind.words(read_step, {**FACTS, **facts})


@pytest.mark.parametrize(
    ("over", "shared"),
    [("pool", "the top 12.5 % of all fetched pairs by x: x ≥ 0.21"), ("survivors", "the top 12.5 % by x: x ≥ 0.21")],
)
def test_the_card_and_the_report_describe_keep_top_alike(over, shared):
    # Report, terminal and explain print `says`; the card's column is headed "drops" and prints `rule`.
    said = words({"threshold": 0.21, "nulls": 1234}, keep_top={"of": "x", "fraction": 0.125}, over=over)
    assert said.says == f"keeps {shared}"
    assert said.rule.replace("`", "") == f"all but {shared}"
    assert said.without == "1,234 without a value drop"


def test_a_rule_is_markdown_whatever_stands_in_a_predicate():
    said = words({}, where="caption LIKE '%`%'\n  AND width < 3")
    assert said.says == "caption LIKE '%`%' AND width < 3"
    assert said.rule == "`` caption LIKE '%`%' AND width < 3 ``"
    assert (said.without, said.is_code) == ("", True)


@pytest.mark.parametrize(
    ("keys", "what"),
    [({"by": "sha256"}, "equal bytes"), ({"by": "image_embedding", "above": 0.95}, "cosine ≥ 0.95")],
)
def test_duplicates_say_what_counts_as_one(keys, what):
    said = words({"nulls": 2}, duplicates={**keys, "prefer": "width"})
    assert said.says == f"{what}; keeps the one with the highest width"
    assert said.rule == f"all but one of each set of duplicates by `{keys['by']}` ({what}), best `width` kept"
    assert said.without == "2 without a value stay"
