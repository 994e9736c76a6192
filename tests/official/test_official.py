"""`geotdm_fast.official`: data sets, loader, pooling and private names, as the official scripts use them."""

import random

import numpy as np
import pytest
import torch
from official_data import SUFFIX, write_md17, write_nbody, write_pedestrians
from tiny_models import charged_config, tiny_diffusion

from geotdm_fast import official
from geotdm_fast.data import Trajectory, collate, open_dataset
from geotdm_fast.diffusion import Sampler
from geotdm_fast.official import DataLoader, ETHNew, MD17Traj, NBody, global_add_pool, global_mean_pool
from geotdm_fast.task import Task


def test_every_name_is_there():
    assert all(hasattr(official, name) for name in official.__all__)


# --- data sets ----------------------------------------------------------------------------------------------------


def test_nbody_takes_the_official_section(tmp_path):
    arrays = write_nbody(tmp_path, "test", 4)
    section = {"root": str(tmp_path), "name": "nbody_test", "suffix": f"test_{SUFFIX}", "span": 10}
    data = NBody(**section, force_length=3, return_index=True, force_reprocess=True)
    assert len(data) == 3
    item = data[2]
    assert np.allclose(item.x, arrays["loc"][2, :10].transpose(2, 1, 0))
    assert np.allclose(item.v, arrays["vel"][2, :10].transpose(2, 1, 0))
    assert torch.equal(item.h, torch.tensor(arrays["charges"][2], dtype=torch.float32))
    row, col = item.edge_index
    assert torch.equal(item.edge_attr, item.h[row] * item.h[col]) and item.edge_index.shape == (2, 20)
    assert item.system_id.tolist() == [2.0] and item.system_id.dtype == torch.float32
    assert "system_id" not in NBody(**section)[0]
    centred = NBody(**section, project=True)[1].x
    assert centred.mean(dim=(0, 2)).abs().max() < 1e-6
    assert NBody(**section | {"span": None})[0].x.shape == (5, 3, 12)
    with pytest.raises(ValueError, match="obs_noise_scale must be 0"):
        NBody(**section, obs_noise_scale=0.1)


def test_nbody_is_simulated_where_there_are_no_files_and_says_so(tmp_path, capsys):
    section = {"root": str(tmp_path), "name": "spring_test", "suffix": "test_springs5_initvel1", "span": 6}
    data = NBody(**section, force_length=2)
    assert "no loc_test_springs5_initvel1.npy" in capsys.readouterr().err
    expected = open_dataset({"kind": "nbody"} | section | {"force_length": 2}, progress=False)
    assert torch.equal(data[1].x, expected[1].x) and data[1].v.shape == (5, 3, 6)


def test_files_of_any_name_are_charged_particles_as_officially(tmp_path):
    write_nbody(tmp_path, "mine", 2)
    data = NBody(root=tmp_path, name="mine", suffix=f"mine_{SUFFIX}", span=5)
    assert len(data) == 2 and data.experiment is None
    for name in ("loc", "vel", "charges"):
        (tmp_path / f"{name}_mine_{SUFFIX}.npy").rename(tmp_path / f"{name}_x.npy")
    assert NBody(tmp_path, "mine", "x", 5)[0].edge_attr.shape == (20, 1)


