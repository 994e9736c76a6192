"""The CUDA module of the temporal op: which file is taken, for which inputs, what a user is told; and on a GPU, the op.

Tensors on `meta` stand for those on CUDA: they have shapes and no values, and the ops know both of both.
"""

import pathlib
import shutil
import warnings

import pytest
import torch
from native_cases import (
    TEMPORAL_NAMES,
    assert_native_as_accurate,
    assert_same_bits,
    bind,
    cotangents_of,
    needs_native,
    results,
    temporal_attention,
    temporal_inputs,
)
from torch.utils._python_dispatch import TorchDispatchMode

from geotdm_fast import backend, ops
from geotdm_fast.ops import cuda_native, kernels, native
from geotdm_fast.ops.backend import _on_cuda
from geotdm_fast.ops.cuda_native import Built, find, load, why_not_built_for
from geotdm_fast.ops.temporal_attention import why_not_compiled
from geotdm_fast.reference import TemporalAttentionParams

META = torch.device("meta")
MARKER = b"\0geotdm_fast._C_cuda built with CUDA 13.0 for 8.0 9.0a 10.0+PTX\n"
NOT_BUILT = "geotdm_fast._C_cuda is not built"


def on_meta(inputs):
    return [v.to(META) for v in inputs]


@pytest.fixture
def gpu(monkeypatch):
    """As if there were an H100 and the module for it: `meta` is its device."""
    monkeypatch.setattr(kernels, "why_not_device", lambda device: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(cuda_native, "found", lambda: Built(pathlib.Path("_C_cuda.so"), "13.0", "8.0 9.0a"))
    monkeypatch.setattr(cuda_native, "missing", lambda: None)
    monkeypatch.setattr(cuda_native, "shared_memory", lambda device: 227 * 1024)
    cuda_native._warn.cache_clear()
    return monkeypatch


# --- which file ------------------------------------------------------------------------------------------------------


def module_in(folder, content: bytes, name: str = "_C_cuda.so"):
    (folder / name).write_bytes(content)
    return find(folder)


def schemas() -> bytes:
    return "\n".join(cuda_native._schemas()).encode()


def test_a_folder_without_the_module(tmp_path):
    (tmp_path / "_C.cpython-311-x86_64-linux-gnu.so").write_bytes(MARKER)
    assert find(tmp_path) == f"not built ({cuda_native.HOW})"


@needs_native
@pytest.mark.parametrize("name", ["_C_cuda.so", "_C_cuda.cpython-312-x86_64-linux-gnu.so"])
def test_a_module_of_this_version_is_found_and_says_what_it_is_for(tmp_path, name):
    found = module_in(tmp_path, b"\x7fELF" + MARKER + schemas() + b"\0more", name)
    assert found == Built(tmp_path / name, "13.0", "8.0 9.0a 10.0+PTX")


@needs_native
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a module of geotdm_fast: "),
        (b"\x7fELF geotdm_fast._C built with torch 2.11.0\0", "not a module of geotdm_fast: "),
        (MARKER, "built for another version of geotdm_fast (anew, "),
        (
            MARKER + b"temporal_attention_forward(Tensor x) -> Tensor",
            "built for another version of geotdm_fast (anew, ",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_refused_unloaded(tmp_path, monkeypatch, content, message):
    monkeypatch.setattr(torch.ops, "load_library", None)
    assert module_in(tmp_path, content).startswith(message)


@needs_native
def test_a_change_of_either_schema_is_seen(tmp_path):
    for name in (b"Tensor turns", b"Tensor[] kept, int window"):
        other = schemas().replace(name, b"Tensor psi", 1)
        assert module_in(tmp_path, MARKER + other).startswith("built for another version")


def test_two_modules_are_one_too_many(tmp_path):
    (tmp_path / "_C_cuda.abi3.so").write_bytes(MARKER)
    told = module_in(tmp_path, MARKER)
    assert told == f"there more than once: _C_cuda.abi3.so, _C_cuda.so in {tmp_path}"


def test_without_the_cpu_module_there_are_no_ops_to_implement(tmp_path, monkeypatch):
    monkeypatch.setattr(native, "_C", None)
    monkeypatch.setattr(native, "missing", "not built (so and so)")
    told = module_in(tmp_path, MARKER)
    assert told == "of no use without geotdm_fast._C, which defines its ops and is not built (so and so)"


def test_an_old_torch_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(torch, "__version__", "2.9.1+cu130")
    assert load(tmp_path / "_C_cuda.so") == "for torch 2.10 or newer, and this is 2.9.1+cu130"


def test_a_file_that_does_not_load_is_told(tmp_path):
    (tmp_path / "_C_cuda.so").write_bytes(MARKER)
    assert load(tmp_path / "_C_cuda.so").startswith("not loading: ")


@needs_native
@pytest.mark.skipif(torch.cuda.is_available(), reason="here the CUDA module may have registered its kernels")
def test_a_library_without_the_kernels_is_told(tmp_path):
    library = next(pathlib.Path(p) for p in map(_mapped, ("libm.so", "libdl.so", "libc.so")) if p)
    shutil.copy(library, tmp_path / "_C_cuda.so")
    told = load(tmp_path / "_C_cuda.so")
    assert told == "without kernels for temporal_attention_forward, temporal_attention_backward"


def _mapped(name: str) -> str | None:
    """The file of a library that this process has loaded already."""
    lines = pathlib.Path("/proc/self/maps").read_text().splitlines()
    return next((line.split()[-1] for line in lines if f"/{name}" in line), None)


# --- which GPU -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("capability", "architectures"),
    [
        ((8, 0), "8.0"),
        ((8, 9), "8.0 9.0a"),
        ((9, 0), "8.0 9.0a"),
        ((9, 0), "8.0;9.0"),
        ((10, 3), "10.0f"),
        ((10, 3), "8.0 10.0"),
        ((12, 1), "8.0 10.0+PTX"),
        ((9, 0), "8.0+PTX 10.0a"),
    ],
)
def test_gpus_that_a_module_is_for(capability, architectures):
    assert why_not_built_for(capability, architectures) is None


@pytest.mark.parametrize(
    ("capability", "architectures"),
    [
        ((9, 0), "8.0"),
        ((8, 0), "8.6"),
        ((10, 3), "10.0a"),
        ((10, 0), "8.0 9.0a"),
        ((12, 0), "10.0f"),
        ((10, 0), "9.0a+PTX"),
        ((8, 0), "9.0+PTX"),
    ],
)
def test_gpus_that_a_module_is_not_for(capability, architectures):
    major, minor = capability
    expected = f"built for compute capability {architectures}, and this GPU has {major}.{minor}"
    assert why_not_built_for(capability, architectures) == expected


# --- which inputs ----------------------------------------------------------------------------------------------------

TAKEN = {"num_nodes": 2, "num_frames": 5, "dim": 3, "width": 24}


def why_not(sizes=TAKEN, time_emb_dim=13, dtype=torch.float32, frames=None, window=None):
    inputs = [v.to(dtype) for v in temporal_inputs(**sizes)]
    params = TemporalAttentionParams(*inputs[2:])
    params = params._replace(time_w=params.time_w.new_zeros(sizes["width"], time_emb_dim))
    x, h, *params = on_meta([*inputs[:2], *params])
    return why_not_compiled(x, h, TemporalAttentionParams(*params), frames, window)


@pytest.mark.parametrize(
    "case",
    [
        {},
        {"sizes": TAKEN | {"width": 1, "dim": 2}},
        {"sizes": TAKEN | {"width": 256, "num_nodes": 0}},
        {"sizes": TAKEN | {"num_frames": 4096, "num_nodes": 1, "width": 3}},
        {"time_emb_dim": 1},
        {"time_emb_dim": 33},
        {"dtype": torch.bfloat16},
        {"frames": [0, 2, 3, 4, 9]},
        {"window": 0},
    ],
)
def test_the_module_takes(gpu, case):
    assert why_not(**case) is None


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ({"sizes": TAKEN | {"width": 257}}, "the width 257 is not in 1..256"),
        ({"sizes": TAKEN | {"dim": 4}}, "D = 4 is not 2 or 3"),
        ({"sizes": TAKEN | {"num_frames": 4097, "width": 1}}, "the number of frames 4097 is not in 1..4096"),
        ({"sizes": TAKEN | {"num_frames": 0}}, "there is no frame"),
        ({"time_emb_dim": 34}, "the time_emb_dim 34 is not in 1..33"),
        ({"dtype": torch.float16}, "inputs are not all float32 or bfloat16"),
        ({"frames": [0, 2, 3, 4, 9], "window": 3}, "the frames have gaps, and the kernels count places"),
    ],
)
def test_the_module_does_not_take(gpu, case, reason):
    assert why_not(**case).startswith(reason)


