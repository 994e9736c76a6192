"""The interpolator of Align Your Structures beside its plain transcription: a call, forward + backward, peak memory."""

import argparse
import dataclasses
import json
import os
import subprocess
import sys

import torch
from torch import Tensor, nn

from bench.common import arguments, record
from bench.common.timing import MatrixProduct, interleaved
from bench.network.memory import peak_of
from bench.peers.ays_peers import PlainInterpolator
from geotdm_fast import ays
from geotdm_fast.graphs import Graph
from geotdm_fast.scores.tables import text_table

DESCRIPTION = """\
EGInterpolator with frozen structure layers, on a chain of atoms with bonds to 3 hops, forecasting from frame 0: ours
(`ours_recompute`: blocks are computed again in the backward) beside a plain PyTorch transcription of the official
code's structure, eager and compiled. A call is without gradients;
training is forward and backward of all that learns. Results and gradients are compared before anything is timed.
Memory is the peak of training over what was there before, in a fresh process for every figure."""
EPILOG = """\
  python -m bench.network.ays                              44 atoms, T = 251, H = 128, 6 layers, batch 2
  python -m bench.network.ays --layers 2 --repeats 2       a third of the time
  python -m bench.network.ays --memory-only --frames 1000"""
PEERS = ("official", "official_compiled")
IMPLEMENTATIONS = ("ours", "ours_recompute", *PEERS)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """atoms of a molecule, molecules, frames T, width H, layers."""

    atoms: int = 44
    graphs: int = 2
    frames: int = 251
    hidden: int = 128
    layers: int = 6


class Case:
    """One implementation with its inputs."""

    def __init__(self, sizes: Sizes, name: str, device: str = "cpu"):
        self.name = name
        self.network, self.inputs = make(sizes, name, device)
        generator = torch.Generator().manual_seed(1)
        noisy = sizes.frames - 1
        self.cotangents = torch.randn(sizes.atoms * sizes.graphs, 3, noisy, generator=generator).to(device)

    def inference(self) -> Tensor:
        with torch.no_grad():
            return self.network(**self.inputs)[0]

    def training(self) -> Tensor:
        self.network.zero_grad(set_to_none=True)
        x_out, _ = self.network(**self.inputs)
        (x_out * self.cotangents).sum().backward()
        return x_out


def make(sizes: Sizes, name: str, device: str) -> tuple[nn.Module, dict]:
    """Network and inputs of an implementation: the same weights for all, structure layers and embedding frozen."""
    torch.manual_seed(0)
    config = {"n_layers": sizes.layers, "node_dim": 30, "ft_dim": 42, "edge_dim": 4, "hidden_dim": sizes.hidden}
    config |= {"time_emb_dim": 32}
    more = {"use_mha": False, "use_extra": True, "use_double": True, "use_norm": True, "sigmoid_init": True}
    network = ays.EGInterpolator(**config, act_fn="silu", conditioning="forward", **more)
    inputs = chain_inputs(sizes)
    if name not in PEERS:
        network.recompute = name == "ours_recompute"
        inputs["graph"] = Graph.static(inputs["edge_index"].to(device), len(inputs["h"]))
    else:
        plain = PlainInterpolator(**config)
        plain.load_state_dict(network.state_dict())
        network, inputs["noisy"] = plain, (~inputs["cond_mask"]).nonzero()[:, 0]
        if name == "official_compiled":
            inputs["noisy"] = slice(1, sizes.frames)
    frozen = ("s_modules.", "input_linear.", "embedding.")
    for key, parameter in network.named_parameters():
        parameter.requires_grad_(not key.startswith(frozen))
    network = network.to(device)
    inputs = {key: value if isinstance(value, slice) else value.to(device) for key, value in inputs.items()}
    return torch.compile(network, dynamic=False) if name == "official_compiled" else network, inputs


def chain_inputs(sizes: Sizes) -> dict:
    """Chains of atoms with rings, bonds and pairs up to three bonds apart."""
    generator = torch.Generator().manual_seed(0)
    n, total = sizes.atoms, sizes.atoms * sizes.graphs
    position = torch.arange(n)
    hops = (position[:, None] - position[None, :]).abs()
    # A bond that closes a ring of six, from every sixth atom: 396 edges for 44 atoms; reserpine has 414.
    for first in range(0, n - 5, 6):
        hops[first, first + 5] = hops[first + 5, first] = 1
    for between in range(n):
        hops = torch.minimum(hops, hops[:, between, None] + hops[None, between])
    row, col = ((hops > 0) & (hops <= 3)).nonzero().T
    kinds = torch.tensor([0, 2, 23, 24])[hops[row, col]]
    shift = torch.arange(sizes.graphs).repeat_interleave(len(row)) * n
    edge_index = torch.stack([row, col]).repeat(1, sizes.graphs) + shift
    frames = torch.randn(total, 3, sizes.frames, generator=generator)
    mask = torch.zeros(sizes.frames, dtype=torch.bool)
    mask[0] = True
    return {
        "diffusion_t": torch.arange(sizes.graphs).repeat_interleave(n) * 300,
        "x": frames[..., 1:].clone(),
        "h": torch.randint(6, 9, (total,), generator=generator),
        "f": torch.rand(total, 42, generator=generator),
        "edge_index": edge_index,
        "edge_attr": kinds.repeat(sizes.graphs),
        "batch": torch.arange(sizes.graphs).repeat_interleave(n),
        "cond_mask": mask,
        "original_frames": frames,
    }


