"""A molecule's frames without the motion of the whole: turned and moved onto the first frame.

    python -m tools.superpose_frames alanine.npz aligned.npz
    python -m tools.superpose_frames adenylate_kinase.npz ca.npz --atoms ca

--atoms names an array of the file that lists the atoms to keep; bonds between them are kept, by their new numbers.
Arrays that are neither positions, atoms, bonds, times nor their unit are left out, which is said.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from geotdm_fast.runtime.files import read_npz, write_npz

# The arrays that are kept.
KEPT = ("R", "z", "time", "times", "step", "steps", "bonds", "unit")


def superpose(x: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Every frame turned and moved so that sum_i |x_i - reference_i|^2 is the smallest (Kabsch 1976); no mirror image.

    x: [..., N, 3] float; reference: [N, 3]
    """
    x = x.astype(np.float64)
    x -= x.mean(-2, keepdims=True)
    centre = reference.astype(np.float64).mean(0)
    left, _, right = np.linalg.svd(np.swapaxes(x, -1, -2) @ (reference - centre))
    left[..., :, -1] *= np.sign(np.linalg.det(left @ right))[..., None]
    return x @ (left @ right) + centre


def chosen(arrays: dict[str, np.ndarray], atoms: str | None) -> dict[str, np.ndarray]:
    """The arrays `KEPT`, where there are any, of the atoms that the array `atoms` lists.

    Raises ValueError where there is no such array, or it lists no atoms.
    """
    kept = {name: arrays[name] for name in KEPT if name in arrays}
    if atoms is None:
        return kept
    number = kept["R"].shape[-2]
    index = arrays.get(atoms)
    if index is None or index.dtype.kind not in "iu" or index.ndim != 1 or len(index) < 3:
        raise ValueError(f"--atoms must name an array of at least three numbers of atoms, got '{atoms}'")
    if index.min() < 0 or index.max() >= number or len(np.unique(index)) < len(index):
        raise ValueError(f"--atoms: the array '{atoms}' must list different numbers under {number}")
    place = np.full(number, -1)
    place[index] = np.arange(len(index))
    kept |= {"R": kept["R"][..., index, :], "z": kept["z"][index]}
    bonds = place[kept.pop("bonds", np.zeros((0, 2), int))]
    bonds = bonds[(bonds >= 0).all(1)]
    return kept | ({"bonds": bonds} if len(bonds) else {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--atoms", metavar="ARRAY")
    args = parser.parse_args()
    try:
        found = read_npz(args.file, required=("R", "z"))
        arrays = chosen(found, args.atoms)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    left_out = [name for name in found if name not in (*KEPT, args.atoms)]
    if left_out:
        print(f"{args.out}: without {', '.join(left_out)} of {args.file}", file=sys.stderr)
    x = arrays["R"]
    first = x.reshape(-1, *x.shape[-2:])[0]
    write_npz(args.out, **{**arrays, "R": superpose(x, first).astype(np.float32)})


if __name__ == "__main__":
    main()
