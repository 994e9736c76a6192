"""Rollouts on captured steps: one capture, one sorted graph, for all blocks."""

import numpy as np
import pytest
from tape import TapeRecorder
from tiny_rollouts import CONFIG, by_distance, model_of, systems
from tolerances import assert_same

from geotdm_fast.config.files import normalise_config
from geotdm_fast.diffusion import Sampler
from geotdm_fast.model import Model


@pytest.fixture(scope="module")
def model():
    return model_of(CONFIG)


@pytest.fixture(scope="module")
def dataset():
    return systems()


def on_tape(config: dict) -> tuple[Model, TapeRecorder]:
    model, recorder = model_of(config), TapeRecorder()
    model.diffusion.captures.record = recorder
    return model, recorder


def test_one_capture_serves_all_blocks(dataset):
    expected = model_of(CONFIG).rollout(dataset, 20, 2, seed=1, steps=3)
    model, recorder = on_tape(CONFIG)
    found = model.rollout(dataset, 20, 2, seed=1, steps=3)
    np.testing.assert_allclose(found.samples, expected.samples, rtol=1e-4, atol=1e-4)
    assert len(recorder.tapes) == 1 and recorder.replays == 3 * 3


def test_a_graph_that_follows_the_positions_keeps_its_room_and_its_capture():
    expected = model_of(by_distance("current")).rollout(systems(2), 20, 2, seed=1, steps=2)
    model, recorder = on_tape(by_distance("current"))
    found = model.rollout(systems(2), 20, 2, seed=1, steps=2)
    np.testing.assert_allclose(found.samples, expected.samples, rtol=1e-4, atol=1e-4)
    assert len(recorder.tapes) == 1 and recorder.replays == 3 * 2


def test_the_graph_of_a_batch_is_sorted_once(model, dataset, monkeypatch):
    graphs, priors, real = [], [], Sampler.draw

    def watched(self, shape, model_kwargs, noise, progress, x_ref):
        graphs.append(model_kwargs["graph"])
        assert_same(x_ref, self.diffusion.get_ref_frame(model_kwargs), 1e-5)
        priors.append(x_ref)
        return real(self, shape, model_kwargs, noise, progress=progress, x_ref=x_ref)

    monkeypatch.setattr(Sampler, "draw", watched)
    model.rollout(dataset, 20, 4, steps=2, batch_size=12)
    assert len(graphs) == 3 and len({id(graph) for graph in graphs}) == 1
    assert len({id(prior) for prior in priors}) == 3


@pytest.mark.parametrize(
    "graph", [{"radius": 2.5}, {"radius": 2.5, "bonds": True}, {"knn": 3}, {"radius": 30.0}], ids=str
)
def test_a_graph_by_the_given_frames_has_room_so_that_one_capture_serves_all_blocks(graph, monkeypatch):
    config = by_distance("given")
    config["denoise_model"] |= {"graph": graph, "edge_dim": 2 if graph.get("bonds") else 0}
    config = normalise_config(config)
    monkeypatch.setattr("geotdm_fast.sampling.batches.FIRST_CAPACITY", 3)  # of 4: more is needed at some time
    expected = model_of(config).rollout(systems(2), 36, 2, seed=1, steps=2)
    model, recorder = on_tape(config)
    edges, real = [], Sampler.draw

    def watched(self, shape, model_kwargs, *args, **kwargs):
        edges.append(int(model_kwargs["graph"].tables("native").first[-1]))
        return real(self, shape, model_kwargs, *args, **kwargs)

    monkeypatch.setattr(Sampler, "draw", watched)
    found = model.rollout(systems(2), 36, 2, seed=1, steps=2)
    np.testing.assert_allclose(found.samples, expected.samples, rtol=1e-4, atol=1e-4)
    assert len(edges) == 5 and recorder.replays == 5 * 2
    assert (len(set(edges)) > 1) == (graph == {"radius": 2.5}), "the data's own are complete"
    assert len(recorder.tapes) <= 2, "another one where a later block is the first to need more room"


def test_batches_of_one_size_share_a_capture_whatever_their_given_frames():
    expected = model_of(by_distance("given")).forecast(systems(6, num_frames=12), seed=1, steps=2, batch_size=2)
    model, recorder = on_tape(by_distance("given"))
    found = model.forecast(systems(6, num_frames=12), seed=1, steps=2, batch_size=2)
    np.testing.assert_allclose(found.samples, expected.samples, rtol=1e-4, atol=1e-4)
    assert len(recorder.tapes) == 1 and recorder.replays == 3 * 2
