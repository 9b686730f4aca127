"""The command line: `curate run | demo | retry-failed | status | explain | duplicates | verify`.

Exit codes are those of `curate.errors.Exit`, described in docs/exit-codes.md. Results go to stdout; progress, notices
and errors go to stderr. Rooms are imported where a command needs them, so that `--help` and `status` do not wait for
torch or Ray.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from curate import __version__
from curate.commands.arguments import Parser, cluster, endpoint, file_path, run_place, share, whole_number, words
from curate.commands.stopping import UNITS_END_WITHIN, Received, Stopped, stops_on_signals, tell
from curate.credentials import fault as wrong_url
from curate.credentials import redacted
from curate.errors import CurateError, Exit, NothingKept, UsageError, counted, one_line
from curate.runs.options import PASSES, Options, manifest_name
from curate.runs.surroundings import fault, io_errors
from curate.schema import HEALING_CLASSES
from curate.store import Store

if TYPE_CHECKING:
    from curate.prepare import Prepared
    from curate.recipe import Recipe
    from curate.runs.outcome import Outcome
    from curate.runs.work import Engine


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code; errors become one line here, and only here."""
    received = Received()
    try:
        arguments = _parser().parse_args(argv)
        if getattr(arguments, "engine", None) == "local" and arguments.address:
            raise UsageError("--address needs --engine ray")
        with stops_on_signals() as received:
            code: int = arguments.command(arguments)
    except CurateError as error:
        return _complain(str(error), _exit_code(error))
    except BrokenPipeError:
        # The reader, such as `head`, has closed the pipe; without this Python would print another error at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.DONE
    except KeyboardInterrupt as stopped:
        if not isinstance(stopped, Stopped):
            tell("stopped; the same command continues from here")
        return received.exit_code
    except io_errors() as error:
        text = f"{type(error).__name__}: {one_line(error)}"
        return _complain(
            f"cannot go on: {text}; when the cause is gone, the same command goes on from here", Exit.STORAGE
        )
    return code


def _exit_code(error: CurateError) -> Exit:
    """Returns the error's exit code; where a disk or a store failed below it, that of a storage fault."""
    found = fault(error)
    return error.exit_code if found is None or found.kind == "refused" else Exit.STORAGE


def _complain(text: str, code: Exit) -> int:
    from curate.report.terminal import plain

    print(f"curate: {plain(redacted(text))}", file=sys.stderr)
    return code


def _parser() -> Parser:
    parser = Parser(
        prog="curate",
        description="Fetch, score, filter and deduplicate image-text pairs; every pair is accounted for.",
    )
    parser.add_argument("--version", action="version", version=f"curate {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run a recipe, or continue its run")
    run.add_argument("recipe", type=file_path, help="a YAML recipe")
    _add_engine(run)
    run.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a key of the recipe")
    run.add_argument("--sample", type=share, metavar="SHARE", help="only this share of the rows, to its own result")
    run.add_argument("--until", choices=PASSES, default="report", help="stop after this pass")
    run.add_argument("--dry-run", action="store_true", help="list what would run and what is reused, run nothing")
    run.add_argument("--allow-missing", action="store_true", help="continue without parts that are set aside")
    run.add_argument("--retry-parts", action="store_true", help="start parts again that were set aside")
    run.set_defaults(command=_run)

    demo = commands.add_parser("demo", help="curate generated pairs whose right decisions are known")
    demo.add_argument("--pairs", type=whole_number(1, 10**7), default=2000, help="number of pairs (2,000)")
    demo.add_argument(
        "--seed", type=whole_number(-(2**63), 2**63 - 1), default=0, help="seed of the generated pairs (0)"
    )
    demo.add_argument(
        "--port", type=whole_number(1, 65_535), default=8123, help="port of the image server, on 127.0.0.x (8123)"
    )
    demo.add_argument(
        "--output", type=run_place, default="demo-run", help="the run's folder or s3:// prefix (demo-run)"
    )
    demo.add_argument("--web", type=file_path, default="demo-web", help="folder of the lists and the truth (demo-web)")
    demo.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a key of the recipe")
    _add_engine(demo)
    demo.set_defaults(command=_demo)

    again = commands.add_parser("retry-failed", help="fetch failed images again, as a new round, and continue the run")
    _add_place(again)
    again.add_argument(
        "--class",
        dest="classes",
        type=words,
        default=list(HEALING_CLASSES),
        metavar="CLASS,…",
        help=f"which error classes ({','.join(HEALING_CLASSES)})",
    )
    again.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a key of the recipe")
    again.add_argument("--until", choices=PASSES[1:], default="report", help="stop after this pass")
    again.add_argument("--allow-missing", action="store_true", help="continue without parts that are set aside")
    again.add_argument("--retry-parts", action="store_true", help="start parts again that were set aside")
    _add_engine(again)
    again.set_defaults(command=_retry_failed)

    status = commands.add_parser("status", help="show what is done and what is set aside")
    _add_place(status)
    status.set_defaults(command=_status)

    explain = commands.add_parser("explain", help="show all columns of a pair, and each step's decision on it")
    _add_place(explain)
    explain.add_argument("pair", help="a pair id (32 hex digits, the key in the shards; 8 may be enough), or a URL")
    explain.set_defaults(command=_explain)

    duplicates = commands.add_parser(
        "duplicates", help="list the groups of duplicates that were dropped, largest first"
    )
    _add_place(duplicates)
    duplicates.add_argument(
        "pair", nargs="?", help="only the group of this pair, with all its members: a pair id as for explain, or a URL"
    )
    duplicates.add_argument("--limit", type=whole_number(1, 10**6), help="number of groups that are listed (20)")
    duplicates.set_defaults(command=_duplicates)

    verify = commands.add_parser("verify", help="check that a result is complete and that its sums agree")
    verify.add_argument("--deep", action="store_true", help="also check every file of every pass")
    _add_place(verify)
    verify.set_defaults(command=_verify)
    return parser


