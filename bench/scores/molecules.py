"""What the scores of molecules cost, against MDTraj called for each sample: `python -m bench.scores.molecules`."""

import argparse
import sys
import time
from collections.abc import Callable

import numpy as np

from bench.common import record
from geotdm_fast.samples.record import Samples
from geotdm_fast.scores.md import MDSettings, score_molecules
from geotdm_fast.scores.md.contacts import contact_counts
from geotdm_fast.scores.md.distributions import radius_of_gyration
from geotdm_fast.scores.md.ensemble import Ensemble, ensembles
from geotdm_fast.scores.md.geometry import internal_coordinates
from geotdm_fast.scores.md.rdf import NUM_BINS, pair_kinds, shell_counts
from geotdm_fast.scores.md.superposition import superposed
from geotdm_fast.scores.tables import text_table

DESCRIPTION = """\
CPU seconds (process_time) of the quantities behind the scores of molecules, of many samples at once by this package and
of one sample after the other by MDTraj: bond lengths, angles and torsions; distances of all pairs more than two bonds
apart in bins; contacts; radius of gyration; superposition on a reference, RMSD and squared fluctuations. Both take
turns, and what they give is compared before. Then the whole table of `geotdm evaluate --scores md`, halvings and
bootstrap with it. The molecule is heptyl, 22 atoms, that jitters and whose chain is bent at random."""
R_MAX, CONTACT = 10.0, 6.0


def main(argv: list[str] | None = None) -> int:
    """Measure, print, add a line: 0, or 2 for a user's error or a wrong result."""
    args = _parser().parse_args(argv)
    try:
        return run(args)
    except (ValueError, TypeError, OSError, ImportError, RuntimeError) as error:
        return record.fail("bench.scores.molecules", error)


def run(args: argparse.Namespace) -> int:
    """Compare, measure in turn, then the whole table once."""
    import mdtraj

    samples = made_samples(args.samples, args.frames)
    (ensemble,) = ensembles(samples)
    ours, theirs = (lambda: our_quantities(ensemble)), per_sample(mdtraj, ensemble)
    check(ours(), theirs())
    seconds: dict[str, list[float]] = {"ours": [], "mdtraj": []}
    for _ in range(args.repeats):
        for name, call in (("ours", ours), ("mdtraj", theirs)):
            seconds[name].append(cpu_seconds(call))
    table = cpu_seconds(lambda: score_molecules(samples, MDSettings()))
    row = {
        "benchmark": "scores_md",
        "samples": args.samples,
        "frames": args.frames,
        "atoms": ensemble.num_atoms,
        "mdtraj": mdtraj.__version__,
        "clock": "process_time",
        "cpu_seconds": {name: float(np.median(times)) for name, times in seconds.items()},
        "cpu_seconds_least": {name: min(times) for name, times in seconds.items()},
        "cpu_seconds_table": table,
    }
    context = record.context("cpu")
    record.append(args.out, [row | context])
    print(record.describe(context), report(row), f"line added to {args.out}", sep="\n\n")
    return 0


def cpu_seconds(call: Callable[[], object]) -> float:
    """CPU seconds of all threads of this process."""
    start = time.process_time()
    call()
    return time.process_time() - start


def our_quantities(ensemble: Ensemble) -> dict[str, np.ndarray]:
    """The quantities of all drawn frames at once."""
    x = ensemble.drawn
    flat = x.reshape(3, ensemble.num_atoms, -1)
    lengths, angles, torsions = internal_coordinates(flat, ensemble.topology)
    heavy = ensemble.topology.pairs_beyond(3, np.flatnonzero(ensemble.topology.atomic_numbers != 1))
    turned = superposed(flat, ensemble.reference)
    difference = turned - ensemble.reference[:, :, None]
    squares = (difference * difference).sum(0)
    return {
        "lengths": lengths,
        "angles": angles,
        "torsions": torsions,
        "shells": shell_counts(x, pair_kinds(ensemble), R_MAX).sum(0)[:, :-1],
        "contacts": contact_counts(x, heavy, CONTACT).sum(0),
        "rg": radius_of_gyration(flat, [np.arange(ensemble.num_atoms)]),
        "rmsd": np.sqrt(squares.mean(0))[None],
        "fluctuations": squares.sum(1),
    }


