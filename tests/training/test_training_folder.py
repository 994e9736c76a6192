"""What two runs, a kill and a damaged state do to the output folder."""

import json

import pytest
import torch
from tiny_training import assert_same_run, tiny_config

from geotdm_fast.checkpoint import load_tensors, save_tensors
from geotdm_fast.runtime.folder_lock import locked
from geotdm_fast.training import train


def run(output, **settings):
    return train(tiny_config(num_steps=4, **settings), output_dir=output, device="cpu", progress=False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    output = tmp_path_factory.mktemp("finished")
    train(tiny_config(num_steps=4), output_dir=output, device="cpu", progress=False)
    return output


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("resume", [True, False])
def test_a_second_run_touches_nothing(finished, resume):
    with locked(finished, "training into"):
        before = contents(finished)
        with pytest.raises(OSError, match=f"cannot write to {finished}: another process is training into it"):
            train(tiny_config(num_steps=9), output_dir=finished, device="cpu", progress=False, resume=resume)
        assert contents(finished) == before


def test_the_folder_is_held_until_the_end(tmp_path, monkeypatch):
    from geotdm_fast.training import loop

    one_step, refused = loop._Run._one_step, []

    def and_try_another(run):
        with pytest.raises(OSError, match="another process"), locked(tmp_path, "training into"):
            raise AssertionError
        refused.append(run.progress.step)
        one_step(run)

    monkeypatch.setattr(loop._Run, "_one_step", and_try_another)
    run(tmp_path)
    assert refused == [0, 1, 2, 3]
    with locked(tmp_path, "training into"):
        pass


def test_what_killed_runs_left_is_removed(tmp_path):
    left = [
        ".state.17.tmp.safetensors",
        ".last.17.tmp.safetensors",
        ".epoch_3.17.tmp.safetensors",
        ".config.9.tmp.yaml",
    ]
    others = [".samples.17.tmp.npz", "state.tmp", ".state.safetensors"]
    for name in (*left, *others):
        (tmp_path / name).write_bytes(b"half")
    run(tmp_path)
    names = set(contents(tmp_path))
    assert names.isdisjoint(left) and names.issuperset(others)


def test_a_flipped_bit_is_noticed(finished, tmp_path):
    for name in ("state.safetensors", "last.safetensors"):
        data = (finished / name).read_bytes()
        for place in (-1, -9, len(data) // 2, 200):
            damaged = bytearray(data)
            damaged[place] ^= 4
            (tmp_path / name).write_bytes(damaged)
            with pytest.raises(ValueError, match=name):
                load_tensors(tmp_path / name)
    with pytest.raises(ValueError, match=r"cannot resume from .*state\.safetensors.*--no-resume`, `distill --restart"):
        run(tmp_path)


def test_states_without_a_digest_are_read(finished, tmp_path):
    from safetensors.torch import load_file, save_file

    _, metadata = load_tensors(finished / "state.safetensors")
    assert set(metadata) == {"format", "progress", "config", "fingerprint"}
    save_file(load_file(finished / "state.safetensors"), tmp_path / "state.safetensors", metadata=metadata)
    run(tmp_path)
    assert (tmp_path / "last.safetensors").read_bytes() == (finished / "last.safetensors").read_bytes()


def test_equal_states_have_equal_bytes(finished, tmp_path):
    tensors, metadata = load_tensors(finished / "state.safetensors")
    for number in range(8):  # safetensors writes the metadata of each in another order
        save_tensors(tmp_path / f"{number}.safetensors", tensors, metadata)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
    assert (tmp_path / "0.safetensors").read_bytes() == (finished / "state.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": -1}, "step must be a whole number of at least 0, got -1"),
        ({"step": "4"}, "step must be a whole number of at least 0, got '4'"),
        ({"step": True}, "step must be a whole number"),
        ({"validated_step": 5}, "validated_step must be at most the step 4, got 5"),
        ({"best": float("nan")}, "best must be a finite number, got nan"),
        ({"seconds": None}, "seconds must be a finite number, got None"),
        ({"summed_steps": -2}, "summed_steps must be a whole number"),
    ],
)
def test_a_progress_that_no_run_makes(finished, tmp_path, change, message):
    tensors, metadata = load_tensors(finished / "state.safetensors")
    metadata["progress"] = json.dumps(json.loads(metadata["progress"]) | change)
    save_tensors(tmp_path / "state.safetensors", tensors, metadata)
    with pytest.raises(ValueError, match=message):
        run(tmp_path)


def test_a_progress_from_the_future_says_that_nothing_is_left(finished, tmp_path, capsys):
    tensors, metadata = load_tensors(finished / "state.safetensors")
    step = {"step": 10**9, "validated_step": 10**9}
    metadata["progress"] = json.dumps(json.loads(metadata["progress"]) | step)
    save_tensors(tmp_path / "state.safetensors", tensors, metadata)
    run(tmp_path)
    assert "at step 1000000000; its 4 steps are done" in capsys.readouterr().err


def test_numbers_that_are_not_finite(finished, tmp_path):
    tensors, metadata = load_tensors(finished / "state.safetensors")
    name = next(name for name in tensors if name.startswith("weights."))
    tensors[name] = torch.full_like(tensors[name], float("nan"))
    save_tensors(tmp_path / "state.safetensors", tensors, metadata)
    with pytest.raises(ValueError, match=f"{name} must be finite, got NaN or Inf"):
        run(tmp_path)


def test_the_same_run_again_is_the_same(finished, tmp_path):
    run(tmp_path)
    assert_same_run(finished, tmp_path)
