"""A whole file of every kind that the package reads, how it is damaged, and the command that reads it."""

import contextlib
import dataclasses
import pathlib
import shutil
import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import yaml
from numpy.random import Generator

from tools import fuzz_damage as damage

_BOX = np.array([[15.0, 0, 0], [3, 16, 0], [-2, 4, 17]])


class Case(NamedTuple):
    """file: the whole one; damage: makes damaged versions of its bytes; read: reads the path of a damaged one.

    A damaged version lies in a copy of `beside`, the folder of what belongs to it, if that is not None.
    """

    file: pathlib.Path
    damage: Callable[[bytes, Generator], bytes]
    read: Callable[[pathlib.Path], object]
    beside: pathlib.Path | None = None


def make_cases(folder: pathlib.Path) -> dict[str, Case]:
    """Make the whole files in `folder`; the cases by name."""
    from geotdm_fast.data import open_dataset
    from geotdm_fast.training import train

    config, data = _config(folder), folder / "data"
    _ays(folder)
    run = folder / "run"
    train(config, output_dir=run, device="cpu", progress=False)
    weights = run / "last.safetensors"
    sample = ("--num-graphs", "2", "--method", "ddim", "--steps", "2", "--quiet", "--device", "cpu")
    _command("sample", weights, "--out", folder / "samples.npz", "--num-samples", 2, *sample)
    _command("sample", weights, "--out", folder / "shards", "--num-samples", 4, "--shard-size", 2, *sample)
    _in_boxes(folder / "samples.npz", folder / "boxed_samples.npz")
    for name, zipped in (("zip.pt", True), ("pickle.pt", False)):
        from geotdm_fast.checkpoint import load_tensors

        torch.save(load_tensors(weights)[0], folder / name, _use_new_zipfile_serialization=zipped)

    def opens(**section):
        return lambda path: _look_at(open_dataset({k: v(path) if callable(v) else v for k, v in section.items()}))

    draw = lambda *more: (
        lambda path: _command("sample", path, "--out", path.with_name("out.npz"), "--num-samples", 1, *sample, *more)
    )
    plot = lambda path: _command("plot", path, "--out", path.with_name("picture.png"))
    evaluate = lambda path: _command("evaluate", path, "--scores", "ade", "--quiet", "--device", "cpu")
    in_folder = lambda path: evaluate(path.parent)

    def resume(path):
        return train(config, output_dir=path.parent, device="cpu", progress=False)

    own = {"kind": "npz", "path": str, "split": "train"}
    molecule = {"kind": "file", "path": str, "span": 3}
    parent = lambda path: str(path.parent)
    npy = {"kind": "nbody", "split": "train", "suffix": "x", "num_frames": 8, "root": parent, "system": "charged"}
    springs = npy | {"system": "springs"}
    walks = {
        "kind": "pedestrian", "dataset": "zara1", "phase": "testing", "root": lambda path: str(path.parent.parent),
    }  # fmt: skip
    return {
        "configuration .yaml": Case(folder / "config.yaml", damage.damaged_text, _read_config),
        "data .npz": Case(data / "x.npz", damage.damaged_npz, opens(**own)),
        "molecule .npz": Case(data / "molecule.npz", damage.damaged_npz, opens(**own, span=6)),
        "molecule in a box .npz": Case(data / "boxed.npz", damage.damaged_npz, opens(**own, span=6)),
        "N-body .npy": Case(data / "nbody" / "loc_x.npy", damage.damaged_npy, opens(**npy), data / "nbody"),
        "N-body edges .npy": Case(data / "nbody" / "edges_x.npy", damage.damaged_npy, opens(**springs), data / "nbody"),
        "pedestrians .txt": Case(
            data / "all_data" / "crowds_zara01.txt", damage.damaged_text, opens(**walks), data / "all_data"
        ),
        "molecule .xyz": Case(data / "m.xyz", damage.damaged_text, opens(**molecule)),
        "molecule in a box .xyz": Case(data / "boxed.xyz", damage.damaged_text, opens(**molecule)),
        "molecule .pdb": Case(data / "m.pdb", damage.damaged_text, opens(**molecule, reader="mdtraj")),
        "molecule .xtc": Case(data / "m.xtc", damage.damaged, opens(**molecule, topology=str(data / "m.pdb"))),
        "molecule .trr": Case(data / "m.trr", damage.damaged, opens(**molecule, topology=str(data / "m.pdb"))),
        "molecule .dcd": Case(data / "m.dcd", damage.damaged, opens(**molecule, topology=str(data / "m.pdb"))),
        "weights .safetensors": Case(weights, lambda b, rng: damage.damaged(b, rng, head=4096), draw()),
        "weights without checksum": Case(weights, damage.damaged_safetensors, draw()),
        "Align Your Structures .yaml": Case(folder / "ays.yaml", damage.damaged_text, _read_ays),
        "Align Your Structures to train": Case(folder / "ays.yaml", damage.damaged_text, _read_config_quietly),
        "Align Your Structures of ours .yaml": Case(folder / "own.yaml", damage.damaged_text, _read_config_quietly),
        "conformers .npz": Case(data / "conformers.npz", damage.damaged_npz, opens(kind="conformers", path=str)),
        "conformers in a box .xyz": Case(
            data / "boxed.xyz", damage.damaged_text, opens(kind="conformers", path=str)
        ),
        "conformers .xyz": Case(data / "m.xyz", damage.damaged_text, opens(kind="conformers", path=str)),
        "Align Your Structures .ckpt": Case(folder / "ays.ckpt", damage.damaged_zip, _load_ays(folder / "ays.yaml")),
        "weights .pt": Case(folder / "zip.pt", damage.damaged_zip, draw("--config", folder / "config.yaml")),
        "weights .pt of old torch": Case(
            folder / "pickle.pt", damage.damaged, draw("--config", folder / "config.yaml")
        ),
        "state.safetensors": Case(run / "state.safetensors", damage.damaged, resume, run),
        "state without checksum": Case(run / "state.safetensors", damage.damaged_safetensors, resume, run),
        "log.jsonl": Case(run / "log.jsonl", damage.damaged_text, plot),
        "log.jsonl at a resume": Case(run / "log.jsonl", damage.damaged_text, resume, run),
        "samples .npz": Case(folder / "samples.npz", damage.damaged_npz, evaluate),
        "samples .npz in a picture": Case(folder / "samples.npz", damage.damaged_npz, plot),
        "samples in a box .npz": Case(folder / "boxed_samples.npz", damage.damaged_npz, evaluate),
        "manifest.json": Case(folder / "shards" / "manifest.json", damage.damaged_text, in_folder, folder / "shards"),
        "shard .npz": Case(
            folder / "shards" / "shard-000001.npz", damage.damaged_npz, in_folder, folder / "shards"
        ),
    }  # fmt: skip


