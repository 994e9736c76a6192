"""`geotdm evaluate`: scores of a checkpoint or of samples."""

import argparse
from pathlib import Path

from geotdm_fast.cli.arguments import (
    add_quiet,
    add_sampling_options,
    check_sampling_paths,
    choose_device,
    count,
    new_command,
)
from geotdm_fast.cli.md_options import add_md_options, check_md_options
from geotdm_fast.cli.scored import add_scored, is_samples

DESCRIPTION = """\
Score a model: a checkpoint (samples are drawn first, as `geotdm sample` does), the folder of a training (its
train.final_test_ckpt is scored), or a file or a folder of samples.

conditional models:
  ade             average and final displacement error (unit of the data): mean and best of the K samples, beside
                  standing still and constant velocity
  nll             bound on the negative log-likelihood, nats per graph (needs the checkpoint; a flow has none)
unconditional models:
  marginal        difference of the distributions of coordinates, or of bond lengths for molecules; lower is better
  classification  cross-entropy of a classifier that tells samples from data; higher is better
  prediction      squared error on data of a forecaster trained on samples; lower is better
  nll             as above
molecules, and all else in three dimensions (--scores md, or all,md):
  md              bond lengths, angles, torsions, radial distribution functions, mobility, validity, ... beside the
                  same of true trajectories against true ones; docs/scores.md explains each

The paper averages over 5 samples (--num-samples 5); pedestrians take the best of 20. Without --num-samples and
--kmeans the training's keys K and cluster say how many: `cluster: true` is --kmeans 20.

The paper's figures stand beside the scores where the data are known to be its own: N-body systems that this package
simulated for the test, and the ETH and UCY recordings, known by their digest. Elsewhere --paper asks for them."""

EXAMPLES = """\
  geotdm evaluate best.safetensors --num-graphs 100 --json scores.json
  geotdm evaluate best.safetensors --scores nll
  geotdm evaluate samples.npz
  geotdm evaluate samples.npz --paper md:ethanol                   the published figures of MD17's ethanol beside them
  geotdm evaluate outputs/nbody_charged                            the weights that train.final_test_ckpt names
  geotdm evaluate samples/                                         all shards of the folder together
  geotdm evaluate samples.npz --scores md --json scores.json --pictures pictures/
  geotdm evaluate samples.npz --scores md --md bonds,torsions,validity --lag 2
  geotdm evaluate samples.npz --scores md --md energy --calculator tblite
  geotdm evaluate pedestrians.safetensors --num-samples 60 --kmeans 20 --scores ade"""

# The official protocols: forecasts are averages over 5 samples; pedestrians keep 20 representatives.
PAPER_SAMPLES = 5
REPRESENTATIVES = 20


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = new_command(subparsers, "evaluate", "score a checkpoint or samples", DESCRIPTION, EXAMPLES)
    add_scored(parser)
    parser.add_argument(
        "--scores", default="all", metavar="NAME,...", help="which scores (default: all that fit the model)"
    )
    parser.add_argument("--json", metavar="FILE.json", help="also write the scores as JSON")
    parser.add_argument(
        "--kmeans",
        type=count,
        metavar="R",
        help="also the best of R k-means representatives (pedestrians: 20 of 60)",
    )
    parser.add_argument(
        "--paper", metavar="EXPERIMENT", help="show the paper's figures of charged, md:ethanol, zara1, ... beside ours"
    )
    add_md_options(parser)
    add_sampling_options(parser, num_samples=5)
    add_quiet(parser)
    parser.set_defaults(run=run, num_samples=None)  # the training's K where it says one
    return parser


def run(args: argparse.Namespace) -> int:
    """Score, print the table, write the JSON."""
    from geotdm_fast.cli.requests import check_suffix
    from geotdm_fast.cli.run_folder import final_test_weights, is_training
    from geotdm_fast.runtime.files import write_json

    if args.json is not None:
        check_suffix("--json", args.json, (".json",))
    if is_training(Path(args.checkpoint)):
        args.checkpoint = str(final_test_weights(Path(args.checkpoint)))
    from_file = is_samples(Path(args.checkpoint))
    check_md_options(args)
    if not from_file:
        check_sampling_paths(args)

    from geotdm_fast.cli.md_options import draw_pictures, score_by_options
    from geotdm_fast.scores.evaluation import MOLECULES, evaluate, report

    samples, scores, nll = _from_file(args) if from_file else _from_checkpoint(args)
    molecules = score_by_options(samples, args) if MOLECULES in scores else None
    result = evaluate(
        samples,
        scores,
        nll=nll,
        md=molecules,
        kmeans=args.kmeans,
        experiment=args.paper,
        seed=args.seed,
        device=choose_device(args.device),
        progress=not args.quiet,
    )
    print(report(result))
    if args.json is not None:
        write_json(args.json, result)
        print(f"\n{args.json}: the same as JSON")
    if molecules is not None and args.pictures is not None:
        draw_pictures(molecules, args.pictures)
    return 0


def _from_file(args: argparse.Namespace):
    from geotdm_fast.samples.npz import read_samples
    from geotdm_fast.scores.evaluation import parse_scores

    samples = read_samples(args.checkpoint)
    scores = parse_scores(args.scores, samples.mode)
    if "all" in args.scores.split(",") and "nll" not in args.scores.split(","):
        scores = tuple(score for score in scores if score != "nll")  # needs the model
    return samples, scores, None


def _from_checkpoint(args: argparse.Namespace):
    from geotdm_fast.cli.requests import draw, open_request
    from geotdm_fast.cli.telling import tell
    from geotdm_fast.scores.evaluation import parse_scores

    request = open_request(args, choose_device(args.device), progress=not args.quiet)
    model, dataset = request
    # Bad scores are told before the samples are drawn.
    scores = parse_scores(args.scores, model.task.mode, model.diffusion.has_likelihood)
    if "all" in args.scores.split(",") and not model.diffusion.has_likelihood:
        kind = "a flow" if model.diffusion.calls is None else "a student"
        tell(f"{model.name}: {kind} has no likelihood here, so nll is left out of all scores")
    _obey(model.config["train"], args, "ade" in scores)
    samples = draw(args, request)
    nll = None
    if "nll" in scores:
        options = {"batch_size": args.batch_size, "progress": not args.quiet, "extrapolate": args.extrapolate}
        nll = model.likelihood(dataset, seed=args.seed, **options)
    return samples, scores, nll


def _obey(train: dict, args: argparse.Namespace, forecasts: bool) -> None:
    """Take from the training's keys K and cluster what the options leave open."""
    import warnings

    if args.num_samples is None:
        args.num_samples = train.get("K") or PAPER_SAMPLES
    if args.kmeans is None and train.get("cluster") and forecasts:
        if args.num_samples >= REPRESENTATIVES:
            args.kmeans = REPRESENTATIVES
        else:
            warnings.warn(
                f"train.cluster asks for {REPRESENTATIVES} representatives of the samples, which are "
                f"{args.num_samples}; they are left out (more samples: --num-samples; fewer representatives: --kmeans)",
                stacklevel=2,
            )
