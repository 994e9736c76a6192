"""The Triton kernels compiled for GPUs that need not be there, and the program that reads their machine code."""

import importlib.util
import json
import re
import sys

import pytest
import warm_python

from bench.common import machine_code
from bench.common.machine_code import Counts
from bench.ops import codegen

LIMITS = json.loads(codegen.LIMITS.read_text())
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None and sys.platform != "linux", reason="triton is made for Linux alone"
)


def run(*arguments: str) -> warm_python.Done:
    """`python -m bench.ops.codegen`, outside Triton's interpreter."""
    outside = {"TRITON_INTERPRET": None}
    return warm_python.run("-m", "bench.ops.codegen", "--no-out", *arguments, environment=outside, timeout=600)


@pytest.mark.recorded("codegen", always=r"90")
@needs_triton
@pytest.mark.parametrize("capability", codegen.CAPABILITIES)
def test_kernels_over_edges_in_bf16_stay_within_the_limits(capability):
    kernels = ["egcl_edges", "egcl_edges_backward"]
    done = run("--width", "128", "--precision", "bf16", "--capability", str(capability), "--kernel", *kernels)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 kernels compiled, 0 over a limit" in done.stdout
    lines = [line for line in done.stdout.splitlines() if line.startswith("egcl")]
    number = lambda line, name: float(re.search(rf" {name}=([\d.]+)", line)[1])
    unit = {80: "mma", 90: "wgmma", 100: "tcgen05"}[capability]
    for line in lines:
        assert number(line, "spilled") == 0 and number(line, unit) >= 8
        if capability == 90:
            assert number(line, "special_per_silu") == 1
            assert number(line, "floor_us") < number(line, "predicted_us") < 8 * number(line, "floor_us")


@pytest.mark.recorded("codegen")
@needs_triton
def test_kernels_with_a_cutoff_in_periodic_boxes_stay_within_the_limits():
    kernels = ["egcl_edges", "egcl_update_backward", "egcl_edges_backward"]
    options = ["--cutoff", "--shift"]
    done = run(*options, "--width", "128", "--precision", "bf16", "--capability", "90", "--kernel", *kernels)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 kernels compiled, 0 over a limit" in done.stdout and "sm_90 cutoff shift" in done.stdout


@pytest.mark.recorded("codegen")
@needs_triton
def test_the_gated_feed_forward_stays_within_the_limits():
    done = run("--width", "128", "--precision", "bf16", "--capability", "90", "--kernel", "gv_ff")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 kernels compiled, 0 over a limit" in done.stdout


@pytest.mark.recorded("codegen")
@needs_triton
def test_the_neighbour_search_stays_within_the_limits():
    kernels = ["radius_pairs", "radius_cells", "radius_search", "radius_wrap", "radius_images"]
    kernels += ["radius_shifts", "radius_image_grid", "radius_image_cells", "radius_image_search", "radius_image_order"]
    done = run("--width", "32", "--precision", "bf16", "--kernel", *kernels)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "30 kernels compiled, 0 over a limit" in done.stdout


@pytest.mark.recorded("codegen")
@needs_triton
def test_what_sampling_launches_beside_the_network_stays_within_the_limits():
    kernels = ["diffusion_step", "trajectory_noise"]
    done = run("--width", "32", "--precision", "bf16", "--kernel", *kernels)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "12 kernels compiled, 0 over a limit" in done.stdout


@pytest.mark.recorded("codegen")
@needs_triton
def test_what_training_launches_beside_the_layers_stays_within_the_limits():
    kernels = ["node_embedding", "node_embedding_backward", "node_embedding_sum", "reference_frame", "cut_windows"]
    kernels += ["reference_frame_backward", "noised_positions", "noised_positions_backward", "square_sum", "adam_step"]
    done = run("--width", "128", "--precision", "bf16", "--capability", "90", "--kernel", *kernels)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "12 kernels compiled, 0 over a limit" in done.stdout


