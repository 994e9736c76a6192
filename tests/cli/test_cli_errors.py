"""What users get wrong: exit code 2 and one line that says what was expected and what came."""

import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest
from tiny_models import charged_config, write_checkpoint

from geotdm_fast.cli import main
from geotdm_fast.runtime.packages import how_to_install


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("errors") / "charged.safetensors", charged_config())


@pytest.fixture
def said(capsys):
    """Runs a command that must fail and returns its one line."""

    def run(*argv: object) -> str:
        try:
            code = main([str(word) for word in argv])
        except SystemExit as stop:  # argparse
            code = stop.code
        captured = capsys.readouterr()
        lines = [line for line in captured.err.splitlines() if "simulating" not in line]
        assert code == 2, captured
        assert len(lines) == 1 and captured.out == "", captured
        assert lines[0].startswith("geotdm")
        return lines[0]

    return run


def test_command_line_itself(said):
    assert "invalid choice: 'smaple'" in said("smaple")
    assert "required" in said()
    assert "unrecognized arguments: --spam" in said("doctor", "--spam")
    told = said("simulate", "charge", "--out", "x.npz")
    assert "KIND must be one of charged, springs, gravity, md:argon, md:water, md:alanine-explicit, " in told
    assert "got 'charge'; did you mean 'charged'?" in told
    assert "--num-systems: must be at least 1, got 0" in said(
        "simulate", "charged", "--num-systems", "0", "--out", "a.npz"
    )
    assert "--num-systems: must be at most 1000000000, got 1000000000000" in said(
        "simulate", "charged", "--num-systems", 10**12, "--out", "a.npz"
    )
    assert "--threads: must be at most 1024, got 1000000" in said("train", "c.yaml", "--threads", 10**6)
    assert "--seed: must be a whole number, got 'x'" in said("simulate", "charged", "--seed", "x", "--out", "a.npz")


def test_missing_files(said, tmp_path, checkpoint):
    assert "none.safetensors: no such file" in said("sample", tmp_path / "none.safetensors", "--out", "s.npz")
    assert "none.safetensors: no such file" in said("evaluate", tmp_path / "none.safetensors")
    assert "none.npz: no such file" in said("evaluate", tmp_path / "none.npz")
    assert "none.npz: no such file" in said("plot", tmp_path / "none.npz", "--out", "p.png")
    assert "none.jsonl: no such file" in said("plot", tmp_path / "none.jsonl", "--out", "p.png")
    assert "none.yaml: no such file" in said("train", tmp_path / "none.yaml")
    assert "none.yaml: no such file" in said(
        "sample", checkpoint, "--data-config", tmp_path / "none.yaml", "--out", "s.npz"
    )
    own = ("--set", "data.kind=npz", "--set", f"data.path={tmp_path / 'none.npz'}")
    assert "none.npz: no such file" in said("sample", checkpoint, *own, "--out", tmp_path / "s.npz", "--quiet")


def test_corrupt_and_foreign_checkpoints(said, tmp_path, checkpoint):
    whole = pathlib.Path(checkpoint).read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    assert "must be a safetensors file" in said("sample", tmp_path / "cut.safetensors", "--out", tmp_path / "s.npz")
    (tmp_path / "text.safetensors").write_text("not a checkpoint")
    assert "must be a safetensors file" in said("evaluate", tmp_path / "text.safetensors")
    (tmp_path / "text.pt").write_text("not a checkpoint")
    assert "needs the config" in said("sample", tmp_path / "text.pt", "--out", tmp_path / "s.npz")


def test_wrong_kinds_of_npz(said, tmp_path):
    np.savez(tmp_path / "x.npz", x=np.zeros((2, 3)))
    assert "must be a file of samples" in said("evaluate", tmp_path / "x.npz")
    assert "it holds x and lacks format" in said("plot", tmp_path / "x.npz", "--out", tmp_path / "p.png")
    np.savez(tmp_path / "pickled.npz", samples=np.array([{}], dtype=object))
    assert "pickled objects, which are refused" in said("plot", tmp_path / "pickled.npz", "--out", tmp_path / "p.png")
    (tmp_path / "text.npz").write_text("no archive")
    assert "must be an .npz archive" in said("evaluate", tmp_path / "text.npz")


def test_suffixes_are_checked_before_the_work(said, tmp_path, checkpoint):
    said_of_text = said("sample", checkpoint, "--out", "s.txt")
    assert "--out must end in .npz, or be a folder (no suffix, or a / at the end); got 's.txt'" in said_of_text
    assert "--xyz must end in .xyz, .extxyz" in said("sample", checkpoint, "--out", "s.npz", "--xyz", "s.pdb")
    assert "--json must end in .json" in said("evaluate", checkpoint, "--json", "s.txt")
    assert "--out must end in .png, .pdf, .svg, .gif, .html; got 'p.jpg'" in said("plot", "s.npz", "--out", "p.jpg")
    assert "the file to draw must end in .npz, .jsonl" in said("plot", "s.txt", "--out", "p.png")
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 1.0}\n')
    assert "--out must end in .png, .pdf, .svg for a log" in said("plot", tmp_path / "log.jsonl", "--out", "p.gif")


