"""Two processes under torchrun train as one does.

torchrun itself starts them once; the others have its environment.
"""

import json

import pytest
import torch
import warm_python
from tiny_training import RUN, log_of, tiny_config

from geotdm_fast.checkpoint import load_tensors
from geotdm_fast.data.sections import open_dataset
from geotdm_fast.runtime.processes import ProcessDied, Processes
from geotdm_fast.training import loop, train
from geotdm_fast.training.batches import BatchSource
from geotdm_fast.training.context_noise import ContextNoise
from geotdm_fast.training.device_data import DeviceData


def in_two_processes(config: dict, output) -> None:
    for done in warm_python.run_together(2, "-c", RUN, json.dumps(config), str(output)):
        assert done.returncode == 0, done.stderr


def under_torchrun(config: dict, output, script, before: str, returncode: int) -> None:
    """The training under torchrun by this script, which is written; `before` runs first in each process."""
    script.write_text(before + RUN)
    done = warm_python.torchrun(2, script, json.dumps(config), output)
    assert done.returncode == returncode, done.stderr


def test_two_processes_equal_one(tmp_path):
    # Batches of five (two and three graphs) and of one (the first process stands in with a graph that does not count);
    # under prior `com` the prior's network has no gradient.
    config = tiny_config(batch_size=5, num_steps=6, log_every_step=1, eval_batch_size=2, eval="nll", accumulate=2)
    config["diffusion"]["prior"] = "com"
    one, two = tmp_path / "one", tmp_path / "two"
    train(config, output_dir=one, device="cpu", progress=False)
    in_two_processes(config, two)

    a, b = log_of(one), log_of(two)
    assert [record.keys() for record in a] == [record.keys() for record in b]
    for mine, theirs in zip(a, b, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-6)
    state_of_one, _ = load_tensors(one / "state.safetensors")
    state_of_two, _ = load_tensors(two / "state.safetensors")
    assert state_of_one.keys() == state_of_two.keys()
    for name in (key.removeprefix("adam.exp_avg.") for key in state_of_one if key.startswith("adam.exp_avg.")):
        gradient = f"adam.exp_avg.{name}"
        torch.testing.assert_close(state_of_two[gradient], state_of_one[gradient], rtol=1e-4, atol=1e-6)
        # Adam divides by the gradient's size, so where that is rounding alone (biases that a softmax cancels) the
        # weights drift apart; everywhere else they are equal.
        clear = state_of_one[f"adam.exp_avg_sq.{name}"].sqrt() > 1e-5
        for kind in ("weights", "average"):
            a, b = state_of_one[f"{kind}.{name}"], state_of_two[f"{kind}.{name}"]
            torch.testing.assert_close(b[clear], a[clear], rtol=1e-4, atol=2e-6)


def test_two_processes_resume_exactly(tmp_path):
    settings = {"batch_size": 5, "eval_every_epoch": 100, "rotate": True, "accumulate": 2, "log_every_step": 1}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    in_two_processes(tiny_config(num_steps=5, **settings), whole)
    for steps in (3, 5):
        in_two_processes(tiny_config(num_steps=steps, **settings), parts)
    (a, _), (b, _) = (load_tensors(run / "state.safetensors") for run in (whole, parts))
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    assert log_of(whole) == [record for record in log_of(parts) if "val_loss" not in record or record["step"] == 5]


# Both processes are stopped at step 3, and the first is slow to write. A second signal is heeded at once.
STOPPED = """
import os, signal, time
from geotdm_fast.training import loop, stopping
stopping.PATIENCE = 0.0
one_step, save_state = loop._Run._one_step, loop.save_state
def step_and_stop(run):
    one_step(run)
    if run.progress.step == 3:
        os.kill(os.getpid(), signal.SIGTERM)
def slowly(*arguments):
    time.sleep(1.5)  # torchrun looks every 0.1 s whether one has gone
    save_state(*arguments)
loop._Run._one_step, loop.save_state = step_and_stop, slowly
"""


def test_no_process_leaves_a_stopped_run_before_its_checkpoint_is_written(tmp_path):
    # torchrun ends the other processes as soon as one has gone.
    config = tiny_config(checkpoint_every_steps=None)
    under_torchrun(config, tmp_path / "out", tmp_path / "run.py", STOPPED, returncode=1)
    _, metadata = load_tensors(tmp_path / "out" / "state.safetensors")
    assert json.loads(metadata["progress"])["step"] == 3


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (
            "[/w/gloo/pair.cc:553] Connection closed by peer [127.0.0.1]:3. This is typical. GLHF!",
            r"peer \[127.0.0.1\]:3",
        ),
        (
            "Timed out waiting 1800000ms for recv operation to complete",
            "Timed out waiting 1800000ms for recv operation to complete",
        ),
    ],
)
def test_a_dead_process_is_told_in_a_line(monkeypatch, said, shown):
    def lost(*arguments, **more):
        raise RuntimeError(said)

    for name in ("all_reduce", "broadcast_object_list"):
        monkeypatch.setattr(f"torch.distributed.{name}", lost)
    ours = Processes(1, 2, torch.device("cpu"))
    exchanges = [
        lambda: ours.add_up(torch.zeros(1)),
        lambda: ours.agree(1),
        lambda: ours.from_first(lambda: 1),
        lambda: ours.wait_for_all(lambda: None),
    ]
    for exchange in exchanges:
        with pytest.raises(ProcessDied, match=rf"process 1: another process has died \(see its message; .*{shown}\)"):
            exchange()


