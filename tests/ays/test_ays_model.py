"""Models of Align Your Structures in one object: drawn from by every sampler, saved, rolled out, scored."""

import dataclasses
import gc
import warnings
import weakref

import numpy as np
import pytest
import torch
from ays_trainings import folder_of_runs
from tiny_ays import ETHENE, SPAN, WATER, interpolator_config, structure_config, tame_network

import geotdm_fast
from geotdm_fast import Sampler
from geotdm_fast.ays import as_geotdm
from geotdm_fast.ays import checkpoint as ays_checkpoint
from geotdm_fast.ays.as_geotdm import AtomNetwork
from geotdm_fast.ays.diffusion import OurDiffusion
from geotdm_fast.ays_model import AysModel
from geotdm_fast.checkpoint import save_checkpoint
from geotdm_fast.config.ays_files import free_share
from geotdm_fast.config.files import normalise_config
from geotdm_fast.data import Trajectory, collate, open_dataset
from geotdm_fast.data.chemistry.atom_graph import AtomGraph
from geotdm_fast.families import build_diffusion
from geotdm_fast.nn.plain import bare
from geotdm_fast.task import Task

METHODS = ["ddpm", "ddim", "dpmpp_2m", "dpmpp_2m_sde", "ays_ddim"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return folder_of_runs(tmp_path_factory)


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*pieces")
        yield


def model_of(folder, config) -> AysModel:
    """The model of a checkpoint. It predicts x_0: of the noise, weights that learned nothing make x_0 of any size."""
    config["diffusion"]["model_mean_type"] = "start_x"
    path = folder / "model.safetensors"
    save_checkpoint(path, tame_network(config), config)
    return geotdm_fast.load(path, device="cpu")


def test_a_model_draws_the_same_whatever_the_batch(folder):
    model = model_of(folder, interpolator_config(folder))
    assert isinstance(model, AysModel) and model.num_frames == SPAN and model.conditions is None
    assert "forecast: 1 of 5 frames are given" in repr(model)
    data = open_dataset(model.config["data"]["test"]).spread(4)
    for method in METHODS:
        whole = model.forecast(data, 2, method=method, steps=6, seed=4)
        one = model.forecast(data, 2, method=method, steps=6, seed=4, batch_size=1)
        np.testing.assert_allclose(whole.samples, one.samples, rtol=1e-4, atol=1e-4)
        assert whole.mode == "cond" and whole.samples.shape[-1] == SPAN - 1
        centre = [s.mean((0, 2)) for s in (whole.samples[0][whole.nodes(g)] for g in range(whole.num_graphs))]
        assert np.abs(centre).max() < 1e-4  # no mean over atoms and drawn frames
        np.testing.assert_allclose(whole.x_given[..., 0], collate(data).x[..., 0], atol=2e-5)
    assert not np.array_equal(whole.samples, model.forecast(data, 2, method=method, steps=6, seed=5).samples)


@pytest.mark.parametrize("eta", [0.0, 0.7])
@pytest.mark.parametrize("conditioning", ["forward", "interpolation", "none"])
def test_ays_ddim_is_the_official_loop(folder, conditioning, eta):
    config = interpolator_config(folder, conditioning)
    if eta:  # nothing is scaled down: that would be done before the mean of the noise is taken away, or behind it
        config["diffusion"]["model_mean_type"] = "start_x"
    network = tame_network(config)
    diffusion = build_diffusion(network, config)
    x_start, about = Task.of_config(config).split(collate(open_dataset(config["data"]["test"]).spread(3)))
    draws = [torch.randn_like(x_start) for _ in range(8)]
    ours = Sampler(diffusion, "ays_ddim", 7, eta=eta).draw(x_start.shape, about, lambda k: draws[k])
    official = OurDiffusion("linear", 25, diffusion.model_mean_type)
    its = {"h": about["h"][:, 0].long(), "f": about["h"][:, 1:], "edge_attr": about["edge_attr"][:, 0].long()}
    its |= {"edge_index": about["edge_index"], "batch": about["batch"]}
    if conditioning != "none":
        its |= {"cond_mask": about["cond_mask"].flatten() > 0, "original_frames": about["x_given"]}
    later = iter(draws[1:])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randn_like", lambda x: next(later))
        theirs = official.ddim_sample_loop(network, x_start.shape, 8, eta, draws[0], model_kwargs=its)
    # Ours has no mean, which the official one's last noise has.
    theirs = official.project_to_subspace(theirs, about["batch"])
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-4  # float32, in two orders


def test_ays_ddim_scales_down_what_runs_away(folder):
    config = interpolator_config(folder)
    network = tame_network(config)
    with torch.no_grad():
        for layer in network.t_modules:
            layer.coord_mlp[-1].weight.mul_(1e4) if hasattr(layer, "coord_mlp") else None
        for layer in network.s_modules:
            for parameter in layer.parameters():
                parameter.mul_(30)
    diffusion = build_diffusion(network, config)
    x_start, about = Task.of_config(config).split(collate(open_dataset(config["data"]["test"]).spread(2)))
    drawn = Sampler(diffusion, "ays_ddim", 5).draw(x_start.shape, about)
    assert bool(drawn.isfinite().all()) and float(drawn.pow(2).mean((1, 2)).sqrt().max()) <= 50.001


@pytest.mark.parametrize("conditioning", ["interpolation", "none", "unconditional_forward"])
def test_what_is_given(folder, conditioning):
    model = model_of(folder, interpolator_config(folder, conditioning))
    data = open_dataset(model.config["data"]["test"]).spread(2)
    about = {"method": "ddim", "steps": 4}
    if conditioning == "interpolation":
        samples = model.interpolate(data, **about)
        assert samples.cond_mask.tolist() == [True, False, False, False, True]
        with pytest.raises(ValueError, match="see interpolate"):
            model.rollout(data, 9)
    elif conditioning == "none":
        samples = model.generate(data, **about)
        assert samples.mode == "uncond" and samples.samples.shape[-1] == SPAN
        with pytest.raises(ValueError, match="see generate"):
            model.forecast(data)
    else:
        assert model.forecast(data, **about).samples.shape[-1] == SPAN - 1
        moved = model.free().to("cpu").generate(data, 2, **about)
        free = model.generate(data, 2, **about)
        assert np.array_equal(moved.samples, free.samples)
        assert free.mode == "uncond" and free.samples.shape[-1] == SPAN
        with pytest.raises(ValueError, match="is a model of conditioning 'forward'"):
            model_of(folder, interpolator_config(folder)).free()


def test_a_structure_model_makes_structures(folder):
    model = model_of(folder, structure_config(folder))
    data = open_dataset(model.config["data"]["test"])
    samples = model.generate(data, 3, method="dpmpp_2m", steps=5)
    assert samples.samples.shape == (3, sum(len(item.x) for item in data), 3, 1) and samples.num_graphs == len(data)
    assert model.num_frames == 1


def test_rollouts_go_on(folder):
    model = model_of(folder, interpolator_config(folder))
    data = open_dataset(model.config["data"]["test"]).spread(2)
    long = model.rollout(data, 11, 2, method="dpmpp_2m", steps=5, seed=3)
    assert long.samples.shape[-1] == 11 and np.isfinite(long.samples).all()
    short = model.forecast(data, 2, method="dpmpp_2m", steps=5, seed=3)
    np.testing.assert_allclose(long.samples[..., : SPAN - 1], short.samples, rtol=1e-4, atol=1e-4)
    one = model.rollout(data, 11, 2, method="dpmpp_2m", steps=5, seed=3, batch_size=1)
    np.testing.assert_allclose(long.samples, one.samples, rtol=1e-3, atol=1e-3)


def test_saved_and_moved(folder, tmp_path):
    model = model_of(folder, interpolator_config(folder))
    data = open_dataset(model.config["data"]["test"]).spread(2)
    model.save(tmp_path / "again.safetensors")
    again = geotdm_fast.load(tmp_path / "again.safetensors", device="cpu", precision="bf16").to("cpu")
    assert again.network.precision == "bf16"
    again.set_precision("fp32")
    about = {"method": "ddim", "steps": 3}
    assert np.array_equal(model.forecast(data, **about).samples, again.forecast(data, **about).samples)
    bound = model.likelihood(data)
    assert bound.shape == (2,) and bool(bound.isfinite().all())


def test_a_free_model_is_moved_and_saved(folder, tmp_path):
    config = interpolator_config(folder, "unconditional_forward")
    model = model_of(folder, config)
    data = open_dataset(model.config["data"]["test"]).spread(2)
    free = model.free().to("cpu")
    assert free.diffusion.task_mode == free.task.mode == "uncond"
    free.save(tmp_path / "free.safetensors")
    again = geotdm_fast.load(tmp_path / "free.safetensors", device="cpu")
    assert again.config == normalise_config(again.config) == config
    about = {"method": "ddim", "steps": 3}
    assert np.array_equal(again.generate(data, **about).samples, free.generate(data, **about).samples)
    assert np.array_equal(again.forecast(data, **about).samples, model.forecast(data, **about).samples)


def test_a_checkpoint_with_the_official_section_is_refused_by_name(folder, tmp_path):
    """`ays.checkpoint.save_checkpoint` writes such, and `ays.checkpoint.load_checkpoint` reads them."""
    config = interpolator_config(folder)
    network, path = tame_network(config), tmp_path / "official_form.safetensors"
    official = {"denoiser": config["denoise_model"], "diffusion": {"num_timesteps": 20, "use_kabsch_alignment": True}}
    ays_checkpoint.save_checkpoint(path, network, official)
    message = (
        r"official_form\.safetensors: .* got 'denoiser'.*; read it by geotdm_fast\.ays\.checkpoint\.load_checkpoint"
    )
    with pytest.raises(ValueError, match=message):
        geotdm_fast.load(path, device="cpu")
    again, held = ays_checkpoint.load_checkpoint(path)
    assert held == official
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in again.state_dict().items())