def test_float32_of_the_widest_layers_wants_a_block_s_shared_memory(gpu):
    """GPUs of compute capability 8.9 have 99 KiB."""
    gpu.setattr(cuda_native, "shared_memory", lambda device: 99 * 1024)
    assert why_not(sizes=TAKEN | {"width": 128}) is None
    assert why_not(sizes=TAKEN | {"width": 129}) == "the GPU has too little shared memory for the width 129 in fp32"
    params = [torch.empty(160, 160, device="meta")] * 16 + [torch.empty(160, 8, device="meta")] * 2
    x, h = torch.empty(2, 3, 3, device="meta"), torch.empty(2, 3, 160, device="meta")
    assert cuda_native.why_not(x, h, params, "bf16") is None


def test_other_hidden_widths_are_not_taken(gpu):
    x, h, *params = on_meta(temporal_inputs(2, 3, 3, 16))
    params = TemporalAttentionParams(*params)
    params = params._replace(v_w1=h.new_empty(32, 16), v_b1=h.new_empty(32), v_w2=h.new_empty(16, 32))
    x_out, h_out = ops.temporal_attention(x, h, params)  # by the reference: the op would raise
    assert x_out.shape == x.shape and h_out.shape == h.shape


def test_other_devices_are_not_cuda():
    assert why_not() == "inputs are on meta"


