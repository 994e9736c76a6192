"""`bench.gpu_variants`: one machine code for all that a launcher asks for in one way; what does not compile is told."""

import importlib.util
import json
import sys

import pytest
import warm_python

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None and sys.platform != "linux", reason="triton is made for Linux alone"
)

# A launch of trajectory_noise_kernel: six tensors, three numbers, BLOCK.
TENSORS = [*(["tensor", "int64", True] for _ in range(5)), ["tensor", "float32", True]]
NUMBERS = [["number", 16]] * 3


def launch(tensors=TENSORS, numbers=NUMBERS) -> str:
    arguments = [*tensors, *numbers, ["constant", 128]]
    return json.dumps(["geotdm_fast.kernels.trajectory_noise", "trajectory_noise_kernel", arguments, {"num_warps": 4}])


def run(tmp_path, launches: list[str], *arguments: str) -> warm_python.Done:
    """`python -m bench.gpu_variants`, outside Triton's interpreter."""
    (tmp_path / "launches").write_text("\n".join(launches))
    environment = {"TRITON_INTERPRET": None, "TRITON_CACHE_DIR": str(tmp_path / "cache")}
    words = ["-m", "bench.gpu_variants", "--launches", str(tmp_path / "launches"), *arguments]
    return warm_python.run(*words, environment=environment, timeout=600)


@pytest.mark.recorded("codegen")
def test_the_benchmarks_need_one_machine_code_for_each_constants_types_and_options(tmp_path):
    done = run(tmp_path, [], "--no-compile")
    assert done.returncode == 0, done.stdout + done.stderr
    count = {row.split()[0]: int(row.split()[1]) for row in done.stdout.splitlines()[2:] if row}
    # For each precision; the sums of a chunk and of the later ones, of moves and of features, by block.
    assert count["egcl_edges"] == count["egcl_edges_backward"] == 3
    assert count["egcl_edge_sum"] == 8 and count["egcl_weight"] <= 9
    assert count["gv_ff"] == 3 and count["gv_ff_backward"] == 1
    assert {number for name, number in count.items() if name.startswith("radius_")} == {1}
    assert count["all"] == sum(number for name, number in count.items() if name != "all") <= 73


@pytest.mark.recorded("codegen")
def test_numbers_make_no_second_machine_code_and_addresses_are_told(tmp_path):
    others = [launch(numbers=[["number", like]] * 3) for like in (1, 3)]
    done = run(tmp_path, [launch(), *others], "--no-compile", "--recorded-alone")
    assert done.returncode == 0 and "trajectory_noise         1 " in done.stdout
    odd = [["tensor", "int64", False], *TENSORS[1:]]
    done = run(tmp_path, [launch(), launch(odd)], "--no-compile", "--recorded-alone")
    assert done.returncode == 1
    told = "sm_90: trajectory_noise is compiled again for other numbers or addresses: p_block (% 16 == 0 or any)"
    assert told in done.stdout


def test_what_is_compiled_is_in_the_cache_and_what_is_not_is_told(tmp_path):
    wrong = [["tensor", "float32", True], *TENSORS[1:]]  # of floats no bits can be taken
    done = run(tmp_path, [launch(), launch(wrong)], "--recorded-alone")
    assert done.returncode == 1 and "CompilationError" in done.stdout and '"float32"' in done.stdout
    assert len([*(tmp_path / "cache").rglob("trajectory_noise_kernel.cubin")]) == 1
    assert not [*(tmp_path / "cache").rglob("*.ttir")], "the machine code alone"
