"""The scores of molecules as text."""

from collections.abc import Mapping, Sequence
from typing import Any

from geotdm_fast.runtime.shown import plain
from geotdm_fast.scores.tables import cell_text, text_table

_HEADER = ("score", "of what", "drawn", "95 %", "floor", "95 %", "", "better")


def md_report(molecules: Sequence[Mapping[str, Any]]) -> str:
    """A table for each molecule of `MoleculeScores.as_json`, and what was left out, with the reason.

    floor: of true trajectories beside true ones, as many as of the drawn
    """
    blocks = []
    for molecule in molecules:
        rows = [
            [
                row["score"], row["quantity"], row["value"], _interval(row["low"], row["high"]), row["floor"],
                _interval(row["floor_low"], row["floor_high"]), row["unit"], row["better"],
            ]
            for row in molecule["rows"]
        ]  # fmt: skip
        lines = [f"{molecule['formula']}: {molecule['graphs']} true trajectories"]
        lines += [plain(note) for note in molecule["notes"]]
        if rows:
            lines += ["", text_table(_HEADER, rows)]
        left_out = molecule["left_out"].items()
        if left_out:
            lines += ["", *(f"left out: {name}: {plain(reason)}" for name, reason in left_out)]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{cell_text(low)} .. {cell_text(high)}"
