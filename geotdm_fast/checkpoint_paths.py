"""Which file of weights a text stands for: a file, the folder of a training, or a model that comes with the package."""

from pathlib import Path

SHIPPED = Path(__file__).parent / "checkpoints"
SUFFIXES = (".safetensors", ".pt", ".pth")


def shipped_models() -> dict[str, Path]:
    """The models that come with the package, by name."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.safetensors"))}


def checkpoint_file(text: str | Path) -> Path:
    """The file of weights that `text` stands for; torch is not imported.

    Raises FileNotFoundError for none, naming the models that come with the package; ValueError for a folder that holds
    no best.safetensors, naming what is in it.
    """
    path = Path(text)
    if path.is_dir():
        return _best_in(path)
    if path.exists():
        return path
    shipped = shipped_models()
    if path.parent == Path() and path.stem in shipped and path.suffix in ("", ".safetensors"):
        return shipped[path.stem]
    if path.suffix in SUFFIXES or path.parent != Path():
        raise FileNotFoundError(f"{text}: no such file")
    raise FileNotFoundError(
        f"{text}: no such file or folder, and no model of that name comes with the package, only {', '.join(shipped)}"
    )


def _best_in(folder: Path) -> Path:
    best = folder / "best.safetensors"
    if best.is_file():
        return best
    names = [path.name for path in sorted(folder.iterdir()) if path.suffix in SUFFIXES and path.stem != "state"]
    last = folder / "last.safetensors"
    early = f"; the first validation writes it, until then there is {last}" if last.is_file() else ""
    raise ValueError(
        f"{folder} must hold best.safetensors, or name a file of weights in it; got {_listed(names)}{early}"
    )


def _listed(names: list[str]) -> str:
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") if names else "none"