def test_md17_takes_the_official_section(tmp_path):
    positions = write_md17(tmp_path)
    section = {"root": tmp_path, "molecule_name": "ethanol", "down_sample_every": 2, "with_h": True, "span": 10}
    data = MD17Traj(**section, mode="val", force_length=4, return_index=True)
    plain = open_dataset({"kind": "md17"} | section | {"mode": "val", "force_length": 4}, progress=False)
    assert len(data) == 4
    item = data[3]
    for name in ("x", "h", "edge_index", "edge_attr"):
        assert torch.equal(item[name], plain[3][name])
    kept = np.arange(0, 399, 2)
    frames = kept[int(len(kept) * 0.6) :][: int(len(kept) * 0.8) - int(len(kept) * 0.6)]
    start = 3 * ((len(frames) - 10 + 1) // 4)
    window = frames[start : start + 10]
    assert np.allclose(item.x, positions[window].transpose(1, 2, 0), atol=1e-6)
    assert np.allclose(item.v, (positions[window + 1] - positions[window]).transpose(1, 2, 0), atol=1e-6)
    assert item.system_id.tolist() == [3.0]

    class Complete(MD17Traj):
        fc = True

    assert Complete(**section, mode="test")[0].edge_index.shape == (2, 72)
    with pytest.raises(ValueError, match="MD17Traj: mode must be one of train, val, test; got 'None'"):
        MD17Traj(**section)


def test_pedestrians_take_the_official_section(tmp_path, monkeypatch):
    data_, num = write_pedestrians(tmp_path / "data/eth")
    monkeypatch.chdir(tmp_path)
    section = {"dataset": "zara1", "past_frames": 8, "future_frames": 12, "traj_scale": 1.4, "phase": "testing"}
    data = ETHNew(return_index=True, **section)
    item = data[1]
    n = num[1]
    x = torch.tensor(data_[1, :n], dtype=torch.float32).transpose(1, 2) / 1.4
    assert torch.allclose(item.x, x) and item.edge_attr is None
    steps = x[..., 1:8] - x[..., :7]
    assert torch.allclose(item.v, torch.cat([steps[..., :1], steps], -1)) and item.v.shape == (n, 2, 8)
    assert item.num == n and item.select_index.tolist() == [0]
    batch = next(iter(DataLoader(data, batch_size=4)))
    assert batch.num.tolist() == num[:4].tolist() and batch.system_id.tolist() == [0, 1, 2, 3]
    assert batch.select_index.tolist() == np.concatenate([[0], np.cumsum(num[:3])]).tolist()
    assert torch.equal(batch.select_index, batch.scored) and batch.edge_attr is None
    assert "system_id" not in ETHNew(return_index=False, **section)[0]


def test_data_of_ones_own_by_the_official_class():
    frames = [torch.full((4, 2), float(t)) for t in range(3)]
    item = official.TrajData(h=torch.ones(4, 1), edge_index=torch.zeros(2, 1, dtype=torch.int64), x=frames, flag=1)
    assert item.x.shape == (4, 2, 3) and item.x[0, 0].tolist() == [0, 1, 2] and item.flag == 1 and "v" not in item
    assert item.scored.tolist() == [0, 1, 2, 3]
    with pytest.raises(TypeError, match="TrajData: x must be given"):
        official.TrajData(torch.ones(4, 1), torch.zeros(2, 1, dtype=torch.int64))


# --- loader and pooling -------------------------------------------------------------------------------------------


class Items:
    """A list of trajectories, as the official scores have them."""

    def __init__(self, count: int):
        self.items = []
        for i in range(count):
            n = i % 3 + 1
            x = torch.full((n, 2, 3), float(i))
            item = Trajectory(x, torch.ones(n, 1), torch.zeros(2, n, dtype=torch.int64), None, torch.arange(n))
            item.flag = torch.ones(1) * i
            self.items.append(item)

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def test_the_loader_has_torchs_semantics():
    data = Items(7)
    order = lambda loader: [batch.flag.tolist() for batch in loader]
    assert order(DataLoader(data, batch_size=3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert order(DataLoader(data, batch_size=3, drop_last=True)) == [[0, 1, 2], [3, 4, 5]]
    assert order(DataLoader(data, 2, sampler=[6, 0, 3])) == [[6, 0], [3]]
    assert order(DataLoader(data, batch_sampler=[[1, 2], [0]])) == [[1, 2], [0]]
    shuffled = DataLoader(data, batch_size=7, shuffle=True, generator=torch.Generator().manual_seed(1))
    assert sorted(order(shuffled)[0]) == list(range(7)) and order(shuffled)[0] != list(range(7))
    with pytest.raises(ValueError, match="sampler option is mutually exclusive with shuffle"):
        DataLoader(data, shuffle=True, sampler=[0])
    plain = torch.utils.data.DataLoader(data, batch_size=3, collate_fn=collate)
    assert len(DataLoader(data, batch_size=3)) == len(plain) == 3


def test_the_loader_in_worker_processes():
    batches = list(DataLoader(Items(5), batch_size=2, num_workers=2))
    assert [batch.flag.tolist() for batch in batches] == [[0, 1], [2, 3], [4]]
    assert [item.flag.tolist() for item in batches[1].to_data_list()] == [[2], [3]]


def test_fields_that_are_followed_or_left_out():
    (batch,) = DataLoader(Items(3), 3, follow_batch=["x", "flag", "edge_index"], exclude_keys=["edge_attr"])
    assert batch.x_batch.tolist() == batch.edge_index_batch.tolist() == [0, 1, 1, 2, 2, 2]
    assert batch.flag_batch.tolist() == [0, 1, 2]
    (batch,) = DataLoader(Items(2), 2, exclude_keys=["flag"])
    assert "flag" not in batch
    assert Items(1)[0].flag is not None, "the data set keeps it"
    with pytest.raises(ValueError, match="exclude_keys must leave x, h, edge_index, scored in, got x"):
        DataLoader(Items(1), exclude_keys=["x"])
    with pytest.raises(TypeError, match="collate_fn is built in"):
        DataLoader(Items(1), collate_fn=list)
    again = DataLoader(Items(3), 3, collate_fn=DataLoader(Items(1), exclude_keys=["flag"]).collate_fn)
    assert "flag" not in next(iter(again))


def test_pooling():
    x = torch.arange(8.0).reshape(4, 2)
    batch = torch.tensor([0, 2, 2, 0])
    assert global_add_pool(x, batch).tolist() == [[6, 8], [0, 0], [6, 8]]
    assert global_mean_pool(x, batch).tolist() == [[3, 4], [0, 0], [3, 4]]
    assert global_mean_pool(x[:, 0], batch, size=4).tolist() == [3, 0, 3, 0]
    assert official.global_max_pool(x, batch).tolist() == [[6, 7], [0, 0], [4, 5]]
    assert global_add_pool(torch.ones_like(batch), batch).tolist() == [2, 0, 2]
    assert global_mean_pool(x, None).tolist() == [[3, 4]]
    many = torch.ones(1000, 1, dtype=torch.bfloat16, requires_grad=True)
    mean = global_mean_pool(many * 2, torch.zeros(1000, dtype=torch.int64))
    assert mean.item() == 2 and global_add_pool(many, torch.zeros(1000, dtype=torch.int64)).item() == 1000
    mean.sum().backward()
    assert many.grad.shape == (1000, 1)
    with pytest.raises(ValueError, match=r"batch must be \[4\] for x \[4, 2\], got \[3\]"):
        global_add_pool(x, batch[:3])
    with pytest.raises(ValueError, match="size must be at least the 3 graphs of batch, got 2"):
        global_mean_pool(x, batch, size=2)


def test_seeds_and_values_of_one_process():
    drawn = []
    for _ in range(2):
        official.set_seed(5)
        drawn.append((torch.rand(1).item(), np.random.rand(), random.random()))
    assert drawn[0] == drawn[1]
    values = torch.tensor([1.0, 2.0], requires_grad=True)
    assert official.gather_across_gpus(values, None).tolist() == [1, 2]
    assert official.gather_across_gpus(torch.tensor(3.0)).shape in ((), (1,))


def test_values_of_several_processes_may_differ_in_number(monkeypatch):
    """Two processes, of which this one has a row and the other three."""
    other = torch.tensor([[7.0], [8], [9]])
    dist = official.processes.dist
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)

    def all_gather(parts, value):
        parts[0].copy_(value)
        parts[1].copy_(torch.tensor([3]) if value.dtype == torch.int64 else other)

    monkeypatch.setattr(dist, "all_gather", all_gather)
    assert official.gather_across_gpus(torch.tensor([[5.0]])).tolist() == [[5], [7], [8], [9]]


# --- the private names of the diffusion -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def batch():
    dataset = open_dataset(charged_config()["data"]["test"], progress=False)
    return collate([dataset[i] for i in range(2)])


def kwargs(batch):
    return Task.of_config(charged_config()).split(batch)


def test_private_names_have_their_official_meaning(batch):
    diffusion = tiny_diffusion(charged_config())
    x, model_kwargs = kwargs(batch)
    t = torch.full((len(x),), 7)
    noise = torch.ones_like(x)
    x_t = diffusion.q_sample(x, t, noise)
    assert torch.allclose(diffusion._predict_xstart_from_eps(x_t=x_t, t=t, eps=noise), x, atol=1e-5)
    assert torch.allclose(diffusion._predict_eps_from_xstart(x_t, t, x), noise, atol=1e-4)
    mean, _, _ = diffusion.q_posterior_mean_variance(x, x_t, t)
    assert torch.allclose(diffusion._predict_xstart_from_xprev(x_t=x_t, t=t, xprev=mean), x, atol=1e-4)
    assert diffusion._scale_timesteps(t) is t
    diffusion.rescale_timesteps = True
    assert diffusion._scale_timesteps(t).tolist() == [7 * 1000 / 25] * len(x)
    diffusion.rescale_timesteps = False
    x_rel = x - diffusion.get_ref_frame(model_kwargs)
    out = diffusion._vb_terms_bpd(x_rel, diffusion.q_sample(x_rel, t, noise), t, model_kwargs)
    assert out["output"].shape == (len(x),) and out["pred_xstart"].shape == x.shape
    torch.manual_seed(0)
    terms = diffusion.calc_bpd_loop(x, model_kwargs)
    assert torch.allclose(terms["prior_bpd"], diffusion._prior_bpd(x_rel))


@pytest.mark.parametrize("name", ["_predict_xstart_from_eps", "p_mean_variance", "p_sample"])
def test_what_a_subclass_replaces_is_sampled_with(batch, name):
    """And the same sample comes out where the part does what ours does."""
    diffusion = tiny_diffusion(charged_config())
    x, model_kwargs = kwargs(batch)
    torch.manual_seed(0)
    expected = diffusion.p_sample_loop(x.shape, model_kwargs=model_kwargs)
    calls = []

    def own(self, *args, **named):
        calls.append(name)
        return getattr(official.GeoTDM, name)(self, *args, **named)

    diffusion.__class__ = type("Mine", (official.GeoTDM,), {name: own})
    torch.manual_seed(0)
    drawn = diffusion.p_sample_loop(x.shape, model_kwargs=model_kwargs)
    assert len(calls) == 25 and torch.allclose(drawn, expected, rtol=1e-3, atol=1e-3)
    kept = diffusion.p_sample_loop_keeptraj(x.shape, keep_every=10, model_kwargs=model_kwargs)
    assert kept.shape == (*x.shape, 4) and len(calls) == 50
    assert diffusion.optimize(x, 5, model_kwargs=model_kwargs).shape == x.shape and len(calls) == 55
    with pytest.warns(UserWarning, match=f"Sampler does not call {name}, which this diffusion has of its own"):
        Sampler(diffusion)


def test_a_loop_that_a_subclass_replaces_is_called(batch):
    class Mine(official.GeoTDM):
        def p_sample_loop_progressive(self, *args, **named):
            for out in super().p_sample_loop_progressive(*args, **named):
                yield out | {"sample": out["sample"] + 1}

    diffusion = tiny_diffusion(charged_config())
    x, model_kwargs = kwargs(batch)
    drawn = []
    for _ in range(2):
        torch.manual_seed(0)
        loops = (diffusion.p_sample_loop, diffusion.p_sample_loop_keeptraj)
        drawn.append([loop(x.shape, model_kwargs=model_kwargs) for loop in loops])
        diffusion.__class__ = Mine
    for one, other in zip(*drawn, strict=True):
        assert torch.allclose(one + 1, other, atol=1e-5)


def test_other_parts_that_a_subclass_replaces_are_called(batch):
    seen = []

    class Mine(official.GeoTDM):
        def _scale_timesteps(self, t):
            seen.append("scale")
            return super()._scale_timesteps(t)

        def q_sample(self, x_start, t, noise=None):
            seen.append("q_sample")
            return super().q_sample(x_start, t, noise)

        def _vb_terms_bpd(self, *args, **named):
            seen.append("vb")
            return super()._vb_terms_bpd(*args, **named)

    diffusion = tiny_diffusion(charged_config())
    x, model_kwargs = kwargs(batch)
    losses = []
    for _ in range(2):
        torch.manual_seed(0)
        losses.append(diffusion.training_losses(x, model_kwargs=model_kwargs)["loss"])
        diffusion.__class__ = Mine
    assert torch.allclose(*losses, rtol=1e-5) and set(seen) == {"scale", "q_sample"}
    diffusion.calc_bpd_loop(x, model_kwargs)
    assert seen.count("vb") == 25
    seen.clear()
    diffusion.p_sample_loop(x.shape, model_kwargs=model_kwargs)
    assert "scale" in seen
