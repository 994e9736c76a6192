"""The benchmarks: peers that compute what the network computes, work that is counted right, a gate that shuts."""

import importlib
import json
import sys

import pytest
import torch
import warm_python
from cases import DOMAINS, MASKS, case
from places import ROOT
from tolerances import assert_same

from bench.common import correctness, record
from bench.common.timing import MatrixProduct, Times, interleaved, products_for, rates
from bench.common.workloads import SIZES, make_workload
from bench.network import contenders, memory, step
from bench.network.contenders import Contender, bytes_needed, make_contender, make_truth, split_by_memory
from bench.ops import bench_radius_graph, periodic, single_op
from bench.peers.baselines import EfficientEGTN, OfficialEGTN
from bench.sampling import sample
from bench.training import train, trainers
from geotdm_fast.graphs import Graph
from geotdm_fast.ops.backend import current_backend

STRUCTURES = (OfficialEGTN, EfficientEGTN)
SMALL = ["--hidden-dim", "16", "--layers", "1", "--graphs", "2", "--threads", "1", "--quiet"]


def small(name: str, **sizes):
    return make_workload(name, **{"num_graphs": 2, "num_frames": 6, "n_layers": 2, "hidden_dim": 16} | sizes)


# --- peers ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize(
    ("name", "compiled"), [("nbody", False), ("md", False), ("ped", False), ("long", False), ("nbody", True)]
)
def test_peers_equal_the_network_forward_and_backward(name, compiled, structure):
    workload = small(name, n_layers=1 if compiled else 2)
    plain = structure(**workload.arguments)
    plain.load_state_dict(workload.network().state_dict())
    if compiled:
        # The graph that torch.compile makes, without a C++ compiler; the gate checks the rest before every run.
        torch.compiler.reset()
        plain.compiled(backend="aot_eager")
    # In float64, where the equations must agree but for nothing: float32 differs by the rounding of each side.
    double = lambda value: value.double() if torch.is_tensor(value) and value.is_floating_point() else value
    inputs = {key: double(value) for key, value in workload.inputs().items()}
    cotangents = tuple(double(value) for value in workload.cotangents())
    found, expected = (
        correctness.results(Contender("", "float64", network.double(), inputs, cotangents), "training")
        for network in (plain, workload.network())
    )
    assert expected.keys() == found.keys() and len(expected) > 30
    assert correctness.worst_error(found, expected)[0] < 1e-10


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("domain", DOMAINS)
def test_peers_equal_the_reference_for_every_mask(domain, mask, structure):
    network, x, model_kwargs = case(domain).conditional(MASKS[mask])
    network.scale = 0.5
    plain = structure(**sizes_of(domain, x.shape[-1]), learn_ref_frame=False, scale=0.5).double()
    plain.load_state_dict(network.state_dict())
    t = torch.arange(len(x)) * 3
    for ours, expected in zip(plain(t, x, **model_kwargs), network(t, x, **model_kwargs), strict=True):
        assert_same(ours, expected)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("domain", DOMAINS)
def test_peers_have_the_learned_prior(domain, structure):
    network, x, model_kwargs = case(domain).conditional(MASKS["prefix"], learned=True)
    plain = structure(**sizes_of(domain, x.shape[-1]), learn_ref_frame=True).double()
    plain.load_state_dict(network.state_dict())
    prior = lambda module: module(diffusion_t=None, x=None, compute_ref=True, **model_kwargs)
    assert_same(prior(plain), prior(network))
    _, _, with_gaps = case(domain).conditional(MASKS["ends"], learned=True)
    with pytest.raises(ValueError, match=r"the given frames must have no gaps, got \(0, 1, 6\)"):
        plain(diffusion_t=None, x=None, compute_ref=True, **with_gaps)


def sizes_of(domain: str, num_w: int) -> dict:
    """The arguments of the networks of `cases`."""
    chosen = case(domain)
    own = {"node_dim": chosen.node_dim, "edge_dim": chosen.edge_dim, "pre_norm": chosen.pre_norm, "num_w": num_w}
    return {"n_layers": 2, "hidden_dim": 12, "time_emb_dim": 9, "act_fn": "silu", "n_layers_ref": 1} | own


def test_a_peer_takes_silu_alone():
    with pytest.raises(ValueError, match="OfficialEGTN: act_fn must be 'silu', got 'relu'"):
        OfficialEGTN(**sizes_of("nbody", 1) | {"act_fn": "relu"}, learn_ref_frame=False)


def test_recomputing_changes_memory_and_no_gradient():
    workload = small("md")
    plain, again = (EfficientEGTN(**workload.arguments, recompute=flag) for flag in (False, True))
    again.load_state_dict(plain.state_dict())
    found = [
        correctness.results(Contender("", "float32", network, workload.inputs(), workload.cotangents()), "training")
        for network in (plain, again)
    ]
    assert correctness.worst_error(*found)[0] < 1e-6


