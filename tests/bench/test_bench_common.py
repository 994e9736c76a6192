"""What all benchmarks share: work that is counted right, a gate that shuts on a wrong result, clocks and records."""

import pytest
import torch
from places import ROOT
from small_bench import small
from tolerances import assert_same

from bench.common import correctness, record
from bench.common.timing import MatrixProduct, Times, interleaved, products_for, rates
from bench.common.workloads import SIZES, make_workload
from bench.network.contenders import make_contender, make_truth


def test_work_is_that_of_the_formulas():
    sizes = {name: make_workload(name).sizes for name in ("nbody", "md", "ped", "long")}
    assert [sizes["nbody"][key] for key in ("nodes", "edges", "frames", "dim")] == [160, 640, 30, 3]
    assert [sizes["md"][key] for key in ("nodes", "edges", "frames", "dim")] == [168, 8 * 180, 30, 3]
    assert [sizes["ped"][key] for key in ("nodes", "edges", "frames", "dim")] == [199, 34 + 33 * 4 + 33 * 9, 20, 2]
    assert [sizes["long"][key] for key in ("nodes", "edges", "frames", "dim")] == [176, 8 * 196, 512, 3]
    # 6 layers x 2 x (node-frames (12 H^2 + 6 T H) + edge-frames 2 H^2)
    nbody = 12 * (640 * 30 * (12 * 128**2 + 6 * 30 * 128) + 2560 * 30 * 2 * 128**2)
    assert make_workload("nbody", num_graphs=128).flop() == nbody == pytest.approx(80.8e9, rel=1e-3)
    assert make_workload("md", num_graphs=128).flop() == pytest.approx(484.3e9, rel=1e-3)
    assert make_workload("md").flop("training") == 3 * make_workload("md").flop()


def test_a_large_workload_is_a_gas_or_the_file(tmp_path):
    import numpy as np

    gas = make_workload("large", n_layers=1, hidden_dim=16)
    assert gas.num_nodes == 3341 and 38 < gas.num_edges / gas.num_nodes < 48
    generator = np.random.default_rng(0)
    positions = generator.normal(size=(12, 7, 3)).astype(np.float32) * 3
    np.savez(tmp_path / "own.npz", R=positions, z=np.array([6, 1, 1, 8, 6, 1, 1]))
    own = make_workload("large", large_file=tmp_path / "own.npz", cutoff=4.0)
    near = np.linalg.norm(positions[0][:, None] - positions[0][None], axis=-1) <= 4
    assert own.num_edges == near.sum() - 7 and own.sizes["frames"] == 10
    assert own.batch.h.tolist() == torch.eye(3)[[1, 0, 0, 2, 1, 0, 0]].tolist()
    with pytest.raises(ValueError, match=r"R must be \[at least 20, atoms, 3\], got \[12, 7, 3\]"):
        make_workload("large", large_file=tmp_path / "own.npz", num_frames=20)


def test_workloads_refuse_what_they_are_not():
    with pytest.raises(ValueError, match="make_workload: name"):
        make_workload("nbdy")
    with pytest.raises(ValueError, match="num_frames must be at least 2, got 1"):
        make_workload("md", num_frames=1)


def test_the_gate_opens_for_all_and_shuts_on_a_wrong_one():
    workload = small("nbody")
    rivals = [make_contender(workload, name) for name in ("ours", "official", "efficient")]
    truth = make_truth(workload)
    assert max(correctness.check(rivals, truth, "training").values()) < 5e-5
    with torch.no_grad():
        rivals[0].network.s_modules[1].coord_mlp.actions[0].weight[0, 0] += 0.5
    with pytest.raises(
        ValueError, match=r"ours in float32 is wrong, so nothing is timed: inference, .* within 1.0e-04"
    ):
        correctness.check(rivals, truth, "inference")


def test_the_gate_shuts_on_what_is_not_finite_or_missing():
    good = {"x_out": torch.ones(2), "grad a": torch.ones(3)}
    assert correctness.worst_error(good, good)[0] == 0
    assert correctness.worst_error(good | {"x_out": torch.tensor([1.0, float("nan")])}, good) == (float("inf"), "x_out")
    assert correctness.worst_error({"x_out": torch.ones(2)}, good) == (float("inf"), "grad a")


@pytest.mark.parametrize("dtype", ["mixed", "bfloat16"])
def test_low_precision_is_held_to_its_own_error(dtype):
    workload = small("nbody")
    rivals = [make_contender(workload, name, dtype) for name in ("ours", "efficient")]
    errors = correctness.check(rivals, make_truth(workload), "training")
    assert 1e-4 < errors["efficient", dtype] < 0.2
    rivals[0].inputs["x"] = rivals[0].inputs["x"] * 2
    with pytest.raises(ValueError, match=f"ours in {dtype} is wrong"):
        correctness.check(rivals, make_truth(workload), "inference")


def test_calls_take_turns_and_medians_count():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "abc"}
    times = interleaved(calls, 2, warm_up=1, progress=False)
    assert "".join(order) == "abcabcabc"
    assert [len(times[name].seconds) for name in "abc"] == [2, 2, 2]
    assert Times((3.0, 1.0, 2.0)).median == 2 and Times((4.0, 1.0, 2.0, 3.0)).median == 2.5
    assert (Times((3.0, 1.0)).least, Times((3.0, 1.0)).most) == (1, 3)


def test_the_matrix_rate_is_operations_over_time():
    products = {("matrix product", name): MatrixProduct(size=16) for name in ("float32", "bfloat16")}
    times = {key: Times((seconds,)) for key, seconds in zip(products, (2.0, 4.0), strict=True)}
    assert rates(products, times) == {"float32": 16**3, "bfloat16": 16**3, "mixed": 16**3}
    product = products["matrix product", "float32"]
    product()
    assert_same(product.out, product.a @ product.b, 1e-6)
    assert list(products_for(["float32"], "cpu")) == [("matrix product", "float32")]


def test_every_line_names_machine_versions_commit_and_date():
    found = record.context()
    assert found["machine"]["cpu"] and found["machine"]["cores"] >= 1 and found["machine"]["isa"]
    assert found["versions"]["torch"] == torch.__version__
    busy = record.describe(found | {"machine": found["machine"] | {"load": 2.0}})
    assert "not idle (load 2.0): not for the record" in busy
    assert "not idle" not in record.describe(found | {"machine": found["machine"] | {"load": 0.1}})


def test_the_workloads_are_documented():
    notes = (ROOT / "bench" / "NOTES.md").read_text(encoding="utf-8")
    assert all(f"W-{name}" in notes for name in SIZES)
