"""`make gpu-check` without a GPU: what it says, every program that it runs, and what becomes of one that fails."""

import json
import re
import sys
from types import SimpleNamespace

import pytest
import torch
from places import TESTS

from bench import gpu_check, gpu_steps, gpu_table
from bench.common import build_in_place, device_timing
from bench.common.workloads import make_workload
from bench.gpu_steps import Step
from bench.network import ays, memory, periodic, step
from bench.ops import kernel_times, layer, layer_speed
from bench.sampling import sample
from bench.training import mixed, mixed_ays, train
from geotdm_fast.cli import build_parser
from tools import cuda_module

PROGRAMS = {
    "layer_speed": layer_speed, "kernel_times": kernel_times, "train": train, "sample": sample, "periodic": periodic,
    "mixed": mixed, "mixed_ays": mixed_ays, "ays": ays,
}  # fmt: skip


class FakeEvent:
    """Counts the clock of a GPU in records: a millisecond between one and the next."""

    now = 0

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        FakeEvent.now += 1
        self.at = FakeEvent.now

    def elapsed_time(self, later):
        return later.at - self.at


class FakeGPU:
    """What of torch.cuda the programs use, as if there were an H200."""

    Event = FakeEvent
    major, minor, name, multi_processor_count, total_memory = 9, 0, "NVIDIA H200", 132, 141 * 2**30

    def __init__(self):
        self.calls = []

    def __getattr__(self, called):
        return lambda *args, **options: self.called(called, *args)

    def called(self, name, *args):
        self.calls.append(name)
        known = {"get_device_name": self.name, "get_device_properties": self, "get_device_capability": (9, 0)}
        counts = {"is_available": True, "device_count": 1, "memory_allocated": 5, "max_memory_allocated": 47}
        return (known | counts).get(name, self)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return False


@pytest.fixture
def gpu(monkeypatch):
    fake = FakeGPU()
    monkeypatch.setattr(torch, "cuda", fake)
    return fake


def parsed(tmp_path, *words):
    return gpu_check._parser().parse_args([*words, "--out", str(tmp_path)])


