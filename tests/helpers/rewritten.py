"""Committed files as a faulty writer would have left them: other contents, and markers that agree with them."""

import dataclasses

import pyarrow as pa

from curate.store import WHOLE, FileInfo, Folder


def put_table(folder: Folder, role: str, unit: int, table: pa.Table) -> None:
    """Replaces a unit's table, in its place, and the table's entry in the marker."""
    marker = folder.marker(unit)
    out = folder.outputs(unit, marker.attempt)
    out.files.update(marker.files)
    out.put_table(role, table, name=marker.files[role].name)
    folder.store.put(folder.marker_name(unit), dataclasses.replace(marker, files=out.files).to_json())


def put_info(folder: Folder, info: FileInfo) -> None:
    """Replaces the entry of a file in the marker that names it."""
    for unit in folder.units():
        marker = folder.marker(unit)
        files = {role: info if file.name == info.name else file for role, file in marker.files.items()}
        folder.store.put(folder.marker_name(unit), dataclasses.replace(marker, files=files).to_json())


def put_counts(folder: Folder, unit: int = WHOLE, **counts: int) -> None:
    """Replaces some counts of a unit's marker."""
    marker = folder.marker(unit)
    marker = dataclasses.replace(marker, counts={**marker.counts, **counts})
    folder.store.put(folder.marker_name(unit), marker.to_json())