@needs_triton
def test_interpreted_kernels_are_not_compiled(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # Triton reads it whenever it is asked
    with pytest.raises(SystemExit, match="codegen: TRITON_INTERPRET must not be set"):
        codegen.main(["--no-out"])


@pytest.mark.recorded("codegen")
@needs_triton
def test_operands_of_every_product_are_fenced_before_the_barrier():
    """As CUDA asks for."""
    kernels = ["egcl_project", "egcl_update", "egcl_update_backward", "egcl_weight", "egcl_project_backward"]
    done = run("--width", "64", "128", "--precision", "bf16", "tf32", "--capability", "90", "--kernel", *kernels)
    assert done.returncode == 0, done.stdout + done.stderr
    store, fence, barrier = "st.shared.b32 [a], b;\n", "fence.proxy.async.shared::cta;\n", "bar.sync 0;\n"
    products = 2 * "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 a;\n"
    right, copied = store + fence + barrier + products, barrier + fence + products
    wrong = store + barrier + fence + products
    assert [machine_code.late_fences(ptx) for ptx in (2 * right, right + copied, right + wrong)] == [0, 0, 1]


CODE = """
        /*0000*/                   MOV R1, c[0x0][0x28] ;
        /*0010*/                   FFMA R1, R2, R3, R4 ;
        /*0020*/                   LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0030*/              @!P0 LDGSTS.E.64 [R5], desc[UR4][R6.64] ;
        /*0040*/                   HGMMA.64x64x16.F32.BF16 R24, gdesc[UR8], R24 ;
        /*0050*/                   MUFU.TANH R7, R7 ;
        /*0060*/                   MUFU.RCP R7, R7 ;
        /*0070*/               @P1 BRA 0x20 ;
        /*0080*/                   BRA 0x80;
"""


def test_a_turn_of_the_loop_is_counted():
    code = [(int(address, 16), op, rest) for address, op, rest in machine_code.LINE.findall(CODE)]
    assert [op for _, op, _ in code][2:4] == ["LDG.E.128", "LDGSTS.E.64"]
    body = machine_code.turn(code)
    assert sum(body.values()) == 6 and body["MUFU.TANH"] == 1 and "MOV" not in body
    assert [machine_code.width(op) for op in ("LDG.E.128", "LDGSTS.E.64", "LDG.E", "LDG.E.U16")] == [16, 8, 4, 2]
    assert sum(machine_code.turn(code[:-2]).values()) == 7  # no loop


class Named:
    """A launch of bench.ops.codegen without a kernel."""

    name, signature, options = "egcl_edges", (), (("num_warps", 8),)
    constants = (("BLOCK", 64), ("PADDED", 128))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({}, None),
        ({"spilled": 8}, "8 bytes a thread are spilled, over 0"),
        ({"shared": 232449}, "232449 bytes of shared memory, over 232448"),
        ({"wgmma": 0, "mma": 64}, "no wgmma"),
        ({"wgmma": 0}, "no matrix instruction"),
        ({"silu": 192}, "2.0 special functions for a SiLU, over 1.0"),
    ],
)
def test_limits_bite(change, problem):
    good = Counts(250, 0, 81920, 16, 0, 0, 98, 96, 900, 200)
    found = codegen.problems(codegen.Case(128, "bf16", 90), Named(), good._replace(**change), LIMITS)
    assert problem in found if problem else not found


def test_what_decides_at_the_cutoff_fuses_nothing():
    class Search(Named):
        name = "radius_search"

    counts = Counts(40, 0, 16, 0, 0, 0, 3, 0, 440, 104)
    case = codegen.SearchCase(True, 3, 90)
    assert not codegen.problems(case, Search(), counts, LIMITS)
    found = codegen.problems(case, Search(), counts._replace(fused=2), LIMITS)
    assert found == ["2 fused multiply-adds: squared distances are not rounded as they should be"]


def test_an_exception_is_for_what_it_names():
    limits = LIMITS | {"exceptions": [{"where": {"precision": ["fp32"], "width": [256]}, "spilled": 200, "why": ""}]}
    spilling = Counts(64, 184, 18432, 0, 0, 0, 40, 24, 4000, 200)
    assert not codegen.problems(codegen.Case(256, "fp32", 90), Named(), spilling, limits)
    assert codegen.problems(codegen.Case(128, "fp32", 90), Named(), spilling, limits)


def test_rows_replace_those_of_the_same_kernels(tmp_path):
    path = tmp_path / "results" / "codegen.json"
    codegen.write(path, [{"what": "a", "registers": 1}, {"what": "b", "registers": 2}])
    codegen.write(path, [{"what": "a", "registers": 3}])
    written = json.loads(path.read_text())
    assert [(row["what"], row["registers"]) for row in written["rows"]] == [("a", 3), ("b", 2)]
    assert written["about"]["triton"]