def _command(*words: object) -> None:
    """`geotdm ...` in this process; its line of error is raised as ValueError, an error without one passes."""
    import io

    from geotdm_fast.cli import main

    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        status = main([str(word) for word in words])
    if status:
        raise ValueError(said.getvalue().rstrip("\n").split(": error: ")[-1])


def _in_boxes(path: pathlib.Path, boxed: pathlib.Path) -> None:
    """The samples of a file in a periodic box, as another file."""
    from geotdm_fast.samples.npz import read_samples, write_samples

    samples = read_samples(path)
    shape = (samples.num_graphs, len(samples.cond_mask), 3, 3)
    cell = np.broadcast_to(_BOX.astype(np.float32), shape)
    pbc = np.ones((samples.num_graphs, 3), bool)
    write_samples(boxed, dataclasses.replace(samples, cell=cell, pbc=pbc, frame_time=0.5))


def _ays(folder: pathlib.Path) -> None:
    """A configuration of Align Your Structures, and a Lightning file of its network."""
    from geotdm_fast.ays.config import from_yaml

    sizes = {"n_layers": 1, "node_dim": 4, "ft_dim": 42, "edge_dim": 4, "hidden_dim": 16, "time_emb_dim": 8}
    dataset = {"type": "conformer", "subsample": None, "transforms": ["edge_order|3"], "train_conf_path": "a.pkl"}
    train = {"batch_size": 2, "accum_grad": 1, "check_val_every_n_epoch": 2}
    raw = {"dataset": dataset, "denoiser": {"type": "basic_es", **sizes}, "train": train}
    (folder / "ays.yaml").write_text(yaml.safe_dump(raw | {"diffusion": {"num_timesteps": 50}}))
    network, _, _ = from_yaml(folder / "ays.yaml")
    state = {f"denoiser.{name}": value for name, value in network.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, folder / "ays.ckpt")
    section = {"kind": "npz", "path": "a.npz", "span": 6, "features": ["degree"], "project": "frames"}
    own = {"denoise_model": {"type": "interpolator", "conditioning": "forward", **sizes}, "data": {"train": section}}
    own |= {"diffusion": {"num_timesteps": 50}, "train": {"exp_name": "a", "num_steps": 2, "batch_size": 4}}
    (folder / "own.yaml").write_text(yaml.safe_dump(own))


def _read_ays(path: pathlib.Path) -> None:
    from geotdm_fast.ays.config import load_config

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is missing
        load_config(path)


def _load_ays(config: pathlib.Path) -> Callable[[pathlib.Path], object]:
    def load(path: pathlib.Path) -> None:
        from geotdm_fast.ays.checkpoint import load_checkpoint
        from geotdm_fast.ays.config import load_config

        load_checkpoint(path, config=load_config(config))

    return load


def _read_config(path: pathlib.Path) -> None:
    from geotdm_fast.config.files import load_config

    load_config(path)


