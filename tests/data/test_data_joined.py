"""Molecules of different size and kind as one data set, for one model."""

import json
import signal

import numpy as np
import pytest
import torch
from tiny_training import assert_same_run, log_of, start, steps_logged, tiny_config

from geotdm_fast.cli import main
from geotdm_fast.config.files import normalise_config
from geotdm_fast.data import array_dataset, collate, join_datasets, molecule_graph, open_dataset
from geotdm_fast.samples.npz import read_samples
from geotdm_fast.training import train

TYPES = [1, 6, 8, 17]
SECTION = {"kind": "npz", "span": 6, "atom_types": TYPES, "stride": 2}


def chain(z, seed, frames=60):
    """Atoms 1.3 angstrom apart that shake: [frames, N, 3]."""
    place = np.zeros((len(z), 3))
    place[:, 0] = 1.3 * np.arange(len(z))
    return place + 0.05 * np.random.default_rng(seed).normal(size=(frames, len(z), 3)).cumsum(0) / 5


MOLECULES = {"chloride": [17, 6, 1], "ether": [6, 8, 6, 1, 1]}


@pytest.fixture
def files(tmp_path):
    """Two .npz as the molecular data have them: R in angstrom, z."""
    paths = []
    for seed, (name, z) in enumerate(MOLECULES.items()):
        paths.append(str(tmp_path / f"{name}.npz"))
        np.savez(paths[-1], R=chain(z, seed), z=np.array(z))
    return paths


def open_files(files, **more):
    return open_dataset(SECTION | {"path": files, "split": "train"} | more, where="data.train")


def test_a_list_of_files_is_one_data_set(files):
    both = open_files(files)
    alone = [open_files(path) for path in files]
    assert both.name == "chloride + ether" and len(both) == sum(map(len, alone)) > 20
    expected = [item for dataset in alone for item in dataset.items]
    for i in (0, len(alone[0]) - 1, len(alone[0]), len(both) - 1):
        for name in ("x", "h", "edge_index", "edge_attr", "scored"):
            assert torch.equal(getattr(both[i], name), getattr(expected[i], name))
        assert both.numbers_of(i).tolist() == MOLECULES["chloride" if i < len(alone[0]) else "ether"]
    some = both.subset([len(both) - 1, 0])
    assert [some.numbers_of(i).tolist() for i in (0, 1)] == [MOLECULES["ether"], MOLECULES["chloride"]]
    batch = collate([both[0], both[len(both) - 1]])
    assert batch.batch.tolist() == [0] * 3 + [1] * 5 and batch.h.shape == (8, 3 * len(TYPES))
    with pytest.raises(IndexError, match=f"trajectory {len(both)} of {len(both)}"):
        both[len(both)]


def test_atom_types_are_the_features_of_the_stated_set():
    x = chain([17, 6, 1], 0)[0]
    h, edge_index, edge_attr = molecule_graph(x, [17, 6, 1], atom_types=TYPES)
    expected = torch.zeros(3, 4, 3)
    for i, z in enumerate((17, 6, 1)):
        expected[i, TYPES.index(z)] = torch.tensor([1, z / 18, (z / 18) ** 2])
    torch.testing.assert_close(h, expected.flatten(1))
    # All numbers up to one are the benchmark's features, and edges know nothing of types.
    by_number = molecule_graph(x, [7, 6, 1], num_types=10)
    for found, same in zip(molecule_graph(x, [7, 6, 1], atom_types=list(range(10))), by_number, strict=True):
        assert torch.equal(found, same)
    assert torch.equal(edge_index, by_number[1]) and torch.equal(edge_attr, by_number[2])


@pytest.mark.parametrize(
    ("types", "error", "message"),
    [
        ([1, 6], ValueError, r"atomic_numbers must be of atom_types \[1, 6\], got 17"),
        ([1, 6, 6, 17], ValueError, r"atom_types must be atomic numbers, each once, got \[1, 6, 6, 17\]"),
        ([1, -6, 17], ValueError, "atom_types must be at least 0, got -6"),
        ([1, 6.5, 17], TypeError, "atom_types must be a whole number, got 1.0"),
        ([], ValueError, "atom_types must not be empty"),
        ("CHO", TypeError, "atom_types must hold numbers"),
    ],
)
def test_bad_atom_types(types, error, message):
    with pytest.raises(error, match=f"molecule_graph: {message}"):
        molecule_graph(chain([17, 6, 1], 0)[0], [17, 6, 1], atom_types=types)


def test_data_sets_that_do_not_fit_are_named(files):
    with pytest.raises(ValueError, match="at least one data set, got none"):
        join_datasets([])
    one, other = (array_dataset(chain(z, 0), z=z, span=6, name=name) for name, z in (("one", [6, 8]), ("two", [6, 1])))
    for more, message in (
        ({"span": 5}, "T of two must be 6 as in one, got 5"),
        ({"num_types": 9}, r"the shape of a node's h of two must be \[30\] as in one, got \[27\]"),
        ({"max_hops": 2}, r"edge_attr of two must be \[4\] as in one, got \[3\]"),
    ):
        two = array_dataset(chain([6, 1], 0), z=[6, 1], name="two", **{"span": 6} | more)
        with pytest.raises(ValueError, match=message):
            join_datasets([one, two])
    metres, feet = (array_dataset(chain([6, 1], 0), span=6, name=unit, unit=unit) for unit in ("m", "ft"))
    with pytest.raises(ValueError, match="unit of ft must be m as in m, got ft"):
        join_datasets([metres, feet])
    assert join_datasets([one, other], name="both").name == "both"
    graph = {name: getattr(one[0], name) for name in ("h", "edge_index", "edge_attr")}
    assert join_datasets([one, array_dataset(chain([6, 1], 0), span=6, **graph)]).atomic_numbers is None


