"""Every key of a data section, by kind, with its meaning and default: what `geotdm train --keys` lists."""

from typing import NamedTuple

REQUIRED = "required"
_SPLIT = "train, val or test"


class DataKey(NamedTuple):
    """doc: what the key means; default: in words, as YAML has it."""

    doc: str
    default: str = "null"


_PROJECT = DataKey("subtract the mean of each window, as unconditional models want it", "false")
_FEATURES = DataKey("[degree, hydrogens, ...] of atoms for Align Your Structures, [own] for h of the file")
_RATIO = DataKey("[0.5, 0.5, ...] how often the entries of a list of paths are drawn in training", "null: by size")
_FRAMES = {
    "graph": DataKey("bonds, complete, {radius: R} or {knn: K}, with bonds: HOPS and of: current", "bonds"),
    "frames": DataKey("[start, stop] or [start, stop, step] of the frames to read, before splits and windows"),
    "every": DataKey("N: every N-th frame of those; of a list [N, ...], windows of each, one after the other"),
    "conditions": DataKey("numbers that the network is told: {temperature: 300, lag: L, [L, ...], time or frames}"),
}
_MOLECULES = {
    "project": _PROJECT._replace(doc=f"{_PROJECT.doc}; frames: of each frame"),
    "cutoff": DataKey("longest bond where bonds are found by distance", "null: by covalent radii; md17: 1.6 angstrom"),
    "max_hops": DataKey("atoms so many bonds apart are joined by an edge", "3"),
    "fully_connected": DataKey("join all atoms", "false"),
    "bonds": DataKey("[[i, j], ...] bonded atoms, instead of the file's or those by distance"),
    "num_types": DataKey("atomic numbers below it are features", "10"),
    "atom_types": DataKey("[1, 6, 8, ...] atomic numbers that are features, for the same ones in several molecules"),
    "features": _FEATURES,
    "molecule": DataKey("an SDF or MOL file of the same atoms, whose bond orders and features RDKit reads; or a list"),
    "ratio": _RATIO,
}
_OWN = {
    "path": DataKey("the file, or a list of files and patterns (runs/*/x.xtc), whose windows are joined", REQUIRED),
    "split": DataKey(f"{_SPLIT}: by time of one trajectory, by trajectory of many", "null: all"),
    "split_by": DataKey("time: every file is split; replica: whole files are of train, val or test", "time"),
    "split_ratio": DataKey("shares of train, val and test", "[0.6, 0.2, 0.2]"),
    "span": DataKey("frames in a window", "30 of one trajectory, all of many"),
    "stride": DataKey("frames between the starts of windows", "1"),
    **_FRAMES,
    "phases": DataKey("with every: N, windows begin at any frame, not at every N-th alone", "false"),
    "unit": DataKey("unit of the positions", "as the file says; of molecules angstrom"),
    "name": DataKey("what the data are called in tables and pictures", "the file's name"),
    "with_h": DataKey("keep hydrogen atoms", "true"),
    "unwrap": DataKey("auto follows atoms through a periodic box; no takes positions as stored", "auto"),
    "box": DataKey(
        "auto: a periodic box of the file goes with the data, into graphs by distance; no leaves it out", "auto"
    ),
    "remove_drift": DataKey(
        "for liquids: subtract how far the centre of mass has moved since the first frame", "false"
    ),
    **_MOLECULES,
}
DATA = {
    "npz": _OWN,
    "file": _OWN
    | {
        "topology": DataKey("the file that names the atoms of bare positions (.xtc, ...); {folder}/a.pdb: beside each"),
        "reader": DataKey("ase, mdtraj or mdanalysis", "auto"),
        "format": DataKey("the format by its usual suffix, where the file's name does not say it"),
        "selection": DataKey("atoms to keep, in the selection language of MDTraj or MDAnalysis"),
        "elements": DataKey("symbols or atomic numbers where the file names none: of each atom, or {name: symbol}"),
        "types": DataKey("element; or name, for coarse-grained beads", "element"),
        "cache": DataKey("a folder for frames as plain arrays, made once: for files larger than memory"),
    },
    "conformers": {
        "path": DataKey("the file, or a list of files, whose molecules are joined", REQUIRED),
        "split": DataKey(f"{_SPLIT}, by the order in the file", "null: all"),
        "split_ratio": DataKey("shares of train, val and test", "[0.6, 0.2, 0.2]"),
        "with_h": DataKey("keep hydrogen atoms", "true"),
        "max_hops": DataKey("atoms so many bonds apart are joined by an edge", "3"),
        "cutoff": DataKey("longest bond where bonds are found by distance", "null: by covalent radii"),
        "features": DataKey("features of atoms, by name", "[degree, hydrogens]; of SDF the eight official ones"),
        "project": DataKey("subtract the mean of each molecule", "frames"),
        "name": DataKey("what the data are called in tables and pictures", "the file's name"),
        "unit": DataKey("unit of the positions", "angstrom"),
        "ratio": _RATIO,
    },
    "md17": {
        "path": DataKey("the .npz of a molecule; or root and molecule_name"),
        "root": DataKey("folder of md17_<molecule>.npz"),
        "molecule_name": DataKey("the molecule in root: ethanol, aspirin, ...; or a list of them"),
        "split": DataKey(f"{_SPLIT}: the first 60 %, the next 20 %, the last 20 %", REQUIRED),
        "down_sample_every": DataKey("N: keep every N-th frame", "10"),
        **_FRAMES,
        "span": DataKey("frames in a window", "30"),
        "num_windows": DataKey("most windows, at equal distances", "5000, 1000 and 1000"),
        "with_h": DataKey("keep hydrogen atoms", "true"),
        **_MOLECULES,
    },
    "nbody": {
        "system": DataKey("charged, springs or gravity", REQUIRED),
        "split": DataKey(_SPLIT, REQUIRED),
        "num_systems": DataKey("how many systems", "3000, 2000 and 2000"),
        "spread": DataKey("of these only so many, evenly spaced; the others are not simulated", "all"),
        "seed": DataKey("of the simulation", "0"),
        "num_frames": DataKey("frames of each system, of a window where there is a stride", "30"),
        "stride": DataKey(
            "frames between the starts of windows, of 49 frames (gravity: 50) or the files'",
            "one window a system",
        ),
        **_FRAMES,
        "project": _PROJECT,
        "root": DataKey("folder of the official generator's files, read instead of simulating"),
        "suffix": DataKey("of those files: loc_<suffix>.npy"),
    },
    "pedestrian": {
        "root": DataKey("folder of the recordings (train, val, all_data) or of processed .npy files", "data/eth"),
        "dataset": DataKey("the scene: eth, hotel, univ, zara1, zara2, or one of your own", REQUIRED),
        "phase": DataKey("training, validation (other scenes) or testing (the scene)", REQUIRED),
        "recordings": DataKey("files of your own instead of root, dataset and phase"),
        "past_frames": DataKey("given frames", "8"),
        "future_frames": DataKey("frames to predict", "12"),
        "traj_scale": DataKey("positions are divided by it", "1.0"),
        "project": _PROJECT,
        "num_slots": DataKey("most people of a window, the person asked about among them", "by the scene"),
        "frame_step": DataKey("the distance of two frames in the file's numbers", "the file's own"),
        "columns": DataKey("the columns of frame, person, x and y", "by the header, or the first four"),
        **_FRAMES,
    },
}
_ABOUT = {
    "npz": "arrays of your own: x or R, and if there are any z, h, edge_index, edge_attr, bonds, cell, pbc",
    "file": "molecules in a format of ASE, MDTraj or MDAnalysis",
    "conformers": "one frame of each of many molecules: .sdf by RDKit, .npz, or any format of ASE",
    "md17": "the .npz files of MD17",
    "nbody": "simulated particles",
    "pedestrian": "recordings of people who walk",
}


def data_manual() -> str:
    """All keys of data sections as text."""
    lines = ["data: (sections train, val and test; each has a kind and the keys of that kind)"]
    for kind, keys in DATA.items():
        lines += ["", f"data.train, kind: {kind} ({_ABOUT[kind]}):"]
        for key, about in keys.items():
            default = REQUIRED if about.default == REQUIRED else f"default {about.default}"
            lines.append(f"  {key:<18} {about.doc} ({default})")
    return "\n".join(lines)
