"""A run that was killed, stopped or refused a disk ends as if nothing had happened."""

import contextlib
import errno
import json
import os
import resource
import signal
import time

import pytest
import torch
from tiny_training import assert_same_run, log_of, start, steps_logged, tiny_config

from geotdm_fast.checkpoint import load_checkpoint, load_tensors
from geotdm_fast.config.files import normalise_config, read_yaml
from geotdm_fast.model import Model
from geotdm_fast.runtime.tensor_files import save_tensors
from geotdm_fast.training import stopping, train
from geotdm_fast.training.stopping import StopRequest

LONG = {"num_steps": 60, "checkpoint_every_steps": 7, "log_every_step": 5, "eval_every_epoch": 5}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, one_thread):
    output = tmp_path_factory.mktemp("undisturbed")
    train(tiny_config(**LONG), output_dir=output, device="cpu", progress=False)
    return output


def _wait_for(run, output, step):
    deadline = time.monotonic() + 120
    while steps_logged(output) < step:
        assert run.poll() is None, run.stderr.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_killed_and_resumed_equals_undisturbed(undisturbed, tmp_path, capsys):
    run = start(tiny_config(**LONG), tmp_path)
    _wait_for(run, tmp_path, 15)
    run.send_signal(signal.SIGKILL)
    assert run.wait().returncode == -signal.SIGKILL
    _, metadata = load_tensors(tmp_path / "state.safetensors")
    step = json.loads(metadata["progress"])["step"]
    assert 0 < step < 60
    assert steps_logged(tmp_path) - step <= 7 + 5, "no more than the steps since the last checkpoint are lost"

    train(tiny_config(**LONG), output_dir=tmp_path, device="cpu", progress=False)
    assert f"resuming {tmp_path} at step {step}" in capsys.readouterr().err
    assert_same_run(tmp_path, undisturbed)


def test_signal_writes_a_checkpoint_first(undisturbed, tmp_path):
    run = start(tiny_config(**LONG | {"checkpoint_every_steps": None}), tmp_path)
    _wait_for(run, tmp_path, 10)
    run.send_signal(signal.SIGTERM)
    done = run.wait(timeout=60)
    assert done.returncode == 128 + signal.SIGTERM
    assert "checkpoint written; the same command goes on" in done.stderr
    train(tiny_config(**LONG), output_dir=tmp_path, device="cpu", progress=False)
    assert_same_run(tmp_path, undisturbed)


@pytest.mark.parametrize("signals", [[signal.SIGHUP], [signal.SIGINT, signal.SIGINT], [signal.SIGINT, signal.SIGTERM]])
def test_a_closed_terminal_and_a_second_signal_at_once_cost_no_step(tmp_path, signals):
    run = start(tiny_config(**LONG | {"num_steps": 100_000, "checkpoint_every_steps": None}), tmp_path)
    _wait_for(run, tmp_path, 10)
    for signum in signals:
        run.send_signal(signum)
        time.sleep(0.01)
    done = run.wait(timeout=60)
    assert done.returncode == 128 + signals[0]
    assert "checkpoint written; the same command goes on" in done.stderr and "Traceback" not in done.stderr
    _, metadata = load_tensors(tmp_path / "state.safetensors")
    assert json.loads(metadata["progress"])["step"] >= steps_logged(tmp_path)


def test_a_second_signal_later_is_heeded():
    stop = StopRequest(None)
    with pytest.raises(KeyboardInterrupt), stop.listening():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert stop.reason() == signal.SIGINT
        time.sleep(stopping.PATIENCE)
        signal.raise_signal(signal.SIGINT)


def test_nohup_stays():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        stop = StopRequest(None)
        with stop.listening():
            signal.raise_signal(signal.SIGHUP)
            assert stop.reason() == 0 and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_interrupt_writes_a_checkpoint_first(tmp_path, monkeypatch):
    from geotdm_fast.training import loop

    one_step = loop._Run._one_step

    def interrupted(run):
        one_step(run)
        if run.progress.step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(loop._Run, "_one_step", interrupted)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as stopped:
        train(tiny_config(checkpoint_every_steps=None), output_dir=tmp_path, progress=False)
    assert stopped.value.code == 130
    assert signal.getsignal(signal.SIGINT) is before
    _, metadata = load_tensors(tmp_path / "state.safetensors")
    assert json.loads(metadata["progress"])["step"] == 3


