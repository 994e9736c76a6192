"""The stress test of equivariance: sound models pass in every precision, and each kind of fault is caught."""

import io
import json

import pytest
import torch
from faults import anchored, faulty, mirrored, numbered, shifted
from tiny_models import charged_config, ethanol_config, tame_network, write_ethanol
from tolerances import assert_same, relative_error
from tqdm import tqdm

from geotdm_fast.checkpoint import build_diffusion, save_checkpoint
from geotdm_fast.cli import main
from geotdm_fast.diffusion import Flow, Sampler
from geotdm_fast.nn import EGTN
from geotdm_fast.scores import equivariance
from geotdm_fast.scores.equivariance import (
    NUDGES,
    QUANTITIES,
    ROUNDOFF,
    ROUNDOFFS,
    Deviation,
    _Subject,
    check_equivariance,
    largest,
)
from geotdm_fast.scores.motions import MOTIONS, motion
from geotdm_fast.scores.random_batches import KINDS, random_batch
from geotdm_fast.task import Task


def tiny(**changes):
    config = charged_config()
    config["diffusion"] |= changes
    return config


def found(config: dict, network=None, **options) -> list[Deviation]:
    network = tame_network(config) if network is None else network
    return list(check_equivariance(build_diffusion(network, config), Task.of_config(config), num_steps=3, **options))


