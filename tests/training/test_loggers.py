"""The numbers of log.jsonl in TensorBoard and Weights & Biases: all of them, each once, whatever happens to the run."""

import collections
import importlib.util
import io
import json
import re
import sys
import types
import warnings

import pytest
from tiny_training import assert_same_run, tiny_config

from geotdm_fast.config.files import normalise_config
from geotdm_fast.runtime.packages import how_to_install
from geotdm_fast.training import log, loop, train
from geotdm_fast.training.loggers import check_logger
from geotdm_fast.training.output import Output
from geotdm_fast.training.state import Progress


def run(output, resume=True, **settings):
    settings = {"num_steps": 8, "eval_every_step": 3} | settings
    return train(tiny_config(**settings), output_dir=output, device="cpu", progress=False, resume=resume)


def numbers(output):
    """Every number of the log: {(step, name): value}, without what depends on the clock."""
    lines = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    return {
        (line["step"], name): value
        for line in lines
        for name, value in line.items()
        if name not in ("step", "seconds", "graphs_per_second")
    }


class FakeRun:
    """The calls of a run of `wandb` that are made of it.

    As there, rows are numbered, by `step` where it is given; a resumed run begins behind the last row, and what is
    logged for an earlier one is dropped.
    """

    def __init__(self, service, options):
        self.service, self.options, self.finished = service, options, False
        self.row, self.axis = service.rows.get(options["id"], 0), None

    def define_metric(self, name, step_metric):
        self.axis = (name, step_metric)

    def log(self, values, step=None):
        if self.service.broken:
            raise OSError(28, "No space left on device")
        assert not self.finished
        row = self.row if step is None else step
        if row < self.row:
            return
        self.row = row + 1 if step is None else row
        self.service.rows[self.options["id"]] = row + 1
        step = values["step"] if step is None and self.axis == ("*", "step") else row
        for name in values.keys() - {"step"}:
            self.service.logged.append((self.options["id"], step, name, values[name]))

    def finish(self):
        self.finished = True
        if self.service.broken_end:
            raise RuntimeError("the service is gone")


class FakeWandb(types.ModuleType):
    def __init__(self):
        super().__init__("wandb")
        self.runs, self.logged, self.rows = [], [], {}
        self.broken, self.broken_end, self.refuses = False, False, False

    def Settings(self, **options):
        return options

    def init(self, **options):
        if self.refuses:
            raise RuntimeError("no API key")
        if any(run.options["id"] == options["id"] and not run.finished for run in self.runs):
            raise RuntimeError(f"run ID {options['id']} is in use")
        self.runs.append(FakeRun(self, options))
        return self.runs[-1]

    def numbers(self):
        """{(step, name): value}; every number once."""
        found = collections.Counter((step, name) for _, step, name, _ in self.logged)
        assert set(found.values()) <= {1}, found
        return {
            (step, name): value for _, step, name, value in self.logged if name not in ("seconds", "graphs_per_second")
        }


@pytest.fixture
def wandb(monkeypatch):
    module = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


class Killed(Exception):
    pass


def run_until(output, step, monkeypatch, **settings):
    """A run that dies after so many steps, by an error: without a checkpoint."""
    dies_in("_one_step", output, step, monkeypatch, **settings)


def dies_in(method, output, step, monkeypatch, **settings):
    """A run that dies where a method of the loop is called after so many steps."""
    usual = getattr(loop._Run, method)

    def dies(run, *arguments):
        if run.progress.step == step:
            raise Killed
        usual(run, *arguments)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(loop._Run, method, dies)
        run(output, **settings)