def _add_engine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--engine", choices=("ray", "local"), default="ray", help="where parts are run (ray)")
    parser.add_argument(
        "--address", type=cluster, help="address of a Ray cluster; by default Ray is started on this machine"
    )


def _add_place(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=run_place, help="a run's folder or s3:// prefix")
    parser.add_argument("--sample", type=share, metavar="SHARE", help="the result of `run --sample SHARE`")
    parser.add_argument("--endpoint", type=endpoint, help="an S3 server other than AWS; by default AWS_ENDPOINT_URL")


def _store(arguments: argparse.Namespace) -> Store:
    """Returns the run that a command names. Raises UsageError where its URL or the endpoint holds credentials."""
    for name, value in (("run", arguments.run), ("--endpoint", arguments.endpoint)):
        if wrong := wrong_url(value):
            raise UsageError(f"{name}: {wrong}")
    return Store(arguments.run, arguments.endpoint)


def _engine(arguments: argparse.Namespace, tell: Callable[[str], None]) -> "Engine":
    from curate.engine.driver_process import DriverProcess

    def open_engine() -> "Engine":
        if arguments.engine == "local":
            from curate.engine.local import LocalEngine

            return LocalEngine()
        from curate.engine.ray import RayEngine

        return RayEngine(arguments.address, tell=tell)

    return DriverProcess(open_engine)


def _run(arguments: argparse.Namespace) -> int:
    from curate import recipe

    loaded = recipe.load(arguments.recipe, arguments.set)
    options = Options(
        sample=arguments.sample,
        until=arguments.until,
        allow_missing=arguments.allow_missing,
        retry_parts=arguments.retry_parts,
        engine=arguments.engine,
    )
    from curate.prepare import prepare

    prepared = prepare(loaded, probe=not arguments.dry_run, tell=tell)
    # Printed after the checks: a command that is refused prints one line only.
    if any(model.name == "pocket" for model in loaded.models.values()):
        notice = "the built-in model 'pocket' knows only drawn shapes; for photographs, name another one under models"
        tell(notice)
    if arguments.dry_run:
        return _dry_run(prepared, options)
    return _finish(_drive(prepared, arguments, options), options)


def _retry_failed(arguments: argparse.Namespace) -> int:
    from curate.commands.retry_failed import begin, gained, recipe_of

    store = _store(arguments)
    with store.accessible():
        loaded = recipe_of(store, arguments.set)
    options = Options(
        sample=arguments.sample,
        until=arguments.until,
        allow_missing=arguments.allow_missing,
        retry_parts=arguments.retry_parts,
        engine=arguments.engine,
        only_with_gain=True,
    )
    prepared = begin(loaded, arguments.classes, options, tell=tell)
    if prepared is None:
        print(f"nothing to fetch again: no image of {store.url} was lost as {', '.join(arguments.classes)}")
        return 0
    outcome = _drive(prepared, arguments, options)
    print(gained(prepared, options))
    if outcome.is_unchanged:
        print(f"nothing changed: {store.url} has the decisions and the result from before this round")
        return 0
    return _finish(outcome, options)