def test_a_key_that_a_checkpoint_lacks_is_its_default(folder):
    config = interpolator_config(folder, "none")
    del config["denoise_model"]["conditioning"]
    model = model_of(folder, config)
    assert free_share(model.config) == 0.0
    with pytest.raises(ValueError, match=r"free: model\.safetensors is a model of conditioning 'none'"):
        model.free()
    data = open_dataset(model.config["data"]["test"]).spread(1)
    assert model.generate(data, method="ddim", steps=2).samples.shape[-1] == SPAN


def test_elements_that_no_conformer_had(folder):
    model = model_of(folder, structure_config(folder))
    about = {"method": "ddim", "steps": 2}
    chloride = np.array([[[0.0, 0, 0], [1.8, 0, 0]]])
    assert model.generate(chloride, z=[6, 17], **about).samples.shape == (1, 2, 3, 1)
    assert model.generate(chloride, z=[6, 99], **about).samples.shape == (1, 2, 3, 1)
    with pytest.raises(ValueError, match="z must be atomic numbers from 0 to 99, got 118"):
        model.generate(chloride, z=[6, 118], **about)


def test_a_molecule_for_what_each_run_had_of_its_own(folder, tmp_path):
    config = interpolator_config(folder, network={"ft_dim": 12})
    for section in config["data"].values():
        section |= {"features": ["degree", "formal_charge"], "molecule": "{folder}/mol.sdf"}
    model = model_of(folder, config)
    frames = np.array([[0.0, 0, 0], [1.33, 0, 0]]) + 0.01 * np.arange(SPAN)[:, None, None]
    about = {"method": "ddim", "steps": 2}
    message = (
        r"molecule must be given, an SDF or MOL file .*\(molecule=FILE\), for model.safetensors, .*'\{folder\}/mol"
    )
    with pytest.raises(ValueError, match=message):
        model.forecast(frames, z=[6, 6], **about)
    with pytest.raises(FileNotFoundError, match=r"none\.sdf: no such file"):
        model.forecast(frames, z=[6, 6], molecule=tmp_path / "none.sdf", **about)
    z, f = torch.tensor([6, 6]), torch.ones(2, 12)
    known = AtomGraph.of(z, f, torch.tensor([[0, 1], [1, 0]]), torch.tensor([3, 3]))
    x = torch.from_numpy(frames).permute(1, 2, 0).float()
    with pytest.raises(
        TypeError, match="molecule must come with positions and z, got trajectory, whose atoms are known"
    ):
        model.forecast(Trajectory(x, *known, torch.arange(2)), molecule=tmp_path / "mol.sdf", **about)
    pytest.importorskip("rdkit.Chem")
    (tmp_path / "mol.sdf").write_text(ETHENE.format(x=1.33))
    samples = model.forecast(frames, z=[6, 6], molecule=tmp_path / "mol.sdf", **about)
    assert samples.samples.shape == (1, 2, 3, SPAN - 1)
    assert np.array_equal(samples.h[:, 0], [6, 6]) and samples.h.shape == (2, 13)


