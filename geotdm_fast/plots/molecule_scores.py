"""Pictures of the scores of molecules: drawn trajectories beside true ones."""

from typing import Any

from geotdm_fast.plots import style
from geotdm_fast.runtime.files import PathLike

MOST_PANELS = 12
_DRAWN = style.PALETTE[0]


def draw(kind: str, content: Any, path: PathLike, formula: str) -> None:
    """One picture of `MoleculeScores.pictures`, by its name: `rdf`."""
    _PICTURES[kind](content, path, style.literal(formula))


def plot_rdf(curves: Any, path: PathLike, formula: str) -> None:
    """Radial distribution functions, or without a box distributions of distances: a panel for every two elements.

    curves: r [bins], truth and drawn {name: [bins]}, periodic - as `scores.md.rdf.Curves`; the first 12 names
    """
    names = list(curves.truth)[:MOST_PANELS]
    with style.styled():
        figure, axes = style.panels(len(names), columns=3, size=2.6)
        for ax, name in zip(axes, names, strict=True):
            ax.plot(curves.r, curves.truth[name], color=style.TRUTH, lw=1.6)
            ax.plot(curves.r, curves.drawn[name], color=_DRAWN, lw=1.4, ls="--")
            ax.set_title(name)
            ax.set_xlabel("r (Å)")
            if ax.get_subplotspec().is_first_col():
                ax.set_ylabel("g(r)" if curves.periodic else "density (1/Å)")
        what = "Radial distribution functions" if curves.periodic else "Distances of atoms"
        _head(figure, f"{what}: {formula}", "pairs of elements" if len(names) > 1 else "all pairs")
        style.save(figure, path)


def _head(figure, title: str, subtitle: str) -> None:
    handles = [style.line(style.TRUTH, 1.6, "data"), style.line(_DRAWN, 1.6, "samples")]
    style.head(figure, title, subtitle, handles)


_PICTURES = {"rdf": plot_rdf}
