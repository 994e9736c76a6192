"""Windows of every N-th frame that begin at any frame: the N trajectories of every N-th frame, each by itself."""

from geotdm_fast.data.checks import check_count, check_flag
from geotdm_fast.data.frames import three_of

PHASES = "phases"
# How many frames later than the first of them an entry begins, in the section of each of its parts.
PHASE = "phase number"


def entries_phased(where: str, entries: list[dict]) -> list[dict]:
    """Entries of a section, each with `phases: true` as `every` entries, whose frames begin one later each.

    Their `PHASE` says how many frames later. Raises ValueError / TypeError for `phases` without a whole number `every`,
    beside a step in `frames`, and beside frames that are counted from the end.
    """
    found = []
    for entry in entries:
        entry = dict(entry)
        if not check_flag(where, PHASES, entry.pop(PHASES, False)):
            found.append(entry)
            continue
        start, stop, step = three_of(where, entry.get("frames"))
        if step is not None or entry.get("every") is None or (start or 0) < 0:
            raise ValueError(
                f"{where}: phases goes with every: N, and with frames: [start, stop] from the first frame on, got "
                f"every {entry.get('every')} and frames {entry.get('frames')}"
            )
        every = check_count(where, "every", entry["every"])
        found += [entry | {"frames": [(start or 0) + first, stop], PHASE: first} for first in range(every)]
    return found
