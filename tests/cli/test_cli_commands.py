"""Every command on tiny input, through `main`."""

import json
import subprocess
import sys

import numpy as np
import pytest
import yaml
from PIL import Image
from tiny_models import charged_config, ethanol_config, pedestrian_config, write_checkpoint, write_ethanol

from geotdm_fast.checkpoint import load_checkpoint, save_checkpoint
from geotdm_fast.cli import main, requests
from geotdm_fast.config.files import normalise_config
from geotdm_fast.data import open_dataset
from geotdm_fast.samples.npz import read_samples


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="module")
def charged(folder):
    return write_checkpoint(folder / "charged.safetensors", charged_config())


@pytest.fixture(scope="module")
def ethanol(folder):
    write_ethanol(folder / "ethanol.npz")
    return write_checkpoint(folder / "ethanol.safetensors", ethanol_config(folder / "ethanol.npz"))


@pytest.fixture(scope="module")
def samples(folder, charged):
    """A file of samples that the tests of later commands read."""
    path = str(folder / "samples.npz")
    assert main(["sample", charged, "--num-samples", "2", "--out", path, "--quiet"]) == 0
    return path


@pytest.mark.parametrize("kind", ["charged", "springs", "gravity"])
def test_simulate_writes_what_the_data_set_of_that_name_holds(tmp_path, capsys, kind):
    path = tmp_path / "x.npz"
    options = ["--num-systems", "3", "--num-frames", "7", "--split", "val", "--seed", "5", "--quiet"]
    assert main(["simulate", kind, "--out", str(path), *options]) == 0
    assert f"3 {kind} systems" in capsys.readouterr().out
    section = {"kind": "nbody", "system": kind, "split": "val", "seed": 5, "num_systems": 3, "num_frames": 7}
    simulated = open_dataset(section, progress=False)
    read = open_dataset({"kind": "npz", "path": str(path)}, progress=False)
    assert len(read) == 3
    for a, b in zip(simulated, read, strict=True):
        for name in ("x", "h", "edge_index", "edge_attr"):
            assert np.array_equal(getattr(a, name), getattr(b, name)), name
    with np.load(path) as file:
        n = 10 if kind == "gravity" else 5
        assert file["v"].shape == (3, 7, n, 3)
        assert file["t"][0] == pytest.approx(0.0 if kind == "gravity" else 0.1)
        assert {"charged": "charges", "springs": "springs", "gravity": "h"}[kind] in file.files
        # Velocities are those of the positions: central differences agree to the second order.
        moved = (file["x"][:, 2:] - file["x"][:, :-2]) / 0.2
        assert np.median(np.abs(moved - file["v"][:, 1:-1])) < 0.05


def test_train_then_sample(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(charged_config(output_base_path=str(tmp_path / "runs"))))
    assert main(["train", str(tmp_path / "config.yaml"), "--quiet", "--device", "cpu"]) == 0
    run = tmp_path / "runs" / "tiny"
    assert main(["sample", str(run / "last.safetensors"), "--out", str(tmp_path / "s.npz"), "--quiet"]) == 0
    assert main(["plot", str(run / "log.jsonl"), "--out", str(tmp_path / "loss.png")]) == 0
    with Image.open(tmp_path / "loss.png") as picture:
        assert picture.size[0] == 1200
    assert read_samples(tmp_path / "s.npz").samples.shape == (1, 30, 3, 8)


def test_sample_is_reproducible(folder, charged, samples, tmp_path, capsys):
    first = read_samples(samples)
    assert first.samples.shape == (2, 30, 3, 8) and first.x_given.shape == (30, 3, 4)
    assert (first.name, first.mode, first.seed, first.checkpoint) == (
        "N-body charged",
        "cond",
        0,
        "charged.safetensors",
    )
    again = str(tmp_path / "again.npz")
    assert main(["sample", charged, "--num-samples", "2", "--out", again, "--quiet"]) == 0
    assert np.array_equal(first.samples, read_samples(again).samples)
    assert "2 samples of 6 graphs, 8 frames each" in capsys.readouterr().out
    assert main(["sample", charged, "--num-samples", "2", "--seed", "1", "--out", again, "--quiet"]) == 0
    assert not np.array_equal(first.samples, read_samples(again).samples)


