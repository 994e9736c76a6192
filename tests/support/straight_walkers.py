"""Recordings of people for tests that train on them."""

import pathlib

import numpy as np


def write_recordings(root: pathlib.Path, *, validation: bool = False) -> None:
    """Recordings of people who walk straight, in the layout of ETH/UCY."""
    rng = np.random.default_rng(0)
    names_in = {"train": ["a_train", "crowds_zara01_train"], "all_data": ["crowds_zara01"]}
    for folder, names in (names_in | ({"val": ["a_val", "crowds_zara01_val"]} if validation else {})).items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for name in names:
            start, velocity = rng.normal(size=(3, 2)), 0.3 * rng.normal(size=(3, 2))
            lines = [
                f"{10 * t}\t{person}\t{start[person, 0] + t * velocity[person, 0]}\t"
                f"{start[person, 1] + t * velocity[person, 1]}"
                for t in range(23)
                for person in range(3)
            ]
            (root / folder / f"{name}.txt").write_text("\n".join(lines) + "\n")