def test_every_number_is_there_and_the_training_is_the_same(wandb, tmp_path):
    run(tmp_path / "a", logger="wandb")
    run(tmp_path / "b")
    assert wandb.numbers() == numbers(tmp_path / "a")
    assert {name for _, name in wandb.numbers()} == {"epoch", "loss", "lr", "grad_norm", "val_loss"}
    speeds = {(step, name) for _, step, name, _ in wandb.logged} - wandb.numbers().keys()
    assert speeds == {(step, name) for step in (3, 6) for name in ("seconds", "graphs_per_second")}
    (one,) = wandb.runs
    assert one.finished and one.options["name"] == "tiny" and one.options["dir"] == str(tmp_path / "a")
    assert one.options["config"]["train"]["lr"] == 1e-3 and one.options["settings"] == {"console": "off"}
    assert_same_run(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize("step", [5, 7])
def test_a_killed_run_goes_on_in_the_same_and_doubles_nothing(wandb, tmp_path, monkeypatch, step):
    run_until(tmp_path, step, monkeypatch, logger="wandb")
    run_until(tmp_path, 6, monkeypatch, logger="wandb")
    run(tmp_path, logger="wandb")
    assert wandb.numbers() == numbers(tmp_path)
    assert len(wandb.runs) == 3 and len({one.options["id"] for one in wandb.runs}) == 1
    run(tmp_path, logger="wandb", num_steps=11)
    assert wandb.numbers() == numbers(tmp_path) and max(step for step, _ in numbers(tmp_path)) == 11
    run(tmp_path, resume=False, logger="wandb")
    assert len({one.options["id"] for one in wandb.runs}) == 2


def test_a_stop_between_the_loss_and_the_validation_of_a_step(wandb, tmp_path, monkeypatch):
    dies_in("_validate", tmp_path, 6, monkeypatch, logger="wandb")
    assert (6, "loss") in wandb.numbers() and (6, "val_loss") not in wandb.numbers()
    run(tmp_path, logger="wandb")
    assert wandb.numbers() == numbers(tmp_path) and (6, "val_loss") in wandb.numbers()


def test_the_logger_is_closed_whatever_ends_the_run(wandb, tmp_path, monkeypatch):
    run_until(tmp_path, 5, monkeypatch, logger="wandb")
    assert [one.finished for one in wandb.runs] == [True]
    wandb.broken = True
    with pytest.warns(UserWarning, match="wandb failed at step"):
        run(tmp_path, logger="wandb")
    assert [one.finished for one in wandb.runs] == [True, True]


def test_a_ledger_on_a_full_disk_is_a_warning(wandb, tmp_path, monkeypatch):
    class Full(io.StringIO):
        def flush(self):
            raise OSError(28, "No space left on device")

        def close(self):
            super().close()
            raise OSError(28, "No space left on device")

    usual = open
    opened = lambda path, *rest, **named: Full() if "logger" in str(path) else usual(path, *rest, **named)
    monkeypatch.setattr(log, "open", opened, raising=False)
    with pytest.warns(UserWarning, match=r"wandb failed at step 3 \(OSError: .*cannot write .*logger\.jsonl"):
        run(tmp_path, logger="wandb")
    assert (tmp_path / "last.safetensors").is_file() and wandb.logged == [] and wandb.runs[0].finished


def test_a_line_that_a_kill_left_half_written_doubles_nothing(wandb, tmp_path, monkeypatch):
    run_until(tmp_path, 5, monkeypatch, logger="wandb")
    with open(tmp_path / "logger.jsonl", "a") as ledger:
        ledger.write('{"step": 6, "nam')
    run_until(tmp_path, 7, monkeypatch, logger="wandb")
    run(tmp_path, logger="wandb")
    assert wandb.numbers() == numbers(tmp_path)
    assert all(json.loads(line)["names"] for line in (tmp_path / "logger.jsonl").read_text().splitlines())


def test_a_logger_that_comes_later_gets_what_was_before(wandb, tmp_path, monkeypatch):
    run(tmp_path)
    assert not (tmp_path / "logger.jsonl").exists()
    run(tmp_path, logger="wandb", num_steps=10)
    assert wandb.numbers() == numbers(tmp_path)


def test_a_failure_is_one_warning_and_the_next_start_sends_what_is_missing(wandb, tmp_path):
    wandb.broken = True
    with pytest.warns(
        UserWarning, match=r"wandb failed at step 3 \(OSError: .*No space left.*log\.jsonl has every"
    ) as said:
        run(tmp_path, logger="wandb")
    assert len([one for one in said if "train.logger" in str(one.message)]) == 1 and wandb.logged == []
    assert (tmp_path / "last.safetensors").is_file() and max(step for step, _ in numbers(tmp_path)) == 8
    wandb.broken = False
    run(tmp_path, logger="wandb", num_steps=9)
    missing = numbers(tmp_path).items() - wandb.numbers().items()
    assert {step for (step, _), _ in missing} == {3} and wandb.numbers().items() <= numbers(tmp_path).items()


def test_a_failure_at_the_end_is_a_warning(wandb, tmp_path):
    wandb.broken_end = True
    with pytest.warns(UserWarning, match=r"wandb failed in the end \(RuntimeError: the service is gone\)"):
        run(tmp_path, logger="wandb")
    assert (tmp_path / "last.safetensors").is_file()


def test_a_logger_that_does_not_start(wandb, tmp_path, monkeypatch):
    wandb.refuses = True
    with pytest.raises(ValueError, match=r"train\.logger: wandb must start, got RuntimeError: no API key"):
        run(tmp_path, logger="wandb")
    assert not (tmp_path / "log.jsonl").exists() and not (tmp_path / "state.safetensors").exists()
    wandb.refuses = False
    run_until(tmp_path, 5, monkeypatch, logger="wandb")
    wandb.refuses = True
    with pytest.warns(UserWarning, match="wandb did not start"):
        run(tmp_path, logger="wandb")
    assert (tmp_path / "last.safetensors").is_file()


@pytest.mark.parametrize(("name", "module"), [("tensorboard", "torch.utils.tensorboard"), ("wandb", "wandb")])
def test_a_package_that_is_missing_is_told_before_anything_is_done(tmp_path, monkeypatch, name, module):
    monkeypatch.setitem(sys.modules, module, None)
    output = tmp_path / "run"
    message = rf"train\.logger: {name} needs the package {name}, .* {re.escape(how_to_install(name))}"
    with pytest.raises(ImportError, match=message):
        run(output, logger=name)
    assert not output.exists()
    check_logger("none")


def test_only_the_process_that_writes_has_a_logger(wandb, tmp_path):
    config = tiny_config(logger="wandb")
    for writes in (False, True):
        output = Output(tmp_path, config, writes=writes)
        output.start_anew()
        output.log(Progress(), {"step": 1, "loss": 2.0})
        output.close()
        assert len(wandb.runs) == len(wandb.logged) == writes


def test_the_key_is_checked():
    config = tiny_config()
    assert config["train"]["logger"] == "none"
    config["train"]["logger"] = "tensorbord"
    with pytest.raises(
        ValueError, match=r"train\.logger must be one of none, tensorboard, wandb; .*did you mean 'tensorb"
    ):
        normalise_config(config)


needs_tensorboard = pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None, reason="tensorboard (extra tensorboard) is not installed"
)