def test_sample_other_data(charged, tmp_path):
    out = tmp_path / "s.npz"
    assert (
        main(["simulate", "charged", "--num-systems", "4", "--num-frames", "12", "--out", str(tmp_path / "x.npz")]) == 0
    )
    own = ["--set", "data.kind=npz", "--set", f"data.path={tmp_path / 'x.npz'}", "--num-graphs", "2"]
    assert main(["sample", charged, *own, "--out", str(out), "--quiet"]) == 0
    with np.load(tmp_path / "x.npz") as file:
        expected = np.concatenate([file["x"][0], file["x"][2]], axis=1)  # evenly spaced: systems 0 and 2
    assert np.allclose(read_samples(out).truth(), expected.transpose(1, 2, 0))
    assert main(["sample", charged, "--set", "data.num_systems=2", "--out", str(out), "--quiet"]) == 0
    assert read_samples(out).num_graphs == 2
    section = {"kind": "nbody", "system": "charged", "split": "val", "num_systems": 3, "num_frames": 12}
    (tmp_path / "other.yaml").write_text(yaml.safe_dump({"data": {"val": section}}))
    other = ["--data-config", str(tmp_path / "other.yaml"), "--split", "val"]
    assert main(["sample", charged, *other, "--out", str(out), "--quiet"]) == 0
    assert read_samples(out).num_graphs == 3


def test_sampling_file_with_one_data_section(charged, tmp_path):
    """The official sampling files have no train, val and test under `data`."""
    section = {
        "name": "nbody_test",
        "suffix": "test_charged5_initvel1",
        "span": 12,
        "force_length": 2,
        "return_index": True,
    }
    (tmp_path / "sampling.yaml").write_text(yaml.safe_dump({"data": section, "eval": {}}))
    out = tmp_path / "s.npz"
    assert (
        main(["sample", charged, "--data-config", str(tmp_path / "sampling.yaml"), "--out", str(out), "--quiet"]) == 0
    )
    assert read_samples(out).num_graphs == 2


def test_precision_and_chunks(charged, samples, tmp_path):
    options = ["--num-samples", "2", "--out", str(tmp_path / "s.npz"), "--quiet"]
    full = read_samples(samples).samples
    assert main(["sample", charged, *options, "--precision", "bf16"]) == 0
    rounded = read_samples(tmp_path / "s.npz").samples
    assert 0 < np.abs(rounded - full).max() < 0.5 * np.abs(full).max()
    assert main(["sample", charged, *options, "--batch-size", "5"]) == 0
    chunked = read_samples(tmp_path / "s.npz").samples
    assert np.isfinite(chunked).all() and np.abs(chunked - full).max() < 1e-3 * np.abs(full).max()


def test_method_and_steps(charged, samples, tmp_path, capsys):
    options = [charged, "--num-samples", "1", "--out", str(tmp_path / "s.npz")]
    fewer = ["--method", "dpmpp_2m", "--steps", "5", "--spacing", "log_snr"]
    assert main(["sample", *options, *fewer]) == 0
    assert "6/6" in capsys.readouterr().err
    few = read_samples(tmp_path / "s.npz").samples
    assert np.isfinite(few).all() and not np.array_equal(few, read_samples(samples).samples[:1])
    assert main(["sample", *options, "--method", "dpm"]) != 0
    assert "method must be one of ddpm, ddim, dpmpp_2m, dpmpp_2m_sde, ays_ddim; got 'dpm'" in capsys.readouterr().err


def test_what_is_not_asked_for_is_as_the_checkpoint_recommends(charged, tmp_path, capsys):
    config = normalise_config(charged_config() | {"sampling": {"method": "dpmpp_2m", "steps": 5, "spacing": "log_snr"}})
    recommending = write_checkpoint(tmp_path / "recommending.safetensors", config)

    def drawn(checkpoint: str, *words: str):
        out = str(tmp_path / "s.npz")
        assert main(["sample", checkpoint, "--num-graphs", "2", "--out", out, "--quiet", *words]) == 0
        return read_samples(out)

    fewer = ["--method", "dpmpp_2m", "--steps", "5", "--spacing", "log_snr"]
    assert np.array_equal(drawn(recommending).samples, drawn(charged, *fewer).samples)
    assert np.array_equal(drawn(recommending, "--method", "ddpm").samples, drawn(charged).samples)
    about = drawn(recommending, "--steps", "20")
    assert (about.method, about.num_steps) == ("dpmpp_2m", 20)
    capsys.readouterr()
    of_draws = ["--num-samples", "2", "--num-graphs", "2", "--scores", "ade", "--quiet"]
    assert main(["evaluate", recommending, *of_draws]) == 0
    scores = capsys.readouterr().out
    assert main(["evaluate", recommending, *of_draws, *fewer]) == 0
    assert capsys.readouterr().out == scores
    assert main(["evaluate", recommending, *of_draws, "--method", "ddpm"]) == 0
    assert capsys.readouterr().out != scores