def test_a_run_whose_other_process_dies_says_where_it_goes_on(tmp_path, monkeypatch):
    one_step = loop._Run._one_step

    def dies(run):
        if run.progress.step == 6:
            raise ProcessDied("process 0: another process has died")
        one_step(run)

    monkeypatch.setattr(loop._Run, "_one_step", dies)
    config = tiny_config(checkpoint_every_steps=4)
    with pytest.raises(OSError, match="has died; the same command goes on from step 4"):
        train(config, output_dir=tmp_path, device="cpu", progress=False)


def _source(rank=0, world_size=1, batch_size=5, **more):
    dataset = open_dataset(tiny_config()["data"]["train"], progress=False)
    return BatchSource(
        DeviceData(dataset),
        seed=3,
        batch_size=batch_size,
        num_timesteps=10,
        num_noisy=3,
        rank=rank,
        world_size=world_size,
        **more,
    )


def _noised(source, step):
    """This process's share of the batch of a step, whole."""
    (draw,) = source.training(step)
    return source.noised(draw)


@pytest.mark.parametrize("world_size", [2, 3, 7])
def test_shares_make_up_the_whole_batch(world_size):
    shares = [_source(rank, world_size) for rank in range(world_size)]
    whole = _source()
    for step in range(3):
        expected = _noised(whole, step)
        parts = [_noised(source, step) for source in shares]
        counted = [part for part in parts if part.weight.sum() > 0]
        assert sum(part.batch.num_graphs for part in counted) == expected.batch.num_graphs == whole.global_size(step)
        for name in ("steps", "noise", "weight"):
            assert torch.equal(torch.cat([getattr(part, name) for part in counted]), getattr(expected, name))
        assert torch.equal(torch.cat([part.batch.x for part in counted]), expected.batch.x)
        assert float(expected.weight.sum()) == pytest.approx(1, abs=1e-6)


def test_validation_shares_make_up_the_whole_set():
    by_first_graph = lambda source: {int(items[0]): noised for items, noised in source.validation()}
    whole = by_first_graph(_source(batch_size=2))
    shares = [by_first_graph(_source(rank, 2, batch_size=2)) for rank in range(2)]
    assert sorted(whole) == sorted([*shares[0], *shares[1]]) == [0, 2, 4]
    for first, noised in (shares[0] | shares[1]).items():
        assert torch.equal(noised.noise, whole[first].noise) and torch.equal(noised.steps, whole[first].steps)
    assert sum(float(noised.weight.sum()) for noised in whole.values()) == pytest.approx(1, abs=1e-6)
    # Six graphs over ten diffusion steps: spread evenly, none twice.
    steps = torch.cat([noised.steps[::5] for noised in whole.values()])
    assert sorted(steps.tolist()) == [0, 2, 4, 5, 7, 9]


def test_every_epoch_sees_every_graph_once_in_another_order():
    source = _source(batch_size=2)
    epochs = [torch.cat([_noised(source, 3 * epoch + i).batch.x[::5, 0, 0] for i in range(3)]) for epoch in (0, 1)]
    assert torch.equal(epochs[0].sort().values, epochs[1].sort().values)
    assert not torch.equal(*epochs)
    assert torch.equal(_noised(source, 2).noise, _noised(_source(batch_size=2), 2).noise)
    assert not torch.equal(_noised(source, 2).noise, _noised(source, 1).noise)


@pytest.mark.parametrize(("accumulate", "world_size"), [(2, 1), (3, 2), (9, 1)])
def test_parts_make_up_the_share(accumulate, world_size):
    drawn = {"rotate": True, "context": ContextNoise(0.5, (0, 1, 2), torch.device("cpu"))}
    for rank in range(world_size):
        whole = _source(rank, world_size, **drawn)
        source = _source(rank, world_size, **drawn, accumulate=accumulate)
        for step in range(2):  # a batch of five and one of one
            (share,) = whole.training(step)
            parts = source.training(step)
            assert len(parts) == min(accumulate, len(share.items)) and all(len(part.items) for part in parts)
            for name, expected in share._asdict().items():
                values = [getattr(part, name) for part in parts]
                if expected is None or isinstance(expected, bool):
                    assert values == [expected] * len(parts), name
                else:
                    assert torch.equal(torch.cat(values), expected), name


@pytest.mark.parametrize("kind", ["loss", "nll"])
def test_all_processes_ask_for_a_stop_equally_often(monkeypatch, kind):
    """Three batches on two processes: the one without a batch in the last round waits for the other's questions."""
    from geotdm_fast.checkpoint import build_diffusion, build_network
    from geotdm_fast.runtime.processes import Processes
    from geotdm_fast.training.validation import Validation

    config = tiny_config(eval_batch_size=1)
    asked, values, stop_at = [], {}, None

    def agree(self, reason):
        asked.append(self.rank)
        return (int(len(asked) == stop_at),)

    monkeypatch.setattr(Processes, "agree", agree)
    monkeypatch.setattr(Processes, "sum", lambda self, value: value)
    network = build_network(config)
    diffusion = build_diffusion(network, config, "cpu")
    data = DeviceData(open_dataset(config["data"]["val"], progress=False))
    for rank, world_size in ((0, 2), (1, 2), (0, 1)):
        ours = Processes(rank, world_size, torch.device("cpu"))
        validation = Validation(data, config, num_noisy=3, processes=ours)
        values[rank, world_size] = validation(network, diffusion, kind, stopped=lambda: 0)
    calls = 1 if kind == "loss" else 25
    assert [asked.count(0), asked.count(1)] == [2 * calls + 3 * calls, 2 * calls]
    assert values[0, 2] + values[1, 2] == pytest.approx(values[0, 1], rel=1e-6)
    asked.clear()
    stop_at = 2
    assert validation(network, diffusion, kind, stopped=lambda: 0) is None and len(asked) == 2