def of_training_data(folder, config, **train):
    """The model of a configuration whose checkpoint says that it was trained with other data."""
    model = model_of(folder, config)
    model.config["data"]["train"] |= train
    return model


@pytest.mark.parametrize("features, ft_dim", [(["degree", "hydrogens"], 13), (None, 42)])
def test_a_model_of_sdf_takes_no_bonds_without_their_orders(folder, tmp_path, features, ft_dim):
    config = structure_config(folder)
    config["denoise_model"]["ft_dim"] = ft_dim
    model = of_training_data(folder, config, path=["a.npz", "b.SDF"], features=features)
    x, about = np.array([[[0.0, 0, 0], [1.33, 0, 0]]]), {"z": [6, 6], "method": "ddim", "steps": 2}
    message = (
        r"molecule must be given, .*for model.safetensors, which was trained with bond orders of \['a.npz', 'b.SDF'"
    )
    with pytest.raises(ValueError, match=message):
        model.generate(x, **about)
    known = AtomGraph.of(
        torch.tensor([6, 6]), torch.ones(2, ft_dim), torch.tensor([[0, 1], [1, 0]]), torch.full((2,), 3)
    )
    item = Trajectory(torch.from_numpy(x).permute(1, 2, 0).float(), *known, torch.arange(2))
    assert model.generate(item, method="ddim", steps=2).samples.shape == (1, 2, 3, 1)
    pytest.importorskip("rdkit.Chem")
    (tmp_path / "mol.sdf").write_text(ETHENE.format(x=1.33))
    samples = model.generate(x, molecule=tmp_path / "mol.sdf", **about)
    assert samples.samples.shape == (1, 2, 3, 1) and samples.h.shape == (2, 1 + ft_dim)
    made = model._dataset(x, "generate", molecule=tmp_path / "mol.sdf", z=[6, 6])
    assert made[0].edge_attr.flatten().tolist() == [3, 3]


