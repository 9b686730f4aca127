import base64
import copy
import hashlib
import io
import itertools
import re
import secrets
from collections import Counter
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pytest
from helpers import report_run
from helpers.near_pairs import put_near
from helpers.report_run import COSINE, LONG, SCRIPT, STEPS, columns_of, evaluation, make_run, settings
from PIL import Image

from curate import schema
from curate.columns import PairColumns
from curate.columns import read as read_columns
from curate.duplicates import searches_of
from curate.errors import BrokenResult
from curate.near import FoundPairs
from curate.report.near import read_near
from curate.report.page import GROUPS, MEMBERS, NEAR_MISSES, ranges
from curate.report.survey import Tally
from curate.report.thumbnail import THUMBNAIL, thumb
from curate.report.worker import open_worker
from curate.store import WHOLE, Folder, Inputs

VOID = {"meta", "img", "link", "br", "hr", "input"}


class Page(HTMLParser):
    """What a browser would find: elements, attributes, text, and whether tags nest."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.attributes, self.words = [], Counter(), [], []
        self.tables, self.titles = [], []
        self.ids = Counter()
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.ids.update(value for name, value in attrs if name == "id")
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data):
        if not {"style", "title"} & set(self.open[-1:]):
            self.words.append(data)
        if self.open[-1:] == ["title"]:
            self.titles.append(data)
        if self.tables and {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data

    @property
    def text(self):
        return " ".join("".join(self.words).split())


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"))


def report(made, inputs=None, **changes):
    out = Folder(made.store, "report", "beef").outputs(WHOLE)
    open_worker(settings(**changes))(WHOLE, inputs or made.inputs, {"report": out})
    assert out.files["index.html"].name == f"index.{out.attempt}.html"
    return made.store.read(f"report-beef/index.{out.attempt}.html").decode()


@pytest.fixture(scope="module")
def html(made):
    return report(made)


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


def test_tags_nest_and_ids_are_unique_and_links_stay_in_the_page(page):
    assert page.open == []
    assert set(page.ids.values()) == {1}
    targets = [value for tag, name, value in page.attributes if name == "href"]
    assert targets
    assert {target.removeprefix("#") for target in targets} <= page.ids.keys()


def test_nothing_hostile_became_markup(page, html):
    assert not {"script", "iframe", "object", "form", "base", "link", "b"} & page.tags.keys()
    assert not [name for _, name, _ in page.attributes if name.startswith("on") or name == "style"]
    sources = [value for _, name, value in page.attributes if name in ("src", "href", "xlink:href", "action")]
    assert all(value.startswith(("data:image/jpeg;base64,", "#")) for value in sources)
    assert "url(" not in html
    assert "@import" not in html
    # It is all there to read, though.
    assert SCRIPT in page.text
    assert '"><img src=x onerror=alert(2)>' in page.text
    assert "{{ 7*7 }}" in page.text
    assert "javascript:alert(3)" in page.text


def test_control_and_bidi_characters_are_shown_not_obeyed(page, html):
    assert not re.search("[\0-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028\u200e\u200f]", html)
    for shown in (r"\x00", r"\x1b", r"\u202e", r"\u2066", r"\x9b", r"\u2028"):
        assert shown in page.text


def test_the_policy_lets_in_the_pages_own_style_and_data_images_alone(page, html):
    policy = next(value for tag, name, value in page.attributes if tag == "meta" and "default-src" in value)
    style = re.search("<style>(.*?)</style>", html, re.S).group(1)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules == {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": f"'sha256-{digest}'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }


def test_the_funnel_table_is_funnel_json(page, made):
    rows = {row[0].split()[0]: row for row in page.tables[0]}
    for step in made.funnel["steps"]:
        shown = rows[step["name"]]
        assert shown[2:4] == [str(step["seen"]), str(step["dropped"])]
    assert rows["kept"][3] == f"kept: {made.funnel['kept']}"
    planned, kept = made.funnel["planned"], made.funnel["kept"]
    assert f"{planned} planned = {kept} kept + {planned - kept} dropped" in page.text


def test_each_reason_has_its_examples_and_each_picture_its_words(page, html):
    for number, step in enumerate(STEPS):
        section = html.split(f'id="reason-{number}"')[1].split("</details>" if number in (1, 2, 3) else "</section>")[0]
        assert step["name"] in section
        assert f"4 of {15} shown" in section
        assert section.count("<img ") == {4: 4, 5: 4, 6: 8, 7: 8, 8: 8}.get(number, section.count("<img "))
        if number in (1, 2, 3):
            assert section.count("<tr>") == 5
    pictures = [value for tag, name, value in page.attributes if tag == "img" and name == "alt"]
    assert pictures
    assert all(pictures)
    sheets = html.split('id="dropped"')[1].split('id="duplicates"')[0]
    assert sheets.count('"likeness">cosine 0.9600<') == 4
    assert sheets.count('"likeness">equal bytes<') == 4


def decided(made):
    """Every decision of the run with its part and row, as plain Python."""
    for part in made.inputs.parts:
        rows = made.inputs["select"].table("decisions.parquet", part).to_pylist()
        yield from ((part, number, row) for number, row in enumerate(rows))


def test_groups_are_those_of_the_decisions(made, html):
    section = html.split('<section id="duplicates">')[1].split('<section id="kept">')[0]
    text = Page(f"<section>{section}").text
    for step in ("same_image", "near_image"):
        sizes = Counter(row["duplicate_of"] for _, _, row in decided(made) if row["reason"] == step)
        others = Counter(row["duplicate_of"] for _, _, row in decided(made) if row["duplicate_of"]) - sizes
        by_size = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))
        assert f"{sizes.total()} pairs were dropped, in {len(sizes)} groups; the {GROUPS} largest" in text
        section = html.split(f"<h3>{step}</h3>")[2].split("</section>")[0]
        for pair, group in zip(by_size, section.split('<div class="group">')[1:], strict=False):
            kept, members = pair
            page = Page(f'<div class="group">{group}')
            alike = "equal bytes" if step == "same_image" else "the least similar: cosine 0.9600"
            more = f"; {others[kept]} more by" if others[kept] else ""
            assert page.text.startswith(f"{members} member{'s' * (members > 1)}, {alike}{more}")
            ids = re.findall("pair([0-9a-f]{32})", page.text)
            assert ids[0] == kept.hex()
            named = [row["pair_id"].hex() for _, _, row in decided(made) if row["duplicate_of"] == kept]
            assert len(ids) == 1 + min(members, MEMBERS)
            assert set(ids[1:]) <= set(named)
        assert section.count('<div class="group">') == GROUPS


def with_near(made, rows):
    """The run's inputs, with other near pairs."""
    folder = Folder(made.store, "dedup-image_embedding", secrets.token_hex(4))
    near = put_near(folder, [(row["sha256_a"], row["sha256_b"], row["similarity"]) for row in rows])
    return Inputs({**made.inputs.folders, **near}, made.inputs.parts)


