#!/usr/bin/env bash
# OpenMM 8.6.1, platform CPU, one thread: a checkpoint holds positions, velocities and the state of the random numbers,
# but a simulation that loads it does not go on as the one that wrote it did. 5000 Langevin steps later atoms are 0.1 nm
# away, though everything is seeded; two simulations that begin alike are equal bit for bit.
#
# Something else than the state decides the rounding of the forces (the list of neighbours, made at another time, is our
# guess). Who wants a killed run to end as an undisturbed one makes a new context at the borders of blocks in both.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/run.py" <<'PYTHON'
import sys

import numpy as np
import openmm as mm

EDGE = 1.734  # nm, of 108 atoms of liquid argon
system, force = mm.System(), mm.NonbondedForce()
system.setDefaultPeriodicBoxVectors((EDGE, 0, 0), (0, EDGE, 0), (0, 0, EDGE))
force.setNonbondedMethod(force.CutoffPeriodic)
force.setCutoffDistance(0.85)
for _ in range(108):
    system.addParticle(39.948)
    force.addParticle(0, 0.34, 0.9977)
system.addForce(force)
lattice = np.stack(np.meshgrid(*[np.arange(6)] * 3), -1).reshape(-1, 3)[::2] * EDGE / 6


def context():
    integrator = mm.LangevinMiddleIntegrator(94.4, 1, 0.002)
    integrator.setRandomNumberSeed(7)
    return mm.Context(system, integrator, mm.Platform.getPlatformByName("CPU"), {"Threads": "1"})


def started():
    made = context()
    made.setPositions(lattice)
    made.setVelocitiesToTemperature(94.4, 3)
    made.getIntegrator().step(505)
    return made


def later(made):
    made.getIntegrator().step(5000)
    return made.getState(positions=True).getPositions(asNumpy=True)._value


first = started()
checkpoint, end = first.createCheckpoint(), later(first)
loaded = context()
loaded.loadCheckpoint(checkpoint)
from_checkpoint = np.abs(later(loaded) - end).max()
from_start = np.abs(later(started()) - end).max()
print(f"OpenMM {mm.__version__}: from the checkpoint {from_checkpoint:.1g} nm away, from the start {from_start:.1g} nm")
sys.exit(not (from_checkpoint > 1e-3 and from_start == 0))
PYTHON
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "openmm==8.6.1" "numpy==2.4.6" 2> /dev/null
"$folder/venv/bin/python" "$folder/run.py"
echo "as seen on 2026-11-28"
