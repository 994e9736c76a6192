"""Sampling of batches, files of samples, scores of samples."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from tiny_models import charged_config, made_samples, tiny_diffusion
from tolerances import assert_same

from geotdm_fast.data import Trajectory, collate, open_dataset
from geotdm_fast.diffusion import Sampler
from geotdm_fast.diffusion.noise import TrajectoryNoise
from geotdm_fast.samples.npz import read_samples, write_samples
from geotdm_fast.samples.record import make_samples
from geotdm_fast.sampling import default_batch_size, sample, select_graphs
from geotdm_fast.scores.evaluation import evaluate, likelihoods, parse_scores, report
from geotdm_fast.scores.published import paper_result
from geotdm_fast.scores.tables import text_table
from geotdm_fast.task import Task

CONFIG = charged_config()
TASK = Task.of_config(CONFIG)


@pytest.fixture(scope="module")
def dataset():
    return open_dataset(CONFIG["data"]["test"], progress=False)


@pytest.fixture(scope="module")
def batch(dataset):
    return collate([dataset[i] for i in range(len(dataset))])


@pytest.fixture(scope="module")
def diffusion():
    return tiny_diffusion(CONFIG)


def draw(diffusion, batch, **options):
    options = {"num_samples": 2, "seed": 3, "progress": False} | options
    return sample(Sampler(diffusion), batch, TASK, **options)


def test_shape_and_variety(diffusion, batch):
    samples = draw(diffusion, batch)
    assert samples.shape == (2, 30, 3, 8)
    assert samples.isfinite().all()
    assert (samples[0] - samples[1]).abs().mean() > 0.1


def test_same_seed_same_samples(diffusion, batch):
    assert torch.equal(draw(diffusion, batch), draw(diffusion, batch))
    assert not torch.equal(draw(diffusion, batch), draw(diffusion, batch, seed=4))


def test_global_generators_go_on_undisturbed(diffusion, batch):
    torch.manual_seed(0)
    np.random.seed(0)
    expected = torch.randn(3), np.random.rand(3)
    torch.manual_seed(0)
    np.random.seed(0)
    draw(diffusion, batch)
    likelihoods(diffusion, batch, TASK, seed=1, progress=False)
    assert torch.equal(torch.randn(3), expected[0])
    assert np.array_equal(np.random.rand(3), expected[1])


def test_one_chunk_is_the_plain_loop(diffusion, batch, monkeypatch):
    x_start, model_kwargs = TASK.split(batch)
    numbers, none = torch.arange(6), torch.zeros(6, dtype=torch.int64)
    noise = TrajectoryNoise(3, numbers, none, batch.batch, *x_start.shape[1:], x_start.dtype)
    draws = itertools.count(1)
    monkeypatch.setattr(torch, "randn_like", lambda x: noise(next(draws)))
    plain = diffusion.p_sample_loop(x_start.shape, noise=noise(0), model_kwargs=model_kwargs)
    assert_same(draw(diffusion, batch, num_samples=1)[0], plain, 1e-4)


@pytest.mark.parametrize(("batch_size", "num_samples"), [(1, 3), (4, 2), (5, 4)])
def test_samples_do_not_depend_on_batch_size_or_number(diffusion, batch, batch_size, num_samples):
    """But for rounding: a trajectory's noise is its own."""
    drawn = draw(diffusion, batch, num_samples=num_samples, batch_size=batch_size)
    assert_same(drawn[:2], draw(diffusion, batch), 1e-4)


@pytest.mark.parametrize("batch_size", [1, 4, 5])
def test_chunks_put_every_graph_in_its_place(diffusion, batch, batch_size, monkeypatch):
    """Without noise a sample depends on its own graph alone, so any chunking must give the same."""
    monkeypatch.setattr(Sampler, "draw", lambda self, shape, kwargs, *_, **__: kwargs["x_given"][..., 4:] + shape[1])
    samples = draw(diffusion, batch, num_samples=3, batch_size=batch_size)
    assert torch.equal(samples, (batch.x[..., 4:] + 3).expand(3, -1, -1, -1))


def test_network_mode_is_restored(batch):
    diffusion = tiny_diffusion(CONFIG)
    diffusion.denoise_network.train()
    draw(diffusion, batch, num_samples=1)
    assert diffusion.denoise_network.training


