"""What steps of Align Your Structures cost on molecules of different size, captured for a few padded sizes and not."""

import argparse
import copy
import itertools
import sys
from collections.abc import Callable

import torch

from bench.common import arguments, record
from bench.common.timing import interleaved, synchronize
from bench.training.mixed import CLOSE, FEWEST, MOST, report
from bench.training.trainers import DECAY, NUM_TIMESTEPS, PRECISIONS, RATE, SIZES_KEPT
from geotdm_fast import Sampler, ays
from geotdm_fast.ays.as_geotdm import AysDiffusion
from geotdm_fast.data import TrajectoryDataset
from geotdm_fast.data.trajectory import Trajectory, collate
from geotdm_fast.diffusion.noise import TrajectoryNoise
from geotdm_fast.runtime.cuda_graphs import CaptureCache, Recorder
from geotdm_fast.runtime.processes import Processes
from geotdm_fast.task import Task
from geotdm_fast.training.batches import BatchSource
from geotdm_fast.training.device_data import DeviceData
from geotdm_fast.training.ema import WeightAverage
from geotdm_fast.training.flat_weights import FlatWeights
from geotdm_fast.training.objective import Objective
from geotdm_fast.training.step import TrainingStep

FEATURES, BATCHES, CALLS = 13, 2, 10
TASK = Task(given=[[0, 1]])
DESCRIPTION = f"""\
Time the interpolator of Align Your Structures on chains of {FEWEST} to {MOST} atoms: training steps, other molecules in
every batch, and the steps of a chain that draws one batch. Both are timed as the package runs them (on CUDA captured
graphs, of padded batches in training) and launched kernel by kernel. Loss, gradient's norm and what is drawn must be
the same, to rounding."""
EPILOG = """\
  python -m bench.training.mixed_ays --device cuda                                     what the GPU check runs
  python -m bench.training.mixed_ays --graphs 2 --frames 4 --layers 1 --hidden-dim 16  a trial in seconds"""


def main(argv: list[str] | None = None, recorder: Recorder | None = None) -> int:
    """Run the benchmark: 0, or 2 for a user's error or a wrong result. recorder: as of `TrainingStep`."""
    args = _parser().parse_args(argv)
    try:
        arguments.set_up(args)
        context = record.context(args.device)
        dataset = molecules(args)
        for rows in (training(dataset, args, recorder), sampling(dataset, args, recorder)):
            rows = [row | context for row in rows]
            record.append(args.out, rows)
            print(report(rows), end="\n\n")
        print(record.describe(context), f"lines added to {args.out}", sep="\n\n")
        return 0
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        return record.fail("bench.training.mixed_ays", error)


def training(dataset: TrajectoryDataset, args: argparse.Namespace, recorder: Recorder | None) -> list[dict]:
    """A row of captured steps and one of eager ones. Raises ValueError where they do not agree."""
    lines: list[str] = []
    trainers = {"ours": Trainer(dataset, args, recorder, True, lines.append), "eager": Trainer(dataset, args)}
    for _, trainer in itertools.product(range(4 * trainers["ours"].source.per_epoch), trainers.values()):
        trainer.train()  # nearly all sizes are captured then
    ours, eager = (trainer.step.sums.tolist() for trainer in trainers.values())
    for one, other in zip(ours, eager, strict=True):
        if not abs(one - other) <= CLOSE[args.precision] * abs(other):
            raise ValueError(f"the captured step is wrong, so nothing is timed: loss and norm are {ours} and {eager}")
    step = trainers["ours"].step
    about = {"workload": "ays training", "captures": step.num_padded, "said": lines}
    calls = {name: trainer.train for name, trainer in trainers.items()}
    return _timed(calls, 1, about, {"ours": step.captures, "eager": False}, args)


def sampling(dataset: TrajectoryDataset, args: argparse.Namespace, recorder: Recorder | None) -> list[dict]:
    """The same of the steps of a chain."""
    items = [dataset[number] for number in range(args.graphs)]
    batch = collate(items).to(args.device, torch.float32)
    x_start, model_kwargs = TASK.split(batch)
    who = torch.arange(batch.num_graphs, device=args.device)
    noise = TrajectoryNoise(0, who, who, batch.batch, *x_start.shape[1:], torch.float32)
    diffusions = {"ours": diffusion_of(args), "eager": diffusion_of(args)}
    captures = CaptureCache(record=recorder)
    diffusions["ours"].captures, diffusions["eager"].captures = captures, None
    given = diffusions["ours"].with_graph(model_kwargs)

    def draw(diffusion: AysDiffusion) -> Callable[[], torch.Tensor]:
        sampler = Sampler(diffusion, "dpmpp_2m", CALLS)
        return lambda: sampler.draw(x_start.shape, given, noise)

    calls = {name: draw(diffusion) for name, diffusion in diffusions.items()}
    drawn = {name: call().cpu() for name, call in calls.items()}
    error = float((drawn["ours"] - drawn["eager"]).norm() / drawn["eager"].norm())
    if not error <= CLOSE[args.precision]:
        raise ValueError(f"the captured chain is wrong, so nothing is timed: it differs by {error:.1e}")
    about = {"workload": "ays sampling", "captures": len(captures), "error": error}
    return _timed(calls, CALLS, about, {"ours": len(captures) > 0, "eager": False}, args)


