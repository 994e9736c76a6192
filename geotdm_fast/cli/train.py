"""`geotdm train`: train a model from a configuration file."""

import argparse
import json
import os
import pathlib

from geotdm_fast.cli.arguments import new_command, threads

DESCRIPTION = """\
Train a model as a YAML configuration says (ours in configs/, or the official project's as they are).

The output folder (train.output_base_path/train.exp_name, or --output) receives
  last.safetensors   the newest weights for use, with the configuration inside
  best.safetensors   the weights with the best validation value
  state.safetensors  everything that an exact resume needs
  log.jsonl          one JSON object a line: step, loss, learning rate, gradient norm, speed, validation values
  loss.png           the loss curve
  config.yaml        the configuration with every default filled in
The same command goes on where a stopped or killed run left off: a kill costs the steps since the last checkpoint.
Ctrl-C, SIGTERM and SIGHUP (a closed terminal) write a checkpoint first. One run at a time: another training into the
same folder is refused.

On CUDA the step is captured as a graph and replayed where all trajectories have the same nodes and edges; a line says
where it is not. train.precision bf16 or tf32 rounds the factors of matrix products; weights stay float32. A batch that
does not fit into memory goes in parts: train.accumulate."""

EXAMPLES = """\
  geotdm train configs/nbody_charged_small.yaml
  geotdm train configs/nbody_charged_small.yaml --max-minutes 10 --threads 2
  geotdm train configs/md_small.yaml --data my_molecule.npz --set train.exp_name=my_molecule
  geotdm train configs/molecules.yaml --data ethanol.npz aspirin.npz          (one model for several molecules)
  geotdm train configs/nbody_charged.yaml --set train.batch_size=64 --set train.exp_name=half --device cuda
  torchrun --nproc-per-node 2 -m geotdm_fast train configs/nbody_charged.yaml      (one process per GPU)

then:
  geotdm sample outputs/nbody_charged_small/best.safetensors --out samples.npz
  geotdm evaluate samples.npz"""


class _ShowKeys(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None):
        from geotdm_fast.settings import manual

        print(manual())
        parser.exit()


def add_parser(subparsers) -> argparse.ArgumentParser:
    """The parser of `geotdm train`."""
    parser = new_command(subparsers, "train", "train a model from a YAML configuration", DESCRIPTION, EXAMPLES)
    parser.add_argument("config", metavar="CONFIG", help="YAML file, the official project's or ours")
    parser.add_argument("--output", metavar="DIR", help="output folder (default: from the configuration)")
    parser.add_argument(
        "--data",
        nargs="+",
        metavar="PATH",
        help="read all data from this file (its `path`) or folder (its `root`); several files are joined",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        dest="overrides",
        help="replace one value of the configuration; may be repeated",
    )
    parser.add_argument("--keys", action=_ShowKeys, nargs=0, help="list every key of a configuration and exit")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: cuda if there is one)")
    parser.add_argument("--no-resume", action="store_true", help="start anew and discard the run in the output folder")
    parser.add_argument("--max-minutes", type=float, metavar="M", help="stop with a checkpoint after M minutes")
    parser.add_argument("--threads", type=threads, metavar="N", help="CPU threads (default: torch's choice)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Train; 0 when the run ended or its time was up. A signal exits with 128 + its number."""
    import torch

    from geotdm_fast.config import SPLITS, load_config, read_yaml
    from geotdm_fast.settings import as_section
    from geotdm_fast.training import train

    if args.threads is not None:
        torch.set_num_threads(args.threads)
    overrides = list(args.overrides)
    if args.data is not None:
        for path in args.data:
            if not os.path.exists(path):
                raise FileNotFoundError(f"--data {path}: no such file or folder")
        folders = [path for path in args.data if os.path.isdir(path)]
        if folders and len(args.data) > 1:
            raise ValueError(f"--data: several paths must be files, got the folder {folders[0]}")
        key = "root" if folders else "path"
        paths = [pathlib.Path(path).as_posix() for path in args.data]
        value = paths[0] if len(paths) == 1 else json.dumps(paths)
        data = as_section(read_yaml(args.config).get("data") or {}, f"{args.config}: data")
        splits = [split for split in SPLITS if data.get(split) is not None]
        # Before --set, which may change a section or leave it out (data.val=null).
        overrides = [f"data.{split}.{key}={value}" for split in splits] + overrides
    if args.max_minutes is not None:
        overrides.append(f"train.max_minutes={args.max_minutes}")
    config = load_config(args.config, overrides)
    last = train(config, output_dir=args.output, device=args.device, resume=not args.no_resume, progress=not args.quiet)
    if os.environ.get("RANK", "0") == "0":
        print(f"weights for use: {last}")
    return 0
