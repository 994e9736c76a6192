"""What `bench.network.radius` prints: a table of each part, then what was asked for and what came."""

import math
from collections.abc import Callable, Sequence

from geotdm_fast.scores.tables import text_table

# Asked of the whole network on the protein, and of the largest gas: the least times, the largest shares and exponents.
TIMES_PEER = {"inference": 4.0, "training": 3.0}
SHARE_OF_MEMORY = 0.1
TIMES_FIXED = 1.5
EXPONENT = 1.05
WHOLE = {"layers": 6, "hidden": 128}
MODES = {"inference": "a call", "training": "forward + backward", "memory": "peak memory"}
OURS = {"ours": "the same edges in all frames", "ours_current": "edges of every frame"}


def report(rows: Sequence[dict]) -> str:
    """The text of all rows of a run."""
    parts = [text for text in (_tables(rows), _left_out(rows), _checked(rows)) if text]
    return "\n\n".join([*parts, _targets(rows)])


def exponent(rows: Sequence[dict], key: str) -> float | None:
    """p of the best fit value = c edges^p, by least squares of logarithms; None for less than two, or a value of 0."""
    if len(rows) < 2 or not all(row[key] > 0 for row in rows):  # a call of few atoms needs no new page
        return None
    x = [math.log(row["edge_frames"]) for row in rows]
    y = [math.log(row[key]) for row in rows]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    moment = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return moment / sum((a - mean_x) ** 2 for a in x)


def verdicts(rows: Sequence[dict]) -> list[list[str]]:
    """A line for every target: what, asked for, what came, whether it is met."""
    lines = []
    for mode, least in TIMES_PEER.items():
        found = _by_name(rows, "speed", mode, "seconds")
        what = f"{MODES[mode]}: times as fast as the best peer"
        lines.append(_against_best(what, found, lambda ours, best: best / ours, least, at_least=True))
    found = _by_name(rows, "memory", "training", "peak_bytes")
    found = {name: peak for name, peak in found.items() if not name.endswith("_recompute")}  # not plain peers
    what = "peak memory: share of the least peer's"
    lines.append(_against_best(what, found, lambda ours, best: ours / best, SHARE_OF_MEMORY, at_least=False))
    for mode in TIMES_PEER:
        found = _by_name(rows, "rule", mode, "seconds")
        ratio = found["ours_current"] / found["ours"] if found else None
        lines.append(_line(f"{MODES[mode]}: edges of every frame, of as many fixed ones", ratio, TIMES_FIXED))
    sizes = [row for row in rows if row["part"] == "sizes"]
    for name, edges in OURS.items():
        for mode, what in MODES.items():
            own = [row for row in sizes if (row["implementation"], row["mode"]) == (name, mode)]
            key = "peak_bytes" if mode == "memory" else "seconds"
            lines.append(_line(f"{what}: exponent of edges, {edges}", exponent(own, key), EXPONENT))
    largest = max((row["sizes"]["nodes"] for row in sizes), default=None)
    met = "" if largest is None else "yes" if largest >= 50_000 else "no"
    lines.append(["atoms of the largest gas that ran", "50000", str(largest or "not measured"), met])
    return lines


def _targets(rows: Sequence[dict]) -> str:
    table = text_table(["target", "asked", "came", "met"], verdicts(rows))
    sizes = rows[0]["sizes"]
    is_whole = all(sizes[key] == value for key, value in WHOLE.items())
    said = "" if is_whole else "\n(targets are for 6 layers of width 128: this run had others)"
    return f"what was asked for and what came{said}\n\n{table}"


def _against_best(
    what: str, found: dict[str, float], ratio: Callable[[float, float], float], bound: float, *, at_least: bool
) -> list[str]:
    """ours against the peer with the least seconds or bytes, which is named."""
    peers = {name: value for name, value in found.items() if name not in OURS}
    if "ours" not in found or not peers:
        return _line(what, None, bound, at_least)
    best = min(peers, key=peers.get)
    return _line(f"{what} ({_shown(best)})", ratio(found["ours"], peers[best]), bound, at_least)


def _line(what: str, came: float | None, bound: float, at_least: bool = False) -> list[str]:
    asked = f"{'at least' if at_least else 'at most'} {bound:g}"
    if came is None:
        return [what, asked, "not measured", ""]
    return [what, asked, f"{came:.3f}", "yes" if (came >= bound if at_least else came <= bound) else "no"]


def _by_name(rows: Sequence[dict], part: str, mode: str, key: str) -> dict[str, float]:
    return {r["implementation"]: r[key] for r in rows if (r["part"], r["mode"]) == (part, mode) and key in r}


def _tables(rows: Sequence[dict]) -> str:
    texts = []
    for part in dict.fromkeys(row["part"] for row in rows):
        own = [row for row in rows if row["part"] == part and "left_out" not in row]
        first = own[0]["sizes"]
        shown = {key: first[key] for key in ("nodes", "edges", "frames", "layers", "hidden")}
        if part == "sizes":
            shown = {key: first[key] for key in ("frames", "layers", "hidden")}
        head = f"{part}: " + ", ".join(f"{key} {value}" for key, value in shown.items())
        columns = ["mode", "implementation", "nodes", "edges of all frames", "ms", "least", "most", "MiB", "error"]
        texts.append(f"{head}\n\n{text_table(columns, [_cells(row) for row in own])}")
    return "\n\n".join(texts)


def _cells(row: dict) -> list[object]:
    sizes = row["sizes"]
    edges = row.get(
        "edge_frames", None if row["implementation"] == "ours_current" else sizes["edges"] * sizes["frames"]
    )
    times = [f"{1000 * row[key]:.1f}" if key in row else None for key in ("seconds", "seconds_least", "seconds_most")]
    peak = f"{row['peak_bytes'] / 2**20:.0f}" if "peak_bytes" in row else None
    error = None if row.get("error") is None else f"{row['error']:.0e}"
    return [row["mode"], _shown(row["implementation"]), sizes["nodes"], edges, *times, peak, error]


def _left_out(rows: Sequence[dict]) -> str:
    lines = [
        f"{r['part']}, {r['mode']}: {_shown(r['implementation'])} left out, {r['left_out']}"
        for r in rows
        if "left_out" in r
    ]
    return "\n".join(lines)


def _checked(rows: Sequence[dict]) -> str:
    """Where the errors are not those of what was timed."""
    sizes = {row["part"]: row["error_of"] for row in rows if "error_of" in row}
    return "\n".join(
        f"{part}: errors are of a gas of {found['num_atoms']} atoms, {found['num_frames']} frames"
        for part, found in sizes.items()
    )


def _shown(name: str) -> str:
    return name.replace("_", " ")