def agreement(sizes: Sizes, names: list[str], device: str) -> dict[str, float]:
    """Relative errors against the eager peer: of the output and of the gradient of all that learns. Raises ValueError
    where one is over 1e-4."""
    truth = Case(sizes, "official", device)
    expected = truth.training().detach()
    weights = {key: p.grad for key, p in truth.network.named_parameters() if p.grad is not None}
    errors = {}
    for name in names:
        if name in PEERS:  # the compiled peer is the same program, and compiling it for more sizes takes minutes
            continue
        case = Case(sizes, name, device)
        found = case.training().detach()
        own = {key.removeprefix("_orig_mod."): p.grad for key, p in case.network.named_parameters()}
        difference = sum(float((own[key] - grad).square().sum()) for key, grad in weights.items()) ** 0.5
        norm = sum(float(grad.square().sum()) for grad in weights.values()) ** 0.5
        errors[name] = max(float((found - expected).norm() / expected.norm()), difference / norm)
        if not errors[name] < 1e-4:
            raise ValueError(f"bench.network.ays: {name} differs from the peer by {errors[name]:.1e}")
    return errors


def measure_memory(sizes: Sizes, name: str, device: str) -> int:
    """Peak bytes of training over what was there before, in a fresh process."""
    order = {"sizes": vars(sizes), "name": name, "device": device, "threads": torch.get_num_threads()}
    path = os.pathsep.join([str(record.ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    words = [sys.executable, "-m", "bench.network.ays", "--child", json.dumps(order)]
    done = subprocess.run(words, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise RuntimeError(f"memory of {name}: {last}")
    return json.loads(done.stdout.splitlines()[-1])


def child(order: dict) -> int:
    """The fresh process: touch every library with a tiny call, then measure one."""
    torch.set_num_threads(order["threads"])
    sizes, device = Sizes(**order["sizes"]), order["device"]
    tiny = Sizes(**(order["sizes"] | {"frames": 4, "graphs": 1, "layers": 1}))
    Case(tiny, order["name"], device).training()
    case = Case(sizes, order["name"], device)
    if order["name"].endswith("compiled"):
        case.training()
    print(json.dumps(peak_of(case.training, torch.device(device))[0]))
    return 0


def main(argv: list[str] | None = None) -> int:
    """Measure and print: 0, or 2 for a user's error or a wrong result."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["--child"]:
        return child(json.loads(argv[1]))
    args = _parser().parse_args(argv)
    try:
        return run(args)
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        return record.fail("bench.network.ays", error)


def run(args: argparse.Namespace) -> int:
    arguments.set_up(args)
    context = record.context(args.device)
    sizes = Sizes(args.atoms, args.graphs, args.frames, args.hidden, args.layers)
    rows = {name: {"implementation": name} for name in args.implementations}
    about = {"benchmark": "ays", "workload": "interpolator", "sizes": vars(sizes), "dtype": "float32"}
    if not args.memory_only:
        errors = agreement(dataclasses.replace(sizes, frames=9), list(args.implementations), args.device)
        cases = {name: Case(sizes, name, args.device) for name in args.implementations}
        product = MatrixProduct(args.device)
        for mode in ("inference", "training"):
            calls = {name: getattr(case, mode) for name, case in cases.items()} | {"matrix": product}
            times = interleaved(calls, args.repeats, args.device, progress=not args.quiet)
            rate = product.flop / times.pop("matrix").least / 1e9
            for name, of_name in times.items():
                seconds = {f"{mode}_seconds": of_name.median, f"{mode}_all": of_name.seconds}
                rows[name] |= seconds | {f"{mode}_matrix_gflops": rate}
        for name, error in errors.items():
            rows[name]["relative_error"] = error
    if not args.no_memory:
        for name in args.implementations:
            rows[name]["training_peak_bytes"] = measure_memory(sizes, name, args.device)
    lines = [about | row | context for row in rows.values()]
    record.append(args.out, lines)
    print(record.describe(context), report(sizes, lines), f"lines added to {args.out}", sep="\n\n")
    return 0


def report(sizes: Sizes, rows: list[dict]) -> str:
    """Seconds and MiB of each, and how many times ours is ahead."""
    ours = next((row for row in rows if row["implementation"] == "ours"), {})
    keys = [
        key for key in ("inference_seconds", "training_seconds", "training_peak_bytes") if any(key in r for r in rows)
    ]
    table = []
    for row in rows:
        cells = [row["implementation"]]
        for key in keys:
            value, own = row.get(key), ours.get(key)
            shown = f"{value / 2**20:.0f} MiB" if key.endswith("bytes") else f"{value:.2f} s"
            cells += [shown, f"{value / own:.2f}" if own else ""]
        table.append(cells)
    heads = {"inference_seconds": "a call", "training_seconds": "forward + backward", "training_peak_bytes": "peak"}
    head = ["", *(cell for key in keys for cell in (heads[key], "times ours"))]
    return f"{', '.join(f'{k} {v}' for k, v in vars(sizes).items())}, float32\n\n{text_table(head, table)}"


def _parser() -> argparse.ArgumentParser:
    made = arguments.make_parser("bench.network.ays", DESCRIPTION, EPILOG)
    made.add_argument("--implementations", nargs="+", choices=IMPLEMENTATIONS, default=IMPLEMENTATIONS)
    for name, default in vars(Sizes()).items():
        made.add_argument(f"--{name}", type=int, default=default, help=f"default: {default}")
    made.add_argument("--no-memory", action="store_true", help="times alone")
    made.add_argument("--memory-only", action="store_true", help="memory alone")
    arguments.add_run(made, repeats=3, out=record.RESULTS / "ays.jsonl")
    return made


if __name__ == "__main__":
    sys.exit(main())