def test_double_precision_stays(batch):
    diffusion = tiny_diffusion(CONFIG)
    diffusion.denoise_network.double()
    assert draw(diffusion, batch, num_samples=1).dtype == torch.float64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_samples": 0}, "num_samples must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
    ],
)
def test_bad_options(diffusion, batch, options, message):
    with pytest.raises(ValueError, match=message):
        draw(diffusion, batch, **options)


@pytest.mark.parametrize("name", ["num_samples", "batch_size", "seed"])
@pytest.mark.parametrize("value", [1.5, 2.0, True, "2"])
def test_counts_are_whole_numbers(diffusion, batch, name, value):
    with pytest.raises(TypeError, match=f"sample: {name} must be a whole number, got {value!r}"):
        draw(diffusion, batch, **{name: value})


def test_counts_of_numpy_are_counts(diffusion, batch):
    expected = draw(diffusion, batch, num_samples=2, seed=1)
    assert torch.equal(draw(diffusion, batch, num_samples=np.int64(2), seed=np.uint8(1)), expected)


def test_samples_that_are_not_finite_are_told(diffusion, batch, monkeypatch):
    monkeypatch.setattr(Sampler, "draw", lambda self, shape, *_, **__: torch.full(shape, float("nan")))
    with pytest.warns(UserWarning, match="2 of 2 samples hold values that are not finite"):
        draw(diffusion, batch)


def graph(num_nodes: int, first: float) -> Trajectory:
    edges = torch.ones(num_nodes, num_nodes).triu(1).nonzero().T
    x = first + torch.arange(num_nodes * 6.0).view(num_nodes, 2, 3)
    scored = torch.tensor([num_nodes - 1])
    return Trajectory(x, first + torch.ones(num_nodes, 2), edges, first + torch.ones(edges.shape[1], 1), scored)


def test_select_graphs_of_different_sizes():
    graphs = [graph(3, 0.0), graph(1, 10.0), graph(4, 20.0)]
    whole = collate(graphs)
    # Edges may come in any order.
    order = torch.randperm(whole.edge_index.shape[1], generator=torch.Generator().manual_seed(0))
    whole = dataclasses.replace(whole, edge_index=whole.edge_index[:, order], edge_attr=whole.edge_attr[order])
    chosen = select_graphs(whole, torch.tensor([2, 0, 2, 1]))
    expected = collate([graphs[2], graphs[0], graphs[2], graphs[1]])
    for name in ("x", "h", "scored", "batch"):
        assert torch.equal(getattr(chosen, name), getattr(expected, name)), name
    assert chosen.num_graphs == 4
    edges = lambda b: sorted(zip(*b.edge_index.tolist(), b.edge_attr[:, 0].tolist(), strict=True))
    assert edges(chosen) == edges(expected)


def test_default_batch_size_follows_the_size(batch):
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert default_batch_size(batch, cpu) == 4800 // 60
    assert default_batch_size(batch, cuda) > default_batch_size(batch, cpu)
    huge = dataclasses.replace(batch, x=torch.empty(1, 3, 1).expand(100_000, 3, 100), num_graphs=1)
    assert default_batch_size(huge, cpu) == 1


def test_file_keeps_everything(tmp_path, diffusion, batch, dataset):
    samples = make_samples(draw(diffusion, batch), batch, dataset, TASK, seed=3, checkpoint="a.safetensors")
    write_samples(tmp_path / "s.npz", samples)
    again = read_samples(tmp_path / "s.npz")
    for field in dataclasses.fields(samples):
        assert np.array_equal(getattr(samples, field.name), getattr(again, field.name)), field.name
    assert np.allclose(again.truth(), batch.x.numpy())
    assert np.array_equal(again.forecasts()[..., :4], np.stack([batch.x[..., :4].numpy()] * 2))
    assert again.num_graphs == 6 and again.nodes(2) == slice(10, 15)


def test_interpolation_puts_frames_in_their_places():
    samples = made_samples(frames=6, given=0)
    mask = np.array([True, False, True, False, False, True])
    x = np.arange(6, dtype=np.float32) * np.ones((20, 3, 1), np.float32)
    samples = dataclasses.replace(
        samples, cond_mask=mask, x_given=x[..., mask], target=x[..., ~mask], samples=x[None, ..., ~mask] + 10, scale=2.0
    )
    assert samples.truth()[0, 0].tolist() == [0, 2, 4, 6, 8, 10]
    assert samples.forecasts()[0, 0, 0].tolist() == [0, 22, 4, 26, 28, 10]


