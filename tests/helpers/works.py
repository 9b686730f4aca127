"""Works of the openers in `helpers.workers`, and a progress that prints nothing."""

from curate.runs.passes import Declaration, Pass
from curate.runs.work import Work
from curate.store import Inputs


class Silent:
    """A watcher that prints nothing, and keeps what it is told."""

    def __init__(self):
        self.told = []

    def begin(self, name, total, done, rows):
        pass

    def advance(self, name, result):
        pass

    def end(self, name):
        pass

    def tell(self, line):
        self.told.append(line)


def chain(store, units, log=None):
    settings = {"log": str(log)} if log else {}
    first = Pass.of(store, Declaration("double", "", 1))
    second = Pass.of(store, Declaration("add", "", 1), [first.folder])
    inputs = Inputs({"double": first.folder}, units)
    return [
        Work("double", "helpers.workers:double", settings, {"double": first}, Inputs({}, ()), units, processes=2),
        Work("add", "helpers.workers:add_one", settings, {"add": second}, inputs, units, after=("double",)),
    ]


def single(store, opener, units, **settings):
    outputs = {"out": Pass.of(store, Declaration("out", "", 1))}
    return Work("out", f"helpers.workers:{opener}", settings, outputs, Inputs({}, ()), units)


def reading_ahead(store, folder, units, processes, **settings):
    folder.mkdir()
    outputs = {"out": Pass.of(store, Declaration("out", "", 1))}
    settings = {"folder": str(folder), **settings}
    return Work(
        "out", "helpers.workers:ahead", settings, outputs, Inputs({}, ()), units, processes=processes, reads_ahead=True
    )


def told(folder):
    """For each worker process, in order, the units that it was given and what it was told of the next."""
    return [[line.split() for line in path.read_text().splitlines()] for path in folder.iterdir()]
