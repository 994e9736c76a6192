"""Quality against the number of steps: how few steps cost nothing?"""

import argparse
import hashlib
import itertools
import json
import pathlib
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from bench.common import arguments, record
from bench.sampling.steps_report import report, scores_of, verdict, write_plot
from geotdm_fast.checkpoint_paths import checkpoint_file
from geotdm_fast.cli.data_options import add_data_files, check_data_files, sampled_section
from geotdm_fast.cli.requests import open_data
from geotdm_fast.data import collate
from geotdm_fast.diffusion import Sampler
from geotdm_fast.model import Model
from geotdm_fast.nn.precision import PRECISIONS
from geotdm_fast.samples.record import make_samples
from geotdm_fast.sampling import sample
from geotdm_fast.sampling.description import describe
from geotdm_fast.scores.evaluation import evaluate, likelihoods, marginal
from geotdm_fast.task import Task

DESCRIPTION = """\
Draw the same request by every method, number of steps, spacing and precision, with several seeds, and score the
samples: ADE and FDE (conditional models), the marginal score, the mean distance between samples of a graph, seconds per
trajectory; and once the bound on the NLL, which is of the model's full chain whatever is sampled.

The full chain, ddpm with all steps in fp32, gives the yardstick: its spread from seed to seed. A setting costs nothing
if the mean of each of its scores is at most two standard deviations worse than the full chain's mean, and the distance
between samples at most two away from it: fewer steps can lower the ADE by samples that have lost their variety.

Each piece (one setting, one seed) is a line of --out as soon as it is done; the same command goes on with the pieces
that are missing there, for the same weights, data and request."""
EPILOG = """\
  python -m bench.sampling.steps --threads 2
  python -m bench.sampling.steps --checkpoint ethanol.safetensors --data ethanol.npz --num-graphs 100 --threads 2
  python -m bench.sampling.steps --methods ddim dpmpp_2m --steps 5 10 20 --precision fp32 bf16
  python -m bench.sampling.steps --num-graphs 4 --num-samples 2 --steps 2 5 --seeds 2 --out trial.jsonl      a trial"""


class Setting(NamedTuple):
    """One way to sample."""

    method: str
    steps: int
    spacing: str
    precision: str


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark: 0, or 2 for a user's error."""
    args = _parser().parse_args(argv)
    try:
        return run(args)
    except KeyboardInterrupt:
        print("bench.sampling.steps: interrupted; the same command goes on", file=sys.stderr)
        return 130
    except (ValueError, TypeError, OSError) as error:
        return record.fail("bench.sampling.steps", error)


def run(args: argparse.Namespace) -> int:
    """Draw and score what is missing, print the table and the verdict, draw the picture."""
    arguments.set_up(args)
    if args.seeds < 2:
        raise ValueError(f"--seeds must be at least 2, for a spread, got {args.seeds}")
    check_data_files(args)
    args.checkpoint = pathlib.Path(checkpoint_file(str(args.checkpoint)))
    model = Model.load(args.checkpoint, device=args.device)
    section, where = sampled_section(model.config, args)
    dataset = open_data(section, where, args.num_graphs, progress=not args.quiet)
    bench = _Bench(args, model.diffusion, model.task, dataset)
    settings = list(_settings(args, model.diffusion.num_timesteps))
    known = _read(args.out)
    pieces = [(setting, seed) for seed in range(args.seeds) for setting in settings]
    keys = {piece: bench.key(*piece) for piece in pieces}
    missing = [piece for piece in pieces if keys[piece] not in known]
    from geotdm_fast.runtime.bars import progress_bar

    for piece in progress_bar(missing, desc="pieces", unit="piece", disable=args.quiet):
        row = {"benchmark": "steps", "key": keys[piece], **bench.piece(*piece), **record.context(args.device)}
        record.append(args.out, [row])
        known[row["key"]] = row
    nll_key = bench.nll_key()
    if nll_key not in known:
        row = {"benchmark": "steps", "key": nll_key, **bench.nll(), **record.context(args.device)}
        record.append(args.out, [row])
        known[nll_key] = row
    rows = [known[keys[piece]] for piece in pieces]
    print(record.describe(rows[-1]), report(rows, known[nll_key]), verdict(rows), sep="\n\n")
    write_plot(rows, args.plot)
    print(f"\nlines in {args.out}, picture in {args.plot}")
    return 0


def _settings(args: argparse.Namespace, total: int) -> Iterator[Setting]:
    """The full chain first; then every combination that the options ask for, each once."""
    full = Setting("ddpm", total, "uniform", "fp32")
    asked = [
        # All steps are the same steps by any spacing.
        Setting(method, steps, spacing if steps < total else "uniform", precision)
        for precision in args.precision
        for method in args.methods
        for spacing in args.spacing
        for steps in sorted({*args.steps, total}, reverse=True)
        if steps <= total
    ]
    return iter(dict.fromkeys([full, *asked]))


