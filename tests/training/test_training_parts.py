"""The objective, the schedule, the average, the files and the limits of training."""

import copy
import json
import math

import pytest
import torch
from tiny_training import log_of, tiny_config

from geotdm_fast.checkpoint import build_diffusion, build_network, load_checkpoint
from geotdm_fast.config.files import load_config
from geotdm_fast.data import Trajectory, TrajectoryDataset
from geotdm_fast.data.sections import open_dataset
from geotdm_fast.task import Task
from geotdm_fast.training import train
from geotdm_fast.training.batches import BatchSource
from geotdm_fast.training.device_data import DeviceData
from geotdm_fast.training.ema import WeightAverage
from geotdm_fast.training.flat_weights import FlatWeights
from geotdm_fast.training.log import cut_log, read_log
from geotdm_fast.training.objective import Objective, check_fits
from geotdm_fast.training.schedule import learning_rate, total_steps
from geotdm_fast.training.state import check_same_training


def test_loss_falls(tmp_path, curves):
    config = tiny_config(num_steps=120, lr=5e-3, log_every_step=20, batch_size=6, eval_every_epoch=40)
    last = train(config, output_dir=tmp_path, progress=False)
    losses = [record["loss"] for record in log_of(tmp_path) if "loss" in record]
    assert len(losses) == 6 and losses[-1] < 0.5 * losses[0]
    values = [record["val_loss"] for record in log_of(tmp_path) if "val_loss" in record]
    assert len(values) == 3 and values[-1] < values[0]
    network, inside = load_checkpoint(last)
    assert inside == config and network.num_w == 3
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert load_config(tmp_path / "config.yaml") == config
    first = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[0])
    expected = {"step", "epoch", "loss", "lr", "grad_norm", "seconds", "graphs_per_second"}
    assert first.keys() == expected and first["step"] == first["epoch"] == 20 and first["graphs_per_second"] > 0


def _two_graphs():
    """Graphs of three and two nodes, of which one and two count."""
    rng = torch.Generator().manual_seed(0)

    def graph(num_nodes, scored):
        edges = torch.tensor([[i, j] for i in range(num_nodes) for j in range(num_nodes) if i != j]).T
        return Trajectory(
            x=torch.randn(num_nodes, 3, 6, generator=rng),
            h=torch.ones(num_nodes, 1),
            edge_index=edges,
            edge_attr=torch.ones(edges.shape[1], 1),
            scored=torch.tensor(scored),
        )

    return TrajectoryDataset([graph(3, [1]), graph(2, [0, 1])], name="two")


@pytest.mark.parametrize("mode", ["cond", "uncond"])
def test_objective_is_the_mean_over_graphs_of_the_mean_over_scored_nodes(mode):
    config = tiny_config()
    config["diffusion"]["mode"] = mode
    config["train"] |= {"cond_mask": [[0, 1], [4, 6]]} if mode == "cond" else {"cond_mask": None, "tot_len": 3}
    torch.manual_seed(0)
    network = build_network(config)
    diffusion = build_diffusion(network, config, "cpu")
    objective = Objective(diffusion, Task.of_config(config))
    source = BatchSource(DeviceData(_two_graphs()), seed=0, batch_size=2, num_timesteps=25, num_noisy=3)
    _, noised = next(source.validation())
    given = {"cond_mask": torch.tensor([1.0, 0, 0, 0, 1, 1]).view(1, 1, 6), "x_given": noised.batch.x}
    x = noised.batch.x
    per_node = diffusion.training_losses(
        x_start=x[..., 1:4] if mode == "cond" else x[..., :3],
        t=noised.steps,
        model_kwargs=noised.batch.model_kwargs() | (given if mode == "cond" else {}),
        noise=noised.noise,
    )["loss"]
    expected = (per_node[1] + (per_node[3] + per_node[4]) / 2) / 2
    assert float(objective.loss(noised).detach()) == pytest.approx(float(expected.detach()), rel=1e-6)


