"""Committed files as a faulty writer would have left them: other contents, and markers that agree with them."""

import dataclasses

import pyarrow as pa

from curate.store import WHOLE, Folder


def put_table(folder: Folder, role: str, unit: int, table: pa.Table) -> None:
    """Replaces a unit's table, in its place, and the table's entry in the marker."""
    marker = folder.marker(unit)
    out = folder.outputs(unit, marker.attempt)
    out.files.update(marker.files)
    out.put_table(role, table, name=marker.files[role].name)
    folder.store.put(folder.marker_name(unit), dataclasses.replace(marker, files=out.files).to_json())


def put_counts(folder: Folder, unit: int = WHOLE, **counts: int) -> None:
    """Replaces some counts of a unit's marker."""
    marker = folder.marker(unit)
    marker = dataclasses.replace(marker, counts={**marker.counts, **counts})
    folder.store.put(folder.marker_name(unit), marker.to_json())