class Wrapper(torch.nn.Module):
    """What DistributedDataParallel does."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)


def test_a_wrapped_network_is_measured_as_the_bare_one():
    config = tiny()
    chosen = {"precisions": ("fp32",), "kinds": ("nbody",)}
    assert found(config, Wrapper(tame_network(config)), **chosen) == found(config, **chosen)


def broken(fault, config: dict):
    network = tame_network(config)
    other = faulty(EGTN, fault)(**config["denoise_model"]).eval()
    other.load_state_dict(network.state_dict())
    return other


def test_a_sound_model_passes_in_every_precision():
    deviations = found(tiny())
    # All motions but a shift in time.
    assert len(deviations) == len(KINDS) * (len(MOTIONS) - 1) * len(QUANTITIES) * len(ROUNDOFF)
    assert all(deviation.holds for deviation in deviations), [d for d in deviations if not d.holds]
    # Not by computing in float64 throughout.
    rounds = {name: max(d.value for d in deviations if d.precision == name) for name in ("float64", "fp32")}
    assert rounds["float64"] < 1e-14 and 1e-8 < rounds["fp32"] < 1e-5


def test_the_precisions_are_what_they_are_called():
    config = tiny()
    network = tame_network(config)
    diffusion = build_diffusion(network, config)
    subject = _Subject(
        Sampler(diffusion, num_steps=3), Task.of_config(config), random_batch("nbody", network, 12, 3), 0
    )
    with torch.no_grad():
        (_, exact), (_, *others) = (subject.quantities(None, "float64")["network"], ROUNDOFF)
        errors = {name: relative_error(subject.quantities(None, name)["network"][1], exact) for name in others}
    for name, error in errors.items():
        assert 0.01 * ROUNDOFF[name] < error < 16 * ROUNDOFF[name]


@pytest.mark.parametrize("prior", ["com", "com_last", "last_frame", "none"])
def test_priors(prior):
    config = tiny(prior=prior)
    deviations = found(config, precisions=("float64",), kinds=("nbody",))
    assert all(deviation.holds for deviation in deviations)
    assert ("translation" in {d.motion for d in deviations}) is (prior != "none")


@pytest.mark.parametrize(("prior", "num_motions"), [("learned", 5), ("none", 4), ("walk", 5)])
def test_the_bar_knows_from_the_start_how_long_it_takes(prior, num_motions, monkeypatch):
    """It moves before the first deviation is known, by every step of a chain, and ends where it said that it would."""
    bars = []

    def bar(**options):
        bars.append(tqdm(**options | {"file": io.StringIO()}))
        return bars[-1]

    monkeypatch.setattr(equivariance, "progress_bar", bar)
    config = tiny() if prior == "walk" else tiny(prior=prior)
    network = tame_network(config)
    diffusion = Flow(network, 20, "cpu", prior=prior) if prior == "walk" else build_diffusion(network, config)
    options = {"precisions": ("float64", "fp32"), "kinds": ("nbody", "molecule"), "num_steps": 3}
    measured = check_equivariance(diffusion, Task.of_config(config), **options, progress=True)
    next(measured)
    (shown,) = bars
    assert shown.total == 2 * 3 * (1 + NUDGES + 2 * (1 + num_motions))
    assert shown.n == 3 * (1 + NUDGES + 2)  # the condition, and the first motion
    assert len(list(measured)) and shown.n == shown.total and shown.disable


def test_unconditional_models(tmp_path):
    write_ethanol(tmp_path / "ethanol.npz")
    deviations = found(ethanol_config(tmp_path / "ethanol.npz"), precisions=("float64", "fp32"))
    assert all(deviation.holds for deviation in deviations), [d for d in deviations if not d.holds]


@pytest.mark.parametrize(
    ("fault", "motions"),
    [
        (shifted, {"rotation", "reflection"}),
        (mirrored, {"reflection"}),
        (numbered, {"nodes", "graphs"}),
        (anchored, {"translation"}),
    ],
)
def test_every_fault_is_caught_where_it_is(fault, motions):
    config = tiny()
    deviations = found(config, broken(fault, config), precisions=("float64", "fp32"), kinds=("nbody",))
    for precision in ("float64", "fp32"):
        caught = {d.motion for d in deviations if not d.holds and d.precision == precision and d.quantity == "network"}
        assert caught == motions
        assert any(not d.holds for d in deviations if d.quantity == "chain" and d.precision == precision)


def test_the_model_is_left_as_it_was():
    config = tiny()
    network = tame_network(config).train()
    network.set_precision("tf32")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    found(config, network, precisions=("float64", "bf16"), kinds=("pedestrian",))
    assert network.training and network.precision == "tf32"
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
def test_the_motions_are_what_they_say(kind):
    config = tiny()
    batch = random_batch(kind, tame_network(config), 12, 3)
    assert batch.x.shape[1:] == (2 if kind == "pedestrian" else 3, 12)
    assert batch.h.shape[1] == 1 and batch.edge_attr.shape[1] == 1
    for name in MOTIONS:
        change = motion(name, batch)
        determinant = torch.linalg.det(change.q)
        assert_same(determinant, -1.0 if name == "reflection" else 1.0, 1e-14)
        moved = change(batch)
        row, col = batch.edge_index[:, change.edge_order]
        before, after = batch.x[row] - batch.x[col], moved.x[moved.edge_index[0]] - moved.x[moved.edge_index[1]]
        turned = torch.einsum("de,net->ndt", change.q, before)
        assert_same(after, turned.roll(1, dims=2) if name == "frames" else turned)
        assert torch.equal(moved.batch[moved.edge_index[0]], moved.batch[moved.edge_index[1]])
        if name == "graphs":
            sizes = lambda b: torch.bincount(b.batch).tolist()
            assert sizes(moved) == sizes(batch)[1:] + sizes(batch)[:1]


def test_largest_is_beside_the_bound():
    one = Deviation("nbody", "loss", "nodes", "fp32", 3.0, 10.0)
    two = Deviation("molecule", "loss", "nodes", "fp32", 2.0, 4.0)
    other = Deviation("molecule", "network", "nodes", "float64", 2.0, 4.0)
    assert largest([one, two, other]) == [other, two]
    assert two.holds and not two._replace(value=5.0).holds and not two._replace(value=float("inf")).holds
    assert not two._replace(value=float("nan")).holds
    assert not two._replace(value=float("inf"), bound=float("inf")).holds, "a model that goes to infinity is not sound"


def test_command(tmp_path, capsys):
    config = tiny()
    save_checkpoint(tmp_path / "good.safetensors", tame_network(config), config)
    options = ["--steps", "2", "--kind", "nbody", "--precision", "fp32", "--quiet", "--device", "cpu"]
    options += ["--json", str(tmp_path / "d.json")]
    code = main(["check-equivariance", str(tmp_path / "good.safetensors"), *options])
    shown = capsys.readouterr().out
    assert code == 0 and "equivariant: all 15 deviations are within their bounds" in shown
    written = json.loads((tmp_path / "d.json").read_text())
    assert main(["check-equivariance", str(tmp_path / "good.safetensors"), *options]) == 0
    assert "equivariance" not in capsys.readouterr().err
    options.remove("--quiet")
    assert main(["check-equivariance", str(tmp_path / "good.safetensors"), *options]) == 0
    assert "equivariance: 100%" in capsys.readouterr().err
    assert len(written) == 15 and all(entry["holds"] for entry in written)
    assert {entry["quantity"] for entry in written} == set(QUANTITIES)


def test_command_fails_for_a_model_that_does(tmp_path, capsys, monkeypatch):
    config = tiny()
    save_checkpoint(tmp_path / "bad.safetensors", tame_network(config), config)
    monkeypatch.setattr("geotdm_fast.checkpoint.EGTN", faulty(EGTN, shifted))
    options = ["--steps", "2", "--kind", "nbody", "--precision", "float64", "--quiet", "--device", "cpu"]
    assert main(["check-equivariance", str(tmp_path / "bad.safetensors"), *options]) == 1
    shown = capsys.readouterr().out
    assert "NOT equivariant" in shown and "EXCEEDED" in shown


def test_wrong_names(tmp_path, capsys):
    config = tiny()
    save_checkpoint(tmp_path / "good.safetensors", tame_network(config), config)
    assert main(["check-equivariance", str(tmp_path / "good.safetensors"), "--precision", "fp16", "--quiet"]) == 2
    assert "precisions must be one of float64, fp32, tf32, bf16; got 'fp16'" in capsys.readouterr().err


def test_the_help_states_the_bound():
    from geotdm_fast.cli.check_equivariance import DESCRIPTION

    assert f"{ROUNDOFFS} roundoffs" in DESCRIPTION


@pytest.mark.parametrize("graph", [{"radius": 2.0, "of": "current"}, {"radius": 2.0, "of": "current", "bonds": True}])
def test_a_graph_by_distance(graph):
    config = tiny()
    config["denoise_model"] |= {"graph": graph, "cutoff": 2.0, "edge_dim": 2 if graph.get("bonds") else 0}
    deviations = found(config, precisions=("float64",), kinds=("nbody", "molecule"), num_graphs=2)
    assert deviations and all(deviation.holds for deviation in deviations)


@pytest.mark.parametrize(
    ("num_frames", "error", "message"),
    [
        (0, ValueError, "check_equivariance: num_frames must be at least 1, got 0"),
        (-3, ValueError, "check_equivariance: num_frames must be at least 1, got -3"),
        (2.5, TypeError, r"check_equivariance: num_frames must be a whole number, got 2\.5"),
    ],
)
def test_frames_that_cannot_be(num_frames, error, message):
    with pytest.raises(error, match=message):
        found(tiny(), num_frames=num_frames)