def test_a_model_without_bond_orders_takes_no_molecule(folder):
    model = model_of(folder, structure_config(folder))
    with pytest.raises(ValueError, match=r"molecule must be left out for model.safetensors, which was trained without"):
        model.generate(np.array([[[0.0, 0, 0], [1.33, 0, 0]]]), z=[6, 6], molecule="mol.sdf")


def test_a_section_that_is_missing_is_named(folder):
    model = model_of(folder, interpolator_config(folder, conditioning="unconditional_forward"))
    of = lambda *names: {name: model.config[name] for name in names}
    with pytest.raises(ValueError, match=r"AysModel: config must have a section 'denoise_model', got train"):
        AysModel(model.network, model.diffusion, model.task, of("train"))
    by_hand = AysModel(model.network, model.diffusion, model.task, of("denoise_model", "train", "data"), "mine")
    for name, asked in (("to", lambda: by_hand.to("cpu")), ("free", by_hand.free)):
        with pytest.raises(ValueError, match=f"{name}: the configuration of mine must have a section 'diffusion', got"):
            asked()
    for config, missing in ((of("denoise_model", "train"), "diffusion"), (of("denoise_model", "diffusion"), "train")):
        with pytest.raises(ValueError, match=f"config must have a section '{missing}', got denoise_model, "):
            build_diffusion(bare(model.network), config)


