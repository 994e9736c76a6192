"""Which data a command reads: one meaning of every option, the kind by the suffix, old spellings with a warning."""

import shutil

import numpy as np
import pytest
import yaml
from tiny_models import (
    ETHANOL,
    ETHANOL_POSITIONS,
    charged_config,
    ethanol_config,
    write_checkpoint,
    write_ethanol,
)
from tiny_training import tiny_config

from geotdm_fast.checkpoint import load_checkpoint
from geotdm_fast.checkpoint_paths import shipped_models
from geotdm_fast.cli import build_parser, main
from geotdm_fast.cli.data_options import sampled_section, with_data
from geotdm_fast.samples.npz import read_samples


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli_data")
    write_ethanol(folder / "ethanol.npz")
    for name in ("run.xtc", "run.pdb", "people.txt"):
        (folder / name).touch()
    return folder


@pytest.fixture(scope="module")
def charged(folder):
    return write_checkpoint(folder / "charged.safetensors", charged_config())


OWN = {"kind": "npz", "path": "x.npz", "split": "train", "span": 30, "stride": 2, "cutoff": 1.7}


@pytest.mark.parametrize(
    ("section", "paths", "expected"),
    [
        (OWN, ["a.npz"], OWN | {"path": "a.npz"}),
        (OWN, ["a.npz", "b.npz"], OWN | {"path": ["a.npz", "b.npz"]}),
        (OWN, ["run.xtc"], OWN | {"kind": "file", "path": "run.xtc"}),
        (OWN | {"kind": "file"}, ["a.npz"], OWN | {"path": "a.npz"}),
        ({"kind": "md17", "path": "x.npz", "split": "val", "span": 9}, ["a.npz"],
         {"kind": "md17", "path": "a.npz", "split": "val", "span": 9}),
        ({"molecule_name": "ethanol", "root": "d", "mode": "val", "force_length": 9}, ["a.NPZ"],
         {"kind": "md17", "path": "a.NPZ", "mode": "val", "force_length": 9}),
        ({"kind": "nbody", "system": "charged", "split": "val", "num_frames": 20, "project": True}, ["a.npz"],
         {"kind": "npz", "path": "a.npz", "split": "val", "span": 20, "project": True}),
        ({"suffix": "train_charged5_initvel1", "span": 30, "force_length": 3}, ["a.npz"],
         {"kind": "npz", "path": "a.npz", "split": "val", "span": 30}),
        ({"kind": "pedestrian", "dataset": "eth", "phase": "validation", "root": "d"}, ["a.npz"],
         {"kind": "npz", "path": "a.npz", "split": "val", "span": 20}),
        ({"kind": "pedestrian", "dataset": "zara1", "phase": "validation", "root": "d", "traj_scale": 2.0}, ["a.txt"],
         {"kind": "pedestrian", "num_slots": 3, "traj_scale": 2.0, "recordings": ["a.txt"]}),
    ],
)  # fmt: skip
def test_the_suffix_says_the_kind(section, paths, expected):
    assert with_data(section, paths, split="val")[0] == expected


def test_a_change_of_kind_is_told():
    section = {"kind": "md17", "path": "x.npz", "split": "val", "span": 9, "num_windows": 5, "with_h": False}
    changed, told = with_data(section, ["run.xtc"], "run.pdb")
    assert changed == {
        "kind": "file",
        "path": "run.xtc",
        "topology": "run.pdb",
        "split": "val",
        "span": 9,
        "with_h": False,
    }
    assert told == "kind file by the suffix of run.xtc, instead of md17; without num_windows"


def test_lists_of_other_files_are_left_out():
    section = OWN | {"kind": "file", "path": ["x.xtc", "y.xtc"], "topology": ["x.pdb", "y.pdb"], "name": ["x", "y"]}
    section |= {"features": ["degree"], "molecule": ["x.sdf", "y.sdf"]}
    expected = OWN | {"kind": "file", "path": "a.xtc", "features": ["degree"]}
    told = "without topology, name, molecule of the paths before --data"
    assert with_data(section, ["a.xtc"]) == (expected, told)
    changed, told = with_data(section, ["a.xtc", "b.xtc"], "top.pdb")
    assert changed == expected | {"path": ["a.xtc", "b.xtc"], "topology": "top.pdb"}
    assert told == "without name, molecule of the paths before --data"
    assert with_data(section | {"name": "n"}, ["a.npz"])[1] == (
        "kind npz by the suffix of a.npz, instead of file; without topology, molecule of the paths before --data"
    )


def test_shares_of_as_many_files_stay():
    section = OWN | {"path": ["x.npz", "y.npz"], "ratio": [0.25, 0.75]}
    assert with_data(section, ["a.npz", "b.npz"]) == (section | {"path": ["a.npz", "b.npz"]}, "")
    for paths in (["a.npz"], ["a.npz", "b.npz", "c.npz"]):
        changed, told = with_data(section, paths)
        assert "ratio" not in changed and told == "without ratio of the paths before --data"


