#!/usr/bin/env bash
# MDTraj 1.11.1.post2: `GroTrajectoryFile.read_as_traj(n_frames=2)` returns all frames of the file; `read(n_frames=2)` on
# the same file returns two. Other formats obey `n_frames` in both, so a loop that reads a trajectory in chunks holds a
# long GRO whole, and its next chunk is empty.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/chunks.py" <<'PYTHON'
import sys

import mdtraj
from mdtraj.formats import GroTrajectoryFile

path = f"{sys.argv[1]}/water.gro"
with open(path, "w") as file:
    for t in range(6):
        print(f"water t= {t}.0\n3", file=file)
        for i, name in enumerate(("OW", "HW1", "HW2")):
            x = 0.1 * i + 0.01 * t
            print(f"{1:5d}{'SOL':<5s}{name:>5s}{i + 1:5d}{x:8.3f}{0.0:8.3f}{0.0:8.3f}", file=file)
        print("   2.00000   2.00000   2.00000", file=file)
with GroTrajectoryFile(path) as file:
    chunks = [len(file.read_as_traj(n_frames=2)) for _ in range(2)]
with GroTrajectoryFile(path) as file:
    read = len(file.read(n_frames=2)[0])
print(f"mdtraj {mdtraj.__version__}, 6 frames, n_frames=2: read_as_traj gives {chunks}, read gives {read}")
sys.exit((chunks, read) != ([6, 0], 2))
PYTHON
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "mdtraj==1.11.1.post2" "numpy==2.4.6" 2> /dev/null
"$folder/venv/bin/python" -W ignore "$folder/chunks.py" "$folder"
echo "as seen on 2026-11-27"
