"""Folders of shards: what is in them, what is refused, what a kill or a full disk leaves."""

import dataclasses
import errno
import json
import re
import shutil
import signal
import zipfile

import numpy as np
import pytest
import torch
import warm_python
from full_disk import full_disk
from shard_runs import CONFIG, NUM_SAMPLES, NUM_SHARDS, RUN, SHARD_SIZE, TASK, command, content, into
from tiny_models import tame_network, tiny_diffusion, write_checkpoint

from geotdm_fast.checkpoint import build_diffusion
from geotdm_fast.cli import main
from geotdm_fast.data import collate, open_dataset
from geotdm_fast.diffusion import Sampler
from geotdm_fast.samples.npz import read_samples
from geotdm_fast.samples.record import make_samples
from geotdm_fast.samples.shards import iterate_shards, read_shards
from geotdm_fast.sampling import sample
from geotdm_fast.scores.evaluation import evaluate


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("model") / "charged.safetensors", CONFIG)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    outcome = into(folder)
    assert outcome == (NUM_SHARDS, NUM_SHARDS)
    return folder


def test_numbers_of_numpy_are_the_same_request(tmp_path):
    into(tmp_path / "plain")
    into(tmp_path / "numpy", num_samples=np.int64(NUM_SAMPLES), shard_size=np.int32(SHARD_SIZE), seed=np.uint8(0))
    assert content(tmp_path / "numpy") == content(tmp_path / "plain")


def test_shards_hold_what_one_file_would(undisturbed):
    dataset = open_dataset(CONFIG["data"]["test"], progress=False)
    batch = collate([dataset[i] for i in range(len(dataset))])
    diffusion = tiny_diffusion(CONFIG)
    drawn = sample(Sampler(diffusion), batch, TASK, num_samples=3, seed=0, batch_size=3, progress=False)
    about = {"checkpoint": "charged.safetensors", "method": "ddpm", "num_steps": diffusion.num_timesteps}
    expected = make_samples(drawn, batch, dataset, TASK, seed=0, **about)
    joined = read_samples(undisturbed)
    for field in dataclasses.fields(expected):
        assert np.array_equal(getattr(joined, field.name), getattr(expected, field.name)), field.name
    assert evaluate(joined, ["ade"]) == evaluate(expected, ["ade"])
    assert sorted(content(undisturbed)) == ["manifest.json", *(f"shard-{n:06d}.npz" for n in range(NUM_SHARDS))]


@pytest.mark.parametrize("shard_size", [1, 2, 7, 100])
def test_every_cut_joins_to_the_same(undisturbed, tmp_path, shard_size):
    """Shards of parts of a graph's samples, of some graphs, of everything."""
    shards, _ = into(tmp_path, shard_size=shard_size, batch_size=1)
    assert shards == {1: 18, 2: 12, 7: 3, 100: 1}[shard_size]
    expected, joined = read_samples(undisturbed), read_samples(tmp_path)
    np.testing.assert_allclose(joined.samples, expected.samples, rtol=1e-4, atol=1e-4)  # other batches
    for field in dataclasses.fields(expected):
        if field.name != "samples":
            assert np.array_equal(getattr(joined, field.name), getattr(expected, field.name)), field.name
    parts = [(g, k) for block, _ in iterate_shards(tmp_path) for g in block.graphs for k in block.samples]
    assert sorted(parts) == [(g, k) for g in range(6) for k in range(3)], "none is lost, none repeated"


def test_batches_change_no_byte_of_the_layout_and_only_rounding_of_the_rest(undisturbed, tmp_path):
    into(tmp_path, batch_size=1)
    assert sorted(content(tmp_path)) == sorted(content(undisturbed))
    for (block, one), (other, ours) in zip(iterate_shards(tmp_path), iterate_shards(undisturbed), strict=True):
        assert block == other
        np.testing.assert_allclose(one.samples, ours.samples, rtol=1e-4, atol=1e-4)
        assert np.array_equal(one.target, ours.target)


def test_a_finished_folder_is_left_alone(undisturbed):
    before = {path: path.stat().st_mtime_ns for path in undisturbed.glob("*.*")}
    assert into(undisturbed) == (NUM_SHARDS, 0)
    assert into(undisturbed, shard_size=None, batch_size=2) == (NUM_SHARDS, 0)
    assert {path: path.stat().st_mtime_ns for path in undisturbed.glob("*.*")} == before


