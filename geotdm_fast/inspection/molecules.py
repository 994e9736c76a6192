"""What a file of molecules says beside its positions: times and box."""

import pathlib
from collections.abc import Mapping

import numpy as np

from geotdm_fast.data.checks import check_auto
from geotdm_fast.data.molecule_files.reading import OpenFile, Reading
from geotdm_fast.inspection.findings import Findings
from geotdm_fast.inspection.times import times_in_words


def box_and_times(section: Mapping, found: Findings, file: OpenFile) -> None:
    """Note atoms, times and box of the file of a section of kind file; unknown where its reader does not tell."""
    path, topology = section["path"], section.get("topology")
    where = f"file_dataset: {path}"
    reading = file.molecules(
        where,
        pathlib.Path(path),
        None if topology is None else pathlib.Path(topology),
        section.get("reader", "auto"),
        section.get("format"),
        check_auto(where, "unwrap", section.get("unwrap", "auto")),
    )
    atoms, source = reading.atoms, reading.source
    stated = int((atoms.numbers > 0).sum())
    found.add("in the file", f"{source.num_frames} frames of {source.num_atoms} atoms")
    if source.has_positions is not None and not source.has_positions.all():
        found.add("positions", f"in {int(source.has_positions.sum())} of these frames")
    of = "all atoms" if stated == len(atoms.names) else f"{stated} of {len(atoms.names)} atoms"
    said = f"of {of} stated by {atoms.path}" if stated else f"not stated by {atoms.path}"
    found.add("elements", said + ("" if section.get("elements") is None else ", given by the key elements"))
    found.add("times", "none in the file" if source.times is None else times_in_words(source.times))
    found.add("box", _box(reading))
    found.add("bonds", "none in the file" if atoms.bonds is None else f"{len(atoms.bonds)} stated by {atoms.path}")


def _box(reading: Reading) -> str:
    """The lengths of the first frame's box, and of the last one's where they differ."""
    # The first frame last: it is where the data are read from then.
    frames = [reading.frame(end) for end in (reading.source.num_frames - 1, 0)]
    cells = [frame.cells[0] for frame in reversed(frames) if frame.cells is not None]
    if len(cells) < len(frames) or not np.asarray(reading.source.pbc).any():
        return "none"
    lengths = [" x ".join(f"{length:.4g}" for length in np.linalg.norm(cell, axis=1)) for cell in cells]
    skewed = not np.allclose(cells[0], np.diag(np.diag(cells[0])), atol=1e-3)
    text = f"{lengths[0]} angstrom" + (", not rectangular" if skewed else "")
    return text if len(set(lengths)) == 1 else f"{text} at first, {lengths[-1]} at last"