def test_data_sections(said, tmp_path, checkpoint):
    sample = ("sample", checkpoint, "--out", tmp_path / "s.npz", "--quiet")
    assert "data.test: unknown key 'num_system'; did you mean 'num_systems'?" in said(
        *sample, "--set", "data.num_system=3"
    )
    assert "--set must be data.KEY=VALUE, got 'spam'" in said(*sample, "--set", "spam")
    assert "the value must be YAML" in said(*sample, "--set", "data.path=[")
    (tmp_path / "no_data.yaml").write_text("train: {}\n")
    assert "must have a section 'data'" in said(*sample, "--data-config", tmp_path / "no_data.yaml")
    (tmp_path / "data.yaml").write_text("data: {train: {kind: nbody, system: charged, split: train}}\n")
    assert "has no data section 'val', only train" in said(
        *sample, "--data-config", tmp_path / "data.yaml", "--split", "val"
    )


def test_data_that_do_not_fit_the_model(said, tmp_path, checkpoint):
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).normal(size=(2, 12, 5, 3)), h=np.zeros((5, 4)))
    own = ("--set", "data.kind=npz", "--set", f"data.path={tmp_path / 'x.npz'}", "--out", tmp_path / "s.npz", "--quiet")
    assert "features h [N, F]: F must be 1 for charged.safetensors, got 4" in said("sample", checkpoint, *own)
    frames = ("--set", "data.num_frames=3", "--out", tmp_path / "s.npz", "--quiet")
    assert "must have all 12 frames, or the 4 given ones alone, got 3" in said("sample", checkpoint, *frames)


def test_scores(said, checkpoint):
    assert "did you mean 'ade'?" in said("evaluate", checkpoint, "--scores", "ad", "--quiet")
    assert "'marginal' does not fit a conditional model" in said(
        "evaluate", checkpoint, "--scores", "marginal", "--quiet"
    )


def test_scores_of_samples(said, tmp_path, checkpoint, capsys):
    samples = tmp_path / "s.npz"
    assert main(["sample", checkpoint, "--out", str(samples), "--quiet"]) == 0
    capsys.readouterr()
    assert "'nll' needs a model" in said("evaluate", samples, "--scores", "nll")
    assert "needs exactly one scored node" in said("evaluate", samples, "--kmeans", "2", "--quiet")
    assert "bond lengths need molecules" in said("plot", samples, "--kind", "bonds", "--out", tmp_path / "p.png")


def test_xyz_of_particles(said, tmp_path, checkpoint):
    out = ("--out", tmp_path / "s.npz", "--xyz", tmp_path / "s.xyz", "--quiet")
    assert "--xyz: the data must be molecules, got 'N-body charged'" in said("sample", checkpoint, *out)
    assert not (tmp_path / "s.npz").exists()


def test_xyz_without_ase(said, tmp_path, checkpoint, monkeypatch):
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ase" else found(name))
    out = ("--out", tmp_path / "s.npz", "--xyz", tmp_path / "s.xyz")
    assert how_to_install("molecules") in said("sample", checkpoint, *out)


def test_devices(said, tmp_path, checkpoint):
    out = ("--out", tmp_path / "s.npz")
    assert "--device must be cpu, cuda or cuda:N, got 'gpu'" in said("sample", checkpoint, *out, "--device", "gpu")
    assert "--device must be cpu, cuda or cuda:N, got 'meta'" in said("sample", checkpoint, *out, "--device", "meta")
    assert "cuda:99 is not there" in said("sample", checkpoint, *out, "--device", "cuda:99")
    assert "--precision: invalid choice: 'fp8'" in said("sample", checkpoint, *out, "--precision", "fp8")


@pytest.mark.parametrize(
    "options, message",
    [
        (("--method", ""), "--method must be one of ddpm, ddim, dpmpp_2m, dpmpp_2m_sde, ays_ddim; got ''"),
        (("--spacing", ""), "--spacing must be one of uniform, quadratic, log_snr; got ''"),
        (("--spacing", "early"), "--spacing must be one of uniform, quadratic, log_snr; got 'early'"),
        (("--steps", 26), "--steps must be in 1..25, the model's steps, got 26"),
        (("--eta", 0.5), "--eta is of the methods 'ddim' and 'ays_ddim' alone, got 0.5 with 'ddpm'"),
        (("--method", "ddim", "--eta", 1.5), "--eta must be in 0..1, got 1.5"),
        (("--method", "ays_ddim"), "--method 'ays_ddim' is of mode 'uncond', got a model of mode 'cond'"),
    ],
)
def test_how_samples_are_drawn_is_refused_in_the_words_of_the_options(said, tmp_path, checkpoint, options, message):
    for command in (
        ("sample", checkpoint, "--out", tmp_path / "s.npz"),
        ("evaluate", checkpoint),
        ("drift", checkpoint),
    ):
        assert f"geotdm {command[0]}: error: {message}" in said(*command, "--device", "cpu", *options)
    assert not (tmp_path / "s.npz").exists()


def test_the_steps_of_the_stress_test_are_refused_by_their_option(said, checkpoint):
    assert "error: --steps must be in 1..25, the model's steps, got 26" in said(
        "check-equivariance", checkpoint, "--steps", 26
    )