def test_a_topology_serves_every_file():
    section, _ = with_data(OWN, ["a.xtc", "b.xtc"], "top.pdb")
    assert section["path"] == ["a.xtc", "b.xtc"] and section["topology"] == "top.pdb"
    with pytest.raises(ValueError, match=r"--topology goes with a file of molecules .* got --data a\.npz"):
        with_data(OWN, ["a.npz"], "top.pdb")
    with pytest.raises(ValueError, match=r"several files must be all \.npz or none, got a\.npz, b\.xtc"):
        with_data(OWN, ["a.npz", "b.xtc"])


def test_the_topology_of_the_section_stays_if_it_is_there(folder):
    section = OWN | {"kind": "file", "topology": str(folder / "run.pdb")}
    assert with_data(section, ["part2.xtc"])[0] == section | {"path": "part2.xtc"}
    placeholder = OWN | {"kind": "file", "topology": "topology.pdb"}
    assert "topology" not in with_data(placeholder, ["whole.extxyz"])[0]
    beside = OWN | {"kind": "file", "topology": "{folder}/system.pdb", "molecule": "{folder}/mol.sdf"}
    assert with_data(beside, ["runs/2/traj.xtc"]) == (beside | {"path": "runs/2/traj.xtc"}, "")
    assert with_data(beside, ["b.xtc"], "run.pdb")[0] == beside | {"path": "b.xtc", "topology": "run.pdb"}


def test_a_folder_is_a_root(folder):
    section = {"kind": "pedestrian", "dataset": "eth", "phase": "training", "root": "elsewhere"}
    assert with_data(section, [str(folder)])[0] == section | {"root": folder.as_posix()}
    with pytest.raises(ValueError, match="data is of the kind npz, which reads files, got a folder"):
        with_data(OWN, [str(folder)])


