"""The stress test of equivariance on Align Your Structures: sound models pass, each kind of fault is caught."""

import json

import pytest
import torch
from faults import anchored, faulty, mirrored, numbered, stretched, timed
from tiny_ays import SIZES, SPAN, interpolator_config, structure_config
from tolerances import relative_error

from geotdm_fast.ays.config import NETWORKS
from geotdm_fast.ays.given import AUTOREGRESSIVE, COUNTS, SIMPLE
from geotdm_fast.ays.vectors import GVP
from geotdm_fast.checkpoint import save_checkpoint
from geotdm_fast.cli import main
from geotdm_fast.data.chemistry.atom_graph import is_atom_graph, parts
from geotdm_fast.diffusion import Sampler
from geotdm_fast.families import build_diffusion, build_network
from geotdm_fast.scores.equivariance import QUANTITIES, ROUNDOFF, Deviation, _Subject, check_equivariance
from geotdm_fast.scores.motions import MOTIONS
from geotdm_fast.scores.random_batches import random_batch
from geotdm_fast.task import Task

ALL = set(MOTIONS) - {"frames"}
HEADS = {"use_mha": True, "num_heads": 2}


def config_of(folder, network: str, conditioning: str = "none", **more) -> dict:
    """A configuration of a tiny model that predicts x_0, of two layers: the first and the last one are special."""
    if network == "basic_es":
        config = structure_config(folder)
        config["denoise_model"] |= more
    else:
        config = interpolator_config(folder, conditioning, {"type": network} | more)
    config["denoise_model"]["n_layers"] = 2
    config["diffusion"]["model_mean_type"] = "start_x"
    return config


def lively_network(config: dict) -> torch.nn.Module:
    """A network of random weights whose displacements are a tenth to a half of the positions."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build_network(config)
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
                if name.endswith("gvp2.Wu.vector_proj.weight"):  # displacements of a structure layer
                    parameter.mul_(300)
    return network.eval()


def found(config: dict, network=None, task: Task | None = None, **options) -> list[Deviation]:
    network = lively_network(config) if network is None else network
    task = Task.of_config(config) if task is None else task
    return list(check_equivariance(build_diffusion(network, config), task, num_steps=3, **options))


def motions_by_quantity(deviations: list[Deviation]) -> dict[str, set[str]]:
    return {quantity: {d.motion for d in deviations if d.quantity == quantity} for quantity in QUANTITIES}


SCALED = {"scale": 0.5, "pre_norm": True}
CASES = [("basic_es", "none", {}), ("basic_es", "none", SCALED)]
CASES += [("interpolator", conditioning, {}) for conditioning in COUNTS]
CASES += [("interpolator", "forward", more) for more in (HEADS, {"residual": True}, {"use_kabsch": True})]
CASES += [("interpolator_simple", conditioning, {}) for conditioning in SIMPLE]
CASES += [("stack", conditioning, {}) for conditioning in COUNTS]
CASES += [("egtn", conditioning, {}) for conditioning in COUNTS | AUTOREGRESSIVE]
CASES += [("egtn", "forward", SCALED), ("interpolator", "forward", {"scale": 0.5})]


@pytest.mark.parametrize(("network", "conditioning", "more"), CASES)
def test_sound_models_of_every_type_pass(tmp_path, network, conditioning, more):
    deviations = found(config_of(tmp_path, network, conditioning, **more), precisions=("float64", "fp32"))
    assert all(deviation.holds for deviation in deviations), [d for d in deviations if not d.holds]
    expected = ALL | {"frames"} if network == "basic_es" else ALL
    tied = expected - {"translation"}
    of_network = tied if "scale" in more and network in ("basic_es", "egtn") else expected
    of_diffusion = expected if conditioning == "none" else tied
    assert motions_by_quantity(deviations) == {"network": of_network, "loss": of_diffusion, "chain": of_diffusion}
    # Not by computing in float64 throughout, nor of numbers so small that nothing is compared.
    largest = {name: max(d.value for d in deviations if d.precision == name) for name in ("float64", "fp32")}
    assert 1e-17 < largest["float64"] < 1e-12 and 1e-8 < largest["fp32"] < 1e-4


def test_the_types_are_all_that_there_are():
    assert {case[0] for case in CASES} == set(NETWORKS)


def test_every_precision_passes_and_is_what_it_is_called(tmp_path):
    config = config_of(tmp_path, "interpolator", "forward")
    deviations = found(config)
    assert len(deviations) == len(ROUNDOFF) * (5 + 4 + 4)
    assert all(deviation.holds for deviation in deviations), [d for d in deviations if not d.holds]
    network, task = lively_network(config), Task.of_config(config)
    sampler = Sampler(build_diffusion(network, config), num_steps=3)
    subject = _Subject(sampler, task, random_batch("molecule", network, SPAN, 3), 0)
    with torch.no_grad():
        results = {name: subject.quantities(None, name)["network"][1] for name in ROUNDOFF}
    for name in ("fp32", "tf32", "bf16"):
        assert 0.01 * ROUNDOFF[name] < relative_error(results[name], results["float64"]) < 16 * ROUNDOFF[name]


def test_a_model_given_frame_0_and_nothing_passes_either_way(tmp_path):
    config = config_of(tmp_path, "interpolator", "unconditional_forward")
    deviations = found(config, task=Task(num_frames=SPAN), precisions=("float64",))
    assert all(deviation.holds for deviation in deviations)
    assert motions_by_quantity(deviations) == dict.fromkeys(QUANTITIES, ALL)


FAULTS = [
    ("interpolator", "forward", stretched, {"rotation", "reflection"}),
    ("interpolator", "interpolation", mirrored, {"reflection"}),
    ("interpolator", "none", numbered, {"nodes", "graphs"}),
    ("interpolator", "forward", anchored, {"translation"}),
    ("basic_es", "none", stretched, {"rotation", "reflection"}),
    ("basic_es", "none", numbered, {"nodes", "graphs"}),
    ("basic_es", "none", anchored, {"translation"}),
    ("basic_es", "none", timed, {"frames"}),
]


@pytest.mark.parametrize(("network", "conditioning", "fault", "motions"), FAULTS)
def test_every_fault_is_caught_where_it_is(tmp_path, network, conditioning, fault, motions):
    config = config_of(tmp_path, network, conditioning)
    sound = lively_network(config)
    broken = faulty(NETWORKS[network], fault)(**config["denoise_model"]).eval()
    broken.load_state_dict(sound.state_dict())
    deviations = found(config, broken, precisions=("float64", "fp32"))
    for precision in ("float64", "fp32"):
        caught = {d.motion for d in deviations if not d.holds and d.precision == precision and d.quantity == "network"}
        assert caught == motions
        # What is computed of positions about the origin cannot tell how far from it they were.
        late = {d.quantity for d in deviations if not d.holds and d.precision == precision} - {"network"}
        assert late == (set() if fault is anchored else {"loss", "chain"})


def test_a_fault_within_a_layer_is_caught(tmp_path, monkeypatch):
    """Gated feed-forwards that take the sum of a vector's components for its length."""

    def forward(self, features, vectors):
        inner = self.Wh(vectors)
        out = self.to_feats_out(torch.cat([features, inner.sum(dim=-1)], dim=-1))
        return out, torch.sigmoid(self.scalar_to_vector_gates(out)).unsqueeze(-1) * self.Wu(inner)

    config = config_of(tmp_path, "interpolator", "forward")
    monkeypatch.setattr(GVP, "forward", forward)
    caught = {d.motion for d in found(config, precisions=("float64",)) if not d.holds}
    assert caught == {"rotation", "reflection"}