def test_official_checkpoint(charged, tmp_path):
    """A state dict with DistributedDataParallel's prefix, and its configuration, draw the same as our file."""
    import torch

    from geotdm_fast.checkpoint import load_checkpoint

    network, config = load_checkpoint(charged)
    torch.save({f"module.{name}": value for name, value in network.state_dict().items()}, tmp_path / "ckpt_best.pt")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    official = [str(tmp_path / "ckpt_best.pt"), "--config", str(tmp_path / "config.yaml")]
    for command, out in ((official, "a.npz"), ([charged], "b.npz")):
        assert main(["sample", *command, "--out", str(tmp_path / out), "--quiet"]) == 0
    a, b = (read_samples(tmp_path / name) for name in ("a.npz", "b.npz"))
    assert np.array_equal(a.samples, b.samples)


def test_molecules_as_xyz(ethanol, tmp_path):
    ase_io = pytest.importorskip("ase.io")
    out = ["--out", str(tmp_path / "s.npz"), "--xyz", str(tmp_path / "s.xyz")]
    assert main(["sample", ethanol, "--num-graphs", "2", *out, "--quiet"]) == 0
    samples = read_samples(tmp_path / "s.npz")
    frames = ase_io.read(tmp_path / "s.xyz", index=":")
    assert len(frames) == 2 * 20
    assert frames[0].get_chemical_formula() == "C2H6O"
    assert np.allclose(frames[25].positions, samples.samples[0, 9:, :, 5], atol=1e-6)


def test_evaluate_samples_and_checkpoint_agree(charged, samples, tmp_path, capsys):
    assert main(["evaluate", samples, "--json", str(tmp_path / "a.json"), "--quiet"]) == 0
    table = capsys.readouterr().out
    assert "model, mean of 2" in table and "standing still" in table
    scored = ["evaluate", charged, "--num-samples", "2", "--json", str(tmp_path / "b.json"), "--quiet"]
    assert main(scored) == 0
    assert "nats per graph" in capsys.readouterr().out
    a, b = (json.loads((tmp_path / name).read_text()) for name in ("a.json", "b.json"))
    assert "nll" not in a and np.isfinite(b["nll"]["mean"])
    assert a["forecast"] == b["forecast"] and a["baselines"] == b["baselines"]


def test_evaluate_leaves_the_likelihood_of_a_flow_out_and_says_so(tmp_path, capsys, monkeypatch):
    config = charged_config()
    config["diffusion"] = {"kind": "flow", "num_timesteps": 25, "mode": "cond", "prior": "walk"}
    flow = write_checkpoint(tmp_path / "flow.safetensors", normalise_config(config))
    about = ["--num-samples", "2", "--steps", "4", "--quiet"]
    assert main(["evaluate", flow, *about, "--json", str(tmp_path / "flow.json")]) == 0
    said, scores = capsys.readouterr(), json.loads((tmp_path / "flow.json").read_text())
    assert (
        "model, mean of 2" in said.out and "nll" not in scores and np.isfinite(list(scores["forecast"].values())).all()
    )
    assert "flow.safetensors: a flow has no likelihood here, so nll is left out of all scores\n" in said.err

    monkeypatch.setattr(requests, "draw", lambda *_: pytest.fail("drawn before the score is refused"))
    assert main(["evaluate", flow, *about, "--scores", "ade,nll"]) == 2
    assert "scores: 'nll' does not fit a model of diffusion.kind flow or a student" in capsys.readouterr().err


def test_evaluate_unconditional(ethanol, tmp_path, capsys):
    scores = ["--scores", "marginal,nll", "--num-samples", "1", "--json", str(tmp_path / "a.json"), "--quiet"]
    assert main(["evaluate", ethanol, *scores, "--paper", "md:ethanol"]) == 0
    result = json.loads((tmp_path / "a.json").read_text())
    assert result["marginal"] > 0 and result["paper"]["marginal"] == 0.314
    assert "lower is better" in capsys.readouterr().out


def test_evaluate_learned_scores(ethanol, tmp_path, capsys):
    out = str(tmp_path / "s.npz")
    assert main(["sample", ethanol, "--out", out, "--quiet"]) == 0
    assert main(["evaluate", out, "--scores", "classification,prediction", "--quiet"]) == 0
    table = capsys.readouterr().out
    assert "classification" in table and "prediction" in table
    assert "paper" not in table, "these data are not the paper's"
    assert main(["evaluate", out, "--scores", "classification", "--paper", "md:ethanol", "--quiet"]) == 0
    assert "0.4630" in capsys.readouterr().out