def test_a_gpu_that_the_module_is_not_for(gpu):
    gpu.setattr(torch.cuda, "get_device_capability", lambda device: (12, 0))
    with pytest.warns(RuntimeWarning, match="built for compute capability 8.0 9.0a, and this GPU has 12.0"):
        assert why_not().endswith("this GPU has 12.0")


@needs_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("frames", "window"), [(None, None), (None, 2), ([1, 2, 3, 6, 7], None), ([4, 5, 6, 7, 8], 1)])
def test_the_op_runs_with_what_it_takes_and_gives_every_gradient(gpu, dtype, frames, window):
    """Through the ops themselves: nothing is kept for the backward, and `turns` has a row for every frame."""
    inputs = on_meta([v.to(dtype) for v in temporal_inputs(2, 5, 3, 24)])
    op = bind(temporal_attention, frames=frames, window=window, precision="tf32")
    with Calls("temporal_attention_forward", "temporal_attention_backward") as calls:
        outputs = results(op, inputs, [torch.empty_like(v) for v in inputs[:2]])
    assert [(v.shape, v.dtype) for v in outputs] == [(v.shape, v.dtype) for v in [*inputs[:2], *inputs]]
    reach = 2**31 - 1 if window is None else window
    precision = 1 if dtype == torch.float32 else 2
    (_, _, turns, params, *forward), (*_, kept, in_backward, precision_in_backward) = calls.arguments
    assert turns.shape == (5, 12) and turns.device == META and len(params) == 18 and kept == []
    assert forward == [reach, True, precision] and (in_backward, precision_in_backward) == (reach, precision)


class Calls(TorchDispatchMode):
    """The arguments of the package's ops of these names, in the order of the calls."""

    def __init__(self, *names: str):
        super().__init__()
        self.ops = [getattr(torch.ops.geotdm_fast, name).default for name in names]
        self.arguments = []

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        if function in self.ops:
            self.arguments.append(arguments)
        return function(*arguments, **(keywords or {}))


# --- what a user is told ---------------------------------------------------------------------------------------------


