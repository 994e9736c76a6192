"""What Python does on a GPU, without one: training and sampling on pretended tensors, beside the CPU's numbers."""

import pytest
import torch
from pretended_cuda import DEVICE, CUDATensor, PretendedGPU
from test_block_history import made as with_history
from test_block_history import systems
from test_chain import model, seeded
from test_training_step import PRIORS, make_step, nbody, run, steps_config
from tiny_models import charged_config, write_checkpoint
from tolerances import assert_same

from geotdm_fast import Flow, Sampler, backend
from geotdm_fast.cli import main
from geotdm_fast.config.files import normalise_config
from geotdm_fast.diffusion.noise import TrajectoryNoise
from geotdm_fast.graphs import NearestRule, RadiusRule
from geotdm_fast.ops import kernels
from geotdm_fast.ops.time_phases import time_phases
from geotdm_fast.runtime.cuda_graphs import Captured
from geotdm_fast.samples.npz import read_samples

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
needs_triton = pytest.mark.skipif(kernels.missing() is not None, reason=f"{kernels.missing()}")
# Relative, of a few steps in the precision of products; the CPU may round other products.
CLOSE = {"fp32": 1e-5, "tf32": 1e-3, "bf16": 1e-2}


# --- the pretence itself ----------------------------------------------------------------------------------------------

WAITS = {
    "item": lambda x: x.sum().item(),
    "if": lambda x: 1 if x.sum() > 0 else 2,
    "nonzero": lambda x: x.nonzero(),
    "mask": lambda x: x[x > 0],
    "unique": lambda x: x.unique(),
    "repeat": lambda x: x.repeat_interleave(x.long()),
    "tolist": lambda x: x.tolist(),
    "cpu": lambda x: x.to("cpu"),
    "list": lambda x: x + torch.tensor([1.0, 2.0, 3.0], device=x.device),
    "pageable": lambda x: x + torch.ones(3).to(x.device),
    "copy_": lambda x: x.copy_(torch.ones(3)),
    "pinned": lambda x: x.copy_(torch.ones(3).pin_memory(), non_blocking=True),  # read when it may be gone
}


@pytest.mark.parametrize("name", WAITS)
def test_a_planted_wait_is_found(name):
    with PretendedGPU() as gpu:
        x = torch.ones(3, device="cuda")
        WAITS[name](x)
        assert sum(gpu.waits.values()) == (name != "pinned")
        assert all("test_gpu_paths.py" in where for _, where in gpu.waits)
        with pytest.raises(AssertionError, match="waits for the device in a captured part: tests/bench/test_gpu_paths"):
            Captured(WAITS[name], x)
        Captured(lambda x: x * 2 + torch.arange(3, device=x.device), x).replay()
        assert gpu.graphs == 1


WRONG = {
    "add": lambda x: x + torch.ones(3),
    "cat": lambda x: torch.cat([x, torch.ones(3)]),
    "gather": lambda x: x.gather(0, torch.arange(3)),
    "product": lambda x: torch.ones(3, 3) @ x,
}


@pytest.mark.parametrize("name", WRONG)
def test_a_planted_operand_on_the_cpu_is_found(name):
    with PretendedGPU():
        x = torch.ones(3, device="cuda")
        with pytest.raises(AssertionError, match=r"on the GPU with operands .* on the CPU: tests/bench/test_gpu_paths"):
            WRONG[name](x)
        assert (x + torch.tensor(1.0)).tolist() == [2, 2, 2]  # a number may be anywhere


def launch_with_zeros_on_the_cpu() -> None:
    from geotdm_fast.kernels.trajectory_noise_launch import trajectory_noise
    from geotdm_fast.reference import Counters

    numbers = lambda *shape: torch.zeros(*shape, dtype=torch.int64, device="cuda")
    counters = Counters(numbers(2, 1), numbers(2, 1), numbers(2, 1), torch.zeros(2, dtype=torch.int64))
    trajectory_noise(counters, numbers(1), (3,), torch.float32)


class LaunchesInBackward(torch.autograd.Function):
    """Of two outputs; the zeros that autograd makes for the gradient of an unused one are on the GPU."""

    @staticmethod
    def forward(ctx, x):
        return x.clone(), x.clone()

    @staticmethod
    def backward(ctx, first, unused):
        assert isinstance(unused, CUDATensor) and not unused.cpu_tensor.any()
        launch_with_zeros_on_the_cpu()
        return first


