"""The folder that keeps what a run has done so far, beside the file that it will make."""

import contextlib
import json
import pathlib
import warnings
from collections.abc import Mapping

import numpy as np

from geotdm_fast.runtime.files import read_npz, remove_leftovers, write_json, write_npz
from geotdm_fast.runtime.parsing import parse_json
from geotdm_fast.runtime.shown import plain
from geotdm_fast.simulation.settings import WHERE
from geotdm_fast.simulation.state import Block, Frames, State

_REQUEST = "request.json"


class Parts:
    """`<file>.parts`: `request.json` says what is simulated, `block-000001.npz`, ... hold each block that is done.

    A block's file has its frames, and the state from which the next goes on. Each is written aside and renamed, so one
    that is there is whole.
    """

    def __init__(self, out: pathlib.Path):
        self.folder = out.with_name(f"{out.name}.parts")

    def open(self, request: dict, restart: bool) -> None:
        """Begin the request, or go on with it. ValueError where the folder holds another, unless it starts anew."""
        remove_leftovers(self.folder, ("block-*.npz", _REQUEST))
        path = self.folder / _REQUEST
        if restart:
            path.unlink(missing_ok=True)  # first: without it no block counts
        if not path.is_file() or not self._blocks():
            for stray in self._blocks():
                stray.unlink()
            write_json(path, request)
            return
        try:
            known = parse_json(path.read_bytes())
        except ValueError as error:
            came = f"got something else ({plain(error)})"
            raise ValueError(f"{path} must be JSON, {came}; start anew (--restart)") from error
        check_same_run(str(self.folder), known, request)

    def read(self, number: int, block: Block, num_atoms: int) -> tuple[State, Frames] | None:
        """What is kept of a block, or None. Warns of a damaged file, which is simulated again."""
        path = self._path(number)
        if not path.is_file():
            return None
        try:
            arrays = read_npz(path, required=("x", "v", "frames", "potential_energy", "temperature"))
            if arrays["x"].shape != (num_atoms, 3) or arrays["frames"].shape != (block.num_frames, num_atoms, 3):
                raise ValueError(f"{path} must hold {block.num_frames} frames, got {list(arrays['frames'].shape)}")
        except ValueError as error:
            warnings.warn(f"{WHERE}: {error}; this block is simulated again", stacklevel=3)
            return None
        state = State(arrays["x"], arrays["v"], arrays.get("cell"))
        return state, Frames(
            arrays["frames"], arrays.get("frame_cells"), arrays["potential_energy"], arrays["temperature"]
        )

    def write(self, number: int, state: State, frames: Frames) -> None:
        """Keep a block that is done."""
        cells = {} if state.cell is None or frames.cell is None else {"cell": state.cell, "frame_cells": frames.cell}
        write_npz(
            self._path(number),
            x=state.x,
            v=state.v,
            frames=frames.x,
            potential_energy=frames.potential_energy,
            temperature=frames.temperature,
            **cells,
        )

    def close(self, done: bool) -> None:
        """Remove what is kept, where the file that it is for is written or no block is done."""
        if done or not self._blocks():
            for path in (*self._blocks(), self.folder / _REQUEST):
                path.unlink(missing_ok=True)

    def leave(self) -> None:
        """Remove the folder where nothing is in it."""
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def _blocks(self) -> list[pathlib.Path]:
        return list(self.folder.glob("block-*.npz"))

    def _path(self, number: int) -> pathlib.Path:
        return self.folder / f"block-{number:06d}.npz"


def check_same_run(where: str, known: object, asked: Mapping[str, object]) -> None:
    """ValueError naming what differs, unless `where` holds the run that is asked for."""
    if known == asked:
        return
    known = known if isinstance(known, dict) else {}
    missing = object()
    names = [name for name in {**known, **asked} if known.get(name, missing) != asked.get(name, missing)]
    show = lambda of, name: plain(json.dumps(of[name])) if name in of else "nothing"
    differences = "; ".join(f"{plain(name)} is {show(known, name)} there, not {show(asked, name)}" for name in names)
    raise ValueError(
        f"{WHERE}: {where} holds another simulation: {differences}. Name another file, or start anew (--restart)"
    )


def read_request(path: pathlib.Path) -> object:
    """What a finished file says that it holds; None for a file that `simulate_md` did not write."""
    try:
        text = read_npz(path, required=("simulation",), only=("simulation",))["simulation"]
        return parse_json(str(text).encode())
    except ValueError:
        return None


def request_text(request: Mapping[str, object]) -> np.ndarray:
    """The request as the text that a finished file carries."""
    return np.array(json.dumps(request))
