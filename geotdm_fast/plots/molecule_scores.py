"""Pictures of the scores of molecules: drawn trajectories beside true ones."""

from typing import Any

import numpy as np

from geotdm_fast.plots import style
from geotdm_fast.runtime.files import PathLike

MOST_PANELS = 12
NUM_CELLS = 60
_DRAWN = style.PALETTE[0]


def draw(kind: str, content: Any, path: PathLike, formula: str) -> None:
    """One picture of `MoleculeScores.pictures`, by its name: rdf, ramachandran, tica or decorrelation.

    formula: of the molecule, for the title. Raises ValueError for a file that is none of a picture.
    """
    {"rdf": _rdf, "ramachandran": _ramachandran, "tica": _tica, "decorrelation": _decorrelation}[kind](
        content, path, style.literal(formula)
    )


def _rdf(curves: Any, path: PathLike, formula: str) -> None:
    """A panel for every two elements, the first 12; curves: `scores.md.rdf.Curves`."""
    names = list(curves.truth)[:MOST_PANELS]
    with style.styled():
        figure, axes = style.panels(len(names), columns=4, size=2.4)
        for ax, name in zip(axes, names, strict=True):
            _lines(ax, curves.r, curves.truth[name], curves.drawn[name])
            ax.set_title(name)
            ax.set_xlabel("r (Å)")
            if ax.get_subplotspec().is_first_col():
                ax.set_ylabel("g(r)" if curves.periodic else "density (1/Å)")
        what = "Radial distribution functions" if curves.periodic else "Distances of atoms"
        left = f"{len(names)} of {len(curves.truth)} kinds of pairs" if len(names) < len(curves.truth) else "all pairs"
        _head(figure, f"{what}: {formula}", left)
        style.save(figure, path)


def _decorrelation(found: Any, path: PathLike, formula: str) -> None:
    """A panel for every torsion, the first 12; found: `scores.md.decorrelation.Correlations`."""
    count = min(len(found.atoms), MOST_PANELS)
    with style.styled():
        figure, axes = style.panels(count, columns=4, size=2.4)
        for row, ax in enumerate(axes):
            _lines(ax, found.lags, found.truth[row], found.drawn[row])
            ax.axhline(np.exp(-1), color=style.FAINT, lw=1)
            ax.set_title("-".join(map(str, found.atoms[row].tolist())))
            ax.set_xlabel("lag (frames)")
            if ax.get_subplotspec().is_first_col():
                ax.set_ylabel("autocorrelation")
        about = f"{count} of {len(found.atoms)} torsions, by the numbers of their atoms; the line is at 1/e"
        _head(figure, f"Decorrelation of torsions: {formula}", about)
        style.save(figure, path)


def _ramachandran(plane: Any, path: PathLike, formula: str) -> None:
    """Two torsions (degrees) of the truth and of the samples; plane: `scores.md.scoring.Plane` in radian."""
    degrees = [np.rad2deg(x) for x in (plane.truth, plane.drawn)]
    _planes(degrees, (-180.0, 180.0), f"Two torsions: {formula}", tuple(f"{name} (°)" for name in plane.names), path)


def _tica(plane: Any, path: PathLike, formula: str) -> None:
    """The plane of the first two components of the truth and of the samples; plane: `scores.md.scoring.Plane`."""
    _planes([plane.truth, plane.drawn], None, f"Slowest coordinates (TICA): {formula}", plane.names, path)


def _planes(
    points: list[np.ndarray], limits: tuple[float, float] | None, title: str, names: tuple[str, ...], path: PathLike
) -> None:
    """-ln p of two sets of points [2, S], from the least of both; limits: of both axes, None: those of the truth."""
    edges = []
    for axis in range(2):
        low, high = limits or (float(points[0][axis].min()), float(points[0][axis].max()))
        room = 0.0 if limits else 0.1 * max(high - low, 1e-6)
        edges.append(np.linspace(low - room, high + room, NUM_CELLS + 1))
    shares = [np.histogram2d(*one, bins=edges)[0] / one.shape[1] for one in points]
    with style.styled():
        figure, axes = style.panels(2, columns=2, size=3.6)
        for ax, name, share in zip(axes, ("data", "samples"), shares, strict=True):
            with np.errstate(divide="ignore"):
                energy = -np.log(share / max(one.max() for one in shares))
            mesh = ax.pcolormesh(edges[0], edges[1], np.ma.masked_invalid(energy.T), cmap="viridis", vmin=0, vmax=8)
            ax.set_title(name)
            ax.set_xlabel(names[0])
            if ax.get_subplotspec().is_first_col():
                ax.set_ylabel(names[1])
        figure.colorbar(mesh, ax=axes, label="-ln p", shrink=0.8)
        beyond = 1 - shares[1].sum()
        about = f"{points[0].shape[1]} true frames, {points[1].shape[1]} drawn ones"
        _head(
            figure, title, about + (f"; {beyond:.0%} of the drawn lie outside" if beyond >= 0.005 else ""), legend=False
        )
        style.save(figure, path)


def _lines(ax, x: np.ndarray, truth: np.ndarray, drawn: np.ndarray) -> None:
    ax.plot(x, truth, color=style.TRUTH, lw=1.6)
    ax.plot(x, drawn, color=_DRAWN, lw=1.4, ls="--")


def _head(figure, title: str, subtitle: str, legend: bool = True) -> None:
    handles = [style.line(style.TRUTH, 1.6, "data"), style.line(_DRAWN, 1.6, "samples")]
    style.head(figure, title, subtitle, handles if legend else [])