@needs_triton
@pytest.mark.parametrize("is_backward", [False, True])
def test_a_launch_with_a_tensor_on_the_cpu_is_found(is_backward):
    message = "trajectory_noise_kernel is launched with a tensor on the CPU"
    with PretendedGPU(), pytest.raises(AssertionError, match=message):
        if is_backward:
            LaunchesInBackward.apply(torch.ones(3, device="cuda").requires_grad_())[0].sum().backward()
        else:
            launch_with_zeros_on_the_cpu()


def test_a_tensor_whose_shape_changes_in_place():
    """A vector times a matrix makes such a tensor within torch."""
    with PretendedGPU():
        x = torch.ones(3, device="cuda")
        found = x @ torch.ones(3, 2, device="cuda")
        assert found.shape == found.cpu().shape == (2,) and (found @ torch.ones(2, 2, device="cuda")).tolist() == [6, 6]


def test_tensors_are_on_the_gpu_until_they_are_copied():
    with PretendedGPU() as gpu:
        x = torch.randn(4, 3).pin_memory().to("cuda", non_blocking=True)
        assert not gpu.waits
        network = torch.nn.Linear(3, 2).to("cuda")
        assert gpu.waits.total() == 2, "a copy for each parameter"
        loss = network(x).square().sum()
        loss.backward()
        for tensor in (x, x[1:], x.new_zeros(2), torch.empty_like(x), loss, network.weight, network.weight.grad):
            assert isinstance(tensor, CUDATensor) and tensor.device == DEVICE and tensor.is_cuda
        with pytest.raises(TypeError, match="can't convert cuda:0"):
            x.numpy()
        copied = x.cpu()
    assert type(copied) is torch.Tensor and not copied.is_cuda


# --- training ---------------------------------------------------------------------------------------------------------

# The rest is for `make gpu-dry`.
TRAINING = [
    "linear_attention gaps bf16",
    *(
        pytest.param(kind, marks=pytest.mark.dry)
        for kind in ("prefix", "gaps tf32", "uncond bf16", *PRIORS, "convolution gaps", "muon tf32", "flow gaps")
    ),
]


def settings(kind: str) -> dict:
    """The tiny configuration with everything that the words of `kind` change."""
    config = steps_config(nbody(), batch_size=2, rotate=True)
    train, network = config["train"], config["denoise_model"]
    for word in kind.split():
        if word == "gaps":
            train["cond_mask"] = [[0, 1], [4, 5]]
        elif word == "uncond":
            config["diffusion"]["mode"] = "uncond"
            train |= {"cond_mask": None, "tot_len": 3}
        elif word == "flow":
            config["diffusion"] = {"kind": "flow", "num_timesteps": 25, "prior": "walk", "sigma": 0.2}
        elif word in PRIORS:
            config["diffusion"]["prior"] = word
        elif word in ("convolution", "linear_attention"):
            network["temporal"] = word
        elif word == "muon":
            train["optimizer"] = word
        elif word != "prefix":
            train["precision"] = word
    return config


@pytest.mark.recorded("gpu paths", always=r"reference")
@pytest.mark.parametrize("kind", TRAINING)
@pytest.mark.parametrize("implementation", ["auto", "reference"])
def test_a_training_step(kind, implementation):
    """Captured and replayed, it waits for nothing, and moves the weights as on the CPU."""
    here = run(make_step(nbody(), config=settings(kind)), 0, 2)
    with PretendedGPU() as gpu, backend(implementation):
        there = run(make_step(nbody(), "cuda", config=settings(kind)), 0, 1)
        before = gpu.waits.copy()
        run(there, 1, 2)
        assert gpu.waits == before, "once it is captured, nothing is waited for"
        assert there.captures and gpu.graphs == 1 and not there.lines
        state = {name: value.cpu() for name, value in there.named_state().items()}
        sums = there.sums.cpu()
    close = CLOSE[settings(kind)["train"]["precision"]]
    flat = lambda state, part: torch.cat([v.flatten() for name, v in state.items() if name.startswith(part)])
    assert_same(sums, here.sums, close, what="loss and gradient")
    for part in ("adam.exp_avg.", "weights."):
        assert_same(flat(state, part), flat(here.named_state(), part), close, what=part)