def test_missing_and_damaged_shards_are_drawn_again(undisturbed, tmp_path):
    into(tmp_path)
    (tmp_path / "shard-000001.npz").unlink()
    whole = (tmp_path / "shard-000004.npz").read_bytes()
    (tmp_path / "shard-000004.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / ".shard-000002.123.tmp.npz").write_bytes(whole[:100])
    with pytest.raises(ValueError, match=r"must hold 6 shards, got 5; the first that is missing is shard-000001\.npz"):
        read_shards(tmp_path)
    assert into(tmp_path) == (NUM_SHARDS, 2)
    assert content(tmp_path) == content(undisturbed)


# Where the process dies: while the manifest is renamed, in the midst of the third shard, between its writing and its
# renaming (the manifest's is the first), just after the renaming of the last.
MOMENTS = [
    ("os", "replace", "before", 1, 0),
    ("np", "savez_compressed", "halfway", 3, 2),
    ("os", "replace", "before", 4, 2),
    ("os", "replace", "after", 7, 6),
]


@pytest.mark.parametrize(("module", "name", "moment", "count", "there"), MOMENTS)
def test_killed_and_called_again(undisturbed, checkpoint, tmp_path, capsys, module, name, moment, count, there):
    folder = tmp_path / "killed"
    killed = warm_python.run("-c", RUN, module, name, moment, str(count), "0", *command(checkpoint, folder))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(list(folder.glob("shard-*.npz"))) == there
    assert moment == "after" or list(folder.glob(".*.tmp.*")), "the half-written file lies aside"
    assert main(command(checkpoint, folder)) == 0
    assert f"in 6 shards{f', {there} of which were there' if there else ''}\n" in capsys.readouterr().out
    assert content(folder) == content(undisturbed)


def test_another_request_is_refused_by_name(undisturbed, tmp_path):
    before = content(undisturbed)
    with pytest.raises(ValueError, match=r"holds samples of another request: seed is 0 there, asked for is 1\. Name"):
        into(undisturbed, seed=1)
    with pytest.raises(ValueError, match=r'num_samples is 3 there, asked for is 2; method is "ddpm" there, .* "ddim"'):
        into(undisturbed, num_samples=2, method="ddim")
    with pytest.raises(ValueError, match=r"request: num_steps is 25 there, asked for is 5\. "):
        into(undisturbed, num_steps=5)
    with pytest.raises(ValueError, match=r'checkpoint is "charged\.safetensors" there, asked for is "b\.safetensors"'):
        into(undisturbed, checkpoint="b.safetensors")
    other_weights = build_diffusion(tame_network(CONFIG, seed=1), CONFIG, "cpu")
    with pytest.raises(ValueError, match=r"request: weights_sha256 is \"[0-9a-f]{64}\" there"):
        into(undisturbed, diffusion=other_weights)
    with pytest.raises(ValueError, match="request: shard_size is 4 there, asked for is 5"):
        into(undisturbed, shard_size=5)
    other_data = json.loads(json.dumps(CONFIG))
    other_data["data"]["test"]["seed"] = 9
    with pytest.raises(ValueError, match="request: data_sha256 is"):
        into(undisturbed, config=other_data)
    assert content(undisturbed) == before


def test_restart_begins_anew(undisturbed, tmp_path):
    into(tmp_path, seed=1, num_samples=2)
    (tmp_path / "notes.txt").write_text("mine")
    assert into(tmp_path, restart=True) == (NUM_SHARDS, NUM_SHARDS)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    (tmp_path / "notes.txt").unlink()
    assert content(tmp_path) == content(undisturbed)


def test_foreign_manifests_and_shards(undisturbed, tmp_path):
    into(tmp_path)
    manifest = tmp_path / "manifest.json"
    text = manifest.read_text()
    for broken, message in (
        ("{", "must be JSON"),
        ("[]", "must be of format 'geotdm_fast shards 1', got 'list'"),
        ('{"format": "other"}', "got 'other'"),
        (text.replace('"num_graphs": 6', '"num_graphs": "6"'), r"must hold a request with .* got \['6', 3, 4"),
        (text.replace('"shard_size": 4', '"shard_size": 0'), r"whole numbers of at least 1; got \[6, 3, 0"),
        (re.sub(r'"request": \{[^}]*\}', '"request": 1', text), "got 1"),
    ):
        manifest.write_text(broken)
        for reads in (lambda: into(tmp_path), lambda: read_samples(tmp_path)):
            with pytest.raises(ValueError, match=message):
                reads()
    manifest.unlink()
    with pytest.raises(FileNotFoundError, match=r"must be a folder of `geotdm sample`, got one without manifest\.json"):
        read_samples(tmp_path)
    with pytest.raises(ValueError, match=r"must be empty or hold a manifest\.json, got shard-000000\.npz without one"):
        into(tmp_path)
    manifest.write_text(text)
    into(tmp_path / "other", seed=1)
    (tmp_path / "other" / "shard-000002.npz").rename(tmp_path / "shard-000002.npz")
    for reads in (lambda: into(tmp_path), lambda: read_samples(tmp_path)):
        with pytest.raises(
            ValueError, match=r"shard-000002\.npz must be a shard of the request in .*, got one of another"
        ):
            reads()


@pytest.mark.parametrize("change", [("num_graphs", 3 * 10**7), ("num_samples", 10**12), ("num_samples", 2**60 - 1)])
def test_counts_are_not_believed_before_the_files_are_looked_at(undisturbed, tmp_path, change):
    shutil.copytree(undisturbed, tmp_path / "s")
    content = json.loads((tmp_path / "s" / "manifest.json").read_text())
    content["request"][change[0]] = change[1]
    (tmp_path / "s" / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"shard-000000\.npz must be a shard of the request in the manifest beside it"):
        read_shards(tmp_path / "s")
    (tmp_path / "s" / "shard-000000.npz").unlink()
    (tmp_path / "s" / "shard-000001.npz").write_text("damaged")
    with pytest.raises(ValueError, match=r"must hold \d+ shards, got 5; the first that is missing is shard-000000"):
        read_shards(tmp_path / "s")


def test_a_shard_with_a_flipped_bit_is_drawn_again(undisturbed, tmp_path):
    into(tmp_path)
    shard = tmp_path / "shard-000003.npz"
    with zipfile.ZipFile(shard) as archive:
        place = archive.getinfo("samples.npy").header_offset + 200
    data = bytearray(shard.read_bytes())
    data[place] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ValueError, match=r"shard-000003\.npz: array 'samples' is corrupt"):
        read_shards(tmp_path)
    assert into(tmp_path) == (NUM_SHARDS, 1)
    assert content(tmp_path) == content(undisturbed)