def test_data_are_atoms_in_centred_frames(tmp_path):
    network = lively_network(config_of(tmp_path, "interpolator", "forward"))
    batch = random_batch("molecule", network, SPAN, 3)
    assert batch.x.shape == (14, 3, SPAN) and batch.x.dtype == torch.float64
    assert float(batch.x[:5].mean(dim=0).abs().max()) < 1e-15
    assert is_atom_graph(batch.h, batch.edge_attr, None, SIZES["ft_dim"])
    z, f, c = parts(batch.h, batch.edge_attr)
    assert set(z.tolist()) <= {1, 6, 7, 8} and 0 < float(f.mean()) < 0.5
    # Chains of 4, 3 and 4 atoms, each with an atom without a bond behind it: single bonds, then two and three apart.
    assert torch.bincount(c).nonzero().flatten().tolist() == [2, 23, 24]
    assert torch.bincount(c)[[2, 23, 24]].tolist() == [6 + 4 + 6, 4 + 2 + 4, 2 + 2]
    assert not bool(torch.isin(batch.edge_index, torch.tensor([4, 8, 13])).any())


def test_refusals(tmp_path):
    config = config_of(tmp_path, "basic_es")
    with pytest.raises(ValueError, match="check_equivariance: kinds must be one of molecule; got 'pedestrian'"):
        found(config, kinds=("molecule", "pedestrian"))
    with pytest.raises(ValueError, match="check_equivariance: num_frames must be at least 3, got 2"):
        found(config, num_frames=2)
    diffusion = build_diffusion(lively_network(config), config)
    diffusion.denoise_network = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match="must be an EGTN, or one of Align Your Structures, got Linear"):
        next(check_equivariance(diffusion, Task.of_config(config)))


def test_the_model_is_left_as_it_was(tmp_path):
    config = config_of(tmp_path, "stack", "interpolation")
    network = lively_network(config).train()
    network.set_precision("bf16")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    found(config, network, precisions=("float64", "fp32"))
    assert network.training and network.precision == "bf16"
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_command(tmp_path, capsys):
    config = config_of(tmp_path, "interpolator", "unconditional_forward")
    path, out = tmp_path / "both.safetensors", tmp_path / "d.json"
    save_checkpoint(path, lively_network(config), config)
    options = ["--steps", "2", "--precision", "fp32", "--quiet", "--device", "cpu", "--json", str(out)]
    assert main(["check-equivariance", str(path), *options]) == 0
    assert "equivariant: all 13 deviations are within their bounds" in capsys.readouterr().out
    assert main(["check-equivariance", str(path), "--free", *options]) == 0
    assert "equivariant: all 15 deviations are within their bounds" in capsys.readouterr().out
    written = json.loads(out.read_text())
    assert {entry["kind"] for entry in written} == {"molecule"} and len(written) == 15


def test_command_fails_for_a_model_that_does(tmp_path, capsys, monkeypatch):
    config = config_of(tmp_path, "basic_es")
    save_checkpoint(tmp_path / "bad.safetensors", lively_network(config), config)
    monkeypatch.setitem(NETWORKS, "basic_es", faulty(NETWORKS["basic_es"], timed))
    options = ["--steps", "2", "--precision", "float64", "--quiet", "--device", "cpu"]
    assert main(["check-equivariance", str(tmp_path / "bad.safetensors"), *options]) == 1
    shown = capsys.readouterr().out
    assert "NOT equivariant: 3 of 18 deviations exceed their bounds" in shown


@pytest.mark.parametrize("name", ["ays_ethanol_small"])
def test_the_model_of_the_package_passes(name, capsys):
    assert main(["check-equivariance", name, "--steps", "3", "--quiet", "--device", "cpu"]) == 0
    assert "equivariant: all 52 deviations are within their bounds" in capsys.readouterr().out