def _drive(prepared: "Prepared", arguments: argparse.Namespace, options: Options) -> "Outcome":
    from rich.console import Console

    from curate import flow
    from curate.commands.no_pandas import leave_pandas_out
    from curate.commands.progress import watch
    from curate.runs.patience import outlast

    loaded = prepared.recipe
    # On stderr, unlike the funnel: `curate run … > result.txt` shows progress, and the file gets the result.
    console = Console(stderr=True)
    if loaded.fetch.allow:
        opened = ", ".join(loaded.fetch.allow)
        console.print(f"fetch.allow opens {opened}", markup=False, highlight=False, soft_wrap=True)
    watcher = watch(console)
    leave_pandas_out()
    engine = _engine(arguments, watcher.tell)
    try:
        return outlast(
            lambda telling: flow.run(prepared, engine, telling, options),
            loaded.storage.patience,
            watcher,
            between=engine.close,
        )
    except KeyboardInterrupt as interrupt:
        watcher.close()
        tell("stopping: parts in progress are finished or given up; the same command continues from here")
        engine.close(UNITS_END_WITHIN)
        raise Stopped from interrupt
    finally:
        watcher.close()
        engine.close()


def _finish(outcome: "Outcome", options: Options) -> int:
    from rich.console import Console

    from curate.report.terminal import print_funnel

    console = Console()
    if outcome.funnel:
        print_funnel(console, outcome.funnel, outcome.evaluation)
    if outcome.missing:
        print(f"{counted(len(outcome.missing), 'part is', 'parts are')} missing from the result (--allow-missing)")
    if outcome.result:
        print(f"result  {outcome.result}")
    if outcome.report:
        print(f"report  {outcome.report}")
    if outcome.shortfall:
        raise NothingKept(outcome.shortfall)
    if not outcome.result:
        print(f"done until {options.until}: {outcome.store.url}")
    return 0


def _dry_run(prepared: "Prepared", options: Options) -> int:
    from curate.commands.dry_run import lines

    for line in lines(prepared, options):
        print(line)
    return 0


def _demo(arguments: argparse.Namespace) -> int:
    from curate import recipe
    from curate.demo.corpus import Corpus
    from curate.demo.server import serve
    from curate.prepare import prepare

    corpus, web = Corpus(arguments.seed, arguments.pairs, arguments.port), Path(arguments.web)

    def loaded_with(lists: Sequence[Path]) -> "Recipe":
        overrides = [
            f"source.paths={json.dumps([str(path) for path in lists])}",
            f"output={json.dumps(arguments.output)}",
            f"fetch.allow={json.dumps(corpus.addresses())}",
            *arguments.set,
        ]
        return recipe.load(Path(__file__).parents[1] / "demo" / "recipe.yaml", overrides)

    # Before the lists are written: a wrong `--set` or output leaves nothing behind.
    checked = loaded_with([web])
    output = Store(checked.output, checked.storage.endpoint)
    with output.accessible():
        output.entries()
    with Store(str(web)).accessible("written"):
        written = corpus.write(web)
    loaded = loaded_with(written.urls)
    options = Options(truth=written.truth, engine=arguments.engine)
    with serve(corpus):
        outcome = _drive(prepare(loaded, tell=tell), arguments, options)
    return _finish(outcome, options)


def _status(arguments: argparse.Namespace) -> int:
    from curate.commands.status import lines

    store = _store(arguments)
    with store.accessible():
        output = list(lines(store, arguments.sample))
    print(*output, sep="\n")
    return 0


def _explain(arguments: argparse.Namespace) -> int:
    from curate.commands.explain import lines

    store = _store(arguments)
    with store.accessible():
        output = list(lines(store, arguments.pair, arguments.sample))
    print(*output, sep="\n")
    return 0


def _duplicates(arguments: argparse.Namespace) -> int:
    from curate.commands.duplicates import listed, of_pair

    store, pair, limit = _store(arguments), arguments.pair, arguments.limit
    if pair is not None and limit is not None:
        raise UsageError("--limit is for the list of groups; all members of the group of a pair are printed")
    lines = listed(store, limit or 20, arguments.sample) if pair is None else of_pair(store, pair, arguments.sample)
    # Each line is printed as it is read, as a group may have very many members; an error of stdout is not the store's.
    while True:
        with store.accessible():
            line = next(lines, None)
        if line is None:
            return 0
        print(line)


def _verify(arguments: argparse.Namespace) -> int:
    from curate.commands.mending import fetched_again, to_delete
    from curate.commands.verify import read_manifest, verify

    store, name = _store(arguments), manifest_name(arguments.sample)
    with store.accessible():
        problems = verify(store, deep=arguments.deep, manifest=name)
    for problem in problems:
        print(problem)
    if not problems:
        print("no faults: the result is complete, and its sums agree")
        return 0
    print(counted(len(problems), "fault"))
    found = read_manifest(store, name)
    parts, names = fetched_again(found, problems), to_delete(found, problems)
    print("to repair, delete these and run the recipe again:" if names else "to repair, run the recipe again")
    for deleted in names:
        print(f"  {store.path(deleted)}")
    if parts:
        print(f"{counted(len(parts), 'part')} will be fetched again; where images have changed, decisions may change")
    return Exit.AT_FAULT


if __name__ == "__main__":
    sys.exit(main())
