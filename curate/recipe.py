"""The recipe file as frozen models: every key with its type, default and effect, here or in the plug-in that adds it.

`docs/recipes.md` explains the same keys in prose; a test fails when a key is missing there.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, ValidationInfo, create_model, field_validator, model_validator

from curate import __version__, recipe_faults, yaml_values
from curate.against import ReferenceSet
from curate.credentials import redacted, shown
from curate.duplicates import near_kinds
from curate.embed.model.names import HUB, WEIGHT_FILES
from curate.embed.pixels.registry import KINDS as PIXEL_KINDS
from curate.errors import RecipeError, UsageError, nearest, shortened
from curate.keys import Fraction, Keys, Name, Places, Positive, Seconds, type_of
from curate.pack.layouts.registry import layouts
from curate.recipe_values import Agent, Column, Endpoint, ModelPlace, Number, Opened, RunPlace
from curate.runs.booking import Booking, Resources, one
from curate.schema import REASONS_BEFORE
from curate.select.steps.registry import STEPS
from curate.signals.contract import Prompts
from curate.signals.registry import KINDS, scorers
from curate.store import absolute

BOOKED = ("plan", "fetch", "embed", "signals", "dedup", "pack")
"""The passes whose workers a recipe may set, in `workers`."""

Side = Annotated[int, Field(ge=1, le=4096)]
Sides = Annotated[list[Side], Field(min_length=2, max_length=2)]
Means = Annotated[list[Annotated[float, Field(ge=-1000, le=1000)]], Field(min_length=3, max_length=3)]
Deviations = Annotated[list[Annotated[float, Field(gt=0, le=1000)]], Field(min_length=3, max_length=3)]

_MOVED = {"fetch.processes": "workers.fetch.count", "embed.processes": "workers.embed.count"}
"""Keys of earlier recipes, with those that replace them."""


class Source(Keys):
    """Lists of URLs, or existing images."""

    SIGNED = frozenset({"paths"})

    kind: Literal["urls", "samples"] = Field(
        "urls", description="`samples`: WebDataset tars and folders of images, which are read and not downloaded."
    )
    paths: Places = Field(
        min_length=1, description="Files, folders or globs of lists; any fsspec path, also a signed URL."
    )
    url: Column | Number = Field(
        "url", description="The column that holds the URL; a number where files have no header."
    )
    caption: Column | Number | None = Field(
        "caption",
        description="The column that holds the caption; a number where files have no header; null where the source "
        "has no captions.",
    )
    uid: Column | None = Field(None, description="A column of 32 hex digits that names each pair (DataComp's `uid`).")
    sha256: Column | None = Field(
        None,
        description="A column with the sha256 that each image's bytes are expected to have, in hex or base64; what "
        "becomes of others: `fetch.changed`.",
    )
    md5: Column | None = Field(None, description="As `sha256`, a column of md5 digests.")
    header: bool = Field(True, description="Whether csv and tsv files begin with a line of column names.")
    quoted: bool | None = Field(
        None,
        description="Whether cells of csv and tsv may be enclosed in double quotes (RFC 4180); null: yes in csv, no in "
        "tsv.",
    )
    keep_columns: Annotated[list[Column], Field(max_length=10_000)] | None = Field(
        None, description="Columns to pass through as `source_<name>`; by default all of them."
    )

    @model_validator(mode="after")
    def _columns_differ(self) -> "Source":
        named: dict[str | int, str] = {}
        for key in ("url", "caption", "uid", "sha256", "md5"):
            column = getattr(self, key)
            if column is not None and column in named:
                raise ValueError(f"{key} is {column!r}, the column of {named[column]}; write another column")
            named[column] = key
        if len(set(self.keep_columns or ())) < len(self.keep_columns or ()):
            raise ValueError("keep_columns names a column twice")
        return self

    @model_validator(mode="after")
    def _keys_of_samples(self) -> "Source":
        if self.kind == "samples" and (isinstance(self.url, int) or isinstance(self.caption, int)):
            raise ValueError("url and caption are keys of the samples' json; numbers need kind: urls")
        if self.kind == "samples" and (self.sha256 or self.md5):
            raise ValueError("sha256 and md5 are columns of lists; they need kind: urls")
        return self


class Fetch(Keys):
    """Keys of downloading and storing images."""

    HOW = frozenset(
        {
            "threads",
            "agent",
            "host_connections",
            "host_rate",
            "host_failures",
            "retries",
            "min_speed",
            "part_timeout",
            "waiting_bytes",
            "min_success",
            "min_success_window",
        }
    )

    image_size: Annotated[int, Field(ge=1, le=16_383)] = Field(512, description="The target of `resize`, in pixels.")
    resize: Literal["no", "border", "keep_ratio", "keep_ratio_largest", "center_crop"] = Field(
        "keep_ratio_largest",
        description="What is scaled to `image_size`: with keep_ratio the shorter side, with keep_ratio_largest the "
        "longer.",
    )
    only_if_bigger: bool = Field(True, description="Store images smaller than `image_size` at their own size.")
    format: Literal["jpg", "png", "webp"] = Field("jpg", description="How images are stored.")
    quality: Annotated[int, Field(ge=1, le=100)] = Field(95, description="Quality of stored jpg and webp.")
    timeout: Seconds = Field(
        10.0, description="Seconds for one image in total: name resolution, connection, redirects and body."
    )
    max_bytes: Annotated[int, Field(ge=1, le=2**31 - 1)] = Field(
        20_000_000, description="Largest body in bytes; a larger one fails as `too_large`."
    )
    max_pixels: Annotated[int, Field(ge=1, le=2**31 - 1)] = Field(
        100_000_000,
        description="Largest width × height, read from the header; more fails as `too_large`. So does a JPEG of more "
        "than 100 scans, or of more scans × pixels than 16 times this.",
    )
    max_redirects: Annotated[int, Field(ge=0, le=100)] = Field(5, description="Redirects followed for one image.")
    agent: Agent = Field(
        f"curate/{__version__} (image-text data curation)",
        description="The User-Agent header; name yourself and a contact.",
    )
    agent_token: Name = Field(
        "curate", description="The crawler's name in per-agent opt-out headers and in robots.txt."
    )
    allow: list[Opened] = Field(
        [],
        description="`address:port` pairs that may be contacted although the address rules refuse them.",
        max_length=10_000,
    )
    robots: bool = Field(False, description="Request robots.txt from each origin and obey its rules for `agent_token`.")
    tdmrep: bool = Field(
        False,
        description="Request `/.well-known/tdmrep.json` from each origin and obey its reservations (W3C TDMRep).",
    )
    noml: bool = Field(True, description="Obey `X-Robots-Tag: noml` (noml.info).")
    content_usage: bool = Field(
        True,
        description="Obey `Content-Usage: train-ai=n` (IETF AIPREF, drafts vocab-08 and attach-05), in the response's "
        "header and, with `robots`, in robots.txt.",
    )
    c2pa: bool = Field(
        True,
        description="Obey a C2PA manifest in the image that does not allow training: assertion `cawg.training-mining` "
        "or `c2pa.training-mining`.",
    )
    blocklists: Places = Field(
        [],
        description="Files of sha256 or md5 digests in hex, one per line; any fsspec path. Files with these digests "
        "are never stored.",
    )
    phash_blocklists: Places = Field(
        [],
        description="Files of 64-bit perceptual hashes in 16 hex digits, one per line; any fsspec path. Pictures whose "
        "`phash` is near one of them are never stored.",
    )
    phash_within: Annotated[int, Field(ge=0, le=16)] = Field(
        4, description="A picture is near a hash of `phash_blocklists` where this many of 64 bits differ, or fewer."
    )
    changed: Literal["drop", "keep"] = Field(
        "drop",
        description="What becomes of images whose bytes are not those that `source.sha256` or `source.md5` expects: "
        "`drop` fails them as `changed`, `keep` stores and counts them.",
    )
    known_results: Annotated[Places, Field(max_length=1000)] = Field(
        [],
        description="Earlier results: the folders of finished runs, or their `pack-…` in them. Images whose URL one of "
        "them has are not fetched again; they fail as `known_url`.",
    )
    threads: Annotated[int, Field(ge=1, le=10_000)] = Field(
        32, description="Concurrent requests in one worker; a request that its server keeps waiting is not counted."
    )
    host_connections: Positive = Field(
        16,
        description="Concurrent requests to one host, of all workers together; with more workers than this, on "
        "average.",
    )
    host_rate: Annotated[float, Field(gt=0, le=10**6)] | None = Field(
        None, description="Requests per second to one host, of all workers together; null: no limit."
    )
    host_failures: Positive = Field(
        10,
        description="Consecutive refusals after which a host's port is skipped for the rest of a part (`host_busy`).",
    )
    retries: Annotated[int, Field(ge=0, le=100)] = Field(
        2, description="Further attempts, within `timeout`, after failures that may pass: broken connections, 429, 5xx."
    )
    min_speed: Annotated[int, Field(ge=0, le=10**9)] = Field(
        1000, description="Slowest transfer in bytes per second, over any 5 seconds; a slower one fails as `timeout`."
    )
    part_timeout: Seconds = Field(
        14400.0,
        description="Seconds for one part; images that are not received by then fail as `deadline`, or as `host_busy` "
        "where they waited for their host.",
    )
    waiting_bytes: Positive = Field(
        256_000_000,
        description="Bytes of response bodies that one worker holds at a time, in transfer or not decoded yet.",
    )
    min_success: Fraction = Field(
        0.05, description="The run stops when a smaller share of the last `min_success_window` images was fetched."
    )
    min_success_window: Positive = Field(
        1000, description="Number of latest images over which `min_success` is checked, in whole parts."
    )


class TorchScript(Keys):
    """A file of TorchScript that embeds images, and what it expects of a picture."""

    trust: bool = Field(
        False,
        description="Required as `true`: such a file is code, which runs with all rights of the workers and of the "
        "driver.",
    )
    size: Side | Sides = Field(
        description="The picture that the file takes, in pixels: a square's side, or `[height, width]`."
    )
    resize: Literal["shortest", "longest", "squash"] = Field(
        "shortest",
        description="`shortest` scales the shorter side to `size` and cuts off the rest, `longest` the longer side and "
        "fills up with black, `squash` both sides.",
    )
    interpolation: Literal["bicubic", "bilinear"] = Field("bilinear", description="The filter of that resize.")
    mean: Means = Field([0.485, 0.456, 0.406], description="Subtracted from red, green and blue, of 0 to 1.")
    std: Deviations = Field([0.229, 0.224, 0.225], description="They are divided by it afterwards.")

    @model_validator(mode="after")
    def _trusted(self) -> "TorchScript":
        if not self.trust:
            raise ValueError(
                "a file of TorchScript is code that runs with all your rights; write trust: true where you trust its "
                "origin"
            )
        return self


class Model(Keys):
    """A model that embeds the images and, where it has a text tower, scores the pairs."""

    HOW = frozenset({"threads", "batch_size"})

    name: ModelPlace = Field(
        description="An open_clip model, one on the hub (`hf-hub:owner/model`), or a path to an open_clip config json; "
        "`pocket` is built in. With `torchscript`: the path of that file (local, s3://)."
    )
    torchscript: TorchScript | None = Field(
        None, description="The model is a file of TorchScript that embeds images; it has no text tower."
    )
    pretrained: ModelPlace | None = Field(
        None,
        description="An open_clip tag, or a path to weights or a folder of them (local, s3://); `pocket` and models on "
        "the hub have their own.",
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="Precision of the forward pass.")
    batch_size: Annotated[int, Field(ge=1, le=10**6)] | None = Field(
        None, description="Images, or captions, in one forward pass; null: 64 on a CPU, by memory on a GPU."
    )
    threads: Annotated[int, Field(ge=1, le=1024)] = Field(
        2, description="CPU threads of the forward pass and of decoding."
    )
    compile: bool = Field(False, description="Compile the towers with torch.compile; needs a C++ compiler.")
    mirror: bool = Field(
        False, description="Also score the mirrored image: `clip_similarity_mirrored`, a second forward pass."
    )

    @property
    def has_text(self) -> bool:
        """Whether it has a text tower, so that it embeds captions and scores pairs."""
        return self.torchscript is None

    @model_validator(mode="after")
    def _weights(self) -> "Model":
        if self.torchscript:
            for key, why in _NOT_WITH_TORCHSCRIPT.items():
                if getattr(self, key) not in (None, False):
                    raise ValueError(f"{key}: {why}")
            return self
        if self.pretrained is None and self.name != "pocket" and not self.name.startswith("hf-hub:"):
            raise ValueError("pretrained is missing: an open_clip tag or a path to weights")
        return self

    def with_absolute_paths(self) -> Self:
        """See `Keys`; names on the hub, and names and tags of open_clip, are not paths."""
        name, pretrained = self.name, self.pretrained
        if self.torchscript:
            return self.model_copy(update={"name": absolute(name)})
        if name.endswith(".json") and not name.startswith(HUB):
            name = absolute(name)
        if pretrained and (pretrained.endswith(WEIGHT_FILES) or _is_folder(name, pretrained)):
            pretrained = absolute(pretrained)
        return self.model_copy(update={"name": name, "pretrained": pretrained})


_NOT_WITH_TORCHSCRIPT = {
    "pretrained": "a file of TorchScript has its own weights",
    "mirror": "a file of TorchScript has no text tower, so it scores no captions",
    "compile": "a file of TorchScript is compiled",
}
"""The keys that a model with `torchscript` does not have, and why."""


def _is_folder(name: str, pretrained: str) -> bool:
    """Whether weights are a folder; a tag takes precedence over one of its name, as it does when they are loaded."""
    if not Path(pretrained).is_dir():
        return False
    # Imported where open_clip alone can tell: reading a recipe should not wait seconds for it.
    from curate.embed.model.weights import is_tag

    return not is_tag(name, pretrained)


class Embed(Keys):
    """Keys of embedding workers and their decoding."""

    HOW = frozenset({"device", "decoders"})

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="`auto` takes a CUDA device where there is one.")
    decoders: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        None, description="Decoding processes for each GPU; by default one for each CPU core, 16 at most."
    )
    decode: Literal["fast", "exact"] = Field(
        "fast",
        description="`exact`: open_clip's own preprocessing, bit for bit; `fast`: an approximation at half the cost.",
    )


def _signals() -> type[Keys]:
    fields: dict[str, Any] = {
        name: (dict[Name, kind.keys], Field({}, description=kind.about, max_length=1000))  # type: ignore[name-defined]
        for name, kind in KINDS.items()
        if kind.keys is not None
    }
    about = "Columns computed from captions and embeddings, never from images: a field for each kind that has keys."
    return create_model("Signals", __base__=Keys, __doc__=about, **fields)


if TYPE_CHECKING:

    class Signals(Keys):
        """Built at run time from the registry of signals."""

        def __getattr__(self, name: str) -> Any: ...
else:
    Signals = _signals()


def _pixels() -> type[Keys]:
    fields: dict[str, Any] = {
        name: (dict[Name, kind.keys], Field({}, description=kind.about, max_length=1000))  # type: ignore[name-defined]
        for name, kind in PIXEL_KINDS.items()
        if kind.keys is not None
    }
    about = "Columns that other packages compute from the images: a field for each kind that is installed."
    return create_model("Pixels", __base__=Keys, __doc__=about, **fields)


if TYPE_CHECKING:

    class Pixels(Keys):
        """Built at run time from the registry of pixel scorers."""

        def __getattr__(self, name: str) -> Any: ...
else:
    Pixels = _pixels()


def _dedup() -> type[Keys]:
    fields: dict[str, Any] = {}
    for kind in near_kinds():
        for key, field in kind.section.model_fields.items():
            if key in fields:
                raise UsageError(f"two kinds of duplicates have the key dedup.{key}; one of them is {kind.name}")
            fields[key] = (type_of(field), field)
    about = "The searches for near pairs: the keys of every kind of duplicate that has one."
    return create_model("Dedup", __base__=Keys, __doc__=about, **fields)


if TYPE_CHECKING:

    class Dedup(Keys):
        """Built at run time from the registry of kinds of duplicates."""
else:
    Dedup = _dedup()


class _AnyStep(Keys):
    """One step of the funnel; it sees the pairs that no step above it has dropped."""

    drop: Name = Field(description="The step's name, and the drop reason of its pairs.")

    @model_validator(mode="after")
    def _one_kind(self) -> "_AnyStep":
        chosen = [name for name in STEPS if getattr(self, name) is not None]
        if len(chosen) != 1:
            raise ValueError(f"a step has exactly one of: {', '.join(STEPS)}")
        for name, kind in STEPS.items():
            for key, (_, field) in kind.beside.items():
                if name not in chosen and getattr(self, key) != field.default:
                    raise ValueError(f"`{key}` needs {name}")
        if self.drop in REASONS_BEFORE:
            raise ValueError(f"{self.drop!r} is a built-in reason; choose another name")
        return self


def _step() -> type[_AnyStep]:
    brought_by: dict[str, str] = {"drop": "every step"}
    fields: dict[str, Any] = {}
    for name, kind in STEPS.items():
        own = {name: (kind.keys | None, Field(None, description=kind.description)), **kind.beside}
        for key, field in own.items():
            if key in brought_by:
                raise UsageError(f"two step kinds have the key {key!r}: {brought_by[key]} and {STEPS.origin(name)}")
            brought_by[key], fields[key] = STEPS.origin(name), field
    return create_model("Step", __base__=_AnyStep, __doc__=_AnyStep.__doc__, **fields)


if TYPE_CHECKING:

    class Step(_AnyStep):
        """Built at run time from the registry of step kinds."""

        def __getattr__(self, name: str) -> Any: ...
else:
    Step = _step()


def _with_models(step: Step, models: Sequence[str]) -> Step:
    values = {name: getattr(step, name) for name in STEPS}
    update = {name: STEPS[name].with_models(value, models) for name, value in values.items() if value is not None}
    return step.model_copy(update=update)


class Pack(Keys):
    """The result."""

    shard_size: Annotated[int, Field(ge=1, le=10**7)] = Field(
        10_000, description="Samples in every shard but the last."
    )
    layouts: list[Name] = Field(
        ["webdataset"],
        description="The layouts in which the kept pairs are written, side by side.",
        min_length=1,
        max_length=100,
    )

    @field_validator("layouts")
    @classmethod
    def _known(cls, value: list[str]) -> list[str]:
        if len(set(value)) < len(value):
            raise ValueError("a layout is named twice")
        try:
            layouts(value)
        except RecipeError as error:
            raise ValueError(str(error)) from error
        return value


class Keep(Keys):
    """The parts of its own data that a run keeps."""

    HOW = frozenset({"images"})

    images: Literal["all", "until_pack"] = Field(
        "all",
        description="`all`, or `until_pack`: the stored images are deleted once the result is packed.",
    )


class PassWorkers(Keys):
    """The workers of one pass: how many, and what each of them reserves."""

    HOW = frozenset({"count", "cpus", "gpus", "memory"})

    count: Annotated[int, Field(ge=1, le=100_000)] | None = Field(
        None, description="Workers of the pass, on all machines together; null: by the CPUs and GPUs that there are."
    )
    cpus: Annotated[float, Field(gt=0, le=10_000)] | None = Field(
        None, description="CPUs that each worker reserves (Ray); null: one."
    )
    gpus: Annotated[float, Field(ge=0, le=1000)] | None = Field(
        None, description="GPUs for each worker; null: for embed and dedup one where there are any, else none."
    )
    memory: Annotated[float, Field(gt=0, le=100_000)] | None = Field(
        None, description="Gigabytes of memory that each worker reserves (Ray); null: no reservation."
    )


class Storage(Keys):
    """The S3 server of s3:// paths, and faults of disks and stores."""

    endpoint: Endpoint | None = Field(
        None, description="An S3 server other than AWS; by default the environment's AWS_ENDPOINT_URL."
    )
    patience: Annotated[float, Field(ge=0, le=31_536_000)] = Field(
        600,
        description="Seconds for which a run waits for the end of a fault of a disk or a store (full, read-only, away) "
        "before it stops; the fault counts against no part.",
    )