def test_pairs_just_below_the_threshold_are_those_of_which_both_stayed(made):
    columns = PairColumns.from_json(columns_of("pocket"))
    kept, lost = {}, {}
    for part in made.inputs.parts:
        names = ["sha256", "kept", "pair_id", "decoded"]
        for row in read_columns(made.inputs, columns, part, names).to_pylist():
            if row["decoded"]:
                (kept if row["kept"] else lost)[row["sha256"]] = row["pair_id"].hex()
    digests, gone = sorted(kept), sorted(lost)
    rng = np.random.default_rng(1)
    near = []
    for number, (one, other) in enumerate(itertools.combinations(digests[:20], 2)):
        # Ties, values at the threshold, and values that print like it when they are rounded to the nearest.
        value = (0.91, 0.93, 0.949999, 0.95, 0.96)[int(rng.integers(5))]
        near.append({"sha256_a": one, "sha256_b": other, "similarity": value})
        near.append(
            {"sha256_a": min(one, gone[number % 9]), "sha256_b": max(one, gone[number % 9]), "similarity": 0.9499999}
        )
    page = report(made, with_near(made, near))
    section = page.split("<h3>near_image</h3>")[2].split("</section>")[0].split("Just below the threshold")[1]
    right = sorted((-row["similarity"], row["sha256_a"], row["sha256_b"]) for row in near if row["similarity"] < 0.95)
    right = [row for row in right if row[1] in kept and row[2] in kept][:NEAR_MISSES]
    ids = re.findall('id">([0-9a-f]{32})<', section)
    assert ids == [kept[digest] for _, *both in right for digest in both]
    assert section.count("cosine 0.9499<") == NEAR_MISSES
    assert section.count("<img ") == 2 * NEAR_MISSES
    # The rows of the table in another order are the same page.
    assert report(made, with_near(made, near[::-1])).split('id="time"')[0] == page.split('id="time"')[0]
    only_lost = [row for row in near if row["similarity"] == 0.9499999]
    assert f"of the {len(only_lost)} pairs of images closest to the threshold, none has both" in report(
        made, with_near(made, only_lost)
    )
    assert "the search found no pair of images below the threshold" in report(made, with_near(made, []))


