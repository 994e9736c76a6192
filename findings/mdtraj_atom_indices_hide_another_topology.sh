#!/usr/bin/env bash
# MDTraj 1.11.1.post2: `load(trajectory, top=other)` refuses a topology with another number of atoms, but the same call
# with `atom_indices` does not: it returns positions of the wrong molecule without a word.
#
# A DCD holds no names, so the number of atoms is all that tells two systems apart. With `atom_indices`, which large
# solvated systems are read with, that number is not compared. Here a file of 18 atoms is read with a topology of 9.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/load.py" <<'PYTHON'
import sys

import mdtraj
import numpy as np

folder = sys.argv[1]
eighteen = mdtraj.Topology()
residue = eighteen.add_residue("A", eighteen.add_chain())
for _ in range(18):
    eighteen.add_atom("C", mdtraj.element.carbon, residue)
nine = eighteen.subset(range(9))
mdtraj.Trajectory(np.zeros((4, 18, 3), "f4"), eighteen).save_dcd(f"{folder}/a.dcd")
try:
    whole = f"{mdtraj.load(f'{folder}/a.dcd', top=nine).n_atoms} atoms"
except ValueError:
    whole = "ValueError"
chosen = f"{mdtraj.load(f'{folder}/a.dcd', top=nine, atom_indices=[0, 1]).n_atoms} atoms"
print(f"mdtraj {mdtraj.__version__}: all atoms {whole}, atom_indices=[0, 1] {chosen}")
sys.exit((whole, chosen) != ("ValueError", "2 atoms"))
PYTHON
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "mdtraj==1.11.1.post2" "numpy==2.4.6" 2> /dev/null
"$folder/venv/bin/python" -W ignore "$folder/load.py" "$folder" | grep -v '^dcdplugin'
echo "as seen on 2026-11-27"
