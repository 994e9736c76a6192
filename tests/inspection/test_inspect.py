"""`geotdm inspect`: what is in a file, and a configuration that trains on it."""

import numpy as np
import pytest
import yaml
from tiny_models import ETHANOL, ETHANOL_POSITIONS, charged_config, made_samples, write_checkpoint, write_ethanol

from geotdm_fast.cli import main
from geotdm_fast.inspection import inspect_file
from geotdm_fast.inspection.times import times_in_words
from geotdm_fast.samples.npz import write_samples
from geotdm_fast.training import train


def facts(path, topology=None, **keys) -> dict[str, str]:
    return dict(inspect_file(path, topology, keys).facts)


def trains(found, tmp_path) -> None:
    """The parts of the configuration that were printed train for a step, in a small network."""
    printed = yaml.safe_load(found.as_yaml())
    assert printed == found.config
    config = charged_config(num_steps=1)
    config["data"] = printed["data"]
    config["denoise_model"] |= printed["denoise_model"]
    config["train"] |= printed["train"]
    train(config, output_dir=tmp_path / "run", device="cpu", progress=False)


def test_a_molecule_in_an_archive(tmp_path):
    write_ethanol(tmp_path / "ethanol.npz")
    found = inspect_file(tmp_path / "ethanol.npz")
    said = dict(found.facts)
    assert said["kind"] == "npz, by the suffix"
    assert said["arrays"] == "R [240, 9, 3] float64, z [9] int64"
    assert said["read"] == "240 frames" and said["atoms"] == "9 in 3 dimensions" and said["formula"] == "C2 H6 O"
    assert (
        said["elements"] == "z of the file" and said["times"].startswith("unknown") and said["box"].startswith("none")
    )
    assert said["graph"] == "8 bonds, 66 edges between atoms up to 3 bonds apart"
    assert found.config["denoise_model"] == {"node_dim": 30, "edge_dim": 4, "num_w": 20}
    assert found.config["data"]["val"] == {
        "kind": "npz", "path": (tmp_path / "ethanol.npz").as_posix(), "span": 30, "stride": 1, "split": "val",
    }  # fmt: skip
    trains(found, tmp_path)


def test_heavier_elements_get_features_of_their_own(tmp_path):
    rng = np.random.default_rng(0)
    z = ETHANOL.copy()
    z[2] = 17
    np.savez(tmp_path / "chloride.npz", R=ETHANOL_POSITIONS + 0.03 * rng.normal(size=(60, 9, 3)), z=z)
    found = inspect_file(tmp_path / "chloride.npz")
    assert dict(found.facts)["formula"] == "C2 H6 Cl"
    assert found.config["data"]["train"]["atom_types"] == [1, 6, 17]
    assert found.config["denoise_model"]["node_dim"] == 9 and found.config["data"]["train"]["span"] == 12
    trains(found, tmp_path)


def test_many_trajectories_of_particles(tmp_path):
    x = np.random.default_rng(0).normal(size=(20, 12, 4, 2)).cumsum(1)
    np.savez(tmp_path / "walks.npz", x=x)
    found = inspect_file(tmp_path / "walks.npz")
    said = dict(found.facts)
    assert said["read"] == "12 frames in each of 20 trajectories" and said["nodes"] == "4 in 2 dimensions"
    assert said["elements"].startswith("none") and said["graph"] == "12 edges (all nodes with all)"
    steps = np.linalg.norm(np.diff(x, axis=1), axis=-1)
    b, t, n = np.unravel_index(steps.argmax(), steps.shape)
    assert f"{steps.max():.3g} at most (node {n} of trajectory {b}, frame {t} to {t + 1})" in said["steps"]
    trains(found, tmp_path)


@pytest.mark.parametrize(
    ("shape", "why"),
    [
        ((3, 12, 4, 2), "3 trajectories cannot be split"),
        ((12, 4, 2), "windows of 3 frames, there are 12, of which 20 %"),
    ],
)
def test_what_is_too_little_to_train_on(tmp_path, shape, why):
    np.savez(tmp_path / "few.npz", x=np.random.default_rng(0).normal(size=shape).cumsum(-3))
    found = inspect_file(tmp_path / "few.npz")
    assert found.config is None and why in found.why
    assert f"nothing trains on it as it is: {found.why}" in found.as_text()


