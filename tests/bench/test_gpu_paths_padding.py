"""What Python does on a GPU with molecules of different size, without one: the CPU's numbers, and nothing waits."""

import pytest
import torch
from mixed_molecules import molecules, sampled, small, tiny
from pretended_cuda import PretendedGPU
from test_training_step import make_step, run
from tiny_models import tame_network
from tolerances import assert_same

from geotdm_fast import Sampler, backend
from geotdm_fast.checkpoint import build_diffusion
from geotdm_fast.data import collate
from geotdm_fast.task import Task
from geotdm_fast.training.step import TrainingStep

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
IMPLEMENTATIONS = [pytest.param("auto", marks=pytest.mark.dry), "reference"]
NEAREST, RADIUS = ({kind: number, "bonds": True, "of": "current"} for kind, number in (("knn", 3), ("radius", 2.0)))
# The reference of the search of a radius waits.
TRAINED = [("auto", None), ("auto", RADIUS), ("reference", None), ("reference", NEAREST)]


@pytest.mark.parametrize(
    ("implementation", "graph"),
    [pytest.param(*case, marks=[pytest.mark.dry] * (case[0] == "auto")) for case in TRAINED],
    ids=str,
)
def test_training_steps(implementation, graph):
    """A batch of a size that is captured waits for nothing, whichever molecules it has."""
    dataset = molecules((5, 6))
    config = small(dataset, graph, batch_size=2)
    config["denoise_model"] |= {"hidden_dim": 16, "time_emb_dim": 8}  # what kernels for CUDA take
    here = run(make_step(dataset, config=config), 0, 3)
    with PretendedGPU() as gpu, backend(implementation):
        there = run(make_step(dataset, "cuda", config=config), 0, 3)
        sums, captures = there.sums.cpu(), there.num_padded
        assert there.captures and gpu.graphs == captures <= there._padding.number and len(there.lines) == 1
        known = {padded_size(there, number) for number in range(3)}
        number = next(number for number in range(3, 99) if padded_size(there, number) in known)
        before = gpu.waits.copy()
        run(there, number, number + 1)
        assert gpu.waits == before and gpu.graphs == captures
    assert_same(sums, here.sums, 1e-4, what="loss and gradient")


def padded_size(step: TrainingStep, number: int) -> tuple[int, ...]:
    """What the batch of a training step is padded to."""
    (draw,) = step.source.training(number)
    data = step.source.data
    return step._padding.sizes.of(data.graphs.counts()[data.graph_numbers(draw.items.numpy())].sum(0).tolist())


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_request(implementation):
    """Fewer graphs than molecules, and the positions of a CPU."""
    dataset = molecules((5, 6, 7, 9, 12), 5)
    config, drawn = tiny(dataset), []
    draw = lambda made: sampled(Sampler(made, "ddim", 2), collate(dataset), Task.of_config(config))
    drawn = draw(build_diffusion(tame_network(config), config, "cpu"))
    with PretendedGPU() as gpu, backend(implementation):
        diffusion = build_diffusion(tame_network(config).to("cuda"), config, "cuda")
        found = draw(diffusion)
        assert 1 <= gpu.graphs == len(diffusion.captures) < len(dataset)
    assert_same(found, drawn, 1e-5)
