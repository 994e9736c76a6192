"""A simulation from its settings to the file, block by block, again and again until it is whole."""

import dataclasses
import pathlib
from typing import NamedTuple

import numpy as np

from geotdm_fast.runtime.bars import progress_bar
from geotdm_fast.runtime.files import PathLike, write_npz
from geotdm_fast.runtime.folder_lock import locked
from geotdm_fast.simulation.argon import OwnArgon
from geotdm_fast.simulation.blocks import BLOCK_STEPS, block_seed, blocks
from geotdm_fast.simulation.openmm_engine import OpenMMEngine
from geotdm_fast.simulation.parts import Parts, check_same_run, read_request, request_text
from geotdm_fast.simulation.settings import MDRun, MDSettings
from geotdm_fast.simulation.state import Engine, Frames


class Outcome(NamedTuple):
    """run: what was simulated; num_atoms: how many there are; new: False where the file was there already."""

    run: MDRun
    num_atoms: int
    new: bool


def simulate_md(out: PathLike, settings: MDSettings, *, restart: bool = False, progress: bool = True) -> Outcome:
    """Simulate molecular dynamics into an `.npz`; goes on where an earlier call was stopped or killed.

    out: the file, which holds
        R [frames, N, 3] float32 (angstrom): positions, unwrapped, so that molecules are whole and atoms leave the box
        z [N] int64: atomic numbers; bonds [B, 2] int64, where there are any; time [frames] float64 (ps)
        cell [3, 3], for npt [frames, 3, 3], float64 (angstrom): rows are the vectors of the box; pbc [3] bool
        potential_energy [frames] (kJ/mol), temperature [frames] (K); unit; simulation: the request as JSON
        Frame f is f + 1 times `every` after the end of `equilibrate`.
    restart: discard what an earlier call has left, the file too, of whatever request; without it a call goes on
    progress: show a bar

    Meanwhile `<out>.parts` keeps what is done, in blocks of about 2000 steps. The file is the same whether or not a
    call was stopped. On one machine, with the same versions and one thread, equal settings give equal files, byte for
    byte. Not so on another processor, with another version of OpenMM or numpy, or with more threads: there trajectories
    part after some ps, as chaotic ones do, and agree in averages alone.
    Raises ValueError/TypeError for settings that do not fit, a simulation that explodes, or a file that holds another;
    ModuleNotFoundError where OpenMM or openmmtools is needed and not installed; OSError where nothing can be written.
    """
    out = pathlib.Path(out)
    run = settings.run()
    engine: Engine = OwnArgon(run) if run.engine == "own" else OpenMMEngine(run)
    request = dataclasses.asdict(run) | engine.versions | {"block_steps": BLOCK_STEPS}
    parts = Parts(out)
    try:
        with locked(parts.folder, "simulating into"):
            new = _made(out, run, engine, request, parts, restart, progress)
    finally:
        parts.leave()
    return Outcome(run, len(engine.z), new)


def _made(
    out: pathlib.Path, run: MDRun, engine: Engine, request: dict, parts: Parts, restart: bool, progress: bool
) -> bool:
    """Whether the file had to be made; it is there now."""
    if restart:
        out.unlink(missing_ok=True)  # so that a call without it goes on with this one
    done = False
    try:
        there = out.exists()
        if there:
            check_same_run(str(out), read_request(out), request)
        else:
            parts.open(request, restart)
            _write(out, run, engine, request, _simulated(run, engine, parts, progress))
        done = True
    finally:
        parts.close(done)
    return not there


def _simulated(run: MDRun, engine: Engine, parts: Parts, progress: bool) -> Frames:
    """All frames, of the blocks that are kept and of those that are simulated now."""
    number_of = run.num_frames
    state = None
    x = np.empty((number_of, len(engine.z), 3), dtype=np.float32)  # what is too much for memory is told at once
    cells, energies, temperatures = np.zeros((number_of, 3, 3)), np.empty(number_of), np.empty(number_of)
    todo = blocks(run)
    bar = progress_bar(
        total=sum(block.num_steps for block in todo), unit="step", unit_scale=True, delay=1, disable=not progress
    )
    first, whole = 0, True
    with bar:
        for number, block in enumerate(todo, start=1):
            kept = parts.read(number, block, len(engine.z)) if whole else None
            whole = kept is not None
            if kept is None:
                bar.set_description(f"md:{run.system} {block.stage}", refresh=False)
                start = engine.start(block_seed(run.seed, 0)) if state is None else state
                kept = engine.run(start, block, bar.update)
                parts.write(number, *kept)
            else:
                bar.update(block.num_steps)
            state, frames = kept
            those = slice(first, first + block.num_frames)
            x[those], energies[those], temperatures[those] = frames.x, frames.potential_energy, frames.temperature
            if frames.cell is not None:
                cells[those] = frames.cell
            first = those.stop
    return Frames(x, None if state is None or state.cell is None else cells, energies, temperatures)


def _write(out: pathlib.Path, run: MDRun, engine: Engine, request: dict, frames: Frames) -> None:
    """The finished file."""
    arrays = {"R": frames.x, "z": engine.z, "time": run.every * np.arange(1, run.num_frames + 1)}
    if len(engine.bonds):
        arrays["bonds"] = engine.bonds
    if frames.cell is not None:
        arrays["cell"] = frames.cell if run.ensemble == "npt" else frames.cell[0]
        arrays["pbc"] = np.ones(3, dtype=bool)
    write_npz(
        out,
        **arrays,
        potential_energy=frames.potential_energy,
        temperature=frames.temperature,
        unit=np.array("angstrom"),
        simulation=request_text(request),
    )
