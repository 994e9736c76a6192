"""The demonstration, `make demo`: simulate charged particles, forecast them with the small model, score and draw."""

import argparse
import sys
import time
from pathlib import Path

from geotdm_fast.runtime.allocator import keep_freed_memory

DESCRIPTION = """\
Simulate five charged particles, give the small model 10 frames, let it forecast the next 20 several times, and compare
with standing still, constant velocity and the paper. Writes forecast.png, forecast.gif and forecast.html."""


def main(argv: list[str] | None = None) -> int:
    """Run the demonstration: 0 if the forecast beats constant velocity, 1 if not, 2 for a user's error."""
    args = _parser().parse_args(argv)
    try:
        return run(args)
    except KeyboardInterrupt:
        print("demo: interrupted", file=sys.stderr)
        return 130
    except (ValueError, TypeError, OSError) as error:
        print(f"demo: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def run(args: argparse.Namespace) -> int:
    """Simulate, forecast, score, draw, and say what came out."""
    clock = _Clock()
    keep_freed_memory()
    from geotdm_fast.cli.arguments import choose_device
    from geotdm_fast.data import open_dataset
    from geotdm_fast.model import Model
    from geotdm_fast.plots.animation import animate
    from geotdm_fast.plots.forecast import plot_forecast
    from geotdm_fast.plots.page import write_page
    from geotdm_fast.runtime.files import write_json
    from geotdm_fast.samples.npz import write_samples

    device = choose_device(args.device)
    model = Model.load(args.checkpoint, device=device)
    clock.lap("start")

    section = {"kind": "nbody", "system": "charged", "split": "test", "num_systems": args.num_systems, "num_frames": 30}
    dataset = open_dataset(section, "demo", progress=False)
    clock.lap(f"simulate {args.num_systems} systems")

    samples = model.forecast(dataset, args.num_samples, seed=args.seed, progress=True)
    clock.lap(f"forecast {args.num_systems} x {args.num_samples} on {_device_name(device)}")

    result = model.evaluate(samples, "ade")
    args.out.mkdir(parents=True, exist_ok=True)
    files = {kind: args.out / f"forecast.{kind}" for kind in ("png", "gif", "html", "npz")}
    title = "Charged particles: 20 frames forecast from 10"
    plot_forecast(samples, files["png"], title=title)
    animate(samples, files["gif"], title=title, progress=False)
    write_page(samples, files["html"], title=title)
    write_samples(files["npz"], samples)
    write_json(args.out / "scores.json", result)
    clock.lap("draw and write")

    print(_table(result, model), clock.report(), _files(args.out), sep="\n\n")
    return _verdict(result)


def _parser() -> argparse.ArgumentParser:
    from geotdm_fast.cli.arguments import count, seed

    parser = argparse.ArgumentParser(
        prog="python -m geotdm_fast.cli.demo",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--num-systems", type=count, default=100, metavar="B", help="systems (default: 100)")
    parser.add_argument("--num-samples", type=count, default=5, metavar="K", help="forecasts of each (default: 5)")
    parser.add_argument("--out", type=Path, default=Path("demo_output"), metavar="DIR", help="default: demo_output")
    parser.add_argument("--device", help="cpu, cuda, ... (default: cuda if there is one)")
    parser.add_argument("--seed", type=seed, default=0, help="seed of the forecasts (default: 0)")
    parser.add_argument("--checkpoint", default="nbody_charged_small", help="another model of charged particles")
    return parser


class _Clock:
    """How long each part took."""

    def __init__(self):
        self.last = time.perf_counter()
        self.laps: list[tuple[str, float]] = []

    def lap(self, what: str) -> None:
        now = time.perf_counter()
        self.laps.append((what, now - self.last))
        self.last = now

    def report(self) -> str:
        width = max(len(what) for what, _ in self.laps)
        rows = [*self.laps, ("together", sum(seconds for _, seconds in self.laps))]
        return "\n".join(f"{what.ljust(width)}  {seconds:6.1f} s" for what, seconds in rows)


def _device_name(device) -> str:
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"the CPU ({torch.get_num_threads()} threads)"


def _table(result: dict, model) -> str:
    from geotdm_fast.cards.card import counted
    from geotdm_fast.scores.tables import text_table

    network, forecast = model.config["denoise_model"], result["forecast"]
    size = sum(p.numel() for p in model.network.parameters()) / 1000
    layers = f"{network['n_layers']} layers of {network['hidden_dim']}"
    about = f"{layers}, {size:.0f} k parameters, {counted(model.sampler().num_steps, 'step')}"
    rows = [[f"forecast, mean of {result['num_samples']} samples", forecast["ade_mean"], forecast["fde_mean"], about]]
    for name, errors in result["baselines"].items():
        rows.append([name.replace("_", " "), errors["ade"], errors["fde"], ""])
    rows.append(["paper (GeoTDM)", 0.110, 0.258, "a bigger model, trained longer (6 layers of 128, 1000 steps)"])
    head = f"Charged particles: {result['num_drawn']} frames from {result['num_given']}, {result['num_graphs']} systems"
    rows = [[label, f"{ade:.3f}", f"{fde:.3f}", about] for label, ade, fde, about in rows]
    meaning = "ADE, FDE: mean distance from the truth over all frames, at the last; lower is better."
    return f"{head}\n\n{text_table(['', 'ADE', 'FDE', ''], rows)}\n\n{meaning}"


def _files(out: Path) -> str:
    about = {
        "forecast.png": "six systems, truth and forecasts",
        "forecast.gif": "three of them, moving",
        "forecast.html": "twelve to play with and turn, in any browser",
        "forecast.npz": "the samples; geotdm evaluate, geotdm plot",
        "scores.json": "the table above, exactly",
    }
    width = max(len(str(out / name)) for name in about)
    return "\n".join(f"{str(out / name).ljust(width)}  {what}" for name, what in about.items())


def _verdict(result: dict) -> int:
    ours, other = result["forecast"]["ade_mean"], result["baselines"]["constant_velocity"]["ade"]
    if ours < other:
        return 0
    print(f"demo: the forecast (ADE {ours:.3f}) does not beat constant velocity ({other:.3f})", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
