"""Scores of rollouts block by block: those of `geotdm drift`, and energies."""

import numpy as np

from geotdm_fast.data.bonds import bonds_by_distance
from geotdm_fast.samples.record import Samples
from geotdm_fast.scores.drift import drift

# Blocks whose means are a row of the report.
RANGES = ((1, 1), (2, 2), (3, 5), (6, 10), (11, 20))


def scores(samples: Samples, block_frames: int) -> dict:
    """`drift`, and in every block `energy` with `energy_true`, of the truth, where it is known.

    Charged particles: the median over systems and frames of sum_{i<j} q_i q_j / r_ij, which is their potential energy
    in the simulator's units. Molecules: the mean over bonds and frames of (length - reference)^2, as the energy of
    springs goes; the reference is the mean length in the given frames.
    """
    result = drift(samples, block_frames)
    given = int(samples.cond_mask.sum())
    drawn, truth = (_energy(samples, x)[..., given:] for x in (samples.forecasts(False), samples.truth(False)[None]))
    mean = np.mean if samples.is_molecule else np.median
    for number, block in enumerate(result["blocks"]):
        frames = slice(number * block_frames, (number + 1) * block_frames)
        for name, values in (("energy", drawn), ("energy_true", truth)):
            known = values[..., frames][np.isfinite(values[..., frames])]
            block[name] = float(mean(known)) if known.size else None
    return result


def _energy(samples: Samples, x: np.ndarray) -> np.ndarray:
    """[K, B, T] of positions x [K, N, D, T]; nothing where there are neither charges nor bonds."""
    found = np.full((len(x), samples.num_graphs, x.shape[-1]), np.nan)
    given = int(samples.cond_mask.sum())
    for graph in range(samples.num_graphs):
        nodes = samples.nodes(graph)
        own = x[:, nodes].astype(np.float64)
        if samples.is_molecule:
            pairs = bonds_by_distance(own[0, :, :, 0], samples.atomic_numbers[nodes])
            row, col = pairs[pairs[:, 0] < pairs[:, 1]].T
            length = np.linalg.norm(own[:, row] - own[:, col], axis=2)  # [K, P, T]
            reference = length[:1, :, :given].mean(axis=2, keepdims=True)
            found[:, graph] = ((length - reference) ** 2).mean(axis=1)
        elif samples.h.ndim == 2:
            charge = samples.h[nodes, 0].astype(np.float64)
            row, col = np.triu_indices(len(charge), 1)
            distance = np.linalg.norm(own[:, row] - own[:, col], axis=2)
            found[:, graph] = ((charge[row] * charge[col])[:, None] / distance).sum(axis=1)
    return found


def table(results: dict[str, dict[str, dict]]) -> str:
    """Results by system and arm as Markdown: for each range of blocks the mean of every score."""
    lines = []
    for system, arms in results.items():
        first = next(iter(arms.values()))
        unit = f" ({first['unit']})" if first["unit"] else ""
        lines += [f"### {system}", ""]
        lines += [f"| blocks | arm | ADE{unit} | speed | bond error (%) | energy | valid (%) | exploded (%) |"]
        lines += ["|---|---|---|---|---|---|---|---|"]
        for low, high in RANGES:
            label = str(low) if low == high else f"{low}-{high}"
            for arm, result in arms.items():
                blocks = [block for block in result["blocks"] if low <= block["block"] <= high]
                lines.append(_row(label, arm, blocks, ""))
            blocks = [block for block in first["blocks"] if low <= block["block"] <= high]
            if any(block["known"] for block in blocks):
                lines.append(_row(label, "the data", blocks, "_true"))
        lines.append("")
    return "\n".join(lines)


def _row(label: str, arm: str, blocks: list[dict], suffix: str) -> str:
    ade = "standing_still" if suffix else "ade"
    names = [ade, f"speed{suffix}", f"bond_error{suffix}", f"energy{suffix}", f"valid{suffix}", "exploded"]
    cells = []
    for name in names:
        known = [block[name] for block in blocks if block[name] is not None]
        percent = name.startswith(("bond_error", "valid", "exploded"))
        missing = not known or (suffix and name == "exploded")
        cells.append("" if missing else f"{np.mean(known) * (100 if percent else 1):.3g}")
    return f"| {label} | {arm} | {' | '.join(cells)} |"
