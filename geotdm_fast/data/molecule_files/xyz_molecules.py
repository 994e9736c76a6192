"""XYZ and extended XYZ whose frames are molecules of their own, each with its atoms."""

import itertools
import pathlib
from collections.abc import Iterator

import numpy as np

from geotdm_fast.data.molecule_files.structures import Structure
from geotdm_fast.data.molecule_files.text_files import open_text, shown
from geotdm_fast.data.molecule_files.xyz import cell_of, columns_of, count_of, elements_of_labels, keys_of, pbc_of


def xyz_molecules(path: pathlib.Path) -> Iterator[Structure]:
    """The structure of each frame, its box among them. Raises ValueError naming the file and the frame.

    Frames may differ in their atoms, their columns and their boxes.
    """
    with open_text(path) as file:
        for frame in itertools.count():
            header = file.readline()
            if not header.strip():
                if file.read(4096).strip():
                    raise ValueError(f"{path}: frame {frame} must begin with a number, got a blank line")
                if frame == 0:
                    raise ValueError(f"{path} must have a frame, got none")
                return
            count = count_of(path, frame, header)
            keys = keys_of(file.readline())
            columns = columns_of(path, keys.get(b"properties"))
            if columns.label is None:
                raise ValueError(f"{path}: Properties of frame {frame} must have species, got none")
            # No more than the file has, whatever the number says.
            rows = [line.split() for line in itertools.takewhile(bool, (file.readline() for _ in range(count)))]
            width = columns.width or (len(rows[0]) if rows else 0)
            wrong = next((row for row in rows if len(row) != width or width < columns.position + 3), None)
            if len(rows) < count or wrong is not None:
                came = f"{len(rows)} lines" if wrong is None else shown(b" ".join(wrong))
                raise ValueError(f"{path} must have {count} lines of atoms in frame {frame}, got {came}")
            labels = [row[columns.label].decode("utf-8", "replace") for row in rows]
            z = elements_of_labels(labels, columns.numbers)
            if (z == 0).any():
                raise ValueError(f"{path}: atoms of frame {frame} must be elements, got {labels[int(z.argmin())]!r}")
            try:
                x = np.array([row[columns.position : columns.position + 3] for row in rows]).astype(np.float64)
            except ValueError as error:
                raise ValueError(f"{path}: atoms of frame {frame} must have three coordinates ({error})") from error
            lattice = keys.get(b"lattice")
            cell = None if lattice is None else np.array(cell_of(path, frame, lattice)).reshape(3, 3)
            yield Structure(z, x, cell, pbc_of(keys))