class Limits(Keys):
    """Limits at which a run stops."""

    max_failed_parts: Fraction = Field(
        0.01, description="The share of parts that may be set aside before the run stops (3 parts always may)."
    )
    part_seconds: Seconds = Field(
        86_400.0,
        description="Seconds that a worker may take for a part before it is killed; the start counts as failed.",
    )


class Recipe(Keys):
    """A whole recipe."""

    version: Literal[1] = Field(description="The recipe format.")
    source: Source = Field(description="Lists of URLs, or existing images.")
    output: RunPlace = Field(description="The run's folder: a local path or s3://bucket/prefix.")
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = Field(
        0, description="Seed of the hash that assigns images to parts."
    )
    part_size: Annotated[int, Field(ge=1, le=10**7)] = Field(
        10_000, description="Rows of one part, on average. A part is computed, retried and set aside as a whole."
    )
    fetch: Fetch = Field(Fetch(), description="How images are downloaded and stored.")
    models: dict[Name, Model] = Field(
        {"pocket": Model(name="pocket")},
        description="The models that embed the images and score each pair; the first model's columns also exist "
        "without the suffix `_<name>`.",
        min_length=1,
        max_length=16,
    )
    embed: Embed = Field(Embed(), description="How embedding workers run and decode.")
    signals: Signals = Field(Signals(), description="Columns computed from captions and embeddings.")
    pixels: Pixels = Field(Pixels(), description="Columns that scorers of other packages compute from the images.")
    dedup: Dedup = Field(Dedup(), description="The searches for near pairs.")
    against: dict[Name, ReferenceSet] = Field(
        {}, description="Sets of items, such as evaluation sets, that a step compares images with.", max_length=1000
    )
    select: list[Step] = Field([], description="The funnel, step by step.", max_length=1000)
    pack: Pack = Field(Pack(), description="The result.")
    keep: Keep = Field(Keep(), description="The parts of its own data that the run keeps.")
    workers: dict[Name, PassWorkers] = Field(
        {},
        description="The workers of plan, fetch, embed, signals, dedup and pack; by default chosen by the machine.",
        max_length=len(BOOKED),
    )
    storage: Storage = Field(Storage(), description="The S3 server of s3:// paths, and faults of disks and stores.")
    limits: Limits = Field(Limits(), description="Limits at which a run stops.")

    @field_validator("models")
    @classmethod
    def _columns(cls, value: dict[str, Model]) -> dict[str, Model]:
        for name in value:
            if name.startswith("mirrored"):
                raise ValueError(
                    f"{name}: clip_similarity_{name} would look like the score of a mirrored image; choose another name"
                )
        first = next(iter(value))
        if not value[first].has_text and any(model.has_text for model in value.values()):
            raise ValueError(
                f"{first} comes first but has no text tower (torchscript); the first model's scores are those without "
                "its name: put a model with a text tower first"
            )
        return value

    @field_validator("select")
    @classmethod
    def _first_model(cls, value: list[Step], info: ValidationInfo) -> list[Step]:
        if "models" not in info.data:
            return value
        return [_with_models(step, list(info.data["models"])) for step in value]

    @field_validator("workers")
    @classmethod
    def _passes(cls, value: dict[str, PassWorkers]) -> dict[str, PassWorkers]:
        for name in value:
            if name not in BOOKED:
                raise ValueError(f"no pass with workers is named {name!r}{nearest(name, BOOKED)}")
        return value

    @model_validator(mode="after")
    def _gpus(self) -> "Recipe":
        if self.embed.device == "cpu":
            for name in ("embed", "dedup"):
                if self.workers.get(name, PassWorkers()).gpus:
                    raise ValueError(f"workers.{name}.gpus: embed.device is cpu, so no GPU would be used")
        return self

    def booking(
        self, name: str, default_count: Callable[[Resources], int] = one, *, uses_gpu: bool = False
    ) -> tuple[int | None, Booking]:
        """Returns the number of workers of a pass (None: the engine chooses it) and what each of them reserves.

        Args:
            name: the pass, as in `workers`.
            default_count: gives the number of workers where the recipe does not.
            uses_gpu: the pass computes on `embed.device`.
        """
        keys = self.workers.get(name, PassWorkers())
        gpus = keys.gpus
        if gpus is None and (not uses_gpu or self.embed.device == "cpu"):
            gpus = 0.0
        elif gpus is None and self.embed.device == "cuda":
            gpus = 1.0
        return keys.count, Booking(keys.cpus, gpus, keys.memory, default_count, f"workers.{name}")

    def device(self, name: str) -> str:
        """Returns the device on which a pass computes: `embed.device`, or `cpu` where its workers have no GPU."""
        return "cpu" if self.workers.get(name, PassWorkers()).gpus == 0 else self.embed.device

    def as_stored(self) -> "Recipe":
        """Returns the recipe as it may be stored and shown: without the signatures of `source.paths`."""
        paths = [shown(path) for path in self.source.paths]
        return self.model_copy(update={"source": self.source.model_copy(update={"paths": paths})})

    @model_validator(mode="after")
    def _steps(self) -> "Recipe":
        seen: set[str] = set()
        for step in self.select:
            if step.drop in seen:
                raise ValueError(f"select: two steps are named {step.drop!r}")
            seen.add(step.drop)
        if self.fetch.known_results and self.source.kind == "samples":
            raise ValueError("fetch.known_results: samples are read, not fetched; compare them with `against`")
        for kind in near_kinds():
            kind.check_section(self.dedup, list(self.models))
        for step_kind in STEPS.values():
            step_kind.check_recipe(self.select, self)
        for scorer in scorers(self.signals, next(iter(self.models))):
            if scorer.model is None:
                continue
            if scorer.model not in self.models:
                raise ValueError(
                    f"{scorer.where}: there is no model {scorer.model!r}{nearest(scorer.model, self.models)}"
                )
            if isinstance(scorer.directions, Prompts) and not self.models[scorer.model].has_text:
                raise ValueError(
                    f"{scorer.where} compares images with texts, and the model {scorer.model!r} has no text tower "
                    "(torchscript); name another model"
                )
        return self