class _Bench:
    """Draws and scores pieces of one request."""

    def __init__(self, args: argparse.Namespace, diffusion, task: Task, dataset):
        self.args, self.diffusion, self.task, self.dataset = args, diffusion, task, dataset
        self.batch = collate([dataset[i] for i in range(len(dataset))])

    def _sampler(self, setting: Setting) -> Sampler:
        self.diffusion.denoise_network.set_precision(setting.precision)
        return Sampler(self.diffusion, setting.method, setting.steps, setting.spacing)

    def key(self, setting: Setting, seed: int) -> str:
        """What the piece depends on, in short: weights, data, request."""
        request = describe(
            self._sampler(setting),
            self.batch,
            self.dataset,
            self.task,
            num_samples=self.args.num_samples,
            seed=seed,
            checkpoint=self.args.checkpoint.name,
        )
        return _short(request | {"device": torch.device(self.args.device).type})

    def piece(self, setting: Setting, seed: int) -> dict:
        """Samples of one setting and seed, scored."""
        sampler = self._sampler(setting)
        began = time.perf_counter()
        drawn = sample(
            sampler,
            self.batch,
            self.task,
            num_samples=self.args.num_samples,
            seed=seed,
            batch_size=self.args.batch_size,
            progress=False,
        )
        seconds = time.perf_counter() - began
        name = self.args.checkpoint.name
        samples = make_samples(drawn, self.batch, self.dataset, self.task, seed=seed, checkpoint=name)
        scores = {"marginal": marginal(samples)}
        if samples.num_samples > 1:
            scores["variety"] = variety(samples.samples * samples.scale)
        if self.task.is_conditional:
            scores = evaluate(samples, ["ade"], progress=False)["forecast"] | scores
        trajectories = self.batch.num_graphs * self.args.num_samples
        return {**self._about(), **setting._asdict(), "seed": seed, **scores, "seconds": seconds / trajectories}

    def nll_key(self) -> str:
        return _short({"nll": self.key(Setting("ddpm", self.diffusion.num_timesteps, "uniform", "fp32"), 0)})

    def nll(self) -> dict:
        """The bound on the NLL of the model's chain, of all steps."""
        self.diffusion.denoise_network.set_precision("fp32")
        nats = likelihoods(
            self.diffusion, self.batch, self.task, seed=0, batch_size=self.args.batch_size,
            progress=not self.args.quiet,
        )  # fmt: skip
        error = float(nats.double().std() / len(nats) ** 0.5) if len(nats) > 1 else None
        return {**self._about(), "nll": float(nats.double().mean()), "nll_standard_error": error}

    def _about(self) -> dict:
        return {
            "checkpoint": self.args.checkpoint.name,
            "data": self.dataset.name,
            "unit": self.dataset.unit,
            "mode": self.diffusion.mode,
            "total_steps": self.diffusion.num_timesteps,
            "num_graphs": self.batch.num_graphs,
            "num_samples": self.args.num_samples,
        }


def variety(samples: np.ndarray) -> float:
    """Mean distance between two samples of a graph; samples: [K, N, D, T], K at least 2."""
    pairs = itertools.combinations(samples, 2)
    return float(np.mean([np.linalg.norm(a - b, axis=1).mean() for a, b in pairs]))


def _short(request: dict) -> str:
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:20]


def _read(path: pathlib.Path) -> dict[str, dict]:
    """The pieces in the file, by key. A last line that was cut short is closed, so that the next one stands alone."""
    if not path.is_file():
        return {}
    text = path.read_text(encoding="utf-8")
    if text and not text.endswith("\n"):
        with open(path, "a", encoding="utf-8") as file:
            file.write("\n")
    known = {}
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except ValueError:  # of a run that was killed while it wrote
            continue
        if isinstance(row, dict) and row.get("benchmark") == "steps" and ("nll" in row or scores_of([row])):
            known[row["key"]] = row
    return known


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.sampling.steps",
        description=DESCRIPTION,
        epilog=f"examples:\n{EPILOG}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--checkpoint",
        type=pathlib.Path,
        default="nbody_charged_small",
        metavar="CHECKPOINT",
        help="default: that of the demo",
    )
    add_data_files(parser, "file or folder instead of that in the checkpoint's configuration")
    parser.set_defaults(data_config=None)
    parser.add_argument("--split", default="test", choices=("train", "val", "test"), help="default: test")
    parser.add_argument(
        "--set", metavar="data.KEY=VALUE", action="append", default=[], help="replace one key of the data section"
    )
    parser.add_argument("--num-graphs", type=arguments.count, default=100, metavar="N", help="default: 100")
    parser.add_argument("--num-samples", type=arguments.count, default=5, metavar="K", help="of each (default: 5)")
    parser.add_argument("--seeds", type=arguments.count, default=3, metavar="S", help="seeds 0 to S - 1 (default: 3)")
    parser.add_argument(
        "--methods",
        nargs="+",
        default=["ddpm", "ddim", "dpmpp_2m", "dpmpp_2m_sde"],
        metavar="NAME",
        help="default: all",
    )
    parser.add_argument(
        "--steps",
        nargs="+",
        type=arguments.count,
        default=[5, 10, 20, 50],
        metavar="N",
        help="beside all of the model's (default: 5 10 20 50)",
    )
    parser.add_argument(
        "--spacing", nargs="+", default=["uniform", "log_snr"], metavar="NAME", help="default: uniform log_snr"
    )
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=["fp32"], help="default: fp32")
    parser.add_argument("--batch-size", type=arguments.count, metavar="N", help="default: by the graphs' size")
    parser.add_argument("--threads", type=arguments.count, metavar="N", help="default: torch's own choice, every core")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, ...")
    out = record.RESULTS / "steps.jsonl"
    parser.add_argument("--out", type=pathlib.Path, default=out, metavar="FILE", help="JSON lines are added to it")
    parser.add_argument(
        "--plot", type=pathlib.Path, default=record.RESULTS / "steps.png", metavar="FILE", help=".png, .pdf or .svg"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    return parser


if __name__ == "__main__":
    sys.exit(main())