def test_pairs_just_below_are_looked_up_in_bounded_number(made, monkeypatch):
    monkeypatch.setattr("curate.report.near.CANDIDATES", 40)
    rng = np.random.default_rng(2)
    values = rng.choice([0.5, 0.6, 0.7, 0.8], 200).tolist()
    near = [(value, f"{number:064x}", f"{number + 1:064x}") for number, value in enumerate(values)]
    rows = [{"sha256_a": one, "sha256_b": other, "similarity": value} for value, one, other in near]
    found = read_near(FoundPairs.of(with_near(made, rows), "dedup-image_embedding"), [0.65, 0.8], 0.65)
    for above, misses in found.below.items():
        right = sorted((-value, one, other) for value, one, other in near if value < above)[:40]
        assert [(-miss.similarity, *miss.digests) for miss in misses] == right


def test_of_two_steps_over_one_search_the_lower_threshold_shows_the_pairs_below(made):
    folder = Folder(made.store, "select", secrets.token_hex(4))
    for part in made.inputs.parts:
        out = folder.outputs(part)
        out.put_table("decisions.parquet", made.inputs["select"].table("decisions.parquet", part))
        out.commit()
    funnel = copy.deepcopy(made.funnel)
    searches = [{**search, "threshold": 0.99} for search in searches_of(funnel["steps"][-1])]
    nearest = {**funnel["steps"][-1], "name": "nearest", "dropped": 0, "searches": searches}
    funnel["steps"].insert(-1, nearest)
    out = folder.outputs()
    out.put_json("funnel.json", funnel)
    out.commit()
    page = report(made, Inputs({**made.inputs.folders, "select": folder}, made.inputs.parts))
    higher = page.split("<h3>nearest</h3>")[1].split("</section>")[0]
    assert "Pairs below its threshold are shown at near_image" in higher
    assert "Just below the threshold" not in higher
    assert "of the 1 pair of images closest to the threshold" in page.split("<h3>near_image</h3>")[2]


def test_a_step_that_dropped_nothing_shows_what_it_only_just_let_pass(made):
    funnel = copy.deepcopy(made.funnel)
    folder = Folder(made.store, "select", secrets.token_hex(4))
    lost = {"near_image", "same_image"}
    for part in made.inputs.parts:
        rows = made.inputs["select"].table("decisions.parquet", part).to_pylist()
        for row in rows:
            if row["reason"] in lost:
                row.update(reason="small", duplicate_of=None, duplicate_similarity=None)
        out = folder.outputs(part)
        out.put_table("decisions.parquet", pa.Table.from_pylist(rows, schema.DECISIONS))
        out.commit()
    steps = {step["name"]: step for step in funnel["steps"]}
    steps["small"]["dropped"] += sum(steps[name]["dropped"] for name in lost)
    for name in lost:
        steps[name]["dropped"] = 0
    out = folder.outputs()
    out.put_json("funnel.json", funnel)
    out.commit()
    page = report(made, Inputs({**made.inputs.folders, "select": folder}, made.inputs.parts))
    section = page.split('<section id="duplicates">')[1].split('<section id="kept">')[0]
    assert "No pair was dropped." in section
    assert "of the 1 pair of images closest to the threshold" in section
    # A step without a threshold that dropped nothing has nothing to show.
    assert "<h3>same_image</h3>" not in section