def test_validation_by_nll_is_the_bound_per_graph(tmp_path):
    config = tiny_config(num_steps=2, eval="nll", ema_decay=0)
    train(config, output_dir=tmp_path, progress=False)
    (value,) = [record["val_nll"] for record in log_of(tmp_path) if "val_nll" in record]
    network, _ = load_checkpoint(tmp_path / "best.safetensors")
    diffusion = build_diffusion(network, config, "cpu")
    data = DeviceData(open_dataset(config["data"]["val"], progress=False))
    source = BatchSource(data, seed=0, batch_size=3, num_timesteps=25, num_noisy=3)
    _, noised = next(source.validation())
    x_start, model_kwargs = Task.of_config(config).split(noised.batch)
    torch.manual_seed(1)
    draws = [diffusion.calc_bpd_loop(x_start, model_kwargs=model_kwargs)["total_bpd"].sum() / 3 for _ in range(8)]
    # Another noise: the same up to the spread of the estimate.
    mean, spread = torch.stack(draws).mean(), torch.stack(draws).std()
    assert abs(value - float(mean)) < 5 * float(spread)


def test_a_validation_does_not_depend_on_its_batches(tmp_path):
    losses, bounds = [], []
    for size in (1, 2, 3):
        config = tiny_config(num_steps=2, nll_every_step=2, eval_every_epoch=1, ema_decay=0, eval_batch_size=size)
        train(config, output_dir=tmp_path / str(size), progress=False)
        losses += [record["val_loss"] for record in log_of(tmp_path / str(size)) if "val_loss" in record]
        bounds += [record["val_nll"] for record in log_of(tmp_path / str(size)) if "val_nll" in record]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-6)
    assert bounds == pytest.approx([bounds[0]] * 3, rel=1e-5)


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_graph_is_validated_with_its_own_noise_and_step(world_size):
    """Graphs of three and of two nodes: whatever batch a graph is in, what it is validated with is the same."""
    items = [item for _ in range(3) for item in _two_graphs().items]
    data = DeviceData(TrajectoryDataset(items, name="six"))

    def of_each_graph(batch_size):
        drawn = {}
        for rank in range(world_size):
            options = {"seed": 5, "num_timesteps": 25, "num_noisy": 3, "rank": rank, "world_size": world_size}
            source = BatchSource(data, batch_size=batch_size, **options)
            for graphs, noised in source.validation():
                for place, graph in enumerate(graphs.tolist()):
                    mine = noised.batch.batch == place
                    drawn[graph] = (noised.noise[mine], noised.steps[mine])
        return [drawn[graph] for graph in range(6)]

    expected = of_each_graph(6)
    assert [noise.shape for noise, _ in expected] == [(3, 3, 3), (2, 3, 3)] * 3
    assert len({float(noise[0, 0, 0]) for noise, _ in expected}) == 6, "each graph has its own"
    for batch_size in (1, 4):
        for (noise, steps), (noise_found, steps_found) in zip(expected, of_each_graph(batch_size), strict=True):
            assert torch.equal(noise_found, noise) and torch.equal(steps_found, steps)


def test_training_leaves_the_global_generators_alone(tmp_path, monkeypatch):
    def reseeds_every_gpu(seed):
        raise AssertionError("torch.manual_seed reseeds every GPU")

    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    monkeypatch.setattr(torch, "manual_seed", reseeds_every_gpu)
    train(tiny_config(num_steps=2, eval="nll"), output_dir=tmp_path, progress=False)
    assert torch.equal(torch.rand(3), expected)


def test_best_is_the_best_and_kept_epochs_are_kept(tmp_path):
    # At a learning rate of zero nothing improves: best stays the first, though the average is the same.
    config = tiny_config(num_steps=8, lr=0.0, eval_every_epoch=1, save_every_epoch=2)
    train(config, output_dir=tmp_path, progress=False)
    values = [record["val_loss"] for record in log_of(tmp_path) if "val_loss" in record]
    assert len(values) == 4 and len(set(values)) == 1
    assert sorted(path.name for path in tmp_path.glob("epoch_*")) == ["epoch_2.safetensors", "epoch_4.safetensors"]


def test_without_validation_data_training_data_choose_and_test_data_never(tmp_path):
    config = tiny_config(num_steps=2)
    config["data"]["test"] = config["data"].pop("val") | {"split": "test"}
    with pytest.warns(UserWarning, match="no data.val"):
        train(config, output_dir=tmp_path, progress=False)
    assert (tmp_path / "best.safetensors").is_file()