def test_a_molecule_file_trains_with_one_option(folder, tmp_path, capsys):
    """An extended XYZ in the place of the .npz of a configuration."""
    ase_io = pytest.importorskip("ase.io")
    from ase import Atoms

    with np.load(folder / "ethanol.npz") as file:
        frames = [Atoms(file["z"], x) for x in file["R"]]
    ase_io.write(tmp_path / "ethanol.extxyz", frames)
    config = ethanol_config(folder / "ethanol.npz", "cond")
    config["data"] = {"train": {"kind": "npz", "path": "none.npz", "split": "train", "span": 20, "stride": 20}}
    config["data"]["val"] = config["data"]["train"] | {"split": "val"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    command = ["train", str(tmp_path / "config.yaml"), "--data", str(tmp_path / "ethanol.extxyz"), "--quiet"]
    assert main([*command, "--out", str(tmp_path / "run"), "--set", "train.num_steps=1"]) == 0
    assert "data.train, data.val: kind file by the suffix of" in capsys.readouterr().err
    written = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert {section["kind"] for section in written["data"].values()} == {"file"}


def test_sample_reads_a_data_file(charged, tmp_path, capsys):
    x = np.random.default_rng(0).normal(size=(5, 12, 5, 3)).cumsum(1)
    edges = np.argwhere(~np.eye(5, dtype=bool)).T
    np.savez(tmp_path / "mine.npz", x=x, edge_index=edges, edge_attr=np.ones((20, 1)))
    own = ["--data", str(tmp_path / "mine.npz"), "--out", str(tmp_path / "s.npz")]
    assert main(["sample", charged, *own, "--set", "data.split=test"]) == 0
    samples = read_samples(tmp_path / "s.npz")
    assert samples.name == "mine" and samples.num_graphs == 1
    np.testing.assert_allclose(samples.truth(), x[4].transpose(1, 2, 0), rtol=1e-6)
    assert main(["sample", charged, *own, "--set", "data.test.stride=1"]) == 0
    assert read_samples(tmp_path / "s.npz").num_graphs == 5
    capsys.readouterr()
    assert main(["sample", charged, *own, "--set", "data.val.stride=1"]) == 2
    assert "the section that is opened is data.test (--split test)" in capsys.readouterr().err
    assert main(["sample", charged, *own, "--set", "train.lr=1"]) == 2
    assert "--set must be data.KEY=VALUE, got 'train.lr=1': how a model was made" in capsys.readouterr().err


def test_the_split_of_a_data_file_is_told(folder, tmp_path, capsys):
    checkpoint = write_checkpoint(tmp_path / "ethanol.safetensors", ethanol_config("elsewhere.npz"))
    own = ["--data", str(folder / "ethanol.npz"), "--num-graphs", "1", "--out", str(tmp_path / "s.npz")]
    assert main(["sample", checkpoint, *own]) == 0
    assert "data.test: split test of --data; --set data.split=null takes all" in capsys.readouterr().err


def test_a_checkpoint_by_folder_and_by_name(charged, tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    options = ["--num-graphs", "1", "--out", str(tmp_path / "s.npz"), "--quiet"]
    assert main(["sample", str(run), *options]) == 2
    assert f"{run} must hold best.safetensors, or name a file of weights in it; got none" in capsys.readouterr().err
    shutil.copy(charged, run / "epoch_3.safetensors")
    assert main(["sample", str(run), *options]) == 2
    assert capsys.readouterr().err.endswith("got epoch_3.safetensors\n")
    shutil.copy(charged, run / "last.safetensors")
    assert main(["sample", str(run), *options]) == 2
    early = f"last.safetensors; the first validation writes it, until then there is {run / 'last.safetensors'}"
    assert early in capsys.readouterr().err
    shutil.copy(charged, run / "best.safetensors")
    assert main(["sample", str(run), *options]) == 0
    assert f"{run}: taking best.safetensors" in capsys.readouterr().err
    assert read_samples(tmp_path / "s.npz").checkpoint == "best.safetensors"

    assert {"nbody_charged_small", "md_ethanol_small", "pedestrian_zara1_small"} <= set(shipped_models())
    few = ["--set", "data.num_systems=2", "--method", "dpmpp_2m", "--steps", "2"]
    assert main(["sample", "nbody_charged_small", *few, *options]) == 0
    assert read_samples(tmp_path / "s.npz").checkpoint == "nbody_charged_small.safetensors"
    assert main(["sample", "nbody_charged", *options]) == 2
    assert "nbody_charged: no such file or folder, and no model of that name" in capsys.readouterr().err


def test_old_spellings_work_and_warn(charged, tmp_path, capsys):
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(charged_config(num_steps=1)))
    assert main(["train", str(tmp_path / "tiny.yaml"), "--output", str(tmp_path / "run"), "--quiet"]) == 0
    old = "geotdm train: warning: --output is now --out; the old spelling will go with the next release"
    assert old in capsys.readouterr().err
    assert (tmp_path / "run" / "last.safetensors").is_file()
    out = ["--out", str(tmp_path / "s.npz"), "--quiet"]
    assert main(["sample", charged, "--data", str(tmp_path / "tiny.yaml"), "--set", "num_systems=2", *out]) == 0
    err = capsys.readouterr().err
    assert f"--data {tmp_path / 'tiny.yaml'} is now --data-config {tmp_path / 'tiny.yaml'}" in err
    assert "--set num_systems=... is now --set data.num_systems=..." in err
    assert read_samples(tmp_path / "s.npz").num_graphs == 2


def test_options_have_one_meaning():
    """Options of the same name have the same words in every command, `--set` but for its sections."""
    commands = build_parser()._subparsers._group_actions[0].choices
    options = {name: parser._option_string_actions for name, parser in commands.items()}
    assert all("--out" in options[name] for name in ("simulate", "train", "sample", "plot", "reproduce"))
    for name in ("train", "sample", "evaluate"):
        assert options[name]["--data"].metavar == "PATH" and options[name]["--data"].nargs == "+"
        assert "--topology" in options[name]
    for name in ("train", "sample", "evaluate", "reproduce"):
        assert options[name]["--set"].metavar.lower() in ("section.key=value", "data.key=value")


def test_an_unknown_option_is_told_by_its_command(capsys):
    for words, expected in (
        (["train", "c.yaml", "--epochs", "3"], "geotdm train: error: unrecognized arguments: --epochs 3; did you mean "
         "--set train.num_epochs=...? (see geotdm train --help)"),
        (["sample", "c", "--out", "s.npz", "--num-sample=3", "--spam"], "geotdm sample: error: unrecognized arguments: "
         "--spam (see geotdm sample --help)"),
        (["evaluate", "c", "--sed", "3"], "--sed 3; did you mean --seed? (see geotdm evaluate --help)"),
        (["sample", "--data", "x.npz", "best.safetensors", "--out", "s.npz"], "the following arguments are required: "
         "CHECKPOINT; --data takes every path up to the next option (see geotdm sample --help)"),
        (["doctor", "--spam"], "geotdm doctor: error: unrecognized arguments: --spam (see geotdm doctor --help)"),
    ):  # fmt: skip
        with pytest.raises(SystemExit):
            main(words)
        assert expected in capsys.readouterr().err


def test_every_model_that_comes_with_the_package_is_described():
    text = (next(iter(shipped_models().values())).parent / "README.md").read_text()
    assert all(f"`{name}.safetensors`" in text for name in shipped_models())


def test_another_molecule_than_that_of_the_training(folder, tmp_path, capsys):
    np.savez(tmp_path / "other.npz", R=ETHANOL_POSITIONS + np.zeros((40, 1, 1)), z=np.where(ETHANOL == 8, 7, ETHANOL))
    (tmp_path / "again").mkdir()
    shutil.copy(folder / "ethanol.npz", tmp_path / "again" / "run_2.npz")
    here = write_checkpoint(tmp_path / "here.safetensors", ethanol_config(folder / "ethanol.npz"))
    gone = write_checkpoint(tmp_path / "gone.safetensors", ethanol_config("elsewhere/ethanol.npz"))
    out = ["--set", "data.split=train", "--num-graphs", "1", "--out", str(tmp_path / "s.npz"), "--quiet"]

    def said(checkpoint, path) -> str:
        assert main(["sample", checkpoint, "--data", str(path), *out]) == 0
        return "".join(line for line in capsys.readouterr().err.splitlines(True) if "trained on" in line)

    assert said(here, folder / "ethanol.npz") == said(gone, folder / "ethanol.npz") == ""
    assert said(here, tmp_path / "again" / "run_2.npz") == "", "the same molecule by another name"
    assert said(here, tmp_path / "other.npz") == (
        "geotdm sample: warning: the model was trained on ethanol (C2 H6 O), the data are other (C2 H6 N): a model "
        "knows the molecules that it was trained on\n"
    )
    assert "the model was trained on ethanol, the data are other (C2 H6 N)" in said(gone, tmp_path / "other.npz")


@pytest.mark.parametrize("with_h", [True, False])
def test_the_molecule_of_a_training_on_a_trajectory_is_that_of_its_topology(folder, tmp_path, capsys, with_h):
    atoms = "".join(
        f"ATOM  {i + 1:5d}  {symbol:<3s} LIG A   1    {x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00          {symbol:>2s}\n"
        for i, (symbol, (x, y, z)) in enumerate(zip("CCOHHHHHH", ETHANOL_POSITIONS, strict=True))
    )
    (tmp_path / "top.pdb").write_text(atoms)
    config = ethanol_config(folder / "ethanol.npz")
    config["data"]["train"] |= {
        "kind": "file",
        "path": "run.xtc",
        "topology": str(tmp_path / "top.pdb"),
        "with_h": with_h,
    }
    checkpoint = write_checkpoint(tmp_path / "run.safetensors", config)
    out = ["--num-graphs", "1", "--out", str(tmp_path / "s.npz"), "--quiet"]
    given = ["--data", str(folder / "ethanol.npz"), "--set", "data.split=train", "--set", f"data.with_h={with_h}"]
    assert main(["sample", checkpoint, *given, *out]) == 0
    assert "trained on" not in capsys.readouterr().err
    (tmp_path / "top.pdb").write_text(atoms.replace(" O  ", " N  ").replace(" O\n", " N\n"))
    assert main(["sample", checkpoint, *given, *out]) == 0
    assert (
        f"trained on run (C2{' H6' * with_h} N), the data are ethanol (C2{' H6' * with_h} O)" in capsys.readouterr().err
    )


def test_recordings_of_several_sections_are_told(folder, tmp_path, capsys):
    section = {"kind": "pedestrian", "dataset": "eth", "root": "d"}
    config = charged_config()
    config["data"] = {"train": section | {"phase": "training"}, "val": section | {"phase": "validation"}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    main(["train", str(tmp_path / "config.yaml"), "--data", str(folder / "people.txt"), "--quiet"])
    assert "data.train and data.val read the same recordings from end to end" in capsys.readouterr().err


def test_windows_of_training_are_as_long_as_the_models(folder, tmp_path):
    config = tiny_config(block_history=2)
    config["data"]["train"]["num_frames"] = 12  # 3 given ones and 3 to draw in each of 3 blocks
    model = write_checkpoint(tmp_path / "m.safetensors", config)
    out = tmp_path / "s.npz"
    words = ["sample", model, "--split", "train", "--method", "ddim", "--steps", "2", "--quiet", "--out", str(out)]
    assert main(words) == 0
    assert read_samples(out).samples.shape == (1, 30, 3, 3)
    parser, config = build_parser(), load_checkpoint(model)[1]

    def section(*options):
        return sampled_section(config, parser.parse_args([*words, *options]))[0]

    assert section()["num_frames"] == 6 and config["data"]["train"]["num_frames"] == 12
    assert section("--split", "val")["num_frames"] == 6
    assert section("--rollout", "9")["num_frames"] == 12
    assert section("--set", "data.num_frames=9")["num_frames"] == 9
    assert section("--split", "test", "--data", str(folder / "ethanol.npz"))["span"] == 6
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump({"data": {"train": config["data"]["train"] | {"num_frames": 6}}}))
    assert section("--data-config", str(other))["num_frames"] == 6