def test_unwritable_output(said, tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert "cannot write" in said(
        "simulate", "charged", "--num-systems", "1", "--quiet", "--out", tmp_path / "file" / "x.npz"
    )


def test_debug_shows_the_traceback(tmp_path):
    for argv in (["--debug", "plot"], ["plot", "--debug"]):
        with pytest.raises(FileNotFoundError):
            main([*argv, str(tmp_path / "none.npz"), "--out", "p.png"])


def test_interrupt(monkeypatch, capsys):
    import geotdm_fast.doctor

    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(geotdm_fast.doctor, "report", interrupted)
    assert main(["doctor"]) == 130
    assert capsys.readouterr().err == "geotdm doctor: interrupted\n"


@pytest.mark.parametrize(
    ("argv", "kept"),
    [
        (["train", "c.yaml"], "what the last checkpoint holds is kept, and the same command goes on from there"),
        (["sample", "m.pt", "--out", "folder"], "the shards that are written are kept, and the same command goes on"),
        (["sample", "m.pt", "--out", "file.npz"], "nothing was written (a folder for --out keeps what is drawn)"),
        (["reproduce", "charged"], "the pieces that are done are kept, and the same command goes on"),
        (["evaluate", "m.npz"], ""),
    ],
)
@pytest.mark.parametrize(("signum", "word"), [(signal.SIGTERM, "stopped by SIGTERM"), (signal.SIGINT, "interrupted")])
def test_a_signal_ends_in_a_line_that_says_what_is_kept(monkeypatch, capsys, argv, kept, signum, word):
    import importlib

    module = importlib.import_module(f"geotdm_fast.cli.{argv[0]}")
    monkeypatch.setattr(module, "run", lambda args: signal.raise_signal(signum))
    before = signal.getsignal(signal.SIGTERM)
    assert main(argv) == 128 + signum
    said = capsys.readouterr().err
    assert said.startswith(f"geotdm {argv[0]}: {word}") and said.count("\n") == 1 and kept in said
    assert signal.getsignal(signal.SIGTERM) == before


def test_out_of_memory_says_what_helps(monkeypatch, said):
    import geotdm_fast.doctor

    def full():
        raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB.\nmore lines")

    monkeypatch.setattr(geotdm_fast.doctor, "report", full)
    assert said("doctor").endswith("Tried to allocate 2 GiB.; a smaller --batch-size needs less")


def test_out_of_memory_on_the_cpu(monkeypatch, said):
    import geotdm_fast.cli.train

    def full(args):
        # As torch says it: with the place in its code, and a line of advice.
        raise RuntimeError(
            "[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory: you tried"
        )

    monkeypatch.setattr(geotdm_fast.cli.train, "run", full)
    assert "can't allocate memory: you tried; a larger train.accumulate" in said("train", "c.yaml")
    monkeypatch.setattr(geotdm_fast.cli.train, "run", lambda args: [0] * 10**15)
    assert said("train", "c.yaml").startswith("geotdm train: error: out of memory; a larger train.accumulate")


def test_deeply_nested_files(said, tmp_path, checkpoint):
    deep = "[" * 900 + "]" * 900
    (tmp_path / "deep.yaml").write_text(f"data: {deep}")
    assert "deep.yaml must be YAML: lists and sections must be nested at most 100 deep" in said(
        "train", tmp_path / "deep.yaml"
    )
    assert "the value must be YAML (lists and sections must be" in said(
        "sample", checkpoint, "--out", "s.npz", "--set", f"data.path={deep}"
    )
    (tmp_path / "manifest.json").write_text("[" * 100_000)
    assert "manifest.json must be JSON, got something else (lists and objects" in said("evaluate", tmp_path)


def test_texts_of_files_are_shown_not_obeyed(said, tmp_path, monkeypatch):
    (tmp_path / "bell.yaml").write_text('"\\e[7m\\a": 1\n')
    line = said("train", tmp_path / "bell.yaml")
    assert "\x1b" not in line and r"unknown key '\x1b[7m\x07'" in line
    assert "\x1b" not in said("sample", "m\x1b[7m.safetensors", "--out", "s.npz")
    assert len(said("evaluate", "x" * 100_000)) < 2200


def test_our_own_mistakes_are_not_hidden(monkeypatch):
    import geotdm_fast.doctor

    def broken():
        raise RuntimeError("a bug")

    monkeypatch.setattr(geotdm_fast.doctor, "report", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["doctor"])


def test_warnings_are_one_line(monkeypatch, capsys):
    import warnings

    import geotdm_fast.doctor

    monkeypatch.setattr(geotdm_fast.doctor, "report", lambda: warnings.warn("look out", stacklevel=1) or "done")
    assert main(["doctor"]) == 0
    captured = capsys.readouterr()
    assert captured.err == "geotdm doctor: warning: look out\n" and captured.out == "done\n"


def test_a_reader_that_leaves(tmp_path):
    command = f"{sys.executable} -m geotdm_fast doctor | true"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert done.returncode == 0 and "Traceback" not in done.stderr