def test_a_jump_is_named(tmp_path):
    rng = np.random.default_rng(0)
    x = ETHANOL_POSITIONS + 0.03 * rng.normal(size=(60, 9, 3))
    x[40:, 3, 0] += 9
    np.savez(tmp_path / "jump.npz", R=x, z=ETHANOL)
    assert "at most (atom 3, frame 39 to 40), which is out of all proportion" in facts(tmp_path / "jump.npz")["steps"]


def test_times():
    assert times_in_words(np.arange(5.0) * 0.1) == "times 0 to 0.4, 0.1 apart"
    rounded = np.arange(100_000, dtype=np.float32) * np.float32(0.1)
    assert times_in_words(rounded, "time") == "time 0 to 9999.9, 0.1 apart"
    assert times_in_words(np.r_[0:60, 50:60], "step") == "step 0 to 59, 1 apart, but from frame 59 to 60 -9 (runs back)"
    uneven = times_in_words(np.r_[0:6, 10:40:10, 50])
    assert uneven == "times 0 to 50, 1 apart, but from frame 5 to 6 5, and 3 more such steps"
    assert times_in_words(np.zeros(1)) == "times 0"


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        (None, "none: there is no array cell"),
        (np.diag([20.0, 21, 22]), "20 x 21 x 22 in the unit of the positions"),
        (np.diag([20.0, 21, 22])[None].repeat(60, 0), "20 x 21 x 22 in the unit of the positions, of 60 frames"),
    ],
)
def test_the_box_of_an_npz(tmp_path, cell, words):
    x = ETHANOL_POSITIONS + 0.03 * np.random.default_rng(0).normal(size=(60, 9, 3))
    np.savez(tmp_path / "e.npz", R=x, z=ETHANOL, **({} if cell is None else {"cell": cell}))
    assert facts(tmp_path / "e.npz")["box"] == words


def test_a_file_of_molecules(tmp_path):
    ase_io = pytest.importorskip("ase.io")
    from ase import Atoms

    rng = np.random.default_rng(0)
    frames = [Atoms(ETHANOL, ETHANOL_POSITIONS + 0.03 * rng.normal(size=(9, 3))) for _ in range(60)]
    ase_io.write(tmp_path / "ethanol.extxyz", frames)
    found = inspect_file(tmp_path / "ethanol.extxyz")
    said = dict(found.facts)
    assert said["read"] == "60 frames" and said["formula"] == "C2 H6 O" and said["unit"] == "angstrom"
    assert "times" in said and "box" in said
    trains(found, tmp_path)
    assert facts(tmp_path / "ethanol.extxyz", with_h=False)["formula"] == "C2 O"


def test_box_and_times_of_a_simulation(tmp_path):
    mdtraj = pytest.importorskip("mdtraj")
    topology = mdtraj.Topology()
    residue = topology.add_residue("ETH", topology.add_chain())
    for i, z in enumerate(ETHANOL):
        element = mdtraj.element.Element.getByAtomicNumber(int(z))
        topology.add_atom(f"{element.symbol}{i + 1}", element, residue)
    rng = np.random.default_rng(0)
    x = (ETHANOL_POSITIONS + 0.03 * rng.normal(size=(60, 9, 3)) + np.arange(60)[:, None, None] * [0.5, 0, 0]) % 20 / 10
    run = mdtraj.Trajectory(x.astype("f4"), topology, time=np.arange(60) * 2.0)
    run.unitcell_lengths, run.unitcell_angles = np.full((60, 3), 2.0), np.full((60, 3), 90.0)
    run.save_xtc(str(tmp_path / "run.xtc"))
    run[0].save_pdb(str(tmp_path / "run.pdb"))
    found = inspect_file(tmp_path / "run.xtc", tmp_path / "run.pdb")
    said = dict(found.facts)
    assert said["in the file"] == "60 frames of 9 atoms"
    assert said["times"] == "times 0 to 118, 2 apart" and said["box"] == "20 x 20 x 20 angstrom"
    assert said["elements"] == f"of all atoms stated by {tmp_path / 'run.pdb'}"
    assert any("jumps across the box were mended" in note for note in found.notes)
    trains(found, tmp_path)


