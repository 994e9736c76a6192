"""Bond lengths of molecules: real against generated."""

import numpy as np

from geotdm_fast.plots import molecule, style
from geotdm_fast.runtime.files import PathLike
from geotdm_fast.samples.record import Samples

NUM_BINS = 60


def plot_bond_lengths(samples: Samples, path: PathLike, *, title: str | None = None) -> None:
    """Histograms of the bond lengths (angstrom) in the data and in the samples, one panel for each kind of bond.

    Bonds are found in the first frame of the first graph. Raises ValueError when the samples are no molecules, or
    their truth is unknown.
    """
    if not samples.is_molecule:
        raise ValueError(f"plot: bond lengths need molecules, the samples are of '{samples.name}'")
    samples.check_target("plot")
    nodes = samples.nodes(0)
    numbers = samples.atomic_numbers[nodes]
    pairs = molecule.bonds(samples.truth()[nodes][..., 0], numbers)
    if len(pairs) == 0:
        raise ValueError(f"plot: no two atoms of '{samples.name}' are near enough for a bond")
    kinds: dict[str, list] = {}
    for i, j in pairs:
        kinds.setdefault(molecule.bond_name(numbers[i], numbers[j]), []).append((i, j))
    real, drawn = samples.target * samples.scale, samples.samples * samples.scale
    with style.styled():
        figure, axes = style.panels(len(kinds), columns=3, size=2.7)
        for ax, (kind, of_kind) in zip(axes, sorted(kinds.items()), strict=True):
            label = f"{kind} ({len(of_kind)})"
            _panel(ax, label, lengths(real[None], of_kind, len(numbers)), lengths(drawn, of_kind, len(numbers)))
        handles = [style.line(style.TRUTH, 1.8, "data"), style.line(style.PALETTE[0], 6, "samples", alpha=0.45)]
        about = f"{samples.num_graphs} x {samples.num_samples} samples; number of bonds of each kind in brackets"
        style.head(figure, title or f"Bond lengths: {style.literal(samples.name)}", about, handles)
        style.save(figure, path)


def lengths(x: np.ndarray, pairs: list, num_atoms: int) -> np.ndarray:
    """All finite lengths of the bonds `pairs` in x [K, B * num_atoms, 3, T], as one row."""
    x = x.reshape(x.shape[0], -1, num_atoms, *x.shape[2:])  # [K, B, N, 3, T]
    i, j = np.array(pairs).T
    values = np.linalg.norm(x[:, :, i] - x[:, :, j], axis=3).ravel()
    return values[np.isfinite(values)]


def _panel(ax, label: str, real: np.ndarray, drawn: np.ndarray) -> None:
    low, high = real.min(), real.max()
    room = max(0.25 * (high - low), 1e-3)
    bins = np.linspace(low - room, high + room, NUM_BINS + 1)
    width = bins[1] - bins[0]

    def density(values):
        return np.histogram(values, bins)[0] / max(len(values) * width, 1e-12)

    ax.stairs(density(drawn), bins, fill=True, color=style.PALETTE[0], alpha=0.45, lw=0)
    ax.stairs(density(real), bins, color=style.TRUTH, lw=1.6)
    beyond = float(np.mean((drawn < bins[0]) | (drawn > bins[-1]))) if len(drawn) else 0.0
    ax.set_title(label)
    if beyond >= 0.005:
        note = f"{beyond:.0%} of the samples\nlie outside"
        ax.text(0.98, 0.97, note, transform=ax.transAxes, ha="right", va="top", fontsize=7.5, color="#5F6368")
    ax.set_xlabel("length (Å)")
    if ax.get_subplotspec().is_first_col():
        ax.set_ylabel("density (1/Å)")