def test_thumbnails_are_small_and_the_page_is_bounded(page, html, made):
    uris = [value for tag, name, value in page.attributes if tag == "img" and name == "src"]
    for uri in uris:
        picture = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
        assert picture.format == "JPEG"
        assert max(picture.size) <= THUMBNAIL
    assert len(LONG) == 100_000
    assert LONG in made.captions
    assert "(100,000 characters)" in page.text
    assert len(html) < 700_000


def test_the_same_run_gives_the_same_page(made, html):
    assert report(made) == html


def test_histogram_bars_add_up_to_the_measured_pairs(page, made):
    counted = Counter()
    for said in page.titles:
        for number, name in re.findall(r"([\d,]+) (kept|dropped by this threshold|dropped for another reason)", said):
            counted[name] += int(number)
    # Planned without the repeated, the failed and the undecodable ones.
    steps = {step["name"]: step["dropped"] for step in made.funnel["steps"]}
    assert counted["kept"] == made.funnel["kept"]
    assert counted["dropped by this threshold"] == steps["mismatched"]
    others = ("small", "watermark", "same_image", "near_image")
    assert counted["dropped for another reason"] == sum(steps[name] for name in others)
    assert "threshold 0.25" in page.text


def test_failures_are_told_by_class_and_host(page):
    tables = {table[0][0]: table[1:] for table in page.tables}
    classes = {row[0].split()[0]: row[1:] for row in tables["Class"]}
    assert classes["dns"][0] == "15"
    assert classes["dns"][2] == "15"
    assert ["dead.example", "15", "dns 15"] in tables["Host"]


def test_a_password_in_the_recipe_does_not_travel_with_the_page(html):
    assert "secret" not in html
    assert "https://…@lists.example/pairs.parquet" in html


def test_times_come_from_the_markers(page, made):
    table = next(table for table in page.tables if table[0][0] == "Pass")
    rows = {row[0]: row for row in table[1:]}
    assert set(rows) == set(made.inputs.folders)
    assert rows["fetch"][1] == "3"
    # The whole of select counts what its parts hold; once is enough.
    assert rows["select"][1:3] == ["1", f"{made.funnel['planned']} pairs"]
    assert rows["pack"][2] == f"{made.funnel['kept']} samples"
    assert "a note <script>" in page.text


def test_the_demos_truth_is_told(made):
    verdicts = evaluation(made.funnel)
    page = Page(report(made, evaluation=verdicts))
    table = next(table for table in page.tables if table[0][0] == "Reason")
    rows = {row[0]: row[1:] for row in table}
    assert rows["mismatched"] == ["15", "14", "1", "0", "wrong caption 15"]
    assert rows["kept"] == ["45", "43", "2", "0", "wrong: watermark 2"]
    assert "Of 7 groups of copies, 4 have exactly one" in page.text


def test_a_run_with_missing_parts_without_dedup_and_with_two_models(tmp_path):
    made = make_run(
        tmp_path, parts=2, models=("l14", "b32"), missing=(2, 4, 5, 6), sample={"rows": 120, "n_rows": 9000}
    )
    folders = {name: folder for name, folder in made.inputs.folders.items() if name != "dedup-image_embedding"}
    inputs = Inputs(folders, made.inputs.parts)
    recipe = settings()["recipe"] | {"models": {"l14": {}, "b32": {}}}
    run = settings()["run"] | {"allow": []}
    page = Page(report(made, inputs, recipe=recipe, run=run, facts={}, **columns_of("l14", "b32")))
    assert "missing from this result: part 2, 4–6; 240 pairs are" in page.text
    assert "120 of 9,000 rows only" in page.text
    assert "Near copies" not in page.text
    assert "clip_similarity_l14" in page.text
    assert "clip_similarity_b32" in page.text


BITS = {
    "by": "phash",
    "near": "dedup-phash",
    "measure": "share of equal bits",
    "threshold": 1 - 5 / 64,
    "searched": 1_225,
}
WORDS = {
    "alone": "at the threshold or above: at most one of the two stays",
    "with others": "at the threshold or above: duplicates where the step's other kinds count them, too",
}