@pytest.mark.parametrize("stop_at", [1, 4, 7])
def test_longer_run_continues_a_finished_one(tmp_path, stop_at):
    # Ends within an epoch, at its end, and between two lines of the log. The last step of a run is validated.
    settings = {"eval_every_epoch": 100, "schedule": "none"}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(tiny_config(num_steps=10, **settings), output_dir=whole, progress=False)
    train(tiny_config(num_steps=stop_at, **settings), output_dir=parts, progress=False)
    train(tiny_config(num_steps=10, **settings), output_dir=parts, progress=False)
    a, _ = load_tensors(whole / "state.safetensors")
    b, _ = load_tensors(parts / "state.safetensors")
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
    assert log_of(whole) == [r for r in log_of(parts) if "val_loss" not in r or r["step"] == 10]


def test_log_is_cut_back_to_the_checkpoint(tmp_path):
    config = tiny_config(num_steps=6)
    train(config, output_dir=tmp_path, progress=False)
    before = log_of(tmp_path)
    with open(tmp_path / "log.jsonl", "a") as log:
        log.write(json.dumps({"step": 9, "loss": 1.0}) + "\n" + '{"step": 12, "lo')
    train(config, output_dir=tmp_path, progress=False)
    assert log_of(tmp_path) == before


def test_corrupt_state_is_named_and_can_be_discarded(tmp_path):
    config = tiny_config(num_steps=2)
    train(config, output_dir=tmp_path, progress=False)
    state = tmp_path / "state.safetensors"
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"cannot resume from .*state\.safetensors.*corrupt.*--no-resume"):
        train(config, output_dir=tmp_path, progress=False)
    train(config, output_dir=tmp_path, progress=False, resume=False)
    assert [record["step"] for record in log_of(tmp_path)] == [2]


def test_foreign_state_is_refused(tmp_path):
    train(tiny_config(num_steps=1), output_dir=tmp_path, progress=False)
    (tmp_path / "last.safetensors").rename(tmp_path / "state.safetensors")
    with pytest.raises(ValueError, match=r"not a training state"):
        train(tiny_config(num_steps=1), output_dir=tmp_path, progress=False)


def test_config_must_train_the_same(tmp_path):
    train(tiny_config(num_steps=1), output_dir=tmp_path, progress=False)
    with pytest.raises(ValueError, match=r"train\.lr must be 0\.001 as when the run began, got 0\.002"):
        train(tiny_config(num_steps=1, lr=2e-3), output_dir=tmp_path, progress=False)
    other = tiny_config(num_steps=1)
    other["denoise_model"]["hidden_dim"] = 8
    with pytest.raises(ValueError, match=r"denoise_model\.hidden_dim must be 16"):
        train(other, output_dir=tmp_path, progress=False)
    other = tiny_config(num_steps=1)
    other["data"]["train"]["num_systems"] = 5
    with pytest.raises(ValueError, match=r"data\.train\.num_systems must be 6"):
        train(other, output_dir=tmp_path, progress=False)


def test_how_a_model_is_drawn_may_be_said_later(tmp_path):
    """It changes no step: a folder that was begun without the section goes on with it, and without it again."""
    recommended = {"method": "dpmpp_2m", "steps": 4, "spacing": "uniform"}
    configs = [tiny_config(num_steps=1), tiny_config(num_steps=2) | {"sampling": recommended}, tiny_config(num_steps=3)]
    for number, config in enumerate(configs, 1):
        train(config, output_dir=tmp_path / "run", device="cpu", progress=False)
        _, held = load_checkpoint(tmp_path / "run" / "last.safetensors")
        assert held.get("sampling") == (recommended if number == 2 else None)
        assert read_yaml(tmp_path / "run" / "config.yaml").get("sampling") == held.get("sampling")
    train(tiny_config(num_steps=3), output_dir=tmp_path / "whole", device="cpu", progress=False)
    found, expected = (load_tensors(tmp_path / name / "last.safetensors")[0] for name in ("run", "whole"))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_finished_folder_recommends_what_is_asked_last(tmp_path, capsys):
    """No better validation comes there. What draws the folder reads best.safetensors."""
    best = tmp_path / "best.safetensors"
    train(tiny_config(num_steps=2), output_dir=tmp_path, device="cpu", progress=False)
    weights, before = load_tensors(best)[0], best.read_bytes()
    for section in ({"method": "ddim", "steps": 4, "spacing": "uniform"}, {"method": "ddpm", "steps": None}, None):
        config = normalise_config(tiny_config(num_steps=2) | {"sampling": section})
        for is_new in (True, False):
            train(config, output_dir=tmp_path, device="cpu", progress=False)
            told = f"{best}: its section sampling is now " + ("left out" if section is None else "that of this")
            assert (told in capsys.readouterr().err) == is_new
        found = load_tensors(best)[0]
        assert Model.load(tmp_path, device="cpu").recommended == config.get("sampling")
        assert found.keys() == weights.keys() and all(torch.equal(found[name], weights[name]) for name in weights)
    assert best.read_bytes() == before