def test_what_is_drawn_for(folder):
    model = model_of(folder, interpolator_config(folder))
    about = {"method": "ddim", "steps": 3}
    dataset = open_dataset(model.config["data"]["test"])
    of_water = next(item for i, item in enumerate(dataset) if len(dataset.numbers_of(i)) == 3)
    expected = model.forecast(of_water, **about)
    moved = dataclasses.replace(of_water, x=of_water.x + 4)
    np.testing.assert_allclose(model.forecast(moved, **about).samples, expected.samples, atol=1e-4)
    frames = of_water.x.permute(2, 0, 1).numpy()
    np.testing.assert_allclose(model.forecast(frames, z=[8, 1, 1], **about).samples, expected.samples, atol=1e-4)
    with pytest.warns(UserWarning, match="a trajectory has 3 frames .* trained on windows of 5, .* at another length"):
        assert model.forecast(frames[:3], z=[8, 1, 1], **about).samples.shape[-1] == 2
    first = model.forecast(frames[:1], z=[8, 1, 1], **about)
    np.testing.assert_allclose(first.samples, expected.samples, atol=1e-4)
    assert not first.has_target
    ase = pytest.importorskip("ase")
    atoms = [ase.Atoms("OH2", frame) for frame in frames]
    np.testing.assert_allclose(model.forecast(atoms, **about).samples, expected.samples, atol=1e-4)


def test_bad_data(folder):
    model = model_of(folder, interpolator_config(folder))
    with pytest.raises(ValueError, match="told no conditions"):
        model.forecast(np.tile(WATER, (5, 1, 1)), z=[8, 1, 1], conditions={"t": 3})
    plain = Trajectory(torch.randn(3, 3, 5), torch.ones(3, 2), torch.zeros(2, 0).long(), None, torch.arange(3))
    with pytest.raises(ValueError, match="must have z and features in h"):
        model.forecast(plain)
    own = dataclasses.replace(plain, h=torch.ones(3, 14), edge_attr=torch.zeros(0, 1))
    assert model.forecast(own, method="ddim", steps=2).samples.shape == (1, 3, 3, 4)
    with pytest.raises(ValueError, match=r"ft_dim must be 4, the features of atoms in .*, got 13"):
        model.forecast(dataclasses.replace(own, h=torch.ones(3, 5)))
    with pytest.raises(ValueError, match=r"atomic numbers must be from 0 to 99, got -1"):
        model.forecast(dataclasses.replace(own, h=torch.tensor([6.0, -1, 8])[:, None].repeat(1, 14)))
    boxed = dataclasses.replace(own, cell=torch.eye(3), pbc=torch.ones(3, dtype=torch.bool))
    with pytest.raises(ValueError, match="must have no periodic box"):
        model.forecast(boxed)
    with pytest.raises(TypeError, match="takes no cell; data for it have box: no"):
        AtomNetwork(model.network)(None, None, own.h, None, own.edge_attr, None, cell=torch.eye(3))


DAMAGED = [
    ("diffusion", "beta_schedule_name", ..., "required key 'beta_schedule_name'"),
    ("diffusion", "beta_schedule_name", "lin", "name must be one of"),
    (
        "diffusion",
        "model_mean_type",
        3,
        r"diffusion\.model_mean_type must be one of epsilon, start_x, previous_x, got int 3",
    ),
    ("diffusion", "model_mean_type", "foo", r"diffusion\.model_mean_type must be one of .*got 'foo'"),
    ("diffusion", "model_mean_type", "velocity", r"diffusion\.model_mean_type must be one of .*got 'velocity'"),
    ("diffusion", "model_var_type", "learned", r"diffusion\.model_var_type must be one of fixed_small"),
    ("diffusion", "num_timesteps", "25x", r"diffusion\.num_timesteps must be a whole number, got str '25x'"),
    ("diffusion", "num_timesteps", ..., "required key 'num_timesteps'"),
    ("diffusion", "use_kabsch_alignment", "no", r"diffusion\.use_kabsch_alignment must be true or false, got str 'no'"),
    ("diffusion", "rescale_timesteps", 1, r"diffusion\.rescale_timesteps must be true or false, got int 1"),
    ("diffusion", "kind", "flow", "config section diffusion: unknown key 'kind'"),
    ("diffusion", "modee", "cond", "config section diffusion: unknown key 'modee'; did you mean 'mode'"),
    ("diffusion", "mode", "x", r"diffusion\.mode must be one of cond, uncond; got 'x'"),
    ("diffusion", None, [3], "config section diffusion must be a section of keys and values, got list"),
    ("train", None, "x", "config section train must be a section of keys and values, got str 'x'"),
    ("train", "cond_mask", ..., r"train\.cond_mask must be frame ranges .*got nothing"),
    ("train", "cond_mask", None, r"train\.cond_mask must be frame ranges .*got nothing"),
]


