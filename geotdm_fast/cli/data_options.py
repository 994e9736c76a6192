"""Which data a command reads: `--data`, `--topology`, `--data-config`, `--split` and `--set`, to a data section."""

import argparse
import glob
from collections.abc import Iterable, Mapping
from pathlib import Path

from geotdm_fast.cli.renamed import warn_renamed
from geotdm_fast.cli.telling import tell
from geotdm_fast.config.files import SPLITS
from geotdm_fast.runtime.shown import listed, plain, shown

# Kinds whose sections name a file of trajectories and how it is cut.
FILE_KINDS = ("npz", "file", "md17")
_YAML = (".yaml", ".yml")
CONDITIONS = "conditions"
_PHASE_SPLITS = {"training": "train", "validation": "val", "testing": "test"}
_RECORDINGS = (".txt", ".csv", ".tsv")
_MOLECULES = (".sdf", ".sd", ".mol")


def add_data_files(parser, help: str) -> None:
    """`--data` and `--topology`."""
    parser.add_argument("--data", nargs="+", metavar="PATH", help=help)
    parser.add_argument(
        "--topology",
        metavar="FILE",
        help="the file that names the atoms of --data (.pdb, .gro, .psf, ... for .xtc, .dcd), one for all its files",
    )
    parser.add_argument(
        "--cache",
        metavar="DIR",
        help="keep frames of molecules' files as plain arrays in this folder, made when they are first read: for files "
        "larger than memory, and to open large ones at once (default: the data section's cache, or memory)",
    )


def check_data_files(args: argparse.Namespace) -> None:
    """Raise FileNotFoundError or ValueError for what --data and --topology name; nothing heavy is imported."""
    for path in args.data or ():
        if not Path(path).exists() and not glob.glob(path, recursive=True):
            raise FileNotFoundError(f"--data {path}: no such file or folder")
    if args.cache is not None and Path(args.cache).is_file():
        raise ValueError(f"--cache {args.cache} must be a folder, got a file")
    if args.topology is not None:
        if args.data is None:
            raise ValueError("--topology goes with --data, the file whose atoms it names; got none")
        if not Path(args.topology).is_file():
            raise FileNotFoundError(f"--topology {args.topology}: no such file")
    folders = [path for path in args.data or () if Path(path).is_dir()]
    if folders and len(args.data) > 1:
        raise ValueError(f"--data: several paths must be files, got the folder {folders[0]}")


def with_cache(sections: Mapping[str, dict], folder: str | None) -> None:
    """Put --cache into the sections, by their names, that can have one; ValueError where none can."""
    from geotdm_fast.data.section_keys import infer_kind

    if folder is None:
        return
    kinds = {where: section.get("kind", infer_kind(section)) for where, section in sections.items()}
    able = [where for where, kind in kinds.items() if kind == "file"]
    if not able:
        came = ", ".join(f"{where} of kind {kind}" for where, kind in kinds.items())
        raise ValueError(f"--cache goes with files of molecules (kind: file, as .xtc, .dcd, .xyz), got {came}")
    for where in able:
        sections[where]["cache"] = Path(folder).as_posix()


def with_data(
    section: Mapping, paths: list[str], topology: str | None = None, split: str | None = None, where: str = "data"
) -> tuple[dict, str]:
    """`section` with the files or the folder `paths` in the place of its own, and the kind that their suffix says.

    split: what of the files is read where the section, of another kind, does not say it
    where: the section's name, for messages
    Returns the section, and what is to be told of it, or "": a change of kind, and the keys that are left out, those
    that the new kind does not know, the lists of names, topologies and molecules that were of the paths before, and
    `ratio` where these were not as many.
    Raises ValueError for files of several kinds, and a topology where none belongs.
    """
    from geotdm_fast.data.chemistry.keys import RATIO
    from geotdm_fast.data.section_keys import infer_kind, kind_keys, list_keys

    old = section.get("kind", infer_kind(section))
    if Path(paths[0]).is_dir():
        if old in ("npz", "file"):
            raise ValueError(f"--data {paths[0]}: {where} is of the kind {old}, which reads files, got a folder")
        return dict(section) | {"root": Path(paths[0]).as_posix()}, ""
    kind = _kind_of(paths, old)
    value = [Path(path).as_posix() for path in paths]
    if kind == "pedestrian":
        return _with_recordings(section, value), ""
    values = {"kind": kind, "path": value[0] if len(value) == 1 else value}
    if topology is not None:
        if kind != "file":
            raise ValueError(f"--topology goes with a file of molecules (.xtc, .dcd, .pdb, ...), got --data {paths[0]}")
        values["topology"] = Path(topology).as_posix()
    elif kind == old == "file" and _is_there(section.get("topology")):
        values["topology"] = section["topology"]
    names = [key for key in list_keys(old) if isinstance(section.get(key), (list, tuple))]
    of_the_old = [key for key in names if key not in ("path", "molecule_name", *values)]
    ratio = section.get(RATIO)
    # Shares are of the entries of lists, of which there are others now; those of as many files stay.
    if ratio is not None and (len(value) == 1 or not isinstance(ratio, (list, tuple)) or len(ratio) != len(value)):
        of_the_old.append(RATIO)
    kept = {key: v for key, v in section.items() if key not in ("kind", "path", "topology", *of_the_old)}
    told = []
    if kind != old:
        kept, lost = _carried(kept, old, kind_keys(kind), split)
        left_out = f"; without {', '.join(lost)}" if lost else ""
        told.append(f"kind {kind} by the suffix of {paths[0]}, instead of {old}{left_out}")
    for key in ("root", "molecule_name"):
        kept.pop(key, None)
    if of_the_old:
        told.append(f"without {', '.join(of_the_old)} of the paths before --data")
    return values | kept, "; ".join(told)


