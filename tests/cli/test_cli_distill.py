"""`geotdm distill`: killed and called again, on two processes, and wrong requests in one line."""

import pathlib

import pytest
import warm_python
from shard_runs import RUN, content
from tiny_models import charged_config, write_checkpoint

from geotdm_fast.checkpoint import load_tensors
from geotdm_fast.cli import main
from geotdm_fast.config.files import read_yaml


@pytest.fixture
def teacher(tmp_path):
    return write_checkpoint(tmp_path / "teacher.safetensors", charged_config())


def command(teacher: str, folder: pathlib.Path, *more: str) -> list[str]:
    sets = ("num_steps=4", "batch_size=3", "eval_every_step=2", "warmup_steps=0")
    words = ["distill", teacher, "--pairs", "12", "--device", "cpu", "--quiet", "--out", str(folder), *more]
    return [*words, *(word for value in sets for word in ("--set", f"train.{value}"))]


def same_weights(one: pathlib.Path, other: pathlib.Path) -> bool:
    (a, _), (b, _) = (load_tensors(folder / "last.safetensors") for folder in (one, other))
    return all(a[name].equal(b[name]) for name in a)


def test_killed_while_the_teacher_draws_and_called_again(teacher, tmp_path, capsys, curves):
    assert main(command(teacher, tmp_path / "whole")) == 0
    assert "the student: " in capsys.readouterr().out
    # The second file that is renamed into its place is the first shard: its manifest is there, and no student.
    killed = warm_python.run("-c", RUN, "os", "replace", "before", "2", "0", *command(teacher, tmp_path / "killed"))
    assert killed.returncode == -9
    pairs = tmp_path / "killed" / "pairs" / "train"
    assert "manifest.json" in content(pairs) and not (tmp_path / "killed" / "last.safetensors").exists()
    assert main(command(teacher, tmp_path / "killed")) == 0
    assert content(pairs) == content(tmp_path / "whole" / "pairs" / "train")
    assert same_weights(tmp_path / "whole", tmp_path / "killed")
    # Once more: nothing is left to do.
    before = content(pairs)
    assert main(command(teacher, tmp_path / "killed")) == 0
    assert content(pairs) == before


def test_two_processes_make_one_student(teacher, tmp_path, curves):
    done = warm_python.run_together(2, "-m", "geotdm_fast", *command(teacher, tmp_path / "shared"))
    assert [one.returncode for one in done] == [0, 0], done
    assert "diffusion.call_step" in done[0].stderr + done[1].stderr
    assert read_yaml(tmp_path / "shared" / "config.yaml")["distill"]["teacher"]["num_samples"] == 2
    assert main(["sample", str(tmp_path / "shared"), "--num-graphs", "2", "--out", str(tmp_path / "s.npz")]) == 0


def test_the_function_shares_its_work_among_processes_too(teacher, tmp_path, curves):
    code = "import sys, geotdm_fast.distill as d; print(d.distill(*sys.argv[1:], num_pairs=12, device='cpu', "
    code += "progress=False, num_steps=4, batch_size=3, eval_every_step=2, warmup_steps=0))"
    done = warm_python.run_together(2, "-c", code, teacher, str(tmp_path / "function"))
    assert [one.returncode for one in done] == [0, 0], done
    assert all(one.stdout.splitlines()[-1] == str(tmp_path / "function" / "best.safetensors") for one in done)
    done = warm_python.run_together(2, "-m", "geotdm_fast", *command(teacher, tmp_path / "command"))
    assert [one.returncode for one in done] == [0, 0], done
    assert same_weights(tmp_path / "function", tmp_path / "command")


def test_a_student_without_a_validation_is_named_by_its_newest_weights(teacher, tmp_path, capsys, curves):
    assert main(command(teacher, tmp_path / "student", "--max-minutes", "1e-9")) == 0
    assert capsys.readouterr().out == f"the student: {tmp_path / 'student' / 'last.safetensors'}\n"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--calls", "2"], "--calls must be 1: students of more calls are not made, got 2"),
        (["--method", "ddpm"], "error: --method must add no noise on the way, so that a draw follows from"),
        (["--teacher-steps", "26"], "error: --teacher-steps must be in 1..25, the model's steps, got 26"),
        (["--method", ""], "error: --method must be one of ddpm, ddim, dpmpp_2m, dpmpp_2m_sde, ays_ddim; got ''"),
        (["--spacing", ""], "error: --spacing must be one of uniform, quadratic, log_snr; got ''"),
        (["--set", "diffusion.calls=3"], "diffusion.calls must be at most 1"),
        (["--seed", str(2**64 - 1)], "seed must be at most 2^64 - 2"),
        (["--set", "train.rotate=true"], "train.rotate does not go with the section distill"),
        (["--data", "none.npz"], "--data none.npz: no such file"),
        (["--config", "none.yaml"], "--config none.yaml: no such file"),
    ],
)
def test_wrong_requests_are_told_in_a_line(teacher, tmp_path, capsys, more, said):
    assert main(command(teacher, tmp_path / "student", *more)) == 2
    error = capsys.readouterr().err
    assert said in error and error.startswith("geotdm distill: error: ") and error.count("\n") == 1
    assert not (tmp_path / "student").exists()


def test_another_request_for_the_same_folder_is_refused_and_restart_takes_it(teacher, tmp_path, capsys, curves):
    assert main(command(teacher, tmp_path / "student")) == 0
    assert main(command(teacher, tmp_path / "student", "--seed", "5")) == 2
    assert "seed is 1 there, asked for is 5" in capsys.readouterr().err
    assert main(command(teacher, tmp_path / "student", "--seed", "5", "--restart")) == 0
    assert read_yaml(tmp_path / "student" / "config.yaml")["distill"]["teacher"]["seed"] == 5


def test_a_student_is_evaluated_without_a_likelihood(teacher, tmp_path, capsys, curves):
    assert main(command(teacher, tmp_path / "student")) == 0
    request = [str(tmp_path / "student"), "--num-graphs", "2", "--device", "cpu", "--quiet"]
    assert main(["evaluate", *request, "--num-samples", "2"]) == 0
    told = capsys.readouterr()
    assert "a student has no likelihood here" in told.err and "ADE" in told.out
    assert main(["evaluate", *request, "--scores", "nll"]) == 2
    assert "'nll' does not fit a model of diffusion.kind flow or a student" in capsys.readouterr().err


def test_the_help_says_which_steps_are_the_default(capsys):
    """Those of `geotdm sample` are the model's, which pairs are not drawn by."""
    with pytest.raises(SystemExit):
        main(["distill", "--help"])
    assert "(default: uniform, whatever the teacher recommends)" in " ".join(capsys.readouterr().out.split())
