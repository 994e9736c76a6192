"""LAMMPS dumps: types and elements, columns of any kind and order, boxes that breathe."""

import warnings

import numpy as np
import pytest
from molecule_frames import WATER, dump_text, motion, nothing_unexpected, places, write

from geotdm_fast.data import file_dataset

pytestmark = pytest.mark.usefixtures("nothing_unexpected")
assert nothing_unexpected


def numbers(row):
    return " ".join(f"{value:.8f}" for value in row)


def test_types_are_no_elements(tmp_path):
    x = motion(base=WATER)
    types = [1, 2, 2]
    path = write(
        tmp_path / "a.lammpstrj", dump_text(x, "id type x y z", lambda t, i: f"{i + 1} {types[i]} {numbers(x[t, i])}")
    )
    with pytest.raises(ValueError, match=r"stated, got the types 1, 2 alone; .* elements: \{1: \.\.\., 2: \.\.\.\}"):
        file_dataset(path, span=20)
    for elements in ([8, 1], ["O", "H"], {1: "O", 2: "H"}, {"1": 8, "2": 1}):
        dataset = file_dataset(path, span=20, elements=elements)
        assert dataset.atomic_numbers.tolist() == [8, 1, 1]
        np.testing.assert_allclose(places(dataset), x, atol=1e-6)
    with pytest.raises(ValueError, match="elements must have one for each of 2 types, got 1"):
        file_dataset(path, span=20, elements=[8])


def test_atoms_in_any_order_and_columns_of_any_kind(tmp_path):
    x = motion(base=WATER)
    line = lambda t, i: f"{'OHH'[i]} 0.5 {i + 11} {numbers(x[t, i])}"
    order = lambda t: np.random.default_rng(t).permutation(3)
    path = write(tmp_path / "a.dump", dump_text(x, "element q id x y z", line, order=order))
    dataset = file_dataset(path, span=20)
    assert dataset.atomic_numbers.tolist() == [8, 1, 1]
    np.testing.assert_allclose(places(dataset), x, atol=1e-6)
    other = write(tmp_path / "b.out", path.read_text())
    np.testing.assert_array_equal(places(file_dataset(other, format="lammpstrj", span=20)), places(dataset))


@pytest.mark.parametrize("tilt", [None, (1.5, -2.0, 1.0)])
@pytest.mark.parametrize("wrapped", [True, False])
def test_scaled_columns_are_unscaled_with_the_corner_of_their_frame(tmp_path, tilt, wrapped):
    """At constant pressure every frame has another box; atoms at rest stay at rest."""
    x = np.broadcast_to(WATER + np.array([1, 0, -4.9]), (40, 3, 3))
    size = 12 + np.sin(np.arange(40))[:, None] * [0.3, 0.2, 0.1]
    corner = -5 - np.cos(np.arange(40))[:, None] * [0.1, 0.2, 0.3]

    def cell(t):
        xy, xz, yz = tilt or (0, 0, 0)
        return np.array([[size[t, 0], 0, 0], [xy, size[t, 1], 0], [xz, yz, size[t, 2]]])

    def bounds(t):
        low, high = corner[t].copy(), corner[t] + size[t]
        if tilt is None:
            return "\n".join(f"{a:.9f} {b:.9f}" for a, b in zip(low, high, strict=True))
        xy, xz, yz = tilt
        low += [min(0, xy, xz, xy + xz), min(0, yz), 0]
        high += [max(0, xy, xz, xy + xz), max(0, yz), 0]
        return "\n".join(f"{a:.9f} {b:.9f} {c}" for a, b, c in zip(low, high, tilt, strict=True))

    scaled = np.stack([(x[t] - corner[t]) @ np.linalg.inv(cell(t)) for t in range(40)])
    if wrapped:
        scaled = np.mod(scaled, 1)
    columns = "id element xs ys zs" if wrapped else "id element xsu ysu zsu"
    line = lambda t, i: f"{i + 1} {'OHH'[i]} {numbers(scaled[t, i])}"
    text = dump_text(x, columns, line, bounds, ("" if tilt is None else "xy xz yz ") + "pp pp pp")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = places(file_dataset(write(tmp_path / "a.lammpstrj", text), span=20))
    if not wrapped:
        np.testing.assert_allclose(found, x, atol=1e-5)
    np.testing.assert_allclose(found[:, 1:] - found[:, :1], x[:, 1:] - x[:, :1], atol=1e-5)


def test_image_flags_unwrap(tmp_path):
    x = motion(base=WATER, drift=(0.8, 0, 0))
    images = np.floor((x + 9) / 18)
    line = lambda t, i: (
        f"{i + 1} {'OHH'[i]} {numbers(x[t, i] - 18 * images[t, i])} {' '.join(f'{k:.0f}' for k in images[t, i])}"
    )
    path = write(tmp_path / "a.dump", dump_text(x, "id element x y z ix iy iz", line))
    np.testing.assert_allclose(places(file_dataset(path, span=20)), x, atol=1e-5)
    warnings.simplefilter("ignore")  # of the jumps
    stored = places(file_dataset(path, span=20, unwrap=False))
    np.testing.assert_allclose(stored, x - 18 * images, atol=1e-5)


THREE = motion(3, WATER)
DUMP = dump_text(THREE, "id element x y z", lambda t, i: f"{i + 1} {'OHH'[i]} {numbers(THREE[t, i])}")


@pytest.mark.parametrize(
    "text, message",
    [
        ("x", "frame 0 must go on with an ITEM, got 'x'"),
        ("", "must have a frame, got none"),
        (DUMP.replace("NUMBER OF ATOMS\n3", "NUMBER OF ATOMS\nthree"), r"'NUMBER OF ATOMS' of frame 0 must be"),
        (DUMP[:-30], r"a line for each atom in frame 2, got 2 lines for 3|5 columns"),
        (DUMP.replace("x y z", "vx vy vz"), "must have columns x y z, xs ys zs, .*, got id element vx"),
        (DUMP.replace("3 H", "7 H", 2).replace("7 H", "3 H", 1), "same atoms in every frame, got others in frame 1"),
        (DUMP.replace("2 H 0.9", "2 H a"), "x y z of frame 0 must be numbers"),
    ],
)  # fmt: skip
def test_broken_dumps(tmp_path, text, message):
    with pytest.raises(ValueError, match=rf"file_dataset: .*a\.dump.*({message})"):
        file_dataset(write(tmp_path / "a.dump", text), span=2)


def test_reduced_units_are_asked_for(tmp_path):
    path = write(tmp_path / "a.dump", DUMP.replace("ITEM: TIMESTEP", "ITEM: UNITS\nlj\nITEM: TIMESTEP", 1))
    with pytest.raises(ValueError, match="lengths are in reduced units; unit must name the unit of length, got none"):
        file_dataset(path, span=2)
    assert file_dataset(path, span=2, unit="angstrom").unit == "angstrom"
    nano = write(tmp_path / "b.dump", DUMP.replace("ITEM: TIMESTEP", "ITEM: UNITS\nnano\nITEM: TIMESTEP"))
    np.testing.assert_allclose(places(file_dataset(nano, span=2, bonds=[[0, 1]])), THREE * 10, atol=1e-5)