def _with_recordings(section: Mapping, recordings: list[str]) -> dict:
    """A pedestrian section that reads these files, with as many people in a window as the section's scene has."""
    from geotdm_fast.data.pedestrian import NUM_SLOTS

    kept = {key: value for key, value in section.items() if key not in ("root", "dataset", "phase")}
    slots = {"num_slots": NUM_SLOTS[section["dataset"]]} if section.get("dataset") in NUM_SLOTS else {}
    return slots | kept | {"recordings": recordings}


def _is_there(topology: object) -> bool:
    """Whether a section names one topology that exists, or one beside each file (`{folder}`).

    That of a configuration to start from is a placeholder.
    """
    from geotdm_fast.data.replicas import FOLDER

    return isinstance(topology, str) and (FOLDER in topology or Path(topology).is_file())


def _kind_of(paths: list[str], old: str | None) -> str:
    """The kind that reads these files: npz (or md17, if the section was of that), file, conformers, or pedestrian."""
    if old == "conformers" or all(Path(path).suffix.lower() in _MOLECULES for path in paths):
        return "conformers"
    npz = {Path(path).suffix.lower() == ".npz" for path in paths}
    if len(npz) > 1:
        raise ValueError(f"--data: several files must be all .npz or none, got {', '.join(paths[:4])}")
    if npz == {True}:
        return "md17" if old == "md17" else "npz"
    if old == "pedestrian" and all(Path(path).suffix.lower() in _RECORDINGS for path in paths):
        return "pedestrian"
    return "file"


def _carried(section: dict, old: str | None, known: Iterable[str], split: str | None) -> tuple[dict, list[str]]:
    """What a section of the kind `old` means to one that knows the keys `known`, and the keys that it cannot take."""
    section = dict(section)
    if old in FILE_KINDS:
        every = section.pop("down_sample_every", None)
        if "mode" in section:
            section.setdefault("split", section.pop("mode"))
        if every is not None and "every" in known:
            section["every"] = every
        elif every is not None:
            section["down_sample_every"] = every
        kept = {key: value for key, value in section.items() if key in known}
        return kept, [key for key in section if key not in known]
    kept = {"project": section["project"]} if section.get("project") else {}
    span = section.get("num_frames") or section.get("span")
    if old == "pedestrian":
        span = section.get("past_frames", 8) + section.get("future_frames", 12)
    if span is not None:
        kept["span"] = span
    return kept | ({} if split is None else {"split": split}), []


def sampled_section(config: Mapping, args: argparse.Namespace) -> tuple[dict, str]:
    """The data section that `sample` and `evaluate` open, and its name for messages.

    config: of the checkpoint, whose section `--split` (default test) is taken, or that of `--data-config`; then
    `--data`, then `--set` change it. Windows of training that are longer than the model's, for `train.block_history`,
    are as long as the model's but for a rollout.
    """
    name = args.split or "test"
    sections, source = config["data"], "the checkpoint's configuration"
    if args.data_config is not None:
        sections, source = _sections_of(args.data_config, name), args.data_config
    values = data_values(args.set, name)
    taken = name if name in sections else next(iter(sections), name)
    if "kind" in values:
        section = {}
    elif name in sections:
        section = dict(sections[name])
    elif args.data is not None:
        section = dict(sections.get(taken, {}))
        section |= {key: name for key in ("split", "mode") if key in section}
    else:
        raise ValueError(f"--split: {source} has no data section '{name}', only {listed(sections)}")
    where = f"data.{name}"
    if taken == "train" and getattr(args, "rollout", None) is None:
        from geotdm_fast.task import without_history

        section = without_history(section, config)
    if args.data is not None:
        section, told = with_data(section, args.data, args.topology, where=where)
        if told:
            tell(f"{where}: {told}")
        whole = section.get("split") is None or getattr(args, "given", None) is not None
        if not whole and not args.quiet:
            tell(f"{where}: split {section['split']} of --data; --set data.split=null takes all")
    section = _with_conditions(section, values, where)
    with_cache({where: section}, args.cache)
    if config["diffusion"].get("mode", "cond") == "uncond":
        section.setdefault("project", True)  # the model lives in the space of zero mean
    return section, where