def _read_config_quietly(path: pathlib.Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what has no counterpart
        _read_config(path)


def _look_at(dataset) -> None:
    from geotdm_fast.data import collate

    collate([dataset[i] for i in range(min(len(dataset), 3))])


def _config(folder: pathlib.Path) -> dict:
    """The configuration of a training of a second, as a file too, on data that it makes."""
    from geotdm_fast.config.files import normalise_config

    data = folder / "data"
    rng = np.random.default_rng(0)
    for name in ("nbody", "all_data"):
        (data / name).mkdir(parents=True)
    pairs = np.argwhere(~np.eye(5, dtype=bool)).T
    x = np.cumsum(rng.normal(scale=0.1, size=(12, 6, 5, 3)), 1)
    np.savez(data / "x.npz", x=x, h=np.ones((5, 1)), edge_index=pairs, edge_attr=np.ones((20, 1)))
    np.save(data / "nbody" / "loc_x.npy", np.cumsum(rng.normal(size=(4, 8, 3, 5)), 1))
    np.save(data / "nbody" / "vel_x.npy", rng.normal(size=(4, 8, 3, 5)))
    np.save(data / "nbody" / "charges_x.npy", np.sign(rng.normal(size=(4, 5, 1))))
    np.save(data / "nbody" / "edges_x.npy", np.sign(rng.normal(size=(4, 5, 5))))
    rows = [(10 * t, person, 0.4 * t, person) for t in range(24) for person in (1, 2, 3)]
    text = "".join("\t".join(map(str, row)) + "\n" for row in rows)
    (data / "all_data" / "crowds_zara01.txt").write_text(text)
    _write_molecules(data, rng)
    section = lambda split: {
        "kind": "npz", "path": str(data / "x.npz"), "split": split, "split_ratio": [0.4, 0.3, 0.3],
    }  # fmt: skip
    config = {
        "data": {split: section(split) for split in ("train", "val", "test")},
        "denoise_model": {
            "n_layers": 1, "node_dim": 1, "edge_dim": 1, "hidden_dim": 8, "time_emb_dim": 4, "learn_ref_frame": True,
            "n_layers_ref": 1, "num_w": 3,
        },
        "diffusion": {"beta_schedule_name": "linear", "num_timesteps": 25},
        "train": {"exp_name": "a", "cond_mask": [[0, 3]], "batch_size": 4, "num_steps": 3, "log_every_step": 1},
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return normalise_config(config)


def _write_molecules(data: pathlib.Path, rng: Generator) -> None:
    """Ten frames of eleven atoms as `.npz`, XYZ, PDB, XTC, TRR and DCD."""
    import mdtraj

    symbols = ["C", "O", "H", "H", "H", "H", "O", "H", "H", "N", "H"]
    z = np.array([{"C": 6, "O": 8, "H": 1, "N": 7}[s] for s in symbols])
    start = rng.normal(scale=2.0, size=(len(z), 3))
    x = (start + np.cumsum(rng.normal(scale=0.02, size=(30, len(z), 3)), 0)).astype(np.float32)
    np.savez(data / "molecule.npz", R=x, z=z)
    pairs = np.array([[0, 1], [1, 0]])
    side_by_side = {"x": x[:2].reshape(-1, 3), "z": np.concatenate([z, z]), "ptr": [0, len(z), 2 * len(z)]}
    np.savez(data / "conformers.npz", **side_by_side, edge_index=pairs, edge_attr=[2, 2])
    np.savez(data / "boxed.npz", R=x, z=z, cell=_BOX * np.linspace(1, 1.1, 30)[:, None, None], pbc=np.ones(3, bool))
    text, boxed = "", ""
    box = 'Lattice="' + " ".join(map(str, _BOX.ravel())) + '" Properties=species:S:1:pos:R:3 pbc="T T F"'
    for number, frame in enumerate(x[:10]):
        rows = "".join(f"{s} {a:.4f} {b:.4f} {c:.4f}\n" for s, (a, b, c) in zip(symbols, frame, strict=True))
        text += f"{len(z)}\nframe {number}\n" + rows
        boxed += f"{len(z)}\n{box}\n" + rows
    (data / "m.xyz").write_text(text)
    (data / "boxed.xyz").write_text(boxed)
    topology = mdtraj.Topology()
    residue = topology.add_residue("LIG", topology.add_chain())
    for number, symbol in enumerate(symbols):
        topology.add_atom(f"{symbol}{number}", mdtraj.element.Element.getBySymbol(symbol), residue)
    trajectory = mdtraj.Trajectory(x[:10] / 10, topology)
    for suffix in ("pdb", "xtc", "trr", "dcd"):
        trajectory.save(str(data / f"m.{suffix}"))


def damaged_path(case: Case, folder: pathlib.Path, data: bytes) -> pathlib.Path:
    """The damaged version as a file of the whole one's name, with what belongs to it, in a fresh `folder`."""
    shutil.rmtree(folder, ignore_errors=True)
    inner = folder / case.file.parent.name
    if case.beside is None:
        inner.mkdir(parents=True)
    else:
        shutil.copytree(case.beside, inner)
    path = inner / case.file.name
    path.write_bytes(data)
    return path
