"""`geotdm reproduce` with tiny sizes: whole experiments, pieces that resume, kills, what is refused."""

import json
import pathlib
import signal
import time

import numpy as np
import pytest
import torch
import warm_python
from straight_walkers import write_recordings
from tiny_models import write_ethanol

import geotdm_fast
from geotdm_fast.checkpoint import load_checkpoint, load_tensors
from geotdm_fast.cli import main
from geotdm_fast.config.files import read_yaml
from geotdm_fast.data import open_dataset
from geotdm_fast.metrics import classification_score, prediction_score
from geotdm_fast.metrics.marginal import bond_lengths, close_pairs, marginal_score
from geotdm_fast.paper import Request, pipeline, recipe, reproduce
from geotdm_fast.paper.pipeline import default_folder
from geotdm_fast.paper.progress import OutOfTime
from geotdm_fast.paper.results import read_results, results_table
from geotdm_fast.samples.npz import read_samples

NETWORK = ("denoise_model.n_layers=1", "denoise_model.hidden_dim=16", "denoise_model.n_layers_ref=1",
           "diffusion.num_timesteps=25", "train.num_steps=6", "train.batch_size=4", "train.warmup_steps=0",
           "train.checkpoint_every_steps=2", "train.log_every_step=2")  # fmt: skip
NBODY = (*NETWORK, *(f"data.{split}.num_systems={n}" for split, n in (("train", 8), ("val", 4), ("test", 6))))


@pytest.fixture
def no_pictures(monkeypatch):
    """Half a second for each experiment."""
    monkeypatch.setattr("geotdm_fast.paper.report.pictures", lambda *_, **__: None)


@pytest.fixture
def brief_scores(monkeypatch):
    """Scores that train a network train it for three epochs."""
    monkeypatch.setattr("geotdm_fast.metrics.learned.BATCH_SIZE", 4)
    for score in (classification_score, prediction_score):
        monkeypatch.setitem(score.__kwdefaults__, "num_epochs", 3)


def tiny(**changes) -> Request:
    return Request(**{"experiment": "charged", "preset": "small", "overrides": NBODY, "num_graphs": 4} | changes)


def test_charged_from_nothing_to_a_row(tmp_path, capsys):
    results = tmp_path / "results.jsonl"
    words = ["reproduce", "charged", "--preset", "small", "--num-graphs", "4", "--quiet", "--device", "cpu"]
    for override in NBODY:
        words += ["--set", override]
    words += ["--out", str(tmp_path / "run"), "--results", str(results)]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "| EGNN, published (mean of 5) | 0.186 | 0.426 |" in shown
    (row,) = read_results(results)
    about = [row[key] for key in ("experiment", "task", "preset", "data")]
    assert about == ["charged", "conditional", "small", "simulated"]
    assert row["changes"] == [*NBODY, "--num-graphs 4"]
    scores = row["scores"]["mean of 5"]
    assert scores["ade"] > 0 and scores["num_graphs"] == 4 and scores["checkpoint"] == "best"
    assert row["paper"][0] == {"method": "GeoTDM", "protocol": "mean of 5", "ade": 0.110, "fde": 0.258}
    assert set(row["beats"]) == {"standing_still", "constant_velocity", "EGNN", "GeoTDM"}
    assert row["training"]["steps"] == 6 and row["training"]["seconds"] > 0
    assert row["calls"][0]["calls"] == 1 and row["calls"][0]["machine"]["cpu"] and row["calls"][0]["commit"]
    assert (tmp_path / "run" / "trajectories.png").stat().st_size > 1000

    # The row's numbers are those of the samples.
    samples = read_samples(tmp_path / "run" / "samples_official.npz")
    assert samples.samples.shape == (5, 20, 3, 20)
    error = np.linalg.norm(samples.samples - samples.target[None], axis=2)
    assert scores["ade"] == pytest.approx(error.mean(), rel=1e-5)
    assert scores["fde"] == pytest.approx(error[..., -1].mean(), rel=1e-5)

    # Again: nothing is done, nothing is added.
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert main(words) == 0
    assert len(read_results(results)) == 1
    changed = [p.name for p, when in before.items() if p.stat().st_mtime_ns != when and p.name != "calls.jsonl"]
    assert changed == []


