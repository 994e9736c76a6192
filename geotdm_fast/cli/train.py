"""`geotdm train`: train a model from a configuration file."""

import argparse
import os

from geotdm_fast.cli.arguments import new_command, threads
from geotdm_fast.cli.data_options import add_data_files, check_data_files
from geotdm_fast.cli.renamed import Renamed
from geotdm_fast.cli.training_data import put_cache, replace_data

DESCRIPTION = """\
Train a model as a YAML configuration says (ours in configs/, or the official project's as they are).

The output folder (train.output_base_path/train.exp_name, or --out) receives
  last.safetensors   the newest weights for use, with the configuration inside
  best.safetensors   the weights with the best validation value
  state.safetensors  everything that an exact resume needs
  log.jsonl          one JSON object a line: step, loss, learning rate, gradient norm, speed, validation values
  loss.png           the loss curve
  config.yaml        the configuration with every default filled in
With --set train.logger=tensorboard (or wandb) the numbers of log.jsonl also go to TensorBoard (tensorboard/) or Weights
and Biases (wandb/), which are extras of this package; a resume goes on in the same run.
The same command goes on where a stopped or killed run left off: a kill costs the steps since the last checkpoint.
Ctrl-C, SIGTERM and SIGHUP (a closed terminal) write a checkpoint first. One run at a time: another training into the
same folder is refused.

On CUDA the step is captured as a graph and replayed; where trajectories have graphs of different size, batches are
padded to a few sizes, and a line says how many (train.cuda_graph_sizes). train.precision bf16 or tf32 rounds the
factors of matrix products; weights stay float32. A batch that does not fit into memory goes in parts: train.accumulate.

Trajectories larger than memory: --cache DIR writes the frames of molecules' files (.xtc, .dcd, ...) into DIR once, as
plain arrays, and a second thread reads the windows of the next steps from there; the numbers are the same. Several runs
of one system: --data 'runs/*/traj.xtc' and one --topology; split_by: replica keeps whole runs for validation.

Models of Align Your Structures have the key denoise_model.type, and are trained in two stages: a structure model, then
an interpolator around it; their official files are read as they are. docs/ays.md has the commands."""

EXAMPLES = """\
  geotdm train configs/nbody_charged_small.yaml
  geotdm train configs/nbody_charged_small.yaml --max-minutes 10 --threads 2
  geotdm train configs/md_small.yaml --data my_molecule.npz --set train.exp_name=my_molecule
  geotdm train configs/md_file.yaml --data run.xtc --topology run.pdb --set train.exp_name=my_run
  geotdm train configs/md_file.yaml --data 'runs/*/traj.xtc' --topology run.pdb --cache /scratch/frames
  geotdm train configs/molecules.yaml --data ethanol.npz aspirin.npz          (one model for several molecules)
  geotdm train configs/nbody_charged.yaml --set train.batch_size=64 --set train.exp_name=half --device cuda
  geotdm train configs/ays_structure_small.yaml --data ethanol.npz                (then ays_interpolator_small.yaml)
  torchrun --nproc-per-node 2 -m geotdm_fast train configs/nbody_charged.yaml      (one process per GPU)

then:
  geotdm sample outputs/nbody_charged_small --out samples.npz
  geotdm evaluate samples.npz"""


class _ShowKeys(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None):
        from geotdm_fast.config.ays_files import ays_manual
        from geotdm_fast.config.data_settings import data_manual
        from geotdm_fast.config.settings import manual

        print(data_manual(), manual(), ays_manual(), sep="\n\n")
        parser.exit()


def add_parser(subparsers) -> argparse.ArgumentParser:
    """The parser of `geotdm train`."""
    parser = new_command(subparsers, "train", "train a model from a YAML configuration", DESCRIPTION, EXAMPLES)
    parser.add_argument("config", metavar="CONFIG", help="YAML file, the official project's or ours")
    parser.add_argument("--out", metavar="DIR", help="output folder (default: from the configuration)")
    parser.add_argument("--output", action=Renamed, dest="out", new="--out")
    add_data_files(
        parser, "read all data from this file (or these, joined) or folder instead; the suffix says the kind"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        dest="overrides",
        help="replace one value of the configuration; may be repeated",
    )
    parser.add_argument(
        "--keys",
        action=_ShowKeys,
        nargs=0,
        help="list every key of a configuration, of each kind of data too, and exit",
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: cuda if there is one)")
    parser.add_argument("--no-resume", action="store_true", help="start anew and discard the run in the output folder")
    parser.add_argument("--max-minutes", type=float, metavar="M", help="stop with a checkpoint after M minutes")
    parser.add_argument("--threads", type=threads, metavar="N", help="CPU threads (default: torch's choice)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Train; 0 when the run ended or its time was up. A signal exits with 128 + its number."""
    from geotdm_fast.config.files import normalise_config, override, override_training, read_training_file

    raw = read_training_file(args.config)
    check_data_files(args)

    import torch

    from geotdm_fast.training import train

    if args.threads is not None:
        torch.set_num_threads(args.threads)
    if args.data is not None:
        replace_data(raw, args, args.config)
    # After --data: they may change a section or leave it out (data.val=null).
    override_training(raw, args.overrides)
    if args.cache is not None:
        put_cache(raw, args, args.config)
    if args.max_minutes is not None:
        override(raw, f"train.max_minutes={args.max_minutes}")
    config = normalise_config(raw, where=args.config)
    last = train(config, output_dir=args.out, device=args.device, resume=not args.no_resume, progress=not args.quiet)
    if os.environ.get("RANK", "0") == "0":
        print(f"weights for use: {last}")
        if config["train"]["final_test"]:
            print(f"train.final_test: training looks at no test data; `geotdm evaluate {last.parent}` scores them")
    return 0