@pytest.mark.parametrize("metadata", [None, {}])
def test_a_damaged_file_of_the_best_weights_stops_no_resume(tmp_path, metadata):
    best = tmp_path / "best.safetensors"
    train(tiny_config(num_steps=2), output_dir=tmp_path, device="cpu", progress=False)
    if metadata is None:
        best.write_bytes(best.read_bytes()[:1000])
    else:
        save_tensors(best, load_tensors(best)[0], metadata)
    before = best.read_bytes()
    with pytest.warns(UserWarning, match=r"its section sampling stays as it is: .*best\.safetensors must be a "):
        train(tiny_config(num_steps=2) | {"sampling": {"method": "ddim"}}, output_dir=tmp_path, progress=False)
    assert best.read_bytes() == before


def test_data_must_be_the_same(tmp_path, monkeypatch):
    from geotdm_fast.data.sections import open_datasets
    from geotdm_fast.training import loop

    train(tiny_config(num_steps=1), output_dir=tmp_path, progress=False)
    others = lambda sections: {where: section | {"seed": 5} for where, section in sections.items()}
    monkeypatch.setattr(loop, "open_datasets", lambda sections, **kw: open_datasets(others(sections), **kw))
    with pytest.raises(ValueError, match=r"data\.train must be the data that the run began with"):
        train(tiny_config(num_steps=1), output_dir=tmp_path, progress=False)


def test_full_disk_keeps_the_earlier_files(tmp_path, monkeypatch):
    train(tiny_config(num_steps=2), output_dir=tmp_path, progress=False)
    before = {name: (tmp_path / name).read_bytes() for name in ("state.safetensors", "last.safetensors")}

    def no_space(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_space)
    monkeypatch.setattr("geotdm_fast.training.output.write_yaml", lambda *args: None)
    monkeypatch.setattr("geotdm_fast.training.output.cut_log", lambda *args: [])
    with pytest.raises(OSError, match=r"cannot write .*safetensors .*No space left.*the earlier file is unchanged"):
        train(tiny_config(num_steps=9), output_dir=tmp_path, progress=False)
    monkeypatch.undo()
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    assert not list(tmp_path.glob(".*tmp*")), "nothing half-written is left"
    train(tiny_config(num_steps=9), output_dir=tmp_path, progress=False)