def test_foreign_and_broken_files_are_refused(tmp_path):
    np.savez(tmp_path / "foreign.npz", x=np.zeros(3))
    with pytest.raises(ValueError, match=r"must be a file of samples .* it holds x and lacks format, samples"):
        read_samples(tmp_path / "foreign.npz")
    samples = made_samples()
    write_samples(tmp_path / "broken.npz", dataclasses.replace(samples, target=samples.target[:-1]))
    with pytest.raises(ValueError, match=r"target must be \[20, 3, 8\], got \[19, 3, 8\]"):
        read_samples(tmp_path / "broken.npz")
    with pytest.raises(FileNotFoundError, match=r"no\.npz"):
        read_samples(tmp_path / "no.npz")


def test_forecast_scores_against_numpy():
    samples = made_samples()
    result = evaluate(samples, ["ade"])
    distance = np.linalg.norm(samples.samples - samples.target, axis=2)  # [K, N, T]
    per_graph = distance.mean(-1).reshape(3, 4, 5).mean(-1)
    assert result["forecast"]["ade_mean"] == pytest.approx(per_graph.mean(), rel=1e-5)
    assert result["forecast"]["ade_best"] == pytest.approx(per_graph.min(0).mean(), rel=1e-5)
    last = distance[..., -1].reshape(3, 4, 5).mean(-1)
    assert result["forecast"]["fde_mean"] == pytest.approx(last.mean(), rel=1e-5)
    still = np.linalg.norm(samples.x_given[..., -1:] - samples.target, axis=1)
    assert result["baselines"]["standing_still"]["ade"] == pytest.approx(still.mean(), rel=1e-5)
    velocity = samples.x_given[..., -1:] - samples.x_given[..., -2:-1]
    moving = np.linalg.norm(samples.x_given[..., -1:] + velocity * np.arange(1, 9) - samples.target, axis=1)
    assert result["baselines"]["constant_velocity"]["fde"] == pytest.approx(moving[..., -1].mean(), rel=1e-5)
    text = report(result)
    assert "8 frames from 4 given; 4 graphs x 3 samples" in text and "constant velocity" in text


def test_scores_are_in_the_unit_of_the_data():
    samples = made_samples()
    once, twice = (evaluate(dataclasses.replace(samples, scale=scale), ["ade"]) for scale in (1.0, 2.0))
    assert twice["forecast"]["ade_mean"] == pytest.approx(2 * once["forecast"]["ade_mean"], rel=1e-6)
    assert twice["baselines"]["standing_still"]["fde"] == pytest.approx(
        2 * once["baselines"]["standing_still"]["fde"], rel=1e-6
    )


def test_perfect_samples_score_zero_and_real_against_real():
    samples = made_samples(mode="uncond")
    perfect = dataclasses.replace(samples, samples=samples.target[None])
    assert evaluate(perfect, ["marginal"])["marginal"] == pytest.approx(0, abs=1e-6)
    molecule = made_samples(nodes=9, mode="uncond")
    perfect = dataclasses.replace(molecule, samples=molecule.target[None])
    assert evaluate(perfect, ["marginal"])["marginal"] == pytest.approx(0, abs=1e-6)
    assert evaluate(molecule, ["marginal"])["marginal"] > 0.1


def test_scores_by_name():
    assert parse_scores("all", "cond") == ("ade", "nll")
    assert parse_scores("nll, ade", "cond") == ("nll", "ade")
    with pytest.raises(ValueError, match="did you mean 'marginal'"):
        parse_scores("marginl", "uncond")
    with pytest.raises(ValueError, match="'ade' does not fit an unconditional model"):
        parse_scores("ade", "uncond")
    with pytest.raises(ValueError, match="at least one"):
        parse_scores(",", "cond")


def test_evaluate_refuses():
    samples = made_samples()
    with pytest.raises(ValueError, match="'nll' needs a model"):
        evaluate(samples, ["nll"])
    broken = dataclasses.replace(samples, samples=samples.samples * np.float32("nan"))
    with pytest.raises(ValueError, match="samples must be finite"):
        evaluate(broken, ["ade"])
    with pytest.raises(ValueError, match="one scored node in each graph"):
        evaluate(samples, ["ade"], kmeans=2)