# --- workloads --------------------------------------------------------------------------------------------------------


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


# --- gate, timing, memory ---------------------------------------------------------------------------------------------


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


def test_a_peer_that_does_not_fit_is_left_out(monkeypatch):
    long = make_workload("long")
    # Three tensors [176, 128, 512, 512] of 22 GiB in every layer.
    assert bytes_needed(long, "official", "float32", "training") > 200 * 2**30
    monkeypatch.setattr(contenders, "free_memory", lambda device: 20 * 2**30)
    fit, refused = split_by_memory(long, ["ours", "official"], ["float32"], "inference")
    assert fit == [("ours", "float32")]
    assert refused == {("official", "float32"): "needs about 88 GiB, 16 are free"}


def test_memory_of_a_call_is_what_the_structure_holds():
    spec = {"name": "long", "num_graphs": 1, "num_frames": 192, "n_layers": 1, "hidden_dim": 32}

    def peak_of(implementation):
        order = {"spec": spec, "implementation": implementation, "dtype": "float32", "device": "cpu", "threads": 1}
        done = warm_python.run("-m", "bench.network.memory", "--child", json.dumps(order))
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])["peak_bytes"]

    peak, pairs = peak_of("official"), 22 * 32 * 192**2 * 4
    assert 3 * pairs < peak < 9 * pairs
    assert peak_of("ours") < peak / 2


def test_a_failure_of_the_measuring_process_is_told():
    with pytest.raises(RuntimeError, match=r"memory of ours at nbody: TypeError: .*'nothing'"):
        memory.measure({"name": "nbody", "nothing": 1}, "ours", "float32")


# --- programs ---------------------------------------------------------------------------------------------------------


def test_step_writes_lines_and_a_table_last(tmp_path, capsys):
    out = tmp_path / "step.jsonl"
    words = [*SMALL, "--workload", "nbody", "md", "--repeats", "1", "--no-compile", "--out", str(out)]
    assert step.main(words) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == 2 * 2 * 3
    ours = [row for row in rows if row["implementation"] == "ours"]
    for row in ours:
        peers = [r for r in rows if (r["workload"], r["mode"]) == (row["workload"], row["mode"]) and r is not row]
        best = min(peers, key=lambda peer: peer["seconds"])
        assert row["best_peer"] == best["implementation"]
        assert row["times_best_peer"] == pytest.approx(best["seconds"] / row["seconds"])
        assert row["floor_seconds"] == pytest.approx(row["gflop"] / row["matrix_gflops"])
        assert row["error"] < 1e-4 and row["machine"]["threads"] == 1 and row["commit"] and row["date"]
    shown = capsys.readouterr().out
    assert "W-md: graphs 2, nodes 42, edges 360" in shown
    assert f"inference, float32: {ours[0]['times_best_peer']:.2f} times as fast as the best peer" in shown
    assert shown.index("torch ") < shown.index("W-nbody") < shown.index("lines added")


def test_sample_compares_whole_chains(tmp_path, capsys):
    out = tmp_path / "sample.jsonl"
    words = [*SMALL, "--workload", "nbody", "--timesteps", "25", "--peer-steps", "5", "--steps", "8", "--no-compile"]
    words += ["--method", "dpmpp_2m", "--dtype", "float32", "mixed", "--repeats", "1", "--out", str(out)]
    assert sample.main(words) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == 2 * 3
    ours, official, efficient = rows[:3]
    assert (ours["steps"], ours["method"], official["steps"], official["timed_steps"]) == (8, "dpmpp_2m", 25, 5)
    assert ours["trajectories_per_second"] == pytest.approx(2 / ours["seconds"])
    assert ours["times_official"] == pytest.approx(official["seconds"] / ours["seconds"])
    best = min(official["seconds"], efficient["seconds"])
    assert ours["times_best_peer"] == pytest.approx(best / ours["seconds"])
    own = 1000 * (ours["seconds"] - ours["calls_seconds"]) / 8
    assert ours["beside_calls_ms_per_step"] == pytest.approx(own)
    assert ours["ms_per_step"] == pytest.approx(1000 * ours["seconds"] / 8) and ours["error"] < 1e-5
    shown = capsys.readouterr().out
    assert f"ours, float32, dpmpp_2m in 8 steps: {ours['times_official']:.2f} times official eager" in shown