def test_a_missing_module_is_told_once_and_the_reference_runs(gpu):
    gpu.setattr(cuda_native, "missing", lambda: "not built (how)")
    inputs = on_meta(temporal_inputs(2, 3, 3, 16))
    with pytest.warns(RuntimeWarning) as told:
        outputs = [temporal_attention(*inputs) for _ in range(3)]
    text = f"{NOT_BUILT} (how). temporal_attention on CUDA runs the reference, which is slower."
    assert [str(w.message) for w in told] == [text]
    assert all(x_out.shape == inputs[0].shape for x_out, _ in outputs)


def test_inputs_that_no_build_takes_warn_of_nothing(gpu):
    gpu.setattr(cuda_native, "missing", lambda: "not built (how)")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "float32 or bfloat16" in why_not(dtype=torch.float64)


def test_nothing_is_looked_for_without_a_cuda_tensor(gpu):
    def never():
        raise AssertionError("looked for the CUDA module")

    gpu.setattr(cuda_native, "found", never)
    gpu.setattr(cuda_native, "missing", never)
    inputs = temporal_inputs(2, 3, 3, 16)
    temporal_attention(*inputs)
    with backend("reference"):
        temporal_attention(*on_meta(inputs))


def test_status_says_what_runs_on_cuda_and_why(gpu):
    op, active, takes = _on_cuda(META)[1]
    assert (op, active) == ("temporal_attention", "cuda")
    assert takes.startswith("float32 and bfloat16 on CUDA, H up to 256, T up to 4096, time_emb_dim up to 33; other")
    gpu.setattr(cuda_native, "missing", lambda: "not built (how)")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _on_cuda(META)[1] == ("temporal_attention", "reference", f"{NOT_BUILT} (how)")
    gpu.setattr(kernels, "why_not_device", lambda device: "compute capability 7.5 is under 8.0")
    assert _on_cuda(META)[1] == ("temporal_attention", "reference", "compute capability 7.5 is under 8.0")


# --- on a GPU --------------------------------------------------------------------------------------------------------

on_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no usable GPU")]


@pytest.fixture(params=[pytest.param("cuda", marks=on_gpu)])
def cuda(request) -> torch.device:
    """The GPU; the module must be built for it: else the tests would compare the reference with itself."""
    device = torch.device(request.param, torch.cuda.current_device())
    assert cuda_native.why_not_on(device) is None
    return device


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
@pytest.mark.parametrize(
    ("sizes", "options"),
    [
        ((3, 31, 3, 64), {}),
        ((5, 7, 2, 24), {}),
        ((2, 130, 3, 128), {"window": 9}),
        ((4, 5, 3, 32), {"frames": [0, 2, 3, 7, 40]}),
        ((4, 5, 3, 32), {"frames": [3, 4, 5, 6, 7], "window": 1}),
    ],
)
def test_public_op_on_cuda_is_as_accurate_as_the_reference(cuda, precision, sizes, options):
    op = bind(temporal_attention, precision=precision, **options)
    inputs = lambda: [v.to(cuda) for v in temporal_inputs(*sizes)]
    assert_native_as_accurate(op, inputs, TEMPORAL_NAMES, precision, bind(temporal_attention, **options))


def test_a_window_that_reaches_every_frame_changes_no_bit_on_cuda(cuda):
    inputs = [v.to(cuda) for v in temporal_inputs(3, 50, 3, 64)]
    cotangents = cotangents_of(inputs)
    run = lambda window: results(bind(temporal_attention, window=window), inputs, cotangents)
    assert_same_bits(run(49), run(None), TEMPORAL_NAMES)
    assert_same_bits(run(10**30), run(None), TEMPORAL_NAMES)


def test_a_cuda_graph_holds_the_op_and_reads_its_inputs_anew(cuda):
    inputs = [v.to(cuda) for v in temporal_inputs(3, 20, 3, 64)]
    with torch.no_grad():
        temporal_attention(*inputs)  # computes the turns
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = temporal_attention(*inputs)
        for v in inputs[:2]:
            v.normal_()
        graph.replay()
        assert all(torch.equal(a, b) for a, b in zip(captured, temporal_attention(*inputs), strict=True))