def test_one_path_is_that_of_every_name(files):
    section = SECTION | {"path": files[0], "name": ["p", "q"]}
    dataset = open_dataset(section)
    alone = open_dataset(SECTION | {"path": files[0]})
    assert dataset.name == "p + q" and dataset.entry_sizes == [len(alone), len(alone)]
    for i in range(len(alone)):
        assert torch.equal(dataset[i].x, alone[i].x) and torch.equal(dataset[len(alone) + i].x, alone[i].x)
    assert open_dataset(section | {"name": ["p"]}).name == "p"


def test_bad_lists_in_a_section(files):
    for paths, more, message in (
        ([], {}, r"path must be a text, or a list of some, got \[\]"),
        ([files[0], 3], {}, "path must be a text, or a list of some"),
        (files, {"name": ["a", "b", "c"]}, "path and name must be lists of the same length"),
    ):
        with pytest.raises(ValueError, match=f"data.train: {message}"):
            open_files(paths, **more)
    with pytest.raises(FileNotFoundError, match=r"data.train: .*absent\.npz"):
        open_files([files[0], "absent.npz"])


def test_md17_takes_several_molecules(tmp_path):
    for seed, (name, z) in enumerate(MOLECULES.items()):
        np.savez(tmp_path / f"{name}.npz", R=chain(z, seed, frames=101), z=np.array(z))
    section = {"root": str(tmp_path), "molecule_name": [*MOLECULES], "mode": "train", "span": 6, "atom_types": TYPES}
    dataset = open_dataset(section | {"down_sample_every": 2})
    assert dataset.name == "chloride + ether" and {len(dataset.numbers_of(i)) for i in range(len(dataset))} == {3, 5}


def config_of(files, **more) -> dict:
    raw = tiny_config(**{"num_steps": 40, "batch_size": 5, "checkpoint_every_steps": 7, "log_every_step": 5} | more)
    raw["data"] = {split: SECTION | {"path": files, "split": split} for split in ("train", "val", "test")}
    raw["denoise_model"] |= {"node_dim": 3 * len(TYPES), "edge_dim": 4}
    raw["diffusion"]["model_mean_type"] = "start_x"
    return normalise_config(raw)


def test_one_model_learns_both_and_samples_both(files, tmp_path, capsys):
    train(config_of(files, num_steps=150, lr=5e-3), output_dir=tmp_path / "run", device="cpu", progress=False)
    losses = [record["loss"] for record in log_of(tmp_path / "run") if "loss" in record]
    assert losses[-1] < 0.5 * losses[0]
    out = tmp_path / "samples.npz"
    arguments = ["sample", str(tmp_path / "run" / "last.safetensors"), "--num-samples", "1", "--quiet"]
    assert main([*arguments, "--out", str(out), "--xyz", str(tmp_path / "samples.xyz")]) == 0, capsys.readouterr().err
    samples = read_samples(out)
    numbers = [samples.atomic_numbers[samples.batch == graph].tolist() for graph in (0, samples.batch.max())]
    assert numbers == [MOLECULES["chloride"], MOLECULES["ether"]]
    assert main(["evaluate", str(out), "--json", str(tmp_path / "scores.json")]) == 0, capsys.readouterr().err
    assert json.loads((tmp_path / "scores.json").read_text())


def test_killed_and_resumed_equals_undisturbed(files, tmp_path):
    """With every option at once: sizes mixed, parts, rotations, a schedule, low precision, both validations."""
    config = config_of(
        files, accumulate=2, rotate=True, schedule="cosine", warmup_steps=5, lr_min=1e-5, precision="bf16",
        nll_every_step=11, eval_every_step=6, eval_graphs=7,
    )  # fmt: skip
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    train(config, output_dir=whole, device="cpu", progress=False)
    process = start(config, parts)
    while steps_logged(parts) < 15:
        assert process.poll() is None, process.stderr.read_text()
    process.send_signal(signal.SIGKILL)
    assert process.wait().returncode == -signal.SIGKILL
    train(config, output_dir=parts, device="cpu", progress=False)
    torch.set_num_threads(threads)
    assert_same_run(whole, parts)
    logged = log_of(whole)
    assert [record["step"] for record in logged if "val_nll" in record] == [11, 22, 33, 40]
    assert [record["step"] for record in logged if "val_loss" in record] == [6, 12, 18, 24, 30, 36, 40]
    rates = {record["step"]: record["lr"] for record in logged if "lr" in record}
    assert rates[5] == pytest.approx(1e-5 + (1e-3 - 1e-5) * 0.5 * (1 + np.cos(np.pi * 4 / 40)))
    assert rates[40] < 2e-5
