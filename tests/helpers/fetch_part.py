"""A part of the fetch pass: its committed plan, the worker's run over it, and what its tar holds."""

import tarfile

import pyarrow as pa

from curate import schema
from curate.store import Folder, Inputs


def part(store, urls, captions=2):
    """A committed plan of one part; every image has some captions."""
    rows = sorted(
        (schema.image_id(url), schema.pair_id(url, str(n)), url, str(n)) for url in urls for n in range(captions)
    )
    table = pa.table(
        {
            "pair_id": pa.array([row[1] for row in rows], schema.ID),
            "image_id": pa.array([row[0] for row in rows], schema.ID),
            "url": pa.array([row[2] for row in rows], pa.string()),
        }
    )
    plan = Folder(store, "plan", "x")
    out = plan.outputs(0)
    out.put_table("pairs.parquet", table)
    out.commit()
    return Inputs({"plan": plan}, [0])


def fetched(worker, store, inputs, name="fetch"):
    folder = Folder(store, name, "x")
    out = folder.outputs(0)
    worker(0, inputs, {"fetch": out})
    out.commit()
    return folder


def members(folder):
    with folder.store.open(folder.file("images.tar", 0)) as opened, tarfile.open(fileobj=opened) as tar:
        return [(info, tar.extractfile(info).read()) for info in tar.getmembers()]
