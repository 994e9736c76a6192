"""What Python does on a GPU with models of Align Your Structures, without one: the CPU's numbers, and nothing waits."""

import warnings

import pytest
import torch
from ays_trainings import folder_of_runs, positions_config, step_of
from pretended_cuda import PretendedGPU
from test_training_step import run
from tiny_ays import interpolator_config, structure_config, write_runs
from tiny_training import log_of
from tolerances import assert_same

from geotdm_fast import Sampler, backend
from geotdm_fast.ays.kabsch import turns
from geotdm_fast.cli import main
from geotdm_fast.data import collate, open_dataset
from geotdm_fast.diffusion.noise import TrajectoryNoise
from geotdm_fast.families import build_diffusion, build_network
from geotdm_fast.runtime.cuda_graphs import Captured
from geotdm_fast.samples.npz import read_samples
from geotdm_fast.task import Task
from geotdm_fast.training import train

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
IMPLEMENTATIONS = [pytest.param("auto", marks=pytest.mark.dry), "reference"]
# What is given, and the rest of the network.
KINDS = {
    "structure": (None, {}),
    "interpolator": ("forward", {}),
    "coin": ("unconditional_forward", {}),
    "heads": ("interpolation", {"use_mha": True, "num_heads": 2, "use_kabsch": True}),
    "stack": ("forward", {"type": "stack"}),
    "egtn": ("forward", {"type": "egtn"}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return folder_of_runs(tmp_path_factory)


def config_of(folder, kind, **train) -> dict:
    return positions_config(folder, *KINDS[kind], **{"batch_size": 2, "rotate": True} | train)


def test_turns_are_captured():
    covariance, other, place = torch.randn(3, 5, 3, 3)
    with PretendedGPU():
        there = [value.to("cuda") for value in (covariance, other, place)]
        captured = Captured(lambda given: given[1].copy_(turns(given[0])), (there[0], there[2]))
        captured.replay((there[1], there[2]))
        assert torch.equal(captured.inputs[1].cpu(), turns(other))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_training_steps(folder, kind, implementation):
    """Two molecules: a batch of a size that is captured waits for nothing, whichever of them it has."""
    config = config_of(folder, kind)
    here = run(step_of(config), 0, 6)
    with PretendedGPU() as gpu, backend(implementation):
        there = run(step_of(config, device="cuda"), 0, 6)
        sums, captures = there.sums.cpu(), there.num_padded
        assert there.captures and gpu.graphs == captures >= 1 and len(there.lines) == 1
        before = gpu.waits.copy()
        run(there, 4, 6)
        assert gpu.waits == before and gpu.graphs == captures
    assert_same(sums, here.sums, 1e-4, what="loss and gradient")


class Request:
    """A model with a batch for it; its noise is by counter, the same on both devices."""

    def __init__(self, folder, kind: str, device: str):
        config = config_of(folder, kind)
        torch.manual_seed(0)
        self.made = build_diffusion(build_network(config).eval().to(device), config, device)
        batch = collate(open_dataset(config["data"]["test"]).spread(2)).to(device, torch.float32)
        x_start, self.model_kwargs = Task.of_config(config).split(batch)
        self.shape = x_start.shape
        who = torch.arange(batch.num_graphs, device=device)
        self.noise = TrajectoryNoise(3, who, who, batch.batch, *self.shape[1:], torch.float32)

    def draw(self, method: str, num_steps: int) -> torch.Tensor:
        sampler = Sampler(self.made, method, num_steps, eta=0.5 if "ddim" in method else 0.0)
        return sampler.draw(self.shape, self.model_kwargs, noise=self.noise)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("method", ["dpmpp_2m_sde", "ays_ddim"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_sampler(folder, kind, method, implementation):
    """Its steps wait for nothing, in the graph or between its replays; another chain takes the same graph."""
    expected = Request(folder, kind, "cpu").draw(method, 2)
    with PretendedGPU() as gpu, backend(implementation):
        request = Request(folder, kind, "cuda")
        found = request.draw(method, 2).cpu()
        waits = []
        for num_steps in (2, 3):
            before = gpu.waits.total()
            request.draw(method, num_steps)
            waits.append(gpu.waits.total() - before)
        assert waits[0] == waits[1] < 12 and gpu.graphs == len(request.made.captures) == 1
    # Frames that are turned within the network: what is drawn is a small difference of positions.
    assert_same(found, expected, 1e-3 if kind == "heads" else 1e-4)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("kind", ["structure", "interpolator"])
def test_the_commands(kind, implementation, tmp_path):
    """Training with validation, drawing and rolling out; after the first step nothing is waited for but sums."""
    write_runs(tmp_path)
    if kind == "structure":
        config = structure_config(tmp_path, num_steps=3, log_every_step=1)
    else:
        config = interpolator_config(tmp_path, "unconditional_forward", num_steps=3, log_every_step=1)
    config["diffusion"]["model_mean_type"] = "start_x"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # bonds by distance
        train(config, output_dir=tmp_path / "cpu", device="cpu", progress=False)
        with PretendedGPU() as gpu, backend(implementation):
            train(config, output_dir=tmp_path / "cuda", device="cuda", progress=False)
            trained = gpu.graphs
            loss = [count for (_, where), count in gpu.waits.items() if "ays/" in where and "checkpoint" not in where]
            assert max(loss) <= 2, "tables of the schedule, once for training and once for validation"
            options = ["--device", "cuda", "--quiet", "--method", "ays_ddim", "--steps", "3"]
            long = [["--rollout", "9", "--out", "long.npz"]] if kind == "interpolator" else []
            for more in (["--out", "drawn.npz"], *long):
                words = ["sample", str(tmp_path / "cuda"), *options, *more[:-1], str(tmp_path / more[-1])]
                assert main(words) == 0
            assert gpu.graphs > trained >= 1, "both are captured"
    for here, there in zip(log_of(tmp_path / "cpu"), log_of(tmp_path / "cuda"), strict=True):
        assert here == pytest.approx(there, rel=1e-3)
    last = tmp_path / ("long.npz" if kind == "interpolator" else "drawn.npz")
    assert read_samples(last).samples.shape[-1] == (9 if kind == "interpolator" else 1)