@pytest.mark.parametrize("implementation", [pytest.param("auto", marks=pytest.mark.dry), "reference"])
def test_a_training_step_whose_given_frames_are_drawn(implementation):
    """The step is one graph, the chains before it share another."""
    here = run(with_history(systems()), 0, 2)
    with PretendedGPU() as gpu, backend(implementation):
        there = run(with_history(systems(), device="cuda"), 0, 2)
        assert there.captures and gpu.graphs == 4 and not there.lines, "batches of 4 and of 2"
        state = {name: value.cpu() for name, value in there.named_state().items()}
    flat = lambda state, part: torch.cat([v.flatten() for name, v in state.items() if name.startswith(part)])
    for part in ("adam.exp_avg.", "weights."):
        assert_same(flat(state, part), flat(here.named_state(), part), 1e-4, what=part)


# --- sampling ---------------------------------------------------------------------------------------------------------

CHAINS = {
    "learned prior": {},
    "unconditional bf16": {"prior": None, "precision": "bf16"},
    "ends of a molecule": {"domain": "molecule", "mask": "ends"},
    "holes of pedestrians": {"domain": "pedestrian", "mask": "holes", "prior": "com"},
    "linear_attention": {"temporal": "linear_attention", "mask": "holes"},
    "convolution": {"temporal": "convolution", "mask": "holes", "prior": "last_frame"},
    "tf32": {"precision": "tf32"},
}


class Request:
    """A model of CHAINS with a batch for it; its noise is by counter, the same on both devices."""

    def __init__(self, name: str, device: str, **changes):
        self.made, self.shape, self.model_kwargs = model(device=device, **CHAINS[name], **changes)
        batch = self.model_kwargs["batch"]
        who = torch.arange(batch.max().item() + 1).to(device)
        self.noise = TrajectoryNoise(3, who, who, batch, *self.shape[1:], torch.float32)

    def draw(self, num_steps: int) -> torch.Tensor:
        sampler = Sampler(self.made, "ddim", num_steps, eta=0.5)
        return sampler.draw(self.shape, self.model_kwargs, noise=self.noise)

    def whole_chain(self) -> torch.Tensor:
        return seeded(lambda: self.made.p_sample_loop(self.shape, model_kwargs=self.model_kwargs))


class FlowRequest(Request):
    """The same of a flow."""

    def __init__(self, device: str):
        super().__init__("ends of a molecule", device)
        self.made = Flow(self.made.denoise_network, 25, device, prior="walk", sigma=0.2)

    def draw(self, num_steps: int) -> torch.Tensor:
        return Sampler(self.made, "heun", num_steps).draw(self.shape, self.model_kwargs, noise=self.noise)


class RuleRequest(Request):
    """The same with edges by the positions of every step, and a third of the edges as bonds."""

    def __init__(self, kind: str, device: str):
        super().__init__("ends of a molecule", device)
        batch, edges = self.model_kwargs["batch"], self.model_kwargs.pop("edge_index")
        bonds = {"bonds": edges[:, ::3], "bond_attr": self.model_kwargs.pop("edge_attr")[::3]}
        self.rule = NearestRule(3, batch, **bonds) if kind == "nearest" else RadiusRule(1.8, 6, batch, **bonds)
        self.model_kwargs["graph"] = self.rule


def waits_of(gpu: PretendedGPU, request: Request, num_steps: int) -> int:
    before = gpu.waits.total()
    request.draw(num_steps)
    return gpu.waits.total() - before


# The rest is for `make gpu-dry`.
SOME = ("holes of pedestrians", "linear_attention")


@pytest.mark.recorded("gpu paths", always=r"reference")
@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.dry] * (name not in SOME)) for name in CHAINS])
@pytest.mark.parametrize("implementation", ["auto", "reference"])
def test_a_sampler(name, implementation):
    """A request is checked; its steps wait for nothing, in the graph or between its replays."""
    expected = Request(name, "cpu").draw(2)
    with PretendedGPU() as gpu, backend(implementation):
        request = Request(name, "cuda")
        found = request.draw(2).cpu()
        few, many = (waits_of(gpu, request, num_steps) for num_steps in (2, 3))
        assert few == many < 12 and gpu.graphs == len(request.made.captures) == 1
    assert_same(found, expected, CLOSE[CHAINS[name].get("precision", "fp32")])


