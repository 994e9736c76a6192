"""The data of a training: `--data`, `--topology` and `--cache` put into the sections of its configuration."""

import argparse
import warnings
from typing import cast

from geotdm_fast.cli.data_options import with_cache, with_data
from geotdm_fast.cli.telling import tell


def put_cache(raw: dict, args: argparse.Namespace, where: str) -> None:
    """Have the data sections of a configuration keep their frames in --cache."""
    from geotdm_fast.config.files import SPLITS
    from geotdm_fast.config.settings import as_section

    sections = as_section(raw.get("data") or {}, f"{where}: data")
    own = {f"data.{split}": sections[split] for split in SPLITS if isinstance(sections.get(split), dict)}
    with_cache(own, args.cache)


def replace_data(raw: dict, args: argparse.Namespace, where: str) -> None:
    """Have every data section of a configuration read --data."""
    from geotdm_fast.config.files import SPLITS
    from geotdm_fast.config.settings import as_section

    where = f"{where}: data"
    sections = cast(dict, as_section(raw.get("data") or {}, where))
    told: dict[str, list[str]] = {}
    for split in SPLITS:
        if sections.get(split) is not None:
            section = as_section(sections[split], f"{where}.{split}")
            sections[split], text = with_data(section, args.data, args.topology, split, where=f"data.{split}")
            told.setdefault(text, []).append(f"data.{split}")
    for text, names in told.items():
        if text:
            tell(f"{', '.join(names)}: {text}")
    whole = [split for split in SPLITS if "recordings" in (sections.get(split) or {})]
    if len(whole) > 1:
        warnings.warn(
            f"--data: {' and '.join(f'data.{split}' for split in whole)} read the same recordings from end to end, and "
            "validate on what is trained on; --set data.val.recordings=[FILE, ...] or data.val.frames=[START, STOP]",
            stacklevel=2,
        )
