"""The program that trains on a file larger than memory."""

import pytest
import torch

from bench.data import cache

mdtraj = pytest.importorskip("mdtraj")


def test_the_same_training_with_and_without_a_cache(tmp_path):
    frames = cache.make_file(tmp_path, 0.0003)
    assert frames == 125 and cache.make_file(tmp_path, 0.0003) == 125
    loaded = mdtraj.load(str(tmp_path / "run.dcd"), top=str(tmp_path / "run.pdb"))
    assert loaded.xyz.shape == (frames, cache.ATOMS, 3)
    assert 0.02 < (10 * loaded.xyz[1:, :, 1]).std() < 0.04 and abs(loaded.xyz[:, 0, 0].mean() + 15) < 0.01
    trained = []
    for name in ("memory", "cached whole"):
        arguments = ["--worker", name, "--frames", str(frames), "--folder", str(tmp_path)]
        step = cache.make_trainer(cache._parser().parse_args(arguments))
        assert len(step.source.data) == frames - cache.SPAN + 1
        for number in range(2):
            step(step.source.training(number), 1e-4, number + 1)
        trained.append(step)
    memory, cached = (step.named_state() for step in trained)
    assert all(torch.equal(memory[name], cached[name]) for name in memory)
    (positions,) = tmp_path.glob("cache-whole/*/positions.npy")
    cache._put_out(positions)
    assert positions.stat().st_size > 12 * cache.ATOMS * frames


def test_a_table():
    row = {
        "gigabytes": 8.0,
        "windows": dict.fromkeys(cache.NAMES, 100),
        "steps_per_second": dict.fromkeys(cache.NAMES, 12.5),
        "ratio_to_memory": dict.fromkeys(cache.NAMES[1:], 0.987),
        "memory_mib": {name: {"anonymous_peak": 400, "resident_peak": 700} for name in cache.NAMES},
    }
    text = cache.report(row)
    assert text.count("12.50 steps/s") == 3 and text.count("(0.987 of memory)") == 2 and "at most 400 MiB" in text


def test_only_what_the_program_made_is_deleted(tmp_path):
    (tmp_path / "mine.txt").write_text("kept")
    (tmp_path / "cache-of-mine").mkdir()
    cache.check_own(tmp_path)
    cache.make_file(tmp_path, 0.0003)
    (tmp_path / "cache-whole" / "a").mkdir(parents=True)
    cache.check_own(tmp_path)
    cache.remove_own(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache-of-mine", "mine.txt"]
    (tmp_path / "empty").mkdir()
    cache.remove_own(tmp_path / "empty")
    assert not (tmp_path / "empty").exists()


@pytest.mark.parametrize("name", ["run.pdb", "run.dcd", "cache-part"])
def test_files_of_somebody_else_are_neither_written_over_nor_deleted(name, tmp_path, capsys):
    (tmp_path / name).write_text("mine")
    assert cache.main(["--folder", str(tmp_path), "--out", str(tmp_path / "out.jsonl")]) == 2
    assert f"--folder: {tmp_path} must have no {name} of something else" in capsys.readouterr().err
    assert (tmp_path / name).read_text() == "mine"


def test_memory_of_the_process_is_known():
    assert cache._status("VmHWM") >= cache._status("RssAnon") > 1000 and cache._status("Nothing") == 0
