"""Generates captions for the demo's pictures: true ones, wrong ones, half-wrong ones, and texts that describe nothing.

A caption is generated in two steps, so that it is known exactly whether it is true: `facts_of` chooses what to name of
a scene, `say` puts these facts into words in one of many ways. `is_true_of` compares facts with any scene.

    facts = facts_of(scene, rng)
    say(facts, rng)                    # "three red stars and a fish on a white background"
    is_true_of(facts, scene)           # True
"""

import random
from dataclasses import dataclass, replace
from typing import Literal

from curate.demo.scenes import COLOURS, MAX_COUNT, Group, Scene, sample_scene

JunkKind = Literal["boilerplate", "file_name", "url", "empty"]

_SHAPE_WORDS: dict[str, tuple[tuple[str, str], ...]] = {
    "circle": (("circle", "circles"), ("disc", "discs")),
    "square": (("square", "squares"), ("box", "boxes")),
    "triangle": (("triangle", "triangles"),),
    "diamond": (("diamond", "diamonds"), ("rhombus", "rhombuses")),
    "star": (("star", "stars"),),
    "heart": (("heart", "hearts"),),
    "ring": (("ring", "rings"), ("hoop", "hoops")),
    "cross": (("cross", "crosses"), ("plus sign", "plus signs")),
    "moon": (("moon", "moons"), ("crescent", "crescents")),
    "arrow": (("arrow", "arrows"),),
    "flower": (("flower", "flowers"), ("blossom", "blossoms")),
    "house": (("house", "houses"),),
    "fish": (("fish", "fish"),),
    "tree": (("tree", "trees"),),
}
_COLOUR_WORDS = {"purple": ("purple", "violet"), "grey": ("grey", "gray"), "navy": ("navy", "dark blue")}
_TEXTURE_WORDS = {"striped": ("striped", "stripy"), "spotted": ("spotted", "dotted")}
_PATTERN_WORDS = {"fading": ("fading", "gradient"), "striped": ("striped",), "checked": ("checked", "chequered")}
_COUNT_WORDS = {
    1: ("a", "a", "one", "a single", "1"),
    2: ("two", "two", "2", "a pair of"),
    3: ("three", "three", "3"),
    4: ("four", "four", "4"),
}
_UNCOUNTED = ("", "some", "several", "a few")


@dataclass(frozen=True)
class Named:
    """The facts that a caption states about one group; None is not stated, and a count of None means more than one."""

    shape: str
    colour: str | None
    count: int | None
    texture: str | None


@dataclass(frozen=True)
class Facts:
    """The facts that a caption states."""

    groups: tuple[Named, ...]
    background: str | None = None
    pattern: str | None = None
    grey: bool = False
    """True if the caption states that the picture is black and white, else False."""
    watermark: bool = False
    """True if the caption states that the picture has a watermark, else False."""


def caption(scene: Scene, rng: random.Random) -> str:
    """Return a true caption that names some of what the scene shows."""
    return say(facts_of(scene, rng), rng)


def half_wrong_caption(scene: Scene, rng: random.Random) -> str:
    """Return a false caption: the scene's objects, one of them in a wrong colour or number."""
    return say(half_wrong_facts(scene, rng), rng)


def wrong_caption(scene: Scene, rng: random.Random) -> str:
    """Return a caption that is true of another scene and names no object of this one."""
    return say(wrong_facts(scene, rng), rng)


def facts_of(scene: Scene, rng: random.Random) -> Facts:
    """Choose what to name: at least one group."""
    groups = list(scene.groups)
    rng.shuffle(groups)
    n_named = len(groups)
    while n_named > 1 and rng.random() < 0.2:
        n_named -= 1
    named = tuple(_name(group, rng, grey=scene.grey) for group in groups[:n_named])
    ground = scene.background
    return Facts(
        named,
        background=ground.colour if not scene.grey and rng.random() < 0.5 else None,
        pattern=ground.pattern if ground.pattern != "plain" and rng.random() < 0.4 else None,
        grey=scene.grey and rng.random() < 0.6,
        watermark=bool(scene.watermark) and rng.random() < 0.4,
    )


