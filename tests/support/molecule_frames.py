"""Small trajectories of molecules, and the files that tests read them from."""

import warnings

import numpy as np
import pytest

ETHANOL_Z = np.array([6, 6, 8, 1, 1, 1, 1, 1, 1])
ETHANOL = np.array(
    [[-1.17, -.4, 0], [.05, .53, 0], [1.19, -.3, 0], [-2.08, .2, 0], [-1.18, -1.03, .89], [-1.18, -1.03, -.89],
     [.05, 1.17, .89], [.05, 1.17, -.89], [1.95, .27, 0]]
)  # fmt: skip
ETHANOL_BONDS = np.array([[0, 1], [1, 2], [0, 3], [0, 4], [0, 5], [1, 6], [1, 7], [2, 8]])
WATER = np.array([[0, 0, 0], [0.957, 0, 0], [-0.24, 0.927, 0]])
SYMBOLS = {1: "H", 6: "C", 8: "O"}
NAMES = [f"{SYMBOLS[z]}{i + 1}" for i, z in enumerate(ETHANOL_Z.tolist())]


@pytest.fixture
def nothing_unexpected():
    """A warning that no test asks for is a failure."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


def write(path, text):
    path.write_text(text)
    return path


def motion(frames=40, base=ETHANOL, drift=(0.0, 0, 0), seed=0):
    """[frames, N, 3]: `base` with noise, and a drift in each frame."""
    noise = np.random.default_rng(seed).normal(size=(frames, len(base), 3)) * 0.02
    return base + noise + np.arange(frames)[:, None, None] * np.array(drift)


def xyz_text(x, labels="CCOHHHHHH", comment=lambda t: ""):
    """An XYZ file of positions [T, N, 3]."""
    lines = []
    for t, frame in enumerate(x):
        lines += [str(len(frame)), comment(t)]
        lines += [f"{label} {a:.8f} {b:.8f} {c:.8f}" for label, (a, b, c) in zip(labels, frame, strict=True)]
    return "\n".join(lines) + "\n"


def pdb_text(x, names, residue="ETH", elements=None, box=None, alternate=None):
    """A PDB file, a model for each frame; alternate: location and occupancy of each atom."""
    lines = []
    if box is not None:
        sizes = "".join(f"{length:9.3f}" for length in box[:3]) + "".join(f"{angle:7.2f}" for angle in box[3:])
        lines.append(f"CRYST1{sizes} P 1           1")
    for t, frame in enumerate(x):
        lines.append(f"MODEL     {t + 1:4d}")
        for i, (name, (a, b, c)) in enumerate(zip(names, frame, strict=True)):
            place, occupancy = (" ", 1.0) if alternate is None else alternate[i]
            element = "" if elements is None else f"          {elements[i]:>2s}"
            padded = name if len(name) == 4 else f" {name:<3s}"
            lines.append(
                f"ATOM  {i + 1:5d} {padded}{place}{residue:<3s} A   1    {a:8.3f}{b:8.3f}{c:8.3f}{occupancy:6.2f}"
                f"  0.00{element}"
            )
        lines.append("ENDMDL")
    return "\n".join([*lines, "END", ""])


def dump_text(x, columns, values, bounds=lambda t: "-9 9\n-9 9\n-9 9", box="pp pp pp", order=None):
    """A LAMMPS dump; values(t, i): the words of an atom's line, with its position where they say x."""
    text = []
    for t in range(len(x)):
        atoms = range(x.shape[1]) if order is None else order(t)
        text.append(
            f"ITEM: TIMESTEP\n{100 * t}\nITEM: NUMBER OF ATOMS\n{x.shape[1]}\nITEM: BOX BOUNDS {box}\n{bounds(t)}"
        )
        text.append(f"ITEM: ATOMS {columns}")
        text += [values(t, i) for i in atoms]
    return "\n".join(text) + "\n"


def places(dataset):
    """All frames of a data set [T, N, 3], as they are in its file."""
    origin = getattr(dataset[0], "origin", None)
    x = dataset.items.x[0].permute(2, 0, 1).numpy()
    return x if origin is None else x + origin.numpy()