def test_average():
    network, copied = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(copied.weight)
    torch.nn.init.ones_(network.weight)
    average = WeightAverage(copied, FlatWeights(network), 0.5)
    average.update(torch.tensor(average.share(1)))
    expected = 1 - 2 / 11
    assert float(copied.weight) == pytest.approx(expected)
    assert average.share(1000) == 0.5
    average.update(torch.tensor(0.5))
    assert float(copied.weight) == pytest.approx(1 - (1 - expected) * 0.5)
    assert not copied.weight.requires_grad


def _train(**settings):
    return tiny_config(**settings)["train"]


def test_learning_rates():
    # The official pedestrian trainer counts epochs from 1 and multiplies at the start of epochs 10, 20, ...
    step = _train(lr=5e-4, lr_decay_every=10)
    assert [learning_rate(step, s, 7, None) for s in (0, 9 * 7 - 1, 9 * 7, 19 * 7)] == pytest.approx(
        [5e-4, 5e-4, 4e-4, 3.2e-4]
    )
    cosine = _train(lr=1.0, schedule="cosine", lr_min=0.2)
    assert [learning_rate(cosine, s, 7, 100) for s in (0, 50, 100, 200)] == pytest.approx([1.0, 0.6, 0.2, 0.2])
    warm = _train(lr=1.0, warmup_steps=4)
    assert [learning_rate(warm, s, 7, 100) for s in (0, 3, 4)] == pytest.approx([0.25, 1, 1])


def test_total_steps_is_the_first_limit():
    assert total_steps(_train(num_steps=10, num_epochs=3), 4) == 10
    assert total_steps(_train(num_steps=10, num_epochs=2), 4) == 8
    assert total_steps(_train(num_steps=None, max_minutes=1.0), 4) is None


def test_log_is_cut(tmp_path):
    log = tmp_path / "log.jsonl"
    assert read_log(log) == []
    log.write_text('{"step": 1}\n{"step": 2}\n[3]\n{"st')
    assert read_log(log) == [{"step": 1}, {"step": 2}]
    cut_log(log, 1)
    assert log.read_text() == '{"step": 1}\n'


def test_sizes_must_fit_the_data():
    dataset, config = _two_graphs(), tiny_config()
    assert check_fits(config, dataset, "train") == 3
    for key, wrong, right in (("node_dim", 2, 1), ("edge_dim", 0, 1), ("num_w", 4, 3)):
        config = tiny_config()
        config["denoise_model"][key] = wrong
        with pytest.raises(ValueError, match=rf"denoise_model\.{key} must be {right}.*got {wrong}"):
            check_fits(config, dataset, "train")
    with pytest.raises(ValueError, match=r"ranges must lie in 0\.\.6 .*\[0, 9\]"):
        check_fits(tiny_config(cond_mask=[[0, 9]]), dataset, "train")
    config["diffusion"]["mode"] = "uncond"
    config["train"] |= {"tot_len": 7}
    with pytest.raises(ValueError, match=r"tot_len must be at most the 6 frames of the data, got 7"):
        Task.of_config(config).num_noisy(6)


def test_a_loss_that_is_not_finite_stops_the_run_and_spares_the_checkpoint(tmp_path, monkeypatch):
    train(tiny_config(num_steps=2), output_dir=tmp_path, progress=False)
    before = (tmp_path / "state.safetensors").read_bytes()
    loss = Objective.loss
    monkeypatch.setattr(Objective, "loss", lambda self, noised: loss(self, noised) * math.nan)
    with pytest.raises(ValueError, match=r"loss and gradient must be finite, got .*nan.* by step 3"):
        train(tiny_config(num_steps=20, log_every_step=1), output_dir=tmp_path, progress=False)
    assert (tmp_path / "state.safetensors").read_bytes() == before


def test_a_device_that_is_not_there():
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="device must be cpu on this machine"):
            train(tiny_config(), device="cuda", progress=False)


def test_a_run_from_before_a_setting_existed_goes_on():
    config = tiny_config()
    earlier = copy.deepcopy(config)
    for name in ("spatial", "temporal", "relative_time", "window", "cutoff", "envelope"):
        del earlier["denoise_model"][name]
    check_same_training(earlier, config, where="resume", hint="anew")
    config["denoise_model"]["temporal"] = "convolution"
    with pytest.raises(ValueError, match=r"denoise_model.temporal must be 'attention' as when the run began"):
        check_same_training(earlier, config, where="resume", hint="anew")