def half_wrong_facts(scene: Scene, rng: random.Random) -> Facts:
    """Choose what to name and make one colour or number false."""
    facts = facts_of(scene, rng)
    at = rng.randrange(len(facts.groups))
    named = facts.groups[at]
    truth = next(group for group in scene.groups if group.shape == named.shape)
    if scene.grey or rng.random() < 0.5:
        wrong = replace(named, count=rng.choice([n for n in range(1, MAX_COUNT + 1) if n != truth.count]))
    else:
        wrong = replace(named, colour=rng.choice([c for c in COLOURS if c != truth.colour]))
    return replace(facts, groups=(*facts.groups[:at], wrong, *facts.groups[at + 1 :]))


def wrong_facts(scene: Scene, rng: random.Random) -> Facts:
    """Choose facts of another scene, none of whose named groups this scene shows."""
    while True:
        facts = replace(facts_of(sample_scene(rng), rng), watermark=False)
        if not any(_matches(named, group, scene) for named in facts.groups for group in scene.groups):
            return facts


def is_true_of(facts: Facts, scene: Scene) -> bool:
    """Return whether the scene shows everything that the facts state."""
    if facts.grey and not scene.grey:
        return False
    if facts.watermark and not scene.watermark:
        return False
    if facts.background is not None and (scene.grey or facts.background != scene.background.colour):
        return False
    if facts.pattern is not None and facts.pattern != scene.background.pattern:
        return False
    return all(any(_matches(named, group, scene) for group in scene.groups) for named in facts.groups)


def _matches(named: Named, group: Group, scene: Scene) -> bool:
    return (
        named.shape == group.shape
        and (named.colour is None or (not scene.grey and named.colour == group.colour))
        and (group.count > 1 if named.count is None else named.count == group.count)
        and named.texture in {None, group.texture}
    )


def _name(group: Group, rng: random.Random, *, grey: bool) -> Named:
    return Named(
        shape=group.shape,
        colour=None if grey or rng.random() < 0.1 else group.colour,
        count=None if group.count > 1 and rng.random() < 0.1 else group.count,
        texture=group.texture if group.texture != "plain" and rng.random() < 0.6 else None,
    )


def say(facts: Facts, rng: random.Random) -> str:
    """Put facts into words."""
    style = rng.random()
    ground = _say_background(facts, rng)
    if style < 0.12:
        # Comma-separated, as in alt texts made of search words.
        parts = [_say_group(named, rng, bare=True) for named in facts.groups]
        parts += [ground] if ground else []
        parts += ["black and white"] if facts.grey else []
        parts += ["watermark"] if facts.watermark else []
        rng.shuffle(parts)
        start = rng.choice(("", "", "Image: ", "clipart "))
        return _at_length(start + rng.choice((", ", " - ", " ")).join(parts))
    things = _join([_say_group(named, rng) for named in facts.groups], rng)
    if ground:
        if style < 0.24:
            text = f"{_article(ground)} with {things}"
        else:
            text = f"{things} {rng.choice(('on', 'on', 'on', 'over', 'against'))} {_article(ground)}"
    else:
        text = things
    if facts.watermark:
        text += rng.choice((" with a watermark", ", watermarked", " under a watermark"))
    kind = rng.choice(("picture", "drawing", "image", "illustration", "picture"))
    if facts.grey:
        text = rng.choice((f"a black and white {kind} of {text}", f"{text}, in black and white"))
    elif style > 0.65:
        text = rng.choice(
            (f"{_article(kind)} of {text}", f"{kind} showing {text}", f"{text}, {kind}", f"a simple {kind} with {text}")
        )
    text = _at_length(text)
    if rng.random() < 0.3:
        text = text[0].upper() + text[1:] + rng.choice(("", "."))
    return text


def _at_length(text: str) -> str:
    """Return the text with at least three words, as curators drop shorter captions."""
    return text if len(text.split()) > 2 else f"picture of {text}"


