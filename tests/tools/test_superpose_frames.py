"""Frames without the motion of the whole: turned back exactly, by another library too, and what is refused."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from geotdm_fast.data import open_dataset
from tools.superpose_frames import chosen, main, superpose


def test_turned_frames_are_turned_back():
    rng = np.random.default_rng(0)
    still = rng.normal(size=(7, 3))
    turned = np.stack([still @ r.as_matrix().T + rng.normal(size=3) for r in Rotation.random(5, random_state=0)])
    np.testing.assert_allclose(superpose(turned[:, None], still), np.broadcast_to(still, (5, 1, 7, 3)), atol=1e-12)


def test_the_rotation_is_scipys():
    rng = np.random.default_rng(1)
    x, reference = rng.normal(size=(4, 6, 3)), rng.normal(size=(6, 3)) + 5
    for frame, found in zip(x, superpose(x, reference), strict=True):
        centred = reference - reference.mean(0)
        rotation, _ = Rotation.align_vectors(centred, frame - frame.mean(0))
        np.testing.assert_allclose(found, rotation.apply(frame - frame.mean(0)) + reference.mean(0), atol=1e-8)


def test_a_mirror_image_is_not_turned_into_it():
    x = np.random.default_rng(2).normal(size=(5, 3))
    assert np.abs(superpose(x * [1, 1, -1], x) - x).max() > 0.1


def test_a_file_of_some_atoms(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(3)
    x = (1.5 * rng.permutation(27)[:, None] // [9, 3, 1] % [9, 3, 3] + 0.05 * rng.normal(size=(8, 27, 3))).astype("f4")
    some = np.array([20, 3, 7, 11])
    bonds = np.array([[3, 20], [3, 4], [11, 7]])
    np.savez(
        tmp_path / "in.npz", R=x, z=np.arange(27) % 5 + 4, bonds=bonds, some=some, other=np.zeros(2), steps=np.arange(8)
    )
    words = ["superpose_frames", str(tmp_path / "in.npz"), str(tmp_path / "out.npz"), "--atoms", "some"]
    monkeypatch.setattr("sys.argv", words)
    main()
    with np.load(tmp_path / "out.npz") as out:
        assert set(out.files) == {"R", "z", "bonds", "steps"} and out["steps"].tolist() == list(range(8))
        np.testing.assert_allclose(out["R"][0], x[0, some], atol=1e-5)
        assert out["z"].tolist() == (some % 5 + 4).tolist() and out["bonds"].tolist() == [[1, 0], [3, 2]]
        lengths = np.linalg.norm(np.diff(out["R"], axis=1), axis=-1)
        np.testing.assert_allclose(lengths, np.linalg.norm(np.diff(x[:, some], axis=1), axis=-1), atol=1e-5)
    assert capsys.readouterr().err == f"{tmp_path / 'out.npz'}: without other of {tmp_path / 'in.npz'}\n"
    assert (
        len(open_dataset({"kind": "npz", "path": str(tmp_path / "out.npz"), "span": 4, "graph": {"radius": 4.0}})) == 5
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [(["in.npz", "--atoms", "ca"], "error: --atoms must name an array"), (["none.npz"], "none.npz: no such file")],
)
def test_errors_are_said_in_a_line(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.savez("in.npz", R=np.zeros((2, 5, 3)), z=np.ones(5, int))
    monkeypatch.setattr("sys.argv", ["superpose_frames", words[0], "out.npz", *words[1:]])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2 and message in capsys.readouterr().err and not (tmp_path / "out.npz").exists()


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (None, "--atoms must name an array of at least three numbers of atoms, got 'ca'"),
        (np.zeros(3), "--atoms must name an array of at least three numbers"),
        (np.array([0, 1]), "--atoms must name an array of at least three numbers"),
        (np.array([0, 1, 5]), "--atoms: the array 'ca' must list different numbers under 5"),
        (np.array([0, 1, 1]), "--atoms: the array 'ca' must list different numbers under 5"),
    ],
)
def test_atoms_that_cannot_be_chosen(index, message):
    arrays = {"R": np.zeros((2, 5, 3)), "z": np.ones(5, int)} | ({} if index is None else {"ca": index})
    with pytest.raises(ValueError, match=message):
        chosen(arrays, "ca")