@pytest.mark.recorded("gpu paths", always=r"reference")
@pytest.mark.parametrize("implementation", [pytest.param("auto", marks=pytest.mark.dry), "reference"])
def test_a_sampler_of_a_flow(implementation):
    expected = FlowRequest("cpu").draw(2)
    with PretendedGPU() as gpu, backend(implementation):
        request = FlowRequest("cuda")
        found = request.draw(2).cpu()
        few, many = (waits_of(gpu, request, num_steps) for num_steps in (2, 3))
        assert few == many < 12 and gpu.graphs == len(request.made.captures) == 1
    assert_same(found, expected, CLOSE["fp32"])


@pytest.mark.recorded("gpu paths")
@needs_triton
@pytest.mark.parametrize("kind", ["radius", pytest.param("nearest", marks=pytest.mark.dry)])
def test_a_graph_that_follows_the_positions(kind):
    """Search, tables and layers of every step, in a graph that waits for nothing; whether there was room comes last."""
    here = RuleRequest(kind, "cpu")
    expected = here.draw(2)
    with PretendedGPU() as gpu:
        there = RuleRequest(kind, "cuda")
        found = there.draw(2).cpu()
        few, many = (waits_of(gpu, there, num_steps) for num_steps in (2, 3))
        assert few == many < 12 and gpu.graphs == len(there.made.captures) == 1
        assert not there.rule.overflowed() and (int(there.rule.needed) > 0) == (kind == "radius")
    assert_same(found, expected, CLOSE["fp32"])


@pytest.mark.dry
@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("implementation", ["auto", "reference"])
def test_the_chain_of_the_model_itself(name, implementation):
    """Its noise is drawn from torch's generator, which is the CPU's here."""
    short = {"num_timesteps": 4, "beta_schedule_name": "cosine"}
    expected = Request(name, "cpu", **short).whole_chain()
    with PretendedGPU() as gpu, backend(implementation):
        found = Request(name, "cuda", **short).whole_chain().cpu()
        assert gpu.graphs == 1
    assert_same(found, expected, CLOSE[CHAINS[name].get("precision", "fp32")])


@pytest.mark.parametrize("frames", [None, [0, 1, 6], [3, 5, 20]])
def test_turns_are_captured(frames):
    """What the temporal kernels for CUDA know of frames, with gaps as well."""
    h = torch.zeros(2, 3, 16)
    expected = time_phases(h, 13, frames)
    with PretendedGPU():
        captured = Captured(lambda h: time_phases(h, 13, frames), h.to("cuda"))
        assert torch.equal(captured.replay().cpu(), expected)


@pytest.mark.recorded("gpu paths", always=r"reference")
@pytest.mark.parametrize(
    ("implementation", "more", "graph"),
    [
        ("auto", [], None),
        ("reference", [], None),
        ("auto", ["--rollout", "20", "--bound", "inf"], None),
        ("auto", ["--rollout", "20", "--bound", "inf"], {"radius": 2.5}),
        ("reference", ["--rollout", "20", "--bound", "inf"], {"radius": 2.5}),
    ],
)
def test_the_command_samples_into_a_file(tmp_path, implementation, more, graph):
    """A rollout too: the one graph serves all its blocks, also where their edges are those of the given frames."""
    config = charged_config()
    config["diffusion"]["model_mean_type"] = "start_x"  # stays near
    if graph is not None:
        config["denoise_model"] |= {"graph": graph, "edge_dim": 0}
        config = normalise_config(config)
    checkpoint = write_checkpoint(tmp_path / "model.safetensors", config)
    words = ["--num-graphs", "2", "--num-samples", "2", "--method", "ddim", "--steps", "3", "--batch-size", "2", *more]

    def samples(device):
        out = str(tmp_path / f"{device}.npz")
        assert main(["sample", checkpoint, "--device", device, "--out", out, "--quiet", *words]) == 0
        return read_samples(out).samples

    expected = samples("cpu")
    with PretendedGPU() as gpu, backend(implementation):
        found = samples("cuda")
        assert gpu.graphs == 1
    assert_same(found, expected, 1e-5)