def test_likelihood_of_each_graph(diffusion, batch):
    nats = likelihoods(diffusion, batch, TASK, seed=1, progress=False)
    assert nats.shape == (6,) and nats.isfinite().all()
    torch.manual_seed(7)
    again = likelihoods(diffusion, batch, TASK, seed=1, batch_size=4, progress=False)
    assert_same(nats, again, 1e-5)  # the same noise for each graph, whatever the chunks
    assert_same(nats, likelihoods(diffusion, batch, TASK, seed=1, batch_size=1, progress=False), 1e-5)
    assert (nats - likelihoods(diffusion, batch, TASK, seed=2, progress=False)).abs().min() > 1e-3
    result = evaluate(made_samples(), ["nll"], nll=nats)
    assert result["nll"]["mean"] == pytest.approx(float(nats.mean()), rel=1e-6)
    assert "nats per graph" in report(result)


def test_paper_rows_only_where_the_task_is_the_papers():
    assert paper_result("charged", "cond", 10, 20) == {"protocol": "mean of 5", "ade": 0.110, "fde": 0.258}
    assert paper_result("charged", "cond", 4, 8) is None
    assert paper_result("zara1", "cond", 8, 12)["fde"] == 0.39
    assert paper_result("zara1", "cond", 10, 20) is None
    assert paper_result("md:ethanol", "uncond", 0, 20)["marginal"] == 0.314
    assert paper_result("md:ethanol", "cond", 10, 20) == {"protocol": "on MD17, mean of 5", "ade": 0.115, "fde": 0.209}
    assert paper_result("", "cond", 10, 20) is None


def test_paper_rows_only_beside_the_papers_data_or_on_request():
    """Not because a file is called charged.npz."""
    samples = made_samples(frames=30, given=10)
    assert samples.name == "N-body charged" and evaluate(samples, ["ade"])["paper"] is None
    assert evaluate(samples, ["ade"], experiment="charged")["paper"]["ade"] == 0.110
    assert evaluate(dataclasses.replace(samples, experiment="charged"), ["ade"])["paper"]["ade"] == 0.110
    with pytest.raises(ValueError, match=r"experiment must be one of charged, .*did you mean 'charged'"):
        evaluate(samples, ["ade"], experiment="chargd")


def test_which_data_are_the_papers(dataset):
    """Simulated systems of the test, not those of training, nor what a file calls charged."""
    assert dataset.experiment == dataset.spread(2).experiment == "charged"
    assert open_dataset(CONFIG["data"]["train"], progress=False).experiment is None


def test_the_experiment_survives_in_the_file_and_older_files_have_none(tmp_path):
    samples = dataclasses.replace(made_samples(), experiment="charged")
    write_samples(tmp_path / "s.npz", samples)
    assert read_samples(tmp_path / "s.npz").experiment == "charged"
    arrays = dict(np.load(tmp_path / "s.npz"))
    del arrays["experiment"]
    np.savez(tmp_path / "older.npz", **arrays)
    assert read_samples(tmp_path / "older.npz").experiment == ""


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ([1, 1, 0, 0], r"batch must ascend from 0 without a gap, .*; got 1 at node 0"),
        ([0, 1, 0, 1], r".*got 0 behind 1 at node 2"),
        ([0, 0, 2, 2], r".*got 2 behind 0 at node 2"),
        ([0, 0, 0, 10**9], r".*got 1000000000 behind 0 at node 3"),
        ([0.0, 0.0, 1.0, 1.0], r"batch must hold whole numbers, the graph of each node; got float64"),
    ],
)
def test_samples_whose_nodes_are_not_side_by_side_are_refused(tmp_path, batch, message):
    """Else the nodes of other graphs would be scored as one."""
    samples = dataclasses.replace(made_samples(graphs=2, nodes=2), batch=np.array(batch))
    write_samples(tmp_path / "s.npz", samples)
    with pytest.raises(ValueError, match=rf"s\.npz: {message}"):
        read_samples(tmp_path / "s.npz")
    with pytest.raises(ValueError, match=f"evaluate: {message}"):
        evaluate(samples, ["ade"])


def test_an_unknown_mode_is_named(tmp_path):
    write_samples(tmp_path / "s.npz", dataclasses.replace(made_samples(), mode="conditional"))
    with pytest.raises(ValueError, match=r"s\.npz: mode must be one of cond, uncond; got 'conditional'"):
        read_samples(tmp_path / "s.npz")
    with pytest.raises(ValueError, match="mode must be one of cond, uncond; got 'forecast'"):
        parse_scores("all", "forecast")


def test_table_is_aligned():
    lines = text_table(["name", "value"], [["a", 1.5], ["long name", 0.25], ["none", None]]).splitlines()
    assert lines == ["name        value", "-" * 17, "a             1.5", "long name  0.2500", "none"]