def events(output):
    """Every scalar in the event files: [(step, name, value)], as written."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.util.tensor_util import make_ndarray

    found = []
    for path in sorted((output / "tensorboard").iterdir()):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name != "text":
                    found.append((event.step, value.tag, make_ndarray(value.tensor).item()))
    return found


@needs_tensorboard
def test_tensorboard_has_every_number_once(tmp_path, monkeypatch):
    run_until(tmp_path, 7, monkeypatch, logger="tensorboard")
    run(tmp_path, logger="tensorboard")
    found = events(tmp_path)
    assert len({(step, name) for step, name, _ in found}) == len(found)
    values = {(step, name): value for step, name, value in found if name not in ("seconds", "graphs_per_second")}
    assert values == pytest.approx(numbers(tmp_path), rel=1e-6)  # float32 there
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2
    run(tmp_path, resume=False, logger="tensorboard")
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1
    values = {(step, name) for step, name, _ in events(tmp_path) if name not in ("seconds", "graphs_per_second")}
    assert values == numbers(tmp_path).keys()


@needs_tensorboard
def test_tensorboard_on_a_full_disk(tmp_path):
    from torch.utils.tensorboard import SummaryWriter

    def full(self):
        raise OSError(28, "No space left on device")

    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.warns(UserWarning, match=r"tensorboard failed at step 3 \(OSError"),
    ):
        patch.setattr(SummaryWriter, "flush", full)
        run(tmp_path, logger="tensorboard")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(tmp_path, logger="tensorboard", num_steps=9)
    assert (9, "val_loss") in {(step, name) for step, name, _ in events(tmp_path)}