def test_without_a_gpu_it_says_so_in_one_line(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_check.main(["--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("gpu_check: error: torch ") and error.count("\n") == 1
    assert "finds no usable GPU; --device cpu --trial tries this program" in error
    assert gpu_check.main(["--device", "cpu"]) == 2
    assert "--device cpu measures nothing worth keeping" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        gpu_check.main(["--trial"])
    assert "--trial is for --device cpu" in capsys.readouterr().err


@pytest.mark.recorded("gpu paths")
def test_a_trial_measures_and_prints_the_table_last(tmp_path, capsys):
    assert gpu_check.main(["--device", "cpu", "--trial", "--steps", "build", "layer", "--out", str(tmp_path)]) == 0
    rows = [json.loads(line) for line in (tmp_path / "layer.jsonl").read_text().splitlines()]
    key = lambda row: (row["direction"], row["implementation"])
    assert [key(row) for row in rows] == [(d, name) for d in layer.DIRECTIONS for name in layer.NAMES]
    for row in rows:
        assert row["precision"] == "bf16" and 0 < row["error"] < 0.02 and row["commit"]
        assert row["sheet_floor_seconds"] == pytest.approx(row["gflop"] / 989.4e3)
        assert row["floor_seconds"] == pytest.approx(row["gflop"] / row["matrix_gflops"])
    peers = {key(row): row["seconds"] for row in rows}
    assert rows[0]["times_compiled"] == pytest.approx(peers["forward", "compiled"] / peers["forward", "ours"])
    shown = capsys.readouterr().out
    assert shown.rstrip().endswith("all was well") and shown.index("layer nbody: ok") < shown.index("x compiled")
    done = [json.loads(line) for line in (tmp_path / "gpu_check.jsonl").read_text().splitlines()]
    assert [(row["step"], row["status"]) for row in done] == [
        (name, "ok") for name in ("environment", "build", "layer nbody")
    ]
    assert (tmp_path / "gpu_check.txt").read_text().strip() in shown
    assert "would compile _C." in (tmp_path / "gpu_check.log").read_text()


def test_time_against_edges(tmp_path, capsys):
    (edges,) = [s for s in gpu_steps.steps(parsed(tmp_path, "--device", "cpu", "--trial")) if s.name == "edges"]
    assert layer_speed.main(edges.words[3:]) == 0
    rows = [json.loads(line) for line in (tmp_path / "layer.jsonl").read_text().splitlines()]
    assert [row["cutoff"] for row in rows] == [1, 2] and 0 < rows[0]["edge_frames"] < rows[1]["edge_frames"]
    assert "bf16, forward: time grows with the power nan of the edges" in capsys.readouterr().out
    assert layer_speed.exponent([(1, 3.0), (2, 6.0), (4, 12.0)]) == pytest.approx(1)


def test_every_command_parses(gpu, tmp_path):
    for words in (["--device", "cuda"], ["--device", "cpu", "--trial"]):
        for made in gpu_steps.steps(parsed(tmp_path, *words)):
            module, options = made.words[2], made.words[3:]
            parsers = {program.__name__: program._parser() for program in PROGRAMS.values()}
            if made.name.startswith("sanitizer"):
                assert made.words[0] == "env" and "tests/csrc/test_cuda_temporal.py" in made.words
            elif module in parsers:
                assert parsers[module].parse_args(options).device == words[1]
            elif module == "geotdm_fast":
                assert build_parser().parse_args(options).device == words[1]
            else:
                assert module in ("pytest", "bench.common.build_in_place")
            if made.name == "tests":
                assert {f"tests/kernels/test_kernels_{name}.py" for name in ("egcl", "radius_graph")} <= {*options}


def test_the_sanitizer_runs_where_it_is_found(gpu, tmp_path, monkeypatch):
    programs = gpu_steps.Programs(parsed(tmp_path))
    monkeypatch.setattr(gpu_steps.shutil, "which", lambda name, path=None: None)
    assert gpu_steps.sanitizer_steps(programs) == []
    monkeypatch.setattr(gpu_steps.shutil, "which", lambda name, path=None: f"/cuda/bin/{name}")
    memory, races = gpu_steps.sanitizer_steps(programs)
    assert memory.words[1:5] == [
        *("PYTORCH_NO_CUDA_MEMORY_CACHING=1", "/cuda/bin/compute-sanitizer", "--error-exitcode", "9")
    ]
    assert "memcheck" in memory.words and "racecheck" in races.words
    for sizes in re.findall(r"\d+(?:-\d+)+", gpu_steps.SANITIZED):
        assert f"({sizes.replace('-', ', ')})," in (TESTS / "csrc" / "test_cuda_temporal.py").read_text()


@pytest.mark.parametrize("direction", layer.DIRECTIONS)
def test_the_temporal_peers_are_the_reference(direction, monkeypatch):
    """FlexAttention has no gradient on the CPU: a peer that cannot run is named, not timed, and no error."""
    workload = make_workload("md", num_graphs=1, num_frames=5, n_layers=1, hidden_dim=16)
    device = torch.device("cpu")
    monkeypatch.setattr(layer, "PEERS", {key: (structure, False) for key, (structure, _) in layer.PEERS.items()})
    names = {*layer.names_of("temporal", 30), *layer.names_of("temporal", 512)}
    assert names == {"ours", "eager", "compiled", "efficient", "efficient_compiled", "flex", "sdpa"}
    for precision in ("fp32", "bf16"):
        make = lambda name, precision=precision: layer.make_layer(workload, name, precision, device, layer="temporal")
        calls = {(name, precision): layer.bound(make(name), direction, precision) for name in sorted(names)}
        found = layer_speed.checked(workload, direction, calls, device, "temporal")
        refused = layer.wrong(found)
        assert set(refused) <= {("flex", precision)}
        if direction == "backward":
            assert refused["flex", precision].startswith("failed: ")
        assert found["sdpa", precision][0] < (1e-4 if precision == "fp32" else 0.03)


def test_a_step_that_fails_or_hangs_is_reported_and_the_rest_goes_on(tmp_path, capsys, monkeypatch):
    code = lambda text: [sys.executable, "-c", text]
    made = [
        Step("tests", code("print('why', 1 + 1); raise SystemExit(3)"), 60),
        Step("layer", code("import time; print('begun', flush=True); time.sleep(60)"), 6),
        Step("edges", code("import os; assert 'TRITON_INTERPRET' not in os.environ"), 60),
    ]
    monkeypatch.setattr(gpu_check, "steps", lambda args: made)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert gpu_check.main(["--device", "cpu", "--trial", "--out", str(tmp_path)]) == 1
    assert [made_.status for made_ in made] == ["failed, exit status 3", "stopped after its 6 s", "ok"]
    shown = capsys.readouterr().out
    assert "tests: failed, exit status 3\n  why 2" in shown and "layer: stopped after its 6 s\n  begun" in shown
    assert shown.rstrip().endswith("NOT WELL: tests, layer")
    made[2].status = "left out"
    assert gpu_check.main(["--device", "cpu", "--trial", "--minutes", "0", "--out", str(tmp_path)]) == 1
    assert "edges: left out, " in capsys.readouterr().out


def test_what_is_missing_is_named(gpu, tmp_path, monkeypatch, capsys):
    real = gpu_check.importlib.util.find_spec
    lacking = lambda name: None if name in ("pytest", "yaml") else real(name)
    monkeypatch.setattr(gpu_check.importlib.util, "find_spec", lacking)
    found = gpu_check.environment_step(parsed(tmp_path))
    assert found.status == "missing: pytest"
    shown = capsys.readouterr().out
    assert "NVIDIA H200, compute capability 9.0, 132 multiprocessors, 141 GiB; 1 in sight" in shown
    assert "not there and not needed: yaml" in shown


def test_events_time_a_round_and_a_graph_is_captured(gpu):
    cuda = torch.device("cuda")
    calls = {"a": lambda: FakeEvent("timing").record(), "b": lambda: None}
    times = device_timing.device_times(calls, 3, cuda, warm_up=1)
    assert {name: value.seconds for name, value in times.items()} == {"a": (0.002,) * 3, "b": (0.001,) * 3}
    count = []
    made = device_timing.captured(lambda: count.append(1) or len(count), cuda)
    assert made.results == 4 and made.why_not is None and made.replay() is gpu
    assert gpu.calls.index("CUDAGraph") < gpu.calls.index("graph") < gpu.calls.index("replay")

    def no(*_):
        if len(count) == 7:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        count.append(1)

    refused = device_timing.captured(no, cuda)
    assert refused.why_not == "operation not permitted when stream is capturing" and refused.replay is no
    assert memory.peak_of(lambda: None, cuda) == (42, "torch.cuda.max_memory_allocated")


def test_a_wrong_layer_is_not_timed(tmp_path, capsys, monkeypatch):
    args = ["--trial", "--workload", "nbody", "--precision", "fp32", "--directions", "forward", "--repeats", "1"]
    args += ["--compiler", "aot_eager", "--threads", "1", "--out", str(tmp_path / "layer.jsonl")]
    right = layer.egcl
    monkeypatch.setattr(layer, "egcl", lambda *a, **k: tuple(1.01 * v for v in right(*a, **k)))
    assert layer_speed.main(args) == 1
    rows = [json.loads(line) for line in (tmp_path / "layer.jsonl").read_text().splitlines()]
    assert ["seconds" in row for row in rows] == [False, True, True]
    assert "ours wrong, so not timed: " in capsys.readouterr().out
    found = {("ours", "bf16"): (0.5, "h_out"), ("eager", "bf16"): (0.4, "h_out")}
    assert set(layer.wrong(found)) == set(found)  # a wrong measure lets nobody through


@pytest.mark.parametrize("direction", layer.DIRECTIONS)
def test_the_plain_layer_is_the_reference(direction):
    workload = make_workload("md", num_graphs=1, num_frames=3, n_layers=1, hidden_dim=16)
    calls = {}
    for precision in layer.PRECISIONS:
        op = layer.make_layer(workload, "eager", precision, torch.device("cpu"))
        calls["eager", precision] = layer.bound(op, direction, precision)
    found = layer_speed.checked(workload, direction, calls, torch.device("cpu"))
    assert found["eager", "fp32"][0] < 1e-5 and found["eager", "tf32"][0] < 1e-5  # the CPU knows no tf32
    assert 1e-4 < found["eager", "bf16"][0] < 0.05 and not layer.wrong(found)
    assert not torch.backends.cuda.matmul.allow_tf32


def test_the_build_reports_what_it_lacks(tmp_path, capsys, monkeypatch):
    built = tmp_path / "built.so"
    built.write_bytes(b"module")
    recipe = SimpleNamespace(IN_SOURCE=tmp_path / "_C.so", what_is_missing=lambda: "no ninja")
    build = lambda dry_run=False: build_in_place.build("C++", recipe, tmp_path / "objects", dry_run)
    monkeypatch.setattr(build_in_place, "ROOT", tmp_path)
    assert not build()
    assert capsys.readouterr().out == "the C++ module cannot be built: no ninja\n"
    recipe.what_is_missing, recipe.compile_module = lambda: None, lambda folder: built
    assert build(dry_run=True) and capsys.readouterr().out == "would compile _C.so in objects\n"
    assert build() and recipe.IN_SOURCE.read_bytes() == b"module"
    assert capsys.readouterr().out == "compiled _C.so\n"

    def broken(folder):
        raise build_in_place.subprocess.CalledProcessError(1, "ninja")

    recipe.compile_module = broken
    assert not build() and not recipe.IN_SOURCE.exists()


def test_the_cuda_module_is_built_where_torch_has_cuda_or_it_is_asked_for(capsys, monkeypatch):
    monkeypatch.setattr(cuda_module, "nvcc", lambda: None)
    monkeypatch.setattr(cuda_module, "torch_has_cuda", lambda: False)
    monkeypatch.delenv("GEOTDM_CUDA", raising=False)
    assert build_in_place.main(["--dry-run"]) == 0 and "CUDA" not in capsys.readouterr().out
    monkeypatch.setenv("GEOTDM_CUDA", "1")
    assert build_in_place.main(["--dry-run"]) == 1
    assert "the CUDA module cannot be built: no nvcc " in capsys.readouterr().out
    monkeypatch.delenv("GEOTDM_CUDA")
    monkeypatch.setattr(cuda_module, "torch_has_cuda", lambda: True)
    assert build_in_place.main(["--dry-run"]) == 1


def test_kernels_are_linked_where_nothing_is_installed(tmp_path, monkeypatch):
    (tmp_path / "geotdm_fast").mkdir()
    (tmp_path / "kernels").mkdir()
    place = tmp_path / "geotdm_fast" / "kernels"
    monkeypatch.setattr(build_in_place, "KERNELS", place)
    monkeypatch.setattr(build_in_place.importlib.util, "find_spec", lambda name: None)
    assert build_in_place.link_kernels() == "geotdm_fast/kernels now leads to kernels/"
    assert place.resolve() == (tmp_path / "kernels").resolve()
    assert build_in_place.link_kernels() == "geotdm_fast.kernels is there"


def test_the_table_ends_with_what_was_aimed_at(gpu):
    h100 = {"machine": {"gpu": "NVIDIA H100"}, "implementation": "ours", "workload": "nbody"}
    alone = h100 | {"benchmark": "train", "precision": "bf16", "seconds": 2e-3, "captured": True}
    turns = alone | {"seconds": 0.9e-3}
    sample = h100 | {
        "benchmark": "sample",
        "dtype": "mixed",
        "seconds": 1,
        "ms_per_step": 0.5,
        "times": {"official": 30},
    }
    layer = h100 | {"benchmark": "layer", "precision": "bf16", "layer": "temporal", "direction": "forward"}
    layer |= {"seconds": 1.0, "floor_seconds": 0.35, "captured": False}
    rows = [alone, turns, sample, layer, layer | {"direction": "backward"}, layer | {"precision": "tf32"}]
    assert gpu_table.decisions(rows) == [
        ["W-nbody, a training step", "<= 1 ms", "0.9 ms", "met"],
        ["W-nbody, a sampling step", "<= 0.25 ms", "0.5 ms", "missed"],
        ["W-nbody, sampling, times official", ">= 25", "30", "met"],
        ["W-nbody, temporal layer, forward, of its floor", ">= 40 %", "35 %", "missed"],
    ]
    assert gpu_table.uncaptured(rows) == 3 * ["layer W-nbody is no CUDA graph"]
    on_cpu = layer | {"machine": {}}
    assert gpu_table.uncaptured([turns, on_cpu, layer | {"implementation": "eager"}]) == []


@pytest.mark.parametrize(("tier", "limit", "rows"), [(1, 330, 4), (2, 445, 3), (3, 570, 2)])
def test_each_tier_fits_its_time_and_seven_files(tier, limit, rows, gpu, tmp_path, monkeypatch):
    """Whatever is installed there; with modules that are packed, whose step takes a second or two."""
    monkeypatch.setattr(gpu_steps.shutil, "which", lambda name, path=None: f"/cuda/bin/{name}")
    monkeypatch.setattr(gpu_steps, "message_passing", lambda: ["pyg", "pyg_compiled"])
    build, *made = gpu_steps.steps(parsed(tmp_path, "--tier", str(tier)))
    assert build.name == "build" and {step.tier for step in made} == {tier}
    assert sum(step.budget for step in made) + 10 <= limit == gpu_steps.TIERS[tier]
    assert len(written(made, tmp_path)) == rows


def written(steps, folder) -> set[str]:
    """The files of rows; beside them are gpu_check.log, gpu_check.jsonl and gpu_check.txt."""
    return {word for step in steps for word in step.words if word.startswith(str(folder))}


def test_both_tiers_in_one_call_write_seven_files(gpu, tmp_path):
    assert len(written(gpu_steps.steps(parsed(tmp_path)), tmp_path)) + 3 == 7


def test_a_step_of_no_chosen_tier_is_an_error(tmp_path, capsys, gpu):
    with pytest.raises(SystemExit, match="2"):
        gpu_check.main(["--steps", "charged", "--out", str(tmp_path)])
    assert "--steps must be of the chosen tiers (1 2) and possible here, got charged" in capsys.readouterr().err
    args = parsed(tmp_path, "--tier", "3", "--steps", "charged")
    names = [step.name for step in gpu_check.chosen_steps(gpu_check._parser(), args)]
    assert names == ["charged", "charged in 5 steps"]


@pytest.mark.parametrize(("code", "status"), [(3, gpu_steps.MORE_TO_DO), (0, "ok"), (1, "failed, exit status 1")])
def test_charged_particles_that_need_more_time_did_not_fail(code, status, tmp_path, monkeypatch, capsys):
    words = [sys.executable, "-c", f"import sys; print('the budget'); sys.exit({code})"]
    charged, in_5, _ = gpu_steps.third_tier(gpu_steps.Programs(parsed(tmp_path)))
    charged.words, in_5.words = words, [sys.executable, "-c", "print('scores')"]
    monkeypatch.setattr(gpu_check, "why_no_device", lambda *_: None)
    monkeypatch.setattr(gpu_check, "steps", lambda args: [charged, in_5])
    assert gpu_check.main(["--tier", "3", "--device", "cpu", "--trial", "--out", str(tmp_path)]) == (code == 1)
    done = [json.loads(line) for line in (tmp_path / "gpu_check.jsonl").read_text().splitlines()]
    later = [] if code == 3 else [("charged in 5 steps", "ok")]
    assert [(row["step"], row["status"]) for row in done][1:] == [("charged", status), *later]
    assert (f"charged: {gpu_steps.MORE_TO_DO}\nall was well" in capsys.readouterr().out) == (code == 3)


def test_the_charged_particles_of_a_commit_have_a_folder_of_their_own(tmp_path, monkeypatch):
    folders = set()
    for commit in ("abc", "abd"):
        monkeypatch.setattr(gpu_steps, "commit", lambda commit=commit: commit)
        charged, in_5, _ = gpu_steps.third_tier(gpu_steps.Programs(parsed(tmp_path)))
        folder = charged.words[charged.words.index("--out") + 1]
        assert f"{folder}/train" in in_5.words
        folders.add(folder)
    assert len(folders) == 2


@pytest.mark.parametrize("program", [step, train, sample])
def test_a_program_lists_the_implementations_that_it_takes(program):
    parser = program._parser()
    (taken,) = [action.choices for action in parser._actions if action.dest == "implementations"]
    paragraph = parser.format_help().partition("implementations:\n")[2].partition("\n\n")[0]
    told = re.findall(r"^  (\w+) ", paragraph, re.MULTILINE)
    assert told == list(taken)


def test_torch_geometric_is_a_peer_where_it_is_installed(gpu, tmp_path, monkeypatch):
    real = gpu_steps.importlib.util.find_spec
    for there in (True, False):
        is_there = lambda name, there=there: there or None if name == "torch_geometric" else real(name)
        monkeypatch.setattr(gpu_steps.importlib.util, "find_spec", is_there)
        (compiled,) = [step for step in gpu_steps.steps(parsed(tmp_path)) if step.name == "sample compiled"]
        assert ("pyg_compiled" in compiled.words) == there


def test_the_table_shows_align_your_structures_and_the_charged_particles():
    about = {"benchmark": "ays", "workload": "interpolator", "sizes": vars(ays.Sizes()), "machine": {}}
    times = {"inference_seconds": 0.5, "training_seconds": 2.0, "training_peak_bytes": 2**30}
    rows = [about | times | {"implementation": "ours"}]
    rows += [about | {name: 4 * value for name, value in times.items()} | {"implementation": "official"}]
    done = [Step("environment", [], 0, status="ok"), Step("charged", [], 0, status="ok", lines=["ADE 0.1"])]
    shown = gpu_table.table(done, rows)
    assert "Align Your Structures: atoms 44, graphs 2, frames 251" in shown and "4096 MiB" in shown
    assert "charged\nADE 0.1" in shown and shown.endswith("all was well")


def test_what_is_packed_serves_every_step(gpu, tmp_path, monkeypatch):
    monkeypatch.setenv("OUT", str(tmp_path))
    assert gpu_check._parser().parse_args([]).out == tmp_path
    for name in ("TORCH_CUDA_ARCH_LIST", "TRITON_CACHE_DIR", "GEOTDM_COMMIT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0), raising=False)
    monkeypatch.setattr(gpu_check.gpu_pack, "manifest", lambda: {"commit": "abc"})
    found = gpu_check.surroundings(parsed(tmp_path))
    cache = str(gpu_check.gpu_pack.PACK / "triton_cache")
    assert found == {"TORCH_CUDA_ARCH_LIST": "9.0a", "GEOTDM_COMMIT": "abc", "TRITON_CACHE_DIR": cache}
    monkeypatch.setenv("GEOTDM_COMMIT", "def")
    monkeypatch.setattr(gpu_check.gpu_pack, "manifest", lambda: None)
    assert gpu_check.surroundings(parsed(tmp_path)) == {"TORCH_CUDA_ARCH_LIST": "9.0a"}