def test_evaluate_obeys_the_keys_of_the_training(tmp_path, capsys):
    """final_test_ckpt, K and cluster of the official files."""
    config = charged_config(final_test_ckpt=2, K=3)
    for name in ("best", "last", "epoch_2"):
        write_checkpoint(tmp_path / f"{name}.safetensors", config)
    about = ["--scores", "ade", "--quiet", "--num-graphs", "2", "--json", str(tmp_path / "a.json")]
    assert main(["evaluate", str(tmp_path), *about]) == 0
    result = json.loads((tmp_path / "a.json").read_text())
    assert (result["checkpoint"], result["num_samples"]) == ("epoch_2.safetensors", 3)
    assert main(["evaluate", str(tmp_path), *about, "--num-samples", "1"]) == 0
    assert json.loads((tmp_path / "a.json").read_text())["num_samples"] == 1

    write_checkpoint(tmp_path / "last.safetensors", charged_config(final_test_ckpt="last", K=3, cluster=True))
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path), *about]) == 0
    assert "train.cluster asks for 20 representatives of the samples, which are 3" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path), *about, "--num-samples", "20"]) == 2
    assert "kmeans (train.cluster) needs exactly one scored node in each graph" in capsys.readouterr().err
    write_checkpoint(tmp_path / "last.safetensors", charged_config(final_test_ckpt=7))
    assert main(["evaluate", str(tmp_path), *about]) == 2
    assert "train.final_test_ckpt: '7' must be the weights of a training in" in capsys.readouterr().err


def test_a_final_test_is_named_by_train(tmp_path, capsys):
    config = charged_config(output_base_path=str(tmp_path / "runs"), final_test=True, num_steps=1)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["train", str(tmp_path / "config.yaml"), "--quiet", "--device", "cpu"]) == 0
    folder = tmp_path / "runs" / "tiny"
    assert f"looks at no test data; `geotdm evaluate {folder}` scores them" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", ["png", "svg", "gif", "html"])
def test_plot(samples, tmp_path, capsys, suffix):
    out = tmp_path / f"p.{suffix}"
    assert main(["plot", samples, "--out", str(out), "--num-systems", "1", "--title", "A title", "--quiet"]) == 0
    assert out.stat().st_size > 5000
    assert f"p.{suffix}" in capsys.readouterr().out


def test_plot_bonds(ethanol, tmp_path):
    out = str(tmp_path / "s.npz")
    assert main(["sample", ethanol, "--num-graphs", "2", "--out", out, "--quiet"]) == 0
    assert main(["plot", out, "--kind", "bonds", "--out", str(tmp_path / "bonds.png")]) == 0
    with Image.open(tmp_path / "bonds.png") as picture:
        assert picture.size[0] == 1215


def test_doctor(capsys):
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    for words in (
        "versions",
        "torch",
        "geotdm_fast._C_cuda",
        "numpy",
        "vector instructions",
        "threads",
        "egcl",
        "temporal_attention",
        "ase",
    ):
        assert words in text


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for command in ("simulate", "train", "sample", "evaluate", "plot", "doctor"):
        assert command in text
        with pytest.raises(SystemExit):
            main([command, "--help"])
        own = capsys.readouterr().out
        assert f"geotdm {command}" in own and "examples:" in own
        assert max(map(len, own.splitlines())) <= 130


def test_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "geotdm_fast", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("geotdm 0.")


def test_what_the_readme_saves_is_sampled(tmp_path, charged):
    """Weights with the sections that say what the model is, and data that are named beside them."""
    config = charged_config()
    network, _ = load_checkpoint(charged)
    saved = {"denoise_model": config["denoise_model"], "diffusion": config["diffusion"]}
    save_checkpoint(tmp_path / "mine.safetensors", network, saved | {"train": {"cond_mask": [[0, 4]]}})
    assert main(["simulate", "charged", "--out", str(tmp_path / "d.npz"), "--num-systems", "2", "--num-frames", "12",
                 "--quiet"]) == 0  # fmt: skip
    out = tmp_path / "s.npz"
    words = ["sample", str(tmp_path / "mine.safetensors"), "--data", str(tmp_path / "d.npz"), "--out", str(out)]
    assert main([*words, "--quiet"]) == 0
    assert read_samples(out).samples.shape == (1, 10, 3, 8)


def test_an_unconditional_model_of_pedestrians_is_sampled(tmp_path):
    lines = [f"{10 * t} {person} {0.3 * t + person} {0.1 * t * person}\n" for t in range(60) for person in (1, 2)]
    (tmp_path / "walk.txt").write_text("".join(lines))
    config = pedestrian_config(tmp_path / "walk.txt")
    checkpoint = write_checkpoint(tmp_path / "m.safetensors", config)
    out = str(tmp_path / "s.npz")
    assert main(["sample", checkpoint, "--out", out, "--num-graphs", "4", "--quiet"]) == 0
    samples = read_samples(out)
    assert samples.samples.shape[-1] == 20 and samples.mode == "uncond"
    centre = samples.target[samples.batch == 0].mean(axis=(0, 2))
    assert np.abs(centre).max() < 1e-5  # beside samples in the space of zero mean, data are there too
    assert main(["evaluate", out, "--scores", "marginal", "--quiet"]) == 0