def load(path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """Reads a recipe file.

    Args:
        path: a YAML file.
        overrides: `key=value` settings, keys dotted (`select.0.where`), values in YAML.

    Raises:
        RecipeError: the file cannot be read, or a key or value is wrong; one line that names it.
    """
    named = shown(str(path))
    try:
        with Path(path).open(encoding="utf-8") as file:
            text = file.read(yaml_values.MOST_CHARACTERS + 1)
        content = yaml_values.read(text)
    except yaml_values.Fault as error:
        raise RecipeError(f"recipe {named} is not YAML that can be read: {error}") from None
    except (OSError, ValueError) as error:
        raise RecipeError(f"recipe {named} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not isinstance(content, dict):
        raise RecipeError(f"recipe {named} is not a mapping of keys")
    if str(content.get("checksum")).startswith("sha256:"):
        # A run's recipe.json, which may have been edited: not a key of a recipe.
        del content["checksum"]
    return parse(content, overrides or [])


def parse(content: dict[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """Returns a recipe from its keys and values, changed by overrides as in `load`.

    Raises:
        RecipeError: the first fault, in one line.
    """
    for override in overrides:
        _override(content, override)
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        message = recipe_faults.first(error, content, Recipe, _MOVED)
    # Raised outside `except`: as its cause, the error would keep the frames of the step kinds' checks alive.
    raise RecipeError(redacted(message))


def _override(content: dict[str, Any], override: str) -> None:
    dotted, equals, value = override.partition("=")
    named = shortened(dotted)
    if not equals or not dotted:
        raise RecipeError(f"--set {shortened(override)!r}: write key=value, such as --set pack.shard_size=1000")
    try:
        parsed = yaml_values.read(value)
    except yaml_values.Fault as error:
        raise RecipeError(f"--set {named}: the value is not YAML that can be read: {error}") from None
    *path, last = dotted.split(".")
    if len(path) >= yaml_values.DEEPEST:
        raise RecipeError(f"--set {named}: no key is that deep")
    at: Any = content
    for word in path:
        at = at[_index(at, word, named)] if isinstance(at, list) else at.setdefault(word, {})
        if not isinstance(at, dict | list):
            raise RecipeError(f"--set {named}: {shortened(word)} holds a value, not keys")
    if isinstance(at, list):
        at[_index(at, last, named)] = parsed
    else:
        at[last] = parsed


def _index(items: list[Any], word: str, dotted: str) -> int:
    for number, item in enumerate(items):
        if isinstance(item, dict) and item.get("drop") == word:
            return number
    if word.isascii() and word.isdecimal() and len(word) < 10 and int(word) < len(items):
        return int(word)
    names = [str(item["drop"]) for item in items if isinstance(item, dict) and "drop" in item]
    raise RecipeError(f"--set {dotted}: no step {shortened(word)!r}{nearest(word[:100], names)}")