def test_the_host_is_timed_by_the_steps_that_half_a_chain_lacks(monkeypatch, capsys):
    args = sample._parser().parse_args([*SMALL, "--timesteps", "25", "--steps", "10"])
    chain = sample.Draw(sample.arguments.workload_of(args, "nbody"), "ours", "float32", args)
    assert chain._launch_seconds(chain.sampler, 2) > 0
    monkeypatch.setattr(sample.Draw, "_launch_seconds", lambda self, sampler, rounds: 0.01 + 3e-6 * sampler.num_steps)
    assert chain.host_seconds() == pytest.approx(3e-6)
    row = {"implementation": "ours", "dtype": "float32", "method": "ddpm", "steps": 10, "beside_calls_ms_per_step": 0.1}
    assert sample.sentence(row | {"host_us_per_step": 3.0}).endswith("costs 0.100 ms a step, the host 3.0 us")


def test_a_wrong_chain_is_not_timed(tmp_path, capsys, monkeypatch):
    right = sample.plain_loop
    monkeypatch.setattr(sample, "plain_loop", lambda *a: right(*a) * (1.001 if a[2].dtype == torch.float32 else 1))
    words = [*SMALL, "--workload", "nbody", "--timesteps", "25", "--no-compile", "--out", str(tmp_path / "x.jsonl")]
    assert sample.main(words) == 2
    assert "official in float32 is wrong, so nothing is timed: a chain of 5 steps" in capsys.readouterr().err


