"""Which folder of the package may import which: `ROOMS` is the rule that CONTRIBUTING.md draws."""

import ast
import pathlib
from collections.abc import Iterator

import geotdm_fast.kernels

PACKAGE = pathlib.Path(geotdm_fast.__file__).parent
KERNELS = pathlib.Path(geotdm_fast.kernels.__file__).parent
_OPS = {"graphs", "reference", "kernels", "runtime"}
_MODELS = {"ops", "graphs", "reference", "runtime", "conditioning", "conditions"}
_WORK = {
    *_MODELS,
    "task",
    "nn",
    "diffusion",
    "data",
    "samples",
    "config",
    "checkpoint",
    "state_dicts",
    "provenance",
    "metrics",
}
# What each folder, and each module beside the folders, may import of ours.
ROOMS = {
    "runtime": set(),
    "simulation": {"runtime"},
    "conditions": {"runtime"},
    "config": {"conditions", "runtime"},
    "reference": {"runtime"},
    "kernels": {"reference", "runtime"},
    "graphs": {"reference", "kernels", "runtime"},
    "ops": _OPS,
    "conditioning": {"runtime"},
    "task": {"conditioning", "runtime"},
    "nn": _MODELS,
    "diffusion": {*_MODELS, "nn"},
    "ays": {*_MODELS, "nn", "diffusion", "config", "checkpoint", "data", "state_dicts"},
    "data": _MODELS,
    "samples": {"conditioning", "data", "runtime", "task"},
    "metrics": {"reference", "runtime"},
    "state_dicts": {"nn", "runtime"},
    "checkpoint_paths": set(),
    "checkpoint": {"config", "nn", "diffusion", "runtime", "state_dicts"},
    "provenance": {"ops"},
    "doctor": {"ops", "runtime"},
    "plots": {"samples", "data", "reference", "runtime"},
    "cards": {"data", "metrics", "model", "nn", "ops", "plots", "runtime", "samples"},
    "sampling": _WORK,
    "families": {"ays", "checkpoint", "config", "diffusion", "nn", "runtime", "task"},
    "training": {*_WORK, "ays", "families", "plots", "checkpoint_paths"},
    "scores": {*_WORK, "ays", "sampling"},
    "inspection": {*_WORK, "plots"},
    "official": {*_WORK},
    "model": {*_WORK, "ays_model", "cards", "families", "checkpoint_paths", "sampling", "scores"},
    "distill": {*_WORK, "families", "checkpoint_paths", "model", "sampling", "training"},
    "ays_model": {*_WORK, "ays", "model"},
    "paper": {*_WORK, "families", "sampling", "training", "scores", "plots"},
}
# Inside functions alone, with the reason.
EXCEPTIONS = {
    ("data/trajectory.py", "cards"),  # what a batch shows of itself
    ("samples/record.py", "cards"),  # what samples show of themselves
    ("config/ays_files.py", "data"),  # the same, of the kinds that these models take
    ("config/ays_official.py", "data"),  # the features that there are
    ("config/files.py", "data"),  # every kind of data knows the keys of its section
    ("config/files.py", "diffusion"),  # whether a schedule exists is asked of the schedules
    ("config/files.py", "graphs"),  # what the key `graph` may say
    ("config/files.py", "reference"),  # what the key `cutoff` may say
    ("graphs/edges.py", "ops"),  # where edges are sorted by the compiled module
    ("graphs/search.py", "ops"),  # a search is an op, and egcl, which takes a graph, is another
    ("task.py", "data"),  # the type of a batch
}


def _imports(path: pathlib.Path) -> Iterator[str]:
    """The rooms of ours that a file imports from, inside functions and for types too."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module == "geotdm_fast":
            names = [f"geotdm_fast.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        yield from (name.split(".")[1] for name in names if name.startswith("geotdm_fast."))


def test_every_folder_imports_what_it_may():
    wrong, seen = [], set()
    for path in [*PACKAGE.rglob("*.py"), *KERNELS.glob("*.py")]:
        parts = ("kernels", path.name) if path.parent == KERNELS else path.relative_to(PACKAGE).parts
        room = parts[0].removesuffix(".py")
        if room in ("__init__", "__main__", "cli"):  # may import all
            continue
        for target in set(_imports(path)) - {room, "_C", "__version__"}:
            exception = ("/".join(parts), target)
            seen.add(exception)
            if target not in ROOMS[room] and exception not in EXCEPTIONS:
                wrong.append(f"{'/'.join(parts)} imports geotdm_fast.{target}")
    assert wrong == []
    assert seen >= EXCEPTIONS  # one that is no longer needed goes