def _sections_of(data_config: str, name: str) -> dict:
    from geotdm_fast.config.files import read_yaml

    sections = read_yaml(data_config).get("data")
    if not isinstance(sections, dict):
        raise ValueError(f"{data_config} must have a section 'data'")
    # The official sampling files have one section alone.
    return sections if set(sections) & set(SPLITS) else {name: sections}


def take_old_spellings(args: argparse.Namespace) -> None:
    """`--data FILE.yaml` was what `--data-config FILE.yaml` is."""
    if args.data is not None and len(args.data) == 1 and Path(args.data[0]).suffix.lower() in _YAML:
        warn_renamed(f"--data {args.data[0]}", f"--data-config {args.data[0]}")
        args.data_config, args.data = args.data[0], None


def data_values(texts: Iterable[str], split: str | None = None) -> dict:
    """The keys and values of `data.KEY=VALUE` and `data.SPLIT.KEY=VALUE` texts, the values in YAML.

    split: the section that is opened; None where there is one alone
    """
    values: dict = {}
    for text in texts:
        key, value = _setting(text, split)
        if isinstance(key, tuple):  # a condition
            known = values.setdefault(CONDITIONS, {})
            if not isinstance(known, dict):
                raise ValueError(f"--set {plain(text)}: data.conditions is no section, got {shown(known)}")
            values[CONDITIONS] = {**known, key[1]: value}
        else:
            values[key] = value
    return values


def _with_conditions(section: dict, values: dict, where: str) -> dict:
    """`section` with `values`, whose conditions go beside or in place of those of the section, one by one.

    A lag in place of one that followed from the frames chooses them: in frames of the file where the section counts
    these, else in time.
    """
    conditions = values.get(CONDITIONS)
    if not isinstance(conditions, dict):
        return section | values
    known = section.get(CONDITIONS) or {}
    merged = {**known, **conditions} if isinstance(known, dict) else conditions
    changed = section | values | {CONDITIONS: merged}
    lag = conditions.get("lag")
    if lag is None or isinstance(lag, str) or "every" in values:
        return changed
    before = known.get("lag") if isinstance(known, dict) else None
    if before == "time":
        changed.pop("every", None)
    if before == "frames":
        from geotdm_fast.conditions import is_number  # which imports torch

        if not is_number(lag) or lag != int(lag):
            raise ValueError(
                f"--set conditions.lag: {where} counts frames, it must be a whole number, got {shown(lag)}"
            )
        return changed | {"every": int(lag), CONDITIONS: {**merged, "lag": "frames"}}
    return changed


def _setting(text: str, split: str | None) -> tuple[str | tuple[str, str], object]:
    """The key and the value; of a condition (`conditions`, its name) and the number."""
    from geotdm_fast.runtime.parsing import parse_yaml

    key, equals, value = text.partition("=")
    names = key.strip().split(".")
    if not equals or not all(names):
        raise ValueError(f"--set must be data.KEY=VALUE, got '{plain(text)}'")
    if len(names) == 1:
        warn_renamed(f"--set {names[0]}=...", f"--set data.{names[0]}=...")
        names = ["data", *names]
    if names[0] == CONDITIONS:
        names = ["data", *names]
    condition = names.pop() if len(names) > 2 and names[-2] == CONDITIONS else None
    if names[0] != "data" or len(names) > 3:
        raise ValueError(
            f"--set must be data.KEY=VALUE, got '{plain(text)}': how a model was made is in its checkpoint, and stays"
        )
    if len(names) == 3 and names[1] != split:
        opened = "data" if split is None else f"data.{split} (--split {split})"
        raise ValueError(f"--set {plain(text)}: the section that is opened is {opened}")
    try:
        key = names[-1] if condition is None else (CONDITIONS, condition)
        return key, parse_yaml(value)
    except ValueError as error:
        raise ValueError(f"--set {plain(text)}: the value must be YAML ({error})") from error