def test_training_steps_are_timed_end_to_end(tmp_path, capsys):
    out = tmp_path / "train.jsonl"
    words = [*SMALL, "--frames", "6", "--repeats", "1", "--no-compile", "--out", str(out)]
    assert train.main([*words, "--workload", "nbody", "ped", "--precision", "fp32", "bf16"]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == 2 * 2 * 3
    for row in rows:
        assert row["steps_per_second"] == pytest.approx(1 / row["seconds"]) and not row["captured"]
        assert row["error"] < (1e-4 if row["precision"] == "fp32" else 0.1) and row["commit"]
    ours = rows[0]
    assert ours["implementation"] == "ours" and ours["times_best_peer"] == pytest.approx(
        min(row["seconds"] for row in rows[1:6] if row["precision"] == "fp32" and row["implementation"] != "ours")
        / ours["seconds"]
    )
    shown = capsys.readouterr().out
    assert f"fp32: {ours['times_best_peer']:.2f} times as fast as the best peer" in shown
    assert "target" not in shown, "the targets are for the whole network"


def test_peers_train_as_we_do(tmp_path):
    """From the same weights, on the same draws: the same weights after some steps, but for rounding."""
    workload = small("nbody")
    dataset = trainers.dataset_of(workload)
    ours = trainers.OurTrainer(workload, dataset, "fp32", "cpu")
    plain = trainers.PlainTrainer(workload, dataset, "efficient", "fp32", "cpu")
    for number in range(3):
        (draw,) = ours.source.training(number)
        plain.gradient(draw)
        torch.nn.utils.clip_grad_norm_(plain.plain.parameters(), trainers.CLIP)
        plain.optimizer.step()
        ours.train()
    state = ours.step.named_state()
    for name, parameter in plain.plain.named_parameters():
        clear = state[f"adam.exp_avg_sq.{name}"].sqrt() > 1e-6
        torch.testing.assert_close(state[f"weights.{name}"][clear], parameter[clear], rtol=1e-4, atol=1e-6)
    plain.train()  # its own draws
    assert len(plain.order) == len(dataset) - 2 and int(plain.average.n_averaged) == 1


def test_a_training_step_that_is_wrong_is_not_timed(tmp_path, capsys, monkeypatch):
    words = [*SMALL, "--frames", "6", "--repeats", "1", "--workload", "nbody", "--out", str(tmp_path / "train.jsonl")]
    words += ["--implementations", "ours"]
    right = trainers.PlainTrainer.loss
    monkeypatch.setattr(trainers.PlainTrainer, "loss", lambda *args: 1.01 * right(*args))
    assert train.main(words) == 2
    assert "ours in float32 is wrong, so nothing is timed: training" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.setattr(trainers.OurTrainer, "train", lambda self: None)
    assert train.main(words) == 2
    assert "our step is wrong, so nothing is timed: loss and gradient norm are [0.0, 0.0]" in capsys.readouterr().err


def test_targets_are_told_where_they_apply():
    h100 = {"precision": "bf16", "seconds": 0.9e-3}
    nbody = make_workload("nbody", num_graphs=128)
    assert train.verdicts(nbody, h100, "NVIDIA H100 80GB HBM3") == ["0.90 ms; target 1 ms: met"]
    assert train.verdicts(nbody, h100 | {"seconds": 2e-3}, "NVIDIA H100") == ["2.00 ms; target 1 ms: missed"]
    assert train.verdicts(nbody, h100 | {"precision": "fp32"}, "NVIDIA H100") == []
    on_cpu = {"precision": "fp32", "seconds": 1.0, "times_best_peer": 1.9, "best_peer": "efficient_compiled"}
    (said,) = train.verdicts(make_workload("nbody"), on_cpu, "")
    assert said == "1.90 times as fast as the best peer (efficient compiled); target 2: missed"


def test_memory_sweeps(tmp_path, capsys, monkeypatch):
    # 2 MiB a frame and implementation; the processes that measure have their own test.
    monkeypatch.setattr(memory, "measure", lambda spec, *_: {"peak_bytes": 2**21 * spec["num_frames"]})
    out = tmp_path / "memory.jsonl"
    words = ["--points", "8", "16", "--hidden-dim", "16", "--layers", "1", "--threads", "1", "--quiet"]
    assert memory.main([*words, "--out", str(out)]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(row["implementation"], row["sizes"]["frames"]) for row in rows] == [
        (name, frames) for frames in (8, 16) for name in ("ours", "official", "efficient")
    ]
    shown = capsys.readouterr().out
    assert "frames  ours  official  efficient  ours, MiB per frame more" in shown
    assert "    16    32        32         32                     2.000" in shown


@pytest.mark.parametrize("program", [step, sample, memory, train])
def test_a_users_error_is_one_line(program, tmp_path, capsys, monkeypatch):
    words = ["--device", "cuda", "--quiet", "--out", str(tmp_path / "x.jsonl")]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert program.main(words) == 2
    error = capsys.readouterr().err
    assert error == f"{program.__name__}: error: --device cuda: torch finds no usable GPU\n"


def test_help_says_what_is_measured(capsys):
    with pytest.raises(SystemExit, match="0"):
        step.main(["--help"])
    shown = capsys.readouterr().out
    for word in ("A B C D E", "floor", "median", "--threads", "official_compiled", "aspirin", "1e-4"):
        assert word in shown, word


def test_boxes_are_timed_in_turn_once_they_compute_the_same(capsys, monkeypatch):
    trial = ["--graphs", "1", "--frames", "2", "--hidden-dim", "16", "--repeats", "1", "--quiet"]
    assert periodic.main(trial) == 0
    forward, backward = capsys.readouterr().out.splitlines()[-2:]
    assert "20 edges, forward: no box" in forward and "box with its gradient" in backward
    assert periodic.main(["--workload", "ped"]) == 2
    assert "workload ped: a box must come with positions in 3 dimensions" in capsys.readouterr().err
    monkeypatch.setattr(Graph, "shift", lambda self, num_frames: None)
    assert periodic.main(trial) == 2
    assert "egcl in a box is wrong, so it is not timed: error" in capsys.readouterr().err


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


@pytest.mark.parametrize(
    ("search", "in_box"),
    [
        *((search, False) for search in ("auto", "all pairs", "reference", "query_pairs", "sparse_distance_matrix")),
        *((search, True) for search in ("auto", "table", "all pairs", "reference")),
    ],
)
def test_radius_graph_searches_are_checked_before_they_are_timed(search, in_box):
    case = bench_radius_graph.Case(3, 2, 40, 3.0, in_box=in_box)
    call = bench_radius_graph.make_call(search, case)
    bench_radius_graph.check(call, case, search, "cpu")
    wrong = bench_radius_graph.make_call(search, case._replace(cutoff=3.2))
    with pytest.raises(ValueError, match=f"{search} finds [0-9]+ edges instead of [0-9]+, so it is not timed"):
        bench_radius_graph.check(wrong, case, search, "cpu")


def test_every_search_in_a_box_is_timed_or_told_why_not():
    case = bench_radius_graph.CASES["4096 in a box"]
    told = {search: bench_radius_graph.why_not(search, case) for search in bench_radius_graph.SEARCHES[:6]}
    assert told["auto"] is told["table"] is None
    assert all("images" in told[search] for search in bench_radius_graph.SEARCHES[2:6])


@pytest.mark.parametrize("suite", ["bench_egcl", "bench_temporal_attention"])
@pytest.mark.parametrize("direction", single_op.DIRECTIONS)
def test_single_ops_are_checked_before_they_are_timed(suite, direction, monkeypatch):
    module = importlib.import_module(f"bench.ops.{suite}")
    monkeypatch.setattr(module, "make_workload", small)
    op = module.make_op("nbody", torch.device("cpu"))
    assert len(op.run("backward")) == len(op.leaves)
    single_op.check(op, direction)
    exact = op.call
    op.call = lambda: tuple(out * (1 if current_backend() == "reference" else 1.001) for out in exact())
    with pytest.raises(ValueError, match=f"{op.name} {direction} is wrong, so it is not timed: error 1.0e-03"):
        single_op.check(op, direction)


def test_a_peer_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_geometric", None)
    monkeypatch.delitem(sys.modules, "bench.peers.message_passing", raising=False)
    with pytest.raises(ValueError, match="pyg needs torch_geometric, which is not installed"):
        contenders.structure_of("pyg")