def test_pieces_give_what_one_call_gives(tmp_path, monkeypatch, no_pictures):
    """A clock that grants two pieces a call."""
    monkeypatch.setattr("geotdm_fast.paper.pieces.WORK_CPU", 1)  # a shard for each graph
    whole = reproduce(tiny(), out=tmp_path / "whole", progress=False)

    stopped, parts, row = [], [], None
    while row is None:
        left = iter((1.0, 1.0))
        monkeypatch.setattr(pipeline.Pieces, "minutes_left", lambda self, left=left: next(left, -1.0))
        try:
            row = reproduce(tiny(), out=tmp_path / "cut", results=tmp_path / "r.jsonl", progress=False)
        except OutOfTime as stop:
            stopped.append(stop.at)
            parts.append((*stop.done, "/", *stop.left))
    training, *others = "training", "samples (official)", "scores (official)", "pictures and the row"
    assert parts == [(training, "/", *others)] * 3 + [(training, *others[:2], "/", others[2])]
    assert stopped == ["official_shards", "official, shard 2 of 4", "official, shard 4 of 4", "row"]
    assert len(read_results(tmp_path / "r.jsonl")) == 1
    assert row["scores"]["mean of 5"]["ade"] == whole["scores"]["mean of 5"]["ade"]
    assert row["calls"][0]["calls"] == 5
    drawn = read_samples(tmp_path / "cut" / "samples_official.npz").samples
    assert np.array_equal(drawn, read_samples(tmp_path / "whole" / "samples_official.npz").samples)
    noise = drawn.reshape(5, 4, -1)
    assert len(np.unique(noise[..., 0])) == 20, "no two graphs or samples share their noise"


def test_training_gets_what_is_left_of_the_budget(tmp_path, monkeypatch, capsys):
    given = []

    def train(config, *, output_dir, minutes, **_):
        given.append(minutes)
        assert config["train"]["max_minutes"] is None
        output_dir.mkdir(parents=True, exist_ok=True)
        # Validated in the middle, not at the end.
        (output_dir / "log.jsonl").write_text('{"step": 4, "epoch": 2, "val_loss": 1.0}\n{"step": 5, "loss": 1.0}\n')

    monkeypatch.setattr(pipeline, "train", train)
    words = ["reproduce", "charged", "--preset", "small", "--num-graphs", "4", "--budget", "9", "--quiet"]
    for override in NBODY:
        words += ["--set", override]
    words += ["--out", str(tmp_path), "--device", "cpu", "--results", str(tmp_path / "r.jsonl")]
    assert main(words) == 3
    assert capsys.readouterr().out == (
        f"{tmp_path}: time is up (--budget, or train.max_minutes): stopped at train, step 5 of 6; done: nothing; left: "
        "training, samples (official), scores (official), pictures and the row; the same command goes on from there\n"
    )
    assert 8 < given[0] <= 9
    assert not (tmp_path / "r.jsonl").exists() and not (tmp_path / "pieces" / "train.json").exists()


def test_a_budget_ends_a_training_without_another_word(tmp_path, monkeypatch, capsys):
    """It said that train.max_minutes, which nobody had set, were over."""
    for _ in range(2):  # begun, and gone on with
        left = iter((1.0, 1e-9))
        with monkeypatch.context() as clock, pytest.raises(OutOfTime, match=r"stopped at train, step [01] of 6; done"):
            clock.setattr(pipeline.Pieces, "minutes_left", lambda self, left=left: next(left))
            reproduce(tiny(), out=tmp_path, progress=False)
    assert "stopped" not in capsys.readouterr().err
    assert load_checkpoint(tmp_path / "train" / "last.safetensors")[1]["train"]["max_minutes"] is None