def test_a_finished_folder_on_a_disk_that_cannot_be_written_to(undisturbed, tmp_path, monkeypatch):
    import builtins

    opened = builtins.open

    def refuse(path, *rest, **more):
        if str(path).endswith(".lock"):
            raise OSError(errno.EROFS, "Read-only file system")
        return opened(path, *rest, **more)

    monkeypatch.setattr(builtins, "open", refuse)
    assert into(undisturbed) == (NUM_SHARDS, 0)


def test_two_calls_at_once(tmp_path):
    import fcntl

    with open(tmp_path / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(OSError, match=r"cannot write to .*: another process is drawing samples into it"):
            into(tmp_path)
    assert into(tmp_path) == (NUM_SHARDS, NUM_SHARDS)


def test_full_disk_stops_the_run_and_keeps_what_is_whole(undisturbed, tmp_path):
    into(tmp_path)
    (tmp_path / "shard-000003.npz").unlink()
    (tmp_path / "shard-000005.npz").unlink()
    before = content(tmp_path)
    with full_disk(2048), pytest.raises(OSError, match=r"cannot write .*shard-000003\.npz .*; nothing was written"):
        into(tmp_path)
    assert content(tmp_path) == before
    assert into(tmp_path) == (NUM_SHARDS, 2)
    assert content(tmp_path) == content(undisturbed)


@pytest.mark.parametrize("name", ["num_samples", "batch_size", "shard_size"])
def test_counts(tmp_path, name):
    with pytest.raises(ValueError, match=f"sample_to_folder: {name} must be at least 1, got 0"):
        into(tmp_path, **{name: 0})
    assert not list(tmp_path.iterdir())


def test_samples_that_are_not_finite_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(Sampler, "draw", lambda self, shape, *_, **__: torch.full(shape, float("nan")))
    with pytest.warns(UserWarning, match=r"shard-000000\.npz holds values that are not finite"):
        into(tmp_path, shard_size=100)


def test_command_evaluate_and_plot(checkpoint, undisturbed, tmp_path, capsys):
    folder = tmp_path / "samples"
    assert main(command(checkpoint, folder)) == 0
    assert f"{folder}: 3 samples of 6 graphs in 6 shards\n" in capsys.readouterr().out
    assert content(folder) == content(undisturbed)
    assert main(["evaluate", str(folder), "--json", str(tmp_path / "a.json"), "--quiet"]) == 0
    assert "model, mean of 3" in capsys.readouterr().out
    assert json.loads((tmp_path / "a.json").read_text())["num_graphs"] == 6
    assert main(["plot", str(folder), "--out", str(tmp_path / "p.png"), "--num-systems", "1"]) == 0
    assert main(command(checkpoint, folder, "--seed", "1")) == 2
    assert "seed is 0 there, asked for is 1" in capsys.readouterr().err
    assert main(command(checkpoint, folder, "--seed", "1", "--restart")) == 0
    assert main(command(checkpoint, tmp_path / "one.npz", "--restart")) == 2
    assert "is for a folder of shards: --out must be a folder then" in capsys.readouterr().err


def test_one_bar_with_trajectories_per_second(checkpoint, tmp_path, capsys):
    words = [word for word in command(checkpoint, tmp_path / "samples") if word != "--quiet"]
    assert main(words) == 0
    shown = capsys.readouterr().err
    assert "sampling: 100%" in shown and "18/18" in shown and "trajectories/s" in shown
    (tmp_path / "samples" / "shard-000000.npz").unlink()
    assert main(words) == 0
    shown = capsys.readouterr().err
    assert "18/18" in shown and " 3/18" not in shown, "what was there counts from the start"