def _timed(
    calls: dict[str, Callable], steps: int, about: dict, captured: dict[str, bool], args: argparse.Namespace
) -> list[dict]:
    """A row of each, of calls that do `steps` steps."""
    synchronize(torch.device(args.device))
    times = interleaved(calls, args.repeats, args.device, progress=not args.quiet)
    sizes = {"graphs": args.graphs, "frames": args.frames, "layers": args.layers, "hidden_dim": args.hidden_dim}
    about = {"benchmark": "mixed", "sizes": sizes, "precision": args.precision} | about
    about |= {"dtype": PRECISIONS[args.precision], "repeats": args.repeats}
    return [
        about
        | {"implementation": name, "captured": captured[name], "seconds": found.median / steps}
        | {"seconds_least": found.least / steps, "seconds_most": found.most / steps}
        for name, found in times.items()
    ]


class Trainer:
    """What a step of `geotdm train` does, without files; captures: whether steps may be captured."""

    def __init__(
        self,
        dataset: TrajectoryDataset,
        args: argparse.Namespace,
        recorder: Recorder | None = None,
        captures: bool = False,
        say: Callable[[str], None] = print,
    ):
        train = {"optimizer": "adam", "weight_decay": 0.0, "clip": 1.0, "accumulate": 1, "cuda_graph": captures}
        diffusion = diffusion_of(args)
        network = diffusion.denoise_network.module
        copied = copy.deepcopy(network)
        weights = FlatWeights(network)
        self.source = BatchSource(
            DeviceData(dataset, args.device),
            seed=0,
            batch_size=args.graphs,
            num_timesteps=NUM_TIMESTEPS,
            num_noisy=args.frames - 1,
            by_nodes=True,
        )
        alone = Processes(0, 1, torch.device(args.device))
        parts = (Objective(diffusion, TASK), weights, WeightAverage(copied, weights, DECAY), self.source, alone)
        record = recorder if captures else None
        self.step = TrainingStep(train | {"cuda_graph_sizes": SIZES_KEPT}, *parts, say=say, record=record)
        self.number = 0

    def train(self) -> None:
        """One step."""
        self.step(self.source.training(self.number), RATE, self.number + 1)
        self.number += 1


def diffusion_of(args: argparse.Namespace) -> AysDiffusion:
    """An interpolator of the sizes that are asked for, the same at every call, that predicts positions."""
    torch.manual_seed(0)
    sizes = {"n_layers": args.layers, "hidden_dim": args.hidden_dim, "time_emb_dim": 32, "node_dim": 30, "edge_dim": 4}
    more = {"use_mha": False, "use_extra": True, "use_double": True, "use_norm": True, "sigmoid_init": True}
    network = ays.EGInterpolator(**sizes, ft_dim=FEATURES, act_fn="silu", conditioning="forward", **more)
    network.set_precision(args.precision)
    section = {"beta_schedule_name": "linear", "num_timesteps": NUM_TIMESTEPS, "use_kabsch_alignment": True}
    section |= {"model_mean_type": "start_x", "model_var_type": "fixed_large"}
    return AysDiffusion(network.to(args.device), section, args.device, "cond")


def molecules(args: argparse.Namespace) -> TrajectoryDataset:
    """`BATCHES` batches of chains with pairs up to three bonds apart."""
    generator = torch.Generator().manual_seed(0)
    atoms = torch.randint(FEWEST, MOST + 1, (BATCHES * args.graphs,), generator=generator).tolist()
    return TrajectoryDataset([_molecule(number, args.frames, generator) for number in atoms], name="molecules")


def _molecule(atoms: int, num_frames: int, generator: torch.Generator) -> Trajectory:
    number = torch.arange(atoms)
    place = torch.stack([1.3 * number, 0.7 * (number % 2), torch.zeros(atoms)], dim=1)
    x = place[..., None] + 0.05 * torch.randn(atoms, 3, num_frames, generator=generator).cumsum(-1)
    hops = (number[:, None] - number).abs()
    edges = ((hops > 0) & (hops <= 3)).nonzero().T.contiguous()
    kinds = torch.tensor([0.0, 2, 23, 24])[hops[edges[0], edges[1]]]
    z = torch.randint(6, 9, (atoms, 1), generator=generator).float()
    h = torch.cat([z, torch.rand(atoms, FEATURES, generator=generator)], dim=1)
    return Trajectory(x - x.mean(0), h, edges, kinds[:, None], number)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.training.mixed_ays",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for option, default, what in (
        ("--graphs", 8, "molecules in a batch"),
        ("--frames", 33, "frames, given and noisy"),
        ("--layers", 6, "layers of the network"),
        ("--hidden-dim", 128, "width of the network"),
    ):
        parser.add_argument(option, type=arguments.count, default=default, help=f"{what} (default: {default})")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="of matrix products")
    arguments.add_run(parser, repeats=10, out=record.RESULTS / "mixed.jsonl")
    return parser


if __name__ == "__main__":
    sys.exit(main())