def per_sample(mdtraj, ensemble: Ensemble) -> Callable[[], dict[str, np.ndarray]]:
    """The same quantities, of one sample after the other, in nm as MDTraj has them."""
    topology = ensemble.topology
    table = mdtraj.Topology()
    residue = table.add_residue("X", table.add_chain())
    for number in topology.atomic_numbers.tolist():
        table.add_atom("X", mdtraj.element.Element.getByAtomicNumber(number), residue)
    frames = np.ascontiguousarray(ensemble.drawn.transpose(2, 3, 1, 0)) / 10  # [M, T, N, 3]
    reference = mdtraj.Trajectory(ensemble.reference.T[None] / 10, table)
    kinds = pair_kinds(ensemble)
    heavy = topology.pairs_beyond(3, np.flatnonzero(topology.atomic_numbers != 1))

    def call() -> dict[str, np.ndarray]:
        found: dict[str, list] = {name: [] for name in ("lengths", "angles", "torsions", "rg", "rmsd")}
        shells = np.zeros((len(kinds), NUM_BINS))
        contacts, fluctuations = np.zeros(len(heavy)), np.zeros(topology.num_atoms)
        for sample in frames:
            trajectory = mdtraj.Trajectory(sample, table)
            found["lengths"].append(mdtraj.compute_distances(trajectory, topology.bonds))
            found["angles"].append(mdtraj.compute_angles(trajectory, topology.angles))
            found["torsions"].append(mdtraj.compute_dihedrals(trajectory, topology.torsions))
            for row, kind in zip(shells, kinds, strict=True):
                # As mdtraj.compute_rdf does, which needs a box.
                distances = mdtraj.compute_distances(trajectory, kind.pairs)
                row += np.histogram(distances, range=(0, R_MAX / 10), bins=NUM_BINS)[0]
            contacts += (mdtraj.compute_distances(trajectory, heavy) < CONTACT / 10).sum(0)
            found["rg"].append(mdtraj.compute_rg(trajectory)[:, None])
            found["rmsd"].append(mdtraj.rmsd(trajectory, reference)[:, None])
            difference = trajectory.superpose(reference).xyz - reference.xyz
            fluctuations += (difference * difference).sum((0, 2))
        rows = {name: np.concatenate(parts).T for name, parts in found.items()}
        for name in ("lengths", "rg", "rmsd"):
            rows[name] *= 10
        return rows | {"shells": shells, "contacts": contacts, "fluctuations": 100 * fluctuations}

    return call


def check(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> None:
    """RuntimeError unless both have the same numbers, up to what float32 rounds."""
    for name, values in theirs.items():
        difference = ours[name] - values
        if name == "torsions":
            difference = (difference + np.pi) % (2 * np.pi) - np.pi
        scale = np.abs(values).max()
        # Distances at the edge of a bin, and of a contact, may round across it.
        if not np.abs(difference).mean() <= 1e-3 * scale:
            raise RuntimeError(f"{name} differ by {np.abs(difference).mean():.2g} on average, of at most {scale:.2g}")


def report(row: dict) -> str:
    """The two columns, their ratio, and the table's seconds."""
    ours, theirs = row["cpu_seconds"]["ours"], row["cpu_seconds"]["mdtraj"]
    size = f"{row['samples']} samples x {row['frames']} frames x {row['atoms']} atoms"
    rows = [
        ["this package, all samples at once", ours, 1.0],
        [f"MDTraj {row['mdtraj']}, sample after sample", theirs, theirs / ours],
    ]
    whole = f"The whole table, with 200 halvings and 200 bootstrap samples: {row['cpu_seconds_table']:.3g} CPU s"
    return f"{size}\n\n{text_table(['quantities', 'CPU s', 'ratio'], rows)}\n\n{whole}"


def made_samples(num_samples: int, num_frames: int, seed: int = 0) -> Samples:
    """One drawn and one true trajectory for each of `num_samples` graphs of heptyl, C7 H15: 22 atoms, angstrom."""
    rng = np.random.default_rng(seed)
    chain = np.arange(7)
    carbon = np.stack([1.26 * chain, 0.43 * (-1.0) ** chain, 0 * chain], axis=1)
    side = np.stack([0 * chain, 0.63 * (-1.0) ** chain, 0 * chain + 0.89], axis=1)
    hydrogen = np.concatenate([carbon + side, carbon + side * [1, 1, -1], carbon[:1] - [1.03, 0.36, 0]])
    body, z = np.concatenate([carbon, hydrogen]), np.array([6] * 7 + [1] * 15)

    def moving() -> np.ndarray:
        bend = 0.15 * rng.normal(size=(num_samples, num_frames, 1))
        x = body + 0.03 * rng.normal(size=(num_samples, num_frames, 22, 3))
        angle = bend * x[..., 0]  # twisted about the chain
        y, up = x[..., 1].copy(), x[..., 2].copy()
        x[..., 1], x[..., 2] = np.cos(angle) * y - np.sin(angle) * up, np.sin(angle) * y + np.cos(angle) * up
        return x.transpose(0, 2, 3, 1).reshape(-1, 3, num_frames).astype(np.float32)

    drawn, truth = moving(), moving()
    nodes = len(truth)
    return Samples(
        samples=drawn[None], target=truth, x_given=truth[..., :0], cond_mask=np.zeros(num_frames, bool),
        batch=np.repeat(np.arange(num_samples), 22), scored=np.arange(nodes), h=np.zeros((nodes, 1), np.float32),
        edge_index=np.zeros((2, 0), np.int64), atomic_numbers=np.tile(z, num_samples), scale=1.0, unit="angstrom",
        name="heptyl", mode="uncond", seed=seed, checkpoint="",
    )  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "bench.scores.molecules", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=1000, metavar="N", help="trajectories (default: 1000)")
    parser.add_argument("--frames", type=int, default=20, metavar="T", help="of each (default: 20)")
    parser.add_argument("--repeats", type=int, default=3, metavar="R", help="of both in turn (default: 3)")
    parser.add_argument("--out", type=record.pathlib.Path, default=record.RESULTS / "scores.jsonl", metavar="FILE")
    return parser


if __name__ == "__main__":
    sys.exit(main())