def test_refused_write_keeps_the_earlier_files(tmp_path):
    # The system itself refuses to write files of more than 20 kB; the state is larger.
    train(tiny_config(num_steps=2), output_dir=tmp_path, progress=False)
    state = tmp_path / "state.safetensors"
    before = state.read_bytes()
    assert len(before) > 20_000
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(OSError, match=r"cannot write .*File too large.*the earlier file is unchanged"):
            train(tiny_config(num_steps=9), output_dir=tmp_path, progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert state.read_bytes() == before


def test_time_limit_stops_with_a_checkpoint(tmp_path, capsys):
    last = train(tiny_config(num_steps=10_000, max_minutes=0.02), output_dir=tmp_path, progress=False)
    assert last == tmp_path / "last.safetensors" and last.is_file()
    _, metadata = load_tensors(tmp_path / "state.safetensors")
    assert 0 < json.loads(metadata["progress"])["step"] < 10_000
    assert "stopped after train.max_minutes" in capsys.readouterr().err


def _stop_at(monkeypatch, number, ask_for_it):
    """Ask for a stop when a validation asks for the `number`-th time; the list counts how often one asked."""
    from geotdm_fast.training import loop

    validate, asked = loop.Validation.__call__, []

    def counted(validation, *arguments, stopped, show):
        def reason():
            asked.append(validation)
            if len(asked) == number:
                ask_for_it(stopped.__self__)
            return stopped()

        return validate(validation, *arguments, stopped=reason, show=show)

    monkeypatch.setattr(loop.Validation, "__call__", counted)
    return asked


def _by_signal(stop):
    os.kill(os.getpid(), signal.SIGTERM)


def _by_time(stop):
    assert stop.deadline > time.monotonic(), "the run has its time"
    stop.deadline = time.monotonic()


@pytest.mark.parametrize("kind", ["loss", "nll"])
@pytest.mark.parametrize(
    ("ask_for_it", "by"), [(_by_signal, "by a signal"), (_by_time, "after train.max_minutes")], ids=["signal", "time"]
)
def test_a_stop_within_a_validation_drops_it_and_the_resumed_run_makes_up_for_it(
    tmp_path, monkeypatch, capsys, kind, ask_for_it, by
):
    settings = {"eval": kind, "eval_every_step": 3, "eval_batch_size": 1, "num_steps": 7, "max_minutes": 1000}
    config = tiny_config(**settings | {"checkpoint_every_steps": None})
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(config, output_dir=whole, device="cpu", progress=False)

    number = 3 * (1 if kind == "loss" else 25) + 2  # within the second validation of three graphs
    with monkeypatch.context() as patched:
        asked = _stop_at(patched, number, ask_for_it)
        if ask_for_it is _by_time:
            assert train(config, output_dir=parts, device="cpu", progress=False) == parts / "last.safetensors"
        else:
            with pytest.raises(SystemExit) as stop:
                train(config, output_dir=parts, device="cpu", progress=False)
            assert stop.value.code == 128 + signal.SIGTERM
    assert len(asked) == number, "nothing was computed after the stop"
    said = f"stopped {by} at step 6 in its validation by the {kind}, which was dropped, checkpoint written"
    assert said in capsys.readouterr().err
    assert [record["step"] for record in log_of(parts) if f"val_{kind}" in record] == [3]
    _, metadata = load_tensors(parts / "state.safetensors")
    assert json.loads(metadata["progress"])["step"] == 6

    train(config, output_dir=parts, device="cpu", progress=False)
    assert_same_run(whole, parts)


def test_who_stops_a_run_does_not_wait_for_a_picture(tmp_path, monkeypatch):
    from geotdm_fast.training import loop, output

    drawn = []
    monkeypatch.setattr(output, "SECONDS_BETWEEN_CURVES", 0.0)
    monkeypatch.setattr(output.Output, "_draw", lambda self: drawn.append(self.checkpoint_step))
    one_step = loop._Run._one_step

    def stopped_at_five(run):
        one_step(run)
        if run.progress.step == 5:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(loop._Run, "_one_step", stopped_at_five)
    with pytest.raises(SystemExit):
        train(tiny_config(checkpoint_every_steps=2), output_dir=tmp_path, device="cpu", progress=False)
    _, metadata = load_tensors(tmp_path / "state.safetensors")
    assert json.loads(metadata["progress"])["step"] == 5 and drawn == [2, 4]


def test_a_stop_within_the_last_validation_leaves_the_run_unfinished(tmp_path, monkeypatch):
    config = tiny_config(num_steps=4, eval_every_epoch=100)
    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        _stop_at(patched, 1, _by_signal)
        train(config, output_dir=tmp_path, device="cpu", progress=False)
    assert [record["step"] for record in log_of(tmp_path) if "val_loss" in record] == []
    train(config, output_dir=tmp_path, device="cpu", progress=False)
    assert [record["step"] for record in log_of(tmp_path) if "val_loss" in record] == [4]


def test_a_bar_moves_during_validation(tmp_path, monkeypatch):
    from geotdm_fast.training import validation

    bars = []

    class Bar(contextlib.nullcontext):
        def __init__(self, *, desc, total, **options):
            super().__init__()
            self.desc, self.total, self.moved = desc, total, 0
            bars.append(self)

        def update(self):
            self.moved += 1

    monkeypatch.setattr(validation, "progress_bar", Bar)
    settings = {"num_steps": 2, "eval_batch_size": 1, "nll_every_step": 2}
    train(tiny_config(**settings), output_dir=tmp_path, device="cpu", progress=True)
    assert [(bar.desc, bar.total, bar.moved) for bar in bars] == [("validate loss", 3, 3), ("validate nll", 75, 75)]
