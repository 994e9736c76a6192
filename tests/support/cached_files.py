"""Files of molecules to be cached, and what makes a cached data set equal to one in memory."""

import numpy as np
import torch
from molecule_frames import NAMES, dump_text, motion, pdb_text, write, xyz_text

from geotdm_fast.data import file_dataset

BOX = 9.0


def boxed_xyz(path, frames=60, changes=False):
    """Ethanol that drifts through a box, its atoms put back into it, and times."""
    x = motion(frames, drift=(0.21, -0.1, 0.05))
    size = lambda t: BOX * (1 + 0.001 * (t % 7) * changes)
    wrapped = np.stack([frame % size(t) for t, frame in enumerate(x)])
    comment = lambda t: (
        f'Lattice="{size(t)} 0 0 0 {size(t)} 0 0 0 {size(t)}" pbc="T T T" Properties=species:S:1:pos:R:3 time={t * 0.5}'
    )
    return write(path / f"boxed{int(changes)}.xyz", xyz_text(wrapped, comment=comment))


def plain_xyz(path, frames=60, **more):
    return write(path / "plain.xyz", xyz_text(motion(frames, **more)))


def written_twice_xyz(path):
    """Frames 20 to 29 come again after frame 29, and the run starts anew at the end; there are no times."""
    x = motion(60)
    order = [*range(30), *range(20, 60), *range(15)]
    return write(path / "twice.xyz", xyz_text(x[order]))


def gap_dump(path):
    """A LAMMPS dump whose steps have a gap after frame 12."""
    x = motion(60)
    values = lambda t, i: f"{i} {'CCOHHHHHH'[i]} " + " ".join(f"{c:.6f}" for c in x[t, i])
    text = dump_text(x, "id element x y z", values, box="ff ff ff").split("ITEM: TIMESTEP\n")[1:]
    frames = [
        f"ITEM: TIMESTEP\n{100 * t + (5000 if t > 12 else 0)}\n{part.split(chr(10), 1)[1]}"
        for t, part in enumerate(text)
    ]
    return write(path / "gap.lammpstrj", "".join(frames))


def far_xyz(path):
    return write(path / "far.xyz", xyz_text(motion(60) + np.array([1.5e6, 0, -2e6])))


def beads_pdb(path):
    return write(path / "beads.pdb", pdb_text(motion(40), NAMES, elements=[name[0] for name in NAMES]))


def same(one, other) -> None:
    """Two data sets are the same, bit for bit."""
    assert len(one) == len(other) and one.name == other.name and one.unit == other.unit
    assert one.frame_time == other.frame_time
    assert (one.atomic_numbers is None) == (other.atomic_numbers is None)
    if one.atomic_numbers is not None:
        assert torch.equal(one.atomic_numbers, other.atomic_numbers)
    stored = other.items.in_memory()
    assert torch.equal(one.items.x, stored.x) and np.array_equal(one.items.places, stored.places)
    for i in (0, len(one) // 2, len(one) - 1):
        a, b = one[i], other[i]
        for name in ("x", "h", "edge_index", "edge_attr", "scored", "origin", "cell", "pbc"):
            mine, theirs = getattr(a, name), getattr(b, name)
            assert (mine is None) == (theirs is None), name
            assert mine is None or (mine.dtype == theirs.dtype and torch.equal(mine, theirs)), name


def made_cache(tmp_path):
    """A file and the folder of its cache in `tmp_path/cache`."""
    path = plain_xyz(tmp_path)
    file_dataset(path, span=7, cache=tmp_path / "cache")
    (made,) = (tmp_path / "cache").iterdir()
    return path, made