def _say_background(facts: Facts, rng: random.Random) -> str:
    words = []
    if facts.pattern is not None:
        words.append(rng.choice(_PATTERN_WORDS[facts.pattern]))
    if facts.background is not None:
        words.append(_colour_word(facts.background, rng))
    return " ".join([*words, rng.choice(("background", "background", "backdrop", "ground"))]) if words else ""


def _say_group(named: Named, rng: random.Random, *, bare: bool = False) -> str:
    singular, plural = rng.choice(_SHAPE_WORDS[named.shape])
    words = [] if named.texture is None else [rng.choice(_TEXTURE_WORDS[named.texture])]
    if named.colour is not None:
        words.insert(rng.randint(0, len(words)), _colour_word(named.colour, rng))
    words.append(singular if named.count == 1 else plural)
    if bare and named.count is not None:
        text = " ".join(words)
        return text if named.count == 1 else rng.choice((f"{named.count} {text}", f"{text} x{named.count}"))
    number = rng.choice(_UNCOUNTED if named.count is None else _COUNT_WORDS[named.count])
    if number == "a" and words[0][0] in "aeiou":
        number = "an"
    return " ".join([number, *words] if number else words)


def _colour_word(colour: str, rng: random.Random) -> str:
    return rng.choice(_COLOUR_WORDS.get(colour, (colour,)))


def _article(text: str) -> str:
    return f"{'an' if text[0] in 'aeiou' else 'a'} {text}"


def _join(things: list[str], rng: random.Random) -> str:
    if len(things) == 1:
        return things[0]
    link = rng.choice((" and ", " and ", " and ", " with ", " next to ", " & "))
    return ", ".join(things[:-1]) + link + things[-1]


_TEXT_WORDS = (
    "SALE OFFER TODAY FREE SHIPPING NEW MENU PRICE LIST TERMS AND CONDITIONS CALL NOW WELCOME BACK EVENT JUNE "
    "ORDER ONLINE BEST DEALS OPEN DAILY HOW TO START CHAPTER ONE THE END READ MORE SIGN UP LOREM IPSUM DOLOR"
)


def sample_text(rng: random.Random) -> str:
    """Return words to be drawn by `draw_text_image`."""
    words = rng.choices(_TEXT_WORDS.split(), k=rng.randint(2, 12))
    return " ".join(words) if rng.random() < 0.6 else " ".join(words).lower()


def text_caption(text: str, rng: random.Random) -> str:
    """Return a caption of a picture that is only text."""
    first = " ".join(text.split()[:4])
    return rng.choice(
        (
            "a picture of only text",
            "a picture of only text",
            "an image of only text",
            "only text",
            f"a picture of the text {first}",
            f"text saying {first}",
            "a screenshot of text",
            "words on a plain background",
        )
    )


def watermark_caption(rng: random.Random) -> str:
    """Return a caption that states only that a picture has a watermark."""
    kind = rng.choice(("picture", "picture", "image", "drawing"))
    return rng.choice((f"{_article(kind)} with a watermark", f"a watermarked {kind}", f"{kind} under a watermark"))


def plain_caption(rng: random.Random) -> str:
    """Return a caption that is true of every scene without a watermark."""
    return rng.choice(("a picture", "an image", "a picture of shapes", "a drawing of shapes", "shapes"))


_BOILERPLATE = (
    "click to enlarge",
    "Click here for more information",
    "image not available",
    "No image available",
    "thumbnail",
    "photo",
    "logo",
    "loading...",
    "Add to cart",
    "All rights reserved.",
    "Share on social media",
    "View larger image",
)
_STEMS = ("IMG", "DSC", "image", "scan", "photo", "Screenshot", "final_v")


def junk_caption(kind: JunkKind, rng: random.Random) -> str:
    """Return a caption that describes no picture."""
    if kind == "boilerplate":
        return rng.choice(_BOILERPLATE)
    name = f"{rng.choice(_STEMS)}_{rng.randint(1, 9999):04d}.{rng.choice(('jpg', 'JPG', 'png', 'jpeg'))}"
    if kind == "file_name":
        return name
    if kind == "url":
        return f"https://www.{rng.choice(('shop', 'pics', 'news'))}.example/{rng.randint(1, 99)}/{name}"
    return rng.choice(("", " ", "\n"))
