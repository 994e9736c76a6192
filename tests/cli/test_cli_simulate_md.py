"""`geotdm simulate md:...`: the file, the line, and what users get wrong."""

import argparse

import numpy as np
import pytest

from geotdm_fast.cli import main
from geotdm_fast.cli.stopped import what_is_kept
from geotdm_fast.runtime.packages import how_to_install

ARGON = ["simulate", "md:argon", "--engine", "own", "--num-atoms", "56", "--equilibrate", "0.1", "--quiet"]


@pytest.fixture
def said(capsys, tmp_path):
    """Runs a command that must fail and returns its one line; nothing is left behind."""

    def run(*words: str) -> str:
        assert main(["simulate", *words, "--out", str(tmp_path / "x.npz")]) == 2
        captured = capsys.readouterr()
        assert captured.out == "" and len(captured.err.splitlines()) == 1
        assert list(tmp_path.iterdir()) == []
        return captured.err

    return run


def test_the_command_writes_the_file_and_says_so(tmp_path, capsys):
    out = str(tmp_path / "argon.npz")
    words = [*ARGON, "--frames", "3", "--every", "0.02", "--ensemble", "nve", "--timestep", "0.01", "--out", out]
    assert main(words) == 0
    assert capsys.readouterr().out == f"{out}: 3 frames of 56 atoms, 0.02 ps apart (nve, 94.4 K, by own)\n"
    with np.load(out) as file:
        assert file["R"].shape == (3, 56, 3)
        np.testing.assert_allclose(file["time"], [0.02, 0.04, 0.06])
    assert main(words) == 0
    assert capsys.readouterr().err == f"{out} is whole: nothing to do (--restart simulates it again)\n"
    assert main([*words, "--restart"]) == 0
    assert main([word.replace("0.02", "0.04") for word in words]) == 2
    assert "every is 0.02 there, not 0.04" in capsys.readouterr().err


def test_options_of_another_kind_are_told(said):
    assert "--num-systems is of charged, springs and gravity, got KIND md:argon" in said(
        "md:argon", "--num-systems", "3"
    )
    assert "--split is of charged, springs and gravity" in said("md:water", "--split", "train")
    assert "--every is of molecular dynamics (md:argon, " in said("charged", "--every", "0.1")
    assert "--restart is of molecular dynamics" in said("springs", "--restart")
    assert "--num-atoms is of md:argon, got KIND md:water" in said("md:water", "--num-atoms", "3")
    assert "--num-molecules is of md:water, got KIND md:argon" in said("md:argon", "--num-molecules", "3")
    assert "got 'md:watre'; did you mean 'md:water'" in said("md:watre")


def test_settings_that_do_not_fit_are_told(said, capsys):
    assert "every must be a multiple of timestep, 0.005 ps, got 0.001 ps" in said(
        "md:argon", "--engine", "own", "--every", "0.001"
    )
    assert "the box of 20 atoms must be at least 13.88" in said("md:argon", "--engine", "own", "--num-atoms", "20")
    with pytest.raises(SystemExit):
        main(["simulate", "md:argon", "--frames", "0", "--out", "x.npz"])
    assert "--num-frames/--frames: must be at least 1, got 0" in capsys.readouterr().err


def test_without_openmm_others_say_what_to_install(said, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert f"water needs openmm, which is not installed: {how_to_install('simulate-md')}" in said("md:water")


def test_a_stopped_run_says_what_is_kept():
    args = argparse.Namespace(command="simulate", kind="md:argon", out="a.npz", restart=None)
    assert what_is_kept(args) == "; what is simulated is kept in a.npz.parts, and the same command goes on from there"
    args.restart = True
    assert what_is_kept(args).endswith("and the same command without --restart goes on from there")
    args.kind = "charged"
    assert what_is_kept(args) == ""