def test_a_recording_of_pedestrians(tmp_path):
    rows = [f"{10 * t}\t{person}\t{0.4 * t:.2f}\t{person}.0" for t in range(200) for person in (1, 2)]
    (tmp_path / "square.txt").write_text("\n".join(rows))
    found = inspect_file(tmp_path / "square.txt")
    said = dict(found.facts)
    assert said["windows"] == "362 of 20 frames, each around one person" and said["unit"] == "m"
    assert said["steps"].startswith("0.4 as a rule, 0.4 at most (person 0")
    frames = {split: section["frames"] for split, section in found.config["data"].items()}
    assert frames == {"train": [0, 120], "val": [120, 160], "test": [160, 200]}
    trains(found, tmp_path)


def test_samples(tmp_path):
    write_samples(tmp_path / "s.npz", made_samples(nodes=9))
    said = facts(tmp_path / "s.npz")
    assert said["kind"] == "samples of `geotdm sample` (cond), drawn by tiny.safetensors for ethanol"
    assert said["samples"] == "3 of each of 4 graphs, seed 0" and said["frames"] == "4 given and 8 drawn"
    assert said["elements"] == "C2 H6 O (the first graph)" and said["finite"] == "all of them"


def test_the_command(tmp_path, capsys):
    write_ethanol(tmp_path / "ethanol.npz")
    assert main(["inspect", str(tmp_path / "ethanol.npz"), "--set", "data.cutoff=1.2"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{tmp_path / 'ethanol.npz'}\n  kind        npz, by the suffix\n")
    assert "  val: {kind: npz, path:" in out and "cutoff: 1.2" in out and "  note        " in out

    np.savez(tmp_path / "bad.npz", R=np.full((4, 9, 3), np.nan), z=ETHANOL, time=np.arange(4))
    assert main(["inspect", str(tmp_path / "bad.npz")]) == 2
    captured = capsys.readouterr()
    assert "times       time 0 to 3, 1 apart" in captured.out, "what is known is shown all the same"
    assert "must be finite" in captured.err and captured.err.count("\n") == 1

    checkpoint = write_checkpoint(tmp_path / "c.safetensors", charged_config())
    for words, message in (
        ([tmp_path / "none.npz"], "none.npz: no such file"),
        ([checkpoint], "must be a file of data, got a checkpoint"),
        ([tmp_path / "bad.npz", "--topology", checkpoint], "--topology goes with a file of molecules"),
        ([tmp_path / "bad.npz", "--set", "train.lr=1"], "--set must be data.KEY=VALUE"),
    ):
        assert main(["inspect", *map(str, words)]) == 2
        assert message in capsys.readouterr().err


def test_conformers_that_cannot_be_opened(tmp_path, capsys):
    np.savez(tmp_path / "bad.npz", x=np.full((9, 3), np.nan), z=ETHANOL, batch=np.zeros(9, dtype=int))
    with pytest.raises(ValueError, match="must be finite") as caught:
        inspect_file(tmp_path / "bad.npz", keys={"kind": "conformers"})
    assert caught.value.findings.facts == [("kind", "conformers: one frame of each molecule")]
    (tmp_path / "mol.sdf").write_text("no molecule")
    for words in (["mol.sdf"], ["bad.npz", "--set", "data.kind=conformers"]):
        name, *more = words
        path = str(tmp_path / name)
        assert main(["inspect", path, *more, "--topology", str(tmp_path / "bad.npz")]) == 2
        said = f"--topology goes with a file of molecules (.xtc, .dcd, .pdb, ...), got {path}"
        assert said in capsys.readouterr().err
    assert main(["inspect", str(tmp_path / "bad.npz"), "--set", "data.kind=conformers"]) == 2
    assert "  kind        conformers: one frame of each molecule" in capsys.readouterr().out