@pytest.mark.parametrize(
    ("same_image", "near_image", "counts"),
    [
        ([], [COSINE, BITS], {("image_embedding", "with others"): 2, ("phash", "with others"): 1}),
        # The step by the cosine alone says which pairs cannot both stay.
        (
            [COSINE | {"threshold": 0.96}],
            [BITS, COSINE],
            {("image_embedding", "alone"): 1, ("phash", "with others"): 1},
        ),
    ],
)
def test_a_step_by_several_kinds_has_a_histogram_of_each(tmp_path, monkeypatch, same_image, near_image, counts):
    changed = {"same_image": {"searches": same_image}, "near_image": {"searches": near_image}}
    monkeypatch.setattr(report_run, "STEPS", [step | changed.get(step["name"], {}) for step in STEPS])
    made = make_run(tmp_path)
    folder = Folder(made.store, "dedup-phash", "0123abcd")
    near = put_near(folder, [("0" * 64, "1" * 64, 1 - bits / 64) for bits in (5, 6)])
    text = report(made, Inputs({**made.inputs.folders, **near}, made.inputs.parts))
    for (by, words), count in counts.items():
        chart = Page(text.split(f"<h3>Near copies by {by}</h3>")[1].split('<p class="note">')[0])
        assert "each of the 1,225 pairs of distinct images was compared" in chart.text
        drawn = [re.findall(rf"(\d+) {WORDS[words]}", title) for title in chart.titles]
        assert sum(int(number) for numbers in drawn for number in numbers) == count
    # Which similarity a dropped pair names: that of the step's first kind.
    assert {"image_embedding": "cosine 0.9600", "phash": "3 of 64 bits differ"}[near_image[0]["by"]] in text
    # Pairs just below are those of each search, where the step has several.
    section = text.split('<section id="duplicates">')[1].split("<h3>near_image</h3>")[1].split("</section>")[0]
    of = [f" of {search['by']}" for search in near_image] if len(near_image) > 1 else [""]
    assert re.findall("<h4>Just below the threshold(.*): both kept</h4>", section) == of


def test_the_funnel_of_an_earlier_build_has_one_search_in_the_step_itself():
    step = {**COSINE, "name": "near_image"}
    assert searches_of(step) == [COSINE]
    assert searches_of({"name": "small", "near": None}) == []
    assert searches_of({"searches": [COSINE, BITS]}) == [COSINE, BITS]


def test_decisions_that_do_not_add_up_to_the_funnel_are_refused(made):
    inputs = Inputs(made.inputs.folders, made.inputs.parts[:-1])
    with pytest.raises(BrokenResult, match=r"not those of funnel\.json"):
        report(made, inputs)


def test_tables_that_do_not_belong_together_are_refused(made):
    folder = Folder(made.store, "embed-pocket", "ffff")
    for part in made.inputs.parts:
        table = made.inputs["embed-pocket"].table("pairs.parquet", part)
        out = folder.outputs(part)
        out.put_table("pairs.parquet", table.take(pa.array(np.arange(len(table))[::-1])))
        out.commit()
    inputs = Inputs({**made.inputs.folders, "embed-pocket": folder}, made.inputs.parts)
    with pytest.raises(BrokenResult, match="does not have the plan's rows"):
        report(made, inputs)


def test_pictures_beyond_the_budget_are_left_out(made, monkeypatch):
    monkeypatch.setattr("curate.report.examples.load.__defaults__", (10_000,))
    page = Page(report(made))
    uris = [value for tag, name, value in page.attributes if tag == "img" and name == "src"]
    assert 0 < sum(map(len, set(uris))) <= 10_000
    assert "no preview" in page.text


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_what_is_no_picture_has_no_thumbnail(data):
    assert thumb(data) is None


def test_a_tally_is_exact_below_its_capacity_and_never_too_high_above():
    rng = np.random.default_rng(3)
    names = rng.zipf(1.5, 3000) % 200
    truth = Counter((str(name), "dns") for name in names)
    exact, small = Tally(capacity=1000), Tally(capacity=20)
    for start in range(0, 3000, 100):
        helping = Counter((str(name), "dns") for name in names[start : start + 100])
        exact.add(helping)
        small.add(helping)
    assert exact.counts == truth
    assert exact.error == 0
    assert len(small.counts) <= 20
    for name, number in truth.items():
        assert number - small.error <= small.counts[name] <= number


def test_ranges_draw_runs_together():
    assert ranges([5, 3, 4, 9, 11, 12]) == "3–5, 9, 11–12"
    assert ranges(range(0, 100, 2), limit=2) == "0, 2, …"