def test_killed_at_any_moment(tmp_path, no_pictures):
    """kill -9 again and again, later each time, until a call ends by itself: one row, the undisturbed numbers."""
    reproduce(tiny(), out=tmp_path / "whole", progress=False)
    code = (
        "import sys, torch; torch.set_num_threads(1)\n"
        "import geotdm_fast.paper.pieces as shards; shards.WORK_CPU = 1\n"
        "import geotdm_fast.training.output as output; output.Output._draw = lambda self: None\n"
        "import geotdm_fast.paper.report as report; report.pictures = lambda *_, **__: None\n"
        "from geotdm_fast.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    words = ["reproduce", "charged", "--preset", "small", "--num-graphs", "4", "--quiet", "--device", "cpu"]
    for override in NBODY:
        words += ["--set", override]
    words += ["--out", str(tmp_path / "cut"), "--results", str(tmp_path / "r.jsonl")]
    watched = tmp_path / "cut"
    # Killed when the first file of each of these kinds appears.
    moments = ["train/state.safetensors", "shards/official/shard_00001.npz"]
    for moment in moments:
        run = warm_python.WarmPython("-c", code, *words)
        deadline = time.monotonic() + 120
        while not (watched / moment).exists() and run.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        run.send_signal(signal.SIGKILL)
        run.wait()
    done = warm_python.run("-c", code, *words)
    assert done.returncode == 0, done.stderr
    (row,) = read_results(tmp_path / "r.jsonl")
    assert row["training"]["steps"] == 6
    weights = [(tmp_path / name / "train" / "best.safetensors").read_bytes()[-4000:] for name in ("whole", "cut")]
    assert weights[0] == weights[1]
    drawn = read_samples(watched / "samples_official.npz").samples
    assert drawn.shape == read_samples(tmp_path / "whole" / "samples_official.npz").samples.shape
    assert len(json.loads((watched / "pieces" / "row.json").read_text())["calls"]) == 1


@pytest.mark.parametrize("task", ["interpolation", "unconditional"])
def test_other_tasks(tmp_path, task, brief_scores):
    row = reproduce(tiny(task=task), out=tmp_path, progress=False)
    if task == "interpolation":
        assert row["settings"]["train"]["cond_mask"] == [[0, 5], [25, 30]]
        assert row["baselines"]["linear"]["ade"] > 0
        assert [r["ade"] for r in row["paper"]] == [0.055, 0.171]
    else:
        ((label, scores),) = row["scores"].items()
        assert label == "20 frames" and {"marginal", "classification", "prediction"} <= set(scores)
        assert row["settings"]["train"]["tot_len"] == 20
        assert row["paper"][0]["classification"] == 0.556


def test_a_molecule(tmp_path):
    write_ethanol(tmp_path / "ethanol.npz")
    sizes = tuple(f"data.{split}.num_windows=5" for split in ("train", "val", "test"))
    request = tiny(experiment="md:ethanol", data=str(tmp_path / "ethanol.npz"), overrides=(*NETWORK, *sizes))
    row = reproduce(request, out=tmp_path / "run", progress=False)
    assert row["data"] == "ethanol.npz, not MD17" and row["unit"] == "angstrom"
    assert row["settings"]["data"]["train"]["down_sample_every"] == 1
    assert (tmp_path / "run" / "bonds.png").stat().st_size > 1000
    assert row["paper"] == [{"method": "GeoTDM", "protocol": "on MD17, mean of 5", "ade": 0.115, "fde": 0.209}]


def test_unconditional_molecules_are_read_beside_training_data(tmp_path, brief_scores):
    write_ethanol(tmp_path / "ethanol.npz")
    sizes = ("data.train.num_windows=6", "data.val.num_windows=5", "data.test.num_windows=5")
    # An untrained network's noise, divided by the little signal there is at first, is not finite.
    asked = {"experiment": "md:ethanol", "task": "unconditional", "num_graphs": 5}
    asked["data"] = str(tmp_path / "ethanol.npz")
    overrides = (*NETWORK, *sizes, "diffusion.model_mean_type=start_x")
    request = tiny(**asked, overrides=overrides)
    row = reproduce(request, out=tmp_path / "run", progress=False)
    ((name, real),) = row["baselines"].items()
    dataset = {split: open_dataset(section, split) for split, section in recipe(request).config["data"].items()}
    x = {split: torch.stack([dataset[split][i].x for i in range(5)]) for split in ("train", "test")}
    bonds = close_pairs(x["test"][0, :, :, 0])
    lengths = {split: bond_lengths(positions, bonds) for split, positions in x.items()}
    assert real["marginal"] == pytest.approx(marginal_score(lengths["test"], lengths["train"]), rel=1e-6)
    assert set(real) == {"marginal", "classification", "prediction"}
    assert f"| {name.replace('_', ' ')} | {real['marginal']:.4g}" in results_table([row])
    few = tiny(**asked, overrides=(*overrides, "data.train.num_windows=4"))
    assert reproduce(few, out=tmp_path / "few", progress=False)["baselines"] == {}


def test_pedestrians_by_both_protocols(tmp_path):
    write_recordings(tmp_path)
    request = tiny(
        experiment="zara1", data=str(tmp_path), num_samples=4, overrides=(*NETWORK, "train.save_every_epoch=1")
    )
    row = reproduce(request, out=tmp_path / "run", progress=False)
    clean, official = row["scores"]
    assert clean == "clean: best of 4, checkpoint not chosen on the test set"
    assert official == "official: best of 4 k-means of 12, checkpoint chosen on the test set"
    assert row["scores"][clean]["checkpoint"] == "best"
    pieces = (tmp_path / "run/pieces").glob("candidate_*_fde.json")
    candidates = {path.stem[len("candidate_") : -len("_fde")]: json.loads(path.read_text())["fde"] for path in pieces}
    assert {"best", "last", "epoch_1"} <= set(candidates)
    assert candidates[row["scores"][official]["checkpoint"]] == min(candidates.values())
    assert "val" not in row["settings"]["data"], "chosen on training windows, as there are no others"
    assert read_samples(tmp_path / "run" / "samples_official.npz").num_samples == 12
    assert row["paper"][0]["ade"] == 0.21


@pytest.mark.parametrize(
    "override",
    [
        "diffusion.prior=com_last", "diffusion.prior=last_frame", "diffusion.prior=none",
        "denoise_model.temporal=convolution", "denoise_model.temporal=linear_attention",
        "denoise_model.relative_time=false", "denoise_model.window=3",
        "diffusion.num_timesteps=30", "diffusion.beta_schedule_name=cosine",
    ],
)  # fmt: skip
def test_ablations_by_flag(tmp_path, no_pictures, override):
    row = reproduce(tiny(overrides=(*NBODY, override, "train.num_steps=1")), out=tmp_path, progress=False)
    assert override in row["changes"]
    section, key = override.split("=")[0].split(".")
    value = row["settings"][section][key]
    assert str(value).lower() == override.split("=")[1]
    if key == "prior":
        tensors, _ = load_tensors(tmp_path / "train" / "last.safetensors")
        assert not any("_ref" in name for name in tensors), "no network for a prior that is not learned"


def test_names_of_folders():
    assert default_folder(Request("charged")) == pathlib.Path("outputs/reproduce/charged_conditional_paper")
    assert default_folder(Request("md:ethanol", "interpolation", "small")).name == "md_ethanol_interpolation_small"
    one, two = (default_folder(Request("charged", overrides=(f"train.lr={lr}",))).name for lr in (1, 2))
    assert one != two and one.startswith("charged_conditional_paper_")


# --- what is refused ----------------------------------------------------------------------------------------------


def test_other_data_are_another_experiment(tmp_path, monkeypatch):
    """The same name in another folder: no row of the first file for the second."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("geotdm_fast.paper.report.pictures", lambda *_, **__: None)
    sizes = tuple(f"data.{split}.num_windows=3" for split in ("train", "val", "test"))
    rows = []
    for folder, frames in (("a", 240), ("b", 250), ("moved", 240)):
        pathlib.Path(folder).mkdir()
        write_ethanol(f"{folder}/ethanol.npz", frames)
        request = tiny(experiment="md:ethanol", data=f"{folder}/ethanol.npz", overrides=(*NETWORK, *sizes))
        assert default_folder(request).name.startswith("md_ethanol_conditional_small_")
        rows.append(reproduce(request, results="r.jsonl", progress=False))
    a, b, moved = rows
    assert a["id"] != b["id"] and a["scores"] != b["scores"] and a["data_sha256"] != b["data_sha256"]
    assert moved == a, "data that were moved are the same"
    table = results_table(read_results("r.jsonl"))
    assert all(f"ethanol.npz, not MD17, SHA-256 {row['data_sha256'][:8]};" in table for row in (a, b))
    found = a["beats"].keys()
    assert found == {"standing_still", "constant_velocity", "persistent_velocity"}, "no published figure of other data"

    folder = default_folder(request)
    assert json.loads((folder / "pieces" / "train.json").read_text())["data_sha256"] == a["data_sha256"]
    with pytest.raises(
        ValueError, match=r"data must be the files that .* was begun with \(a/ethanol.npz\), got others"
    ):
        reproduce(tiny(experiment="md:ethanol", data="b/ethanol.npz", overrides=request.overrides), out=folder)
    piece = json.loads((folder / "pieces" / "row.json").read_text()) | {"data_sha256": "0" * 64}
    (folder / "pieces" / "row.json").write_text(json.dumps(piece))
    with pytest.raises(ValueError, match=r"row.json must be of the data with SHA-256 .*, got one of 0000"):
        reproduce(request, out=folder, progress=False)


def test_another_request_in_the_same_folder(tmp_path):
    reproduce(tiny(), out=tmp_path, progress=False)
    with pytest.raises(ValueError, match=r"num_graphs must be 4 as when .* was begun, got 3; choose another folder"):
        reproduce(tiny(num_graphs=3), out=tmp_path, progress=False)
    (tmp_path / "experiment.json").write_text("[")
    with pytest.raises(ValueError, match=r"experiment.json must be JSON that `geotdm reproduce` wrote"):
        reproduce(tiny(), out=tmp_path, progress=False)


def test_the_command_line_says_what_is_missing(tmp_path, capsys):
    assert main(["reproduce"]) == 2
    assert "EXPERIMENT must be given" in capsys.readouterr().err
    assert main(["reproduce", "charged", "--budget", "0"]) == 2
    assert "--budget must be positive, got 0" in capsys.readouterr().err
    assert main(["reproduce", "--table", "--results", str(tmp_path / "none.jsonl")]) == 2
    assert "none.jsonl: no such file" in capsys.readouterr().err


def test_a_folder_begun_before_goes_on(tmp_path, monkeypatch, no_pictures):
    """Its training was stopped when checkpoints said nothing of how they are drawn."""
    out, usual = tmp_path / "run", pipeline.train

    def stopped(config, **options):
        del config["sampling"]
        usual(config | {"train": config["train"] | {"num_steps": 3}}, **options)

    with monkeypatch.context() as earlier:
        earlier.setattr(pipeline, "train", stopped)
        with pytest.raises(OutOfTime, match="train, step 3 of 6"):
            reproduce(tiny(), out=out, progress=False)
    assert "sampling" not in read_yaml(out / "train" / "config.yaml")
    assert reproduce(tiny(), out=out, progress=False)["training"]["steps"] == 6
    model = geotdm_fast.load(out / "train", device="cpu")
    assert model.recommended == {"method": "dpmpp_2m", "steps": 5, "spacing": "uniform"}
    samples = read_samples(out / "samples_official.npz")
    assert (samples.method, samples.num_steps) == ("dpmpp_2m", 5)