@pytest.mark.parametrize("section, key, value, message", DAMAGED)
def test_damaged_configurations_of_checkpoints(folder, tmp_path, section, key, value, message):
    config = interpolator_config(folder)
    network = tame_network(config)
    if key is None:
        config[section] = value
    elif value is ...:
        del config[section][key]
    else:
        config[section][key] = value
    save_checkpoint(tmp_path / "damaged.safetensors", network, config)
    with pytest.raises(ValueError, match=message):
        geotdm_fast.load(tmp_path / "damaged.safetensors", device="cpu")
    with pytest.raises(ValueError, match=message):
        build_diffusion(network, config)


BAD = [
    (
        {"method": "ays_ddim", "spacing": "log_snr"},
        "spacing must be 'uniform' for 'ays_ddim', which has its own, got 'log_snr'",
    ),
    ({"method": "ays_ddim", "steps": 25}, r"sampler: steps must be in 1\.\.24 for 'ays_ddim', got 25"),
    ({"method": "ays_ddims"}, "did you mean 'ays_ddim'"),
    ({"method": "ddpm", "eta": 0.5}, "eta is of the methods 'ddim' and 'ays_ddim' alone"),
]


@pytest.mark.parametrize("options, message", BAD)
def test_bad_methods(folder, options, message):
    with pytest.raises(ValueError, match=message):
        model_of(folder, interpolator_config(folder)).sampler(**options)


def test_ays_ddim_is_of_models_without_a_reference_frame(folder):
    conditional = geotdm_fast.load("nbody_charged_small", device="cpu")
    with pytest.raises(TypeError, match=r"network must be of geotdm_fast\.ays, got EGTN"):
        AysModel.load("nbody_charged_small", device="cpu")
    with pytest.raises(ValueError, match="'ays_ddim' is of mode 'uncond', got a model of mode 'cond'"):
        conditional.sampler("ays_ddim")
    sampler = model_of(folder, interpolator_config(folder)).sampler("ays_ddim")
    assert sampler.num_steps == 24
    with pytest.raises(ValueError, match="method must end at the data"):
        sampler.refine(torch.zeros(1, 3, 2), 3, {})


def test_official_weights_need_a_configuration(folder, tmp_path):
    config = interpolator_config(folder)
    state = {f"denoiser.{name}": value for name, value in tame_network(config).state_dict().items()}
    torch.save({"state_dict": state, "epoch": 1}, tmp_path / "official.ckpt")
    model = geotdm_fast.load(tmp_path / "official.ckpt", config=config, device="cpu")
    assert isinstance(model, AysModel)
    with pytest.raises(ValueError, match=r"official\.ckpt"):
        geotdm_fast.load(tmp_path / "official.ckpt", device="cpu")
    geotdm = geotdm_fast.load("nbody_charged_small", device="cpu").config
    with pytest.raises(ValueError, match="this is a checkpoint of Align Your Structures"):
        geotdm_fast.load(tmp_path / "official.ckpt", config=geotdm, device="cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_atoms_are_kept_no_longer_than_their_batch(dtype):
    """What is known of h, of the types of edges and of the mask goes with the tensor."""
    for cache, shape in ((as_geotdm._atoms, (4, 3)), (as_geotdm._types, (5, 1)), (as_geotdm._flags, (1, 1, 3))):
        gc.collect()
        before, alive = len(cache._known), []
        for _ in range(3):
            tensor = torch.ones(shape, dtype=dtype)
            assert cache(tensor) is cache(tensor)
            alive.append(weakref.ref(tensor))
        assert len(cache._known) >= before + 1
        del tensor
        gc.collect()
        assert len(cache._known) == before and all(ref() is None for ref in alive)
