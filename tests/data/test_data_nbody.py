"""The N-body simulators against golden numbers, their reproducibility, and the data sets made of them."""

import numpy as np
import pytest
import torch
from places import GOLDEN

from geotdm_fast.data import collate, initial_state, nbody, nbody_dataset, open_dataset, simulate
from geotdm_fast.data.nbody import official_files
from geotdm_fast.paper.data_digest import data_digest

EXTRA = {"charged": {"charges": "charges"}, "springs": {"springs": "edges"}, "gravity": {}}


def relative_error(ours, golden):
    return np.linalg.norm(ours - golden) / np.linalg.norm(golden)


@pytest.mark.parametrize("kind", EXTRA)
def test_equals_official_simulator(kind):
    golden = np.load(GOLDEN / f"nbody_{kind}.npz")
    x, v = simulate(kind, golden["x0"], golden["v0"], **{name: golden[key] for name, key in EXTRA[kind].items()})
    assert x.dtype == v.dtype == np.float64
    assert x.shape == golden["x"].shape
    assert relative_error(x, golden["x"]) < 1e-6
    assert relative_error(v, golden["v"]) < 1e-6


@pytest.mark.parametrize("kind", EXTRA)
@pytest.mark.parametrize("num_particles", [1, 2, 3, 4, 7])
def test_forces_of_any_number_of_particles(kind, num_particles):
    """One drift after one kick, against the force written out pair by pair."""
    state = initial_state(kind, 3, np.random.default_rng(1), num_particles=num_particles)
    dt = 0.01
    force = np.zeros_like(state.x0)
    for i in range(num_particles):
        for j in range(num_particles):
            r = state.x0[:, i] - state.x0[:, j]
            if i == j:
                continue
            if kind == "charged":
                force[:, i] += (state.charges[:, i] * state.charges[:, j] / np.linalg.norm(r, axis=1) ** 3)[:, None] * r
            elif kind == "springs":
                force[:, i] -= 0.1 * state.springs[:, i, j, None] * r
            else:
                force[:, i] -= r / ((r**2).sum(axis=1) + 0.01)[:, None] ** 1.5
    given = {name: getattr(state, name) for name in EXTRA[kind]}
    if kind == "gravity":
        x, _ = simulate(kind, state.x0, state.v0, dt=dt, num_steps=2, save_every=1)
        np.testing.assert_array_equal(x[:, 0], state.x0)
        np.testing.assert_allclose(x[:, 1], state.x0 + dt * (state.v0 + dt / 2 * force), rtol=1e-12)
    else:
        x, v = simulate(kind, state.x0, state.v0, **given, dt=dt, num_steps=2, save_every=1)
        np.testing.assert_allclose(v[:, 0], state.v0 + dt * force.clip(-100, 100), rtol=1e-12)
        np.testing.assert_allclose(x[:, 0], state.x0 + dt * v[:, 0], rtol=1e-12)


def test_each_component_of_the_force_is_clipped():
    x0 = np.array([[[0.0, 0.0, 0.0], [0.05, 0.001, 0.0]]])
    _, v = simulate("charged", x0, np.zeros_like(x0), charges=[[1.0, 1.0]], dt=1e-3, num_steps=2, save_every=1)
    # |force| is about 400 along x: clipped to 100; its y component of 8 is not.
    y = 0.001 / (0.05**2 + 0.001**2) ** 1.5
    np.testing.assert_allclose(v[0, 0], [[-0.1, -1e-3 * y, 0.0], [0.1, 1e-3 * y, 0.0]], rtol=1e-12)


@pytest.mark.parametrize("kind", EXTRA)
def test_result_does_not_depend_on_blocks_or_threads(kind):
    state = initial_state(kind, 700, np.random.default_rng(3))
    run = lambda systems, threads: simulate(
        kind,
        state.x0[systems],
        state.v0[systems],
        **{name: getattr(state, name)[systems] for name in EXTRA[kind]},
        num_steps=41,
        save_every=10,
        num_threads=threads,
        progress=False,
    )
    x, v = run(slice(0, 700), 1)
    for threads in (2, 3):
        other_x, other_v = run(slice(0, 700), threads)
        np.testing.assert_array_equal(x, other_x)
        np.testing.assert_array_equal(v, other_v)
    np.testing.assert_array_equal(x[300:301], run(slice(300, 301), 1)[0])
    np.testing.assert_array_equal(x[5:42], run(slice(5, 42), 2)[0])


@pytest.mark.parametrize("kind", EXTRA)
def test_initial_state(kind):
    state = initial_state(kind, 4000, np.random.default_rng(0))
    assert state.x0.shape == (4000, {"charged": 5, "springs": 5, "gravity": 10}[kind], 3)
    assert state.x0.std() == pytest.approx({"charged": 1.0, "springs": 0.5, "gravity": 1.0}[kind], rel=0.02)
    if kind == "gravity":
        np.testing.assert_allclose(state.v0.mean(axis=1), 0.0, atol=1e-14)
        assert state.v0.std() == pytest.approx(np.sqrt(0.9), rel=0.02)
    else:
        np.testing.assert_allclose(np.linalg.norm(state.v0, axis=-1), 0.5, rtol=1e-12)
    if kind == "charged":
        assert set(np.unique(state.charges)) == {-1.0, 1.0}
        assert abs(state.charges.mean()) < 0.03
    if kind == "springs":
        np.testing.assert_array_equal(state.springs, state.springs.transpose(0, 2, 1))
        assert (np.diagonal(state.springs, axis1=1, axis2=2) == 0).all()
        assert state.springs.sum() / (4000 * 20) == pytest.approx(0.5, abs=0.02)


def test_dataset_features_and_frames():
    for kind in EXTRA:
        dataset = nbody_dataset(kind, "test", num_systems=3, num_frames=4, progress=False)
        item = dataset[1]
        n = 10 if kind == "gravity" else 5
        assert len(dataset) == 3
        assert item.x.shape == (n, 3, 4)
        assert item.x.dtype == item.h.dtype == item.edge_attr.dtype == torch.float32
        row, col = item.edge_index
        assert item.edge_index.shape == (2, n * (n - 1))
        assert (row != col).all()
        assert item.scored.tolist() == list(range(n))
        if kind == "charged":
            assert set(item.h.unique().tolist()) <= {-1.0, 1.0}
            torch.testing.assert_close(item.edge_attr, item.h[row] * item.h[col])
        elif kind == "springs":
            assert (item.h == 0).all()
            assert set(item.edge_attr.unique().tolist()) <= {0.0, 1.0}
            back = {(int(i), int(j)): float(a) for i, j, a in zip(row, col, item.edge_attr[:, 0], strict=True)}
            assert all(back[i, j] == back[j, i] for i, j in back)
        else:
            assert (item.h == 1).all()
            assert (item.edge_attr == 0).all()


def test_dataset_is_what_simulate_gives():
    dataset = nbody_dataset("springs", "val", num_systems=2, num_frames=3, seed=5, progress=False)
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([5, 1, 1], spawn_key=(1,))))
    state = initial_state("springs", 1, rng)
    x, _ = simulate("springs", state.x0, state.v0, springs=state.springs, num_steps=400)
    np.testing.assert_array_equal(dataset[1].x.numpy(), x[0].transpose(1, 2, 0).astype(np.float32))


def test_dataset_is_reproducible():
    make = lambda split, number, seed=0: nbody_dataset(
        "charged", split, num_systems=number, num_frames=2, seed=seed, progress=False
    )
    few, many = make("train", 3), make("train", 12)
    for i in range(3):
        assert torch.equal(few[i].x, many[i].x)
        assert torch.equal(few[i].h, many[i].h)
    assert not torch.equal(few[0].x, few[1].x)
    assert not torch.equal(few[0].x, make("val", 1)[0].x)
    assert not torch.equal(few[0].x, make("train", 1, seed=1)[0].x)


@pytest.mark.parametrize("from_files", [False, True])
def test_systems_between_those_asked_for_are_not_simulated(tmp_path, monkeypatch, from_files):
    simulated = []
    monkeypatch.setattr(
        nbody,
        "simulate",
        lambda kind, x0, *args, **more: simulated.append(len(x0)) or simulate(kind, x0, *args, **more),
    )
    more = {"num_frames": 3, "progress": False}
    if from_files:
        write_official_files(tmp_path, "charged", "test_x", num_systems=5)
        more |= {"root": tmp_path, "suffix": "test_x"}
    whole = nbody_dataset("charged", "test", num_systems=5, **more)
    some = nbody_dataset("charged", "test", num_systems=5, spread=2, **more)
    assert simulated == ([] if from_files else [5, 2])
    for here, there in zip(some, whole.spread(2), strict=True):
        assert torch.equal(here.x, there.x) and torch.equal(here.edge_attr, there.edge_attr)
    assert len(nbody_dataset("charged", "test", num_systems=5, spread=9, **more)) == 5
    with pytest.raises(ValueError, match="nbody_dataset: spread must be at least 1, got 0"):
        nbody_dataset("charged", "test", num_systems=5, spread=0, **more)


def test_projected_systems_have_zero_mean():
    dataset = nbody_dataset("gravity", "test", num_systems=2, num_frames=3, project=True, progress=False)
    plain = nbody_dataset("gravity", "test", num_systems=2, num_frames=3, progress=False)
    mean = plain[1].x.mean(dim=(0, 2), keepdim=True)
    assert mean.abs().max() > 1e-2
    torch.testing.assert_close(dataset[1].x, plain[1].x - mean)


def write_official_files(root, kind, suffix, num_systems=3):
    """The layout of the official generator: space before particles, but not for gravity."""
    state = initial_state(kind, num_systems, np.random.default_rng(8))
    given = {name: getattr(state, name) for name in EXTRA[kind]}
    x, v = simulate(kind, state.x0, state.v0, **given, num_steps=501, save_every=100)
    order = (0, 1, 2, 3) if kind == "gravity" else (0, 1, 3, 2)
    charges = {"charged": state.charges, "springs": np.zeros((num_systems, 5)), "gravity": np.ones((num_systems, 10))}
    np.save(root / f"loc_{suffix}.npy", x.transpose(order))
    np.save(root / f"vel_{suffix}.npy", v.transpose(order))
    np.save(root / f"edges_{suffix}.npy", np.zeros((num_systems, 5, 5)) if state.springs is None else state.springs)
    np.save(root / f"charges_{suffix}.npy", charges[kind][..., None])
    return x, state


@pytest.mark.parametrize("kind", EXTRA)
def test_reads_official_files(tmp_path, kind):
    x, state = write_official_files(tmp_path, kind, "val_x")
    dataset = nbody_dataset(kind, "val", num_frames=4, root=tmp_path, suffix="val_x")
    assert len(dataset) == 3
    np.testing.assert_array_equal(dataset[2].x.numpy(), x[2, :4].transpose(1, 2, 0).astype(np.float32))
    row, col = dataset[2].edge_index.numpy()
    if kind == "charged":
        np.testing.assert_array_equal(dataset[2].h[:, 0], state.charges[2])
    if kind == "springs":
        np.testing.assert_array_equal(dataset[2].edge_attr[:, 0], state.springs[2, row, col])
    assert len(nbody_dataset(kind, "val", num_systems=2, num_frames=4, root=tmp_path, suffix="val_x")) == 2


def test_files_of_another_suffix_are_not_simulated_instead(tmp_path):
    """Of a misspelt suffix, or where the positions alone are missing, other data would come without a word."""
    nothing = nbody_dataset("springs", "train", num_systems=2, root=tmp_path, suffix="train", progress=False)
    assert len(nothing) == 2, "an empty folder"
    np.save(tmp_path / "charges_train.npy", np.ones((2, 5, 1)))
    message = r"no loc_train\.npy, but there is charges_train\.npy; without root the systems are simulated"
    with pytest.raises(FileNotFoundError, match=message):
        nbody_dataset("charged", "train", root=tmp_path, suffix="train", progress=False)
    np.save(tmp_path / "loc_train_charged.npy", np.zeros((2, 49, 3, 5)))
    for suffix, absent in (("charged", r"there is no loc_charged\.npy"), (None, "no suffix is given")):
        with pytest.raises(
            FileNotFoundError, match=rf"{absent}, but there is charges_train\.npy, loc_train_charged\.npy"
        ):
            nbody_dataset("charged", "train", root=tmp_path, suffix=suffix, progress=False)
    section = {"kind": "nbody", "system": "charged", "split": "train", "root": str(tmp_path), "suffix": "charged"}
    with pytest.raises(FileNotFoundError, match=r"data\.train: nbody_dataset: .* without root the systems"):
        open_dataset(section, "data.train", progress=False)


def test_the_files_that_are_read_are_named_in_one_place(tmp_path):
    """By kind of system; the others may be there, and where one is missing, that is said before any is read."""
    assert official_files(None, "a", "charged") == official_files(tmp_path, "a", "charged") == {}
    write_official_files(tmp_path, "charged", "a")
    named = {name: tmp_path / f"{name}_a.npy" for name in ("loc", "vel", "charges", "edges")}
    for kind, more in (("charged", {"charges"}), ("springs", {"edges"}), ("gravity", set())):
        expected = {name: path for name, path in named.items() if name in {"loc", "vel"} | more}
        assert official_files(tmp_path, "a", kind) == expected
    assert official_files(tmp_path, "a") == {"loc": named["loc"]}
    named["vel"].unlink()
    message = (
        r"nbody_dataset: .*: there is no vel_a\.npy, but there is charges_a\.npy, edges_a\.npy, loc_a\.npy; without"
    )
    with pytest.raises(FileNotFoundError, match=message):
        official_files(tmp_path, "a", "gravity")
    section = {"kind": "nbody", "system": "gravity", "split": "train", "root": str(tmp_path), "suffix": "a"}
    with pytest.raises(FileNotFoundError, match=message):
        data_digest({"train": section})


def test_official_files_that_are_wrong(tmp_path):
    write_official_files(tmp_path, "charged", "a")
    with pytest.raises(ValueError, match=r"num_frames must be at most 5 .* got 30"):
        nbody_dataset("charged", "train", root=tmp_path, suffix="a")
    np.save(tmp_path / "charges_a.npy", np.zeros((2, 5, 1)))
    with pytest.raises(ValueError, match=r"charges_a must be \[3, 5\], got \[2, 5\]"):
        nbody_dataset("charged", "train", num_frames=4, root=tmp_path, suffix="a")
    (tmp_path / "charges_a.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"there is no charges_a\.npy, but there is edges_a\.npy"):
        nbody_dataset("charged", "train", num_frames=4, root=tmp_path, suffix="a")
    np.save(tmp_path / "charges_a.npy", np.zeros((3, 5, 1)))
    np.save(tmp_path / "loc_a.npy", np.array([{"pickled": 1}], dtype=object))
    with pytest.raises(ValueError, match=r"loc_a\.npy must be an \.npy file of plain numbers"):
        nbody_dataset("charged", "train", num_frames=4, root=tmp_path, suffix="a")


def test_batches():
    dataset = nbody_dataset("charged", "test", num_systems=3, num_frames=2, progress=False)
    batch = collate([dataset[i] for i in range(3)])
    assert batch.x.shape == (15, 3, 2)
    assert batch.edge_index.max() == 14
    assert batch.batch.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    torch.testing.assert_close(batch.x[5:10], dataset[1].x)


X0 = np.arange(30.0).reshape(2, 5, 3) ** 1.5
BAD_SIMULATIONS = [
    (ValueError, r"simulate: kind must be one of .* got 'charge'; did you mean 'charged'", "charge", X0, X0, {}),
    (ValueError, r"simulate: x0 must be \[B, N, 3\], got \[5, 3\]", "gravity", X0[0], X0, {}),
    (ValueError, r"simulate: x0 must be \[B, N, 3\], got \[2, 5, 2\]", "gravity", X0[..., :2], X0, {}),
    (ValueError, r"simulate: x0 must not be empty, got \[0, 5, 3\]", "gravity", X0[:0], X0, {}),
    (ValueError, r"simulate: v0 must be \[2, 5, 3\], got \[1, 5, 3\]", "gravity", X0, X0[:1], {}),
    (ValueError, r"simulate: v0 must be finite, got nan at \[0, 0, 0\]", "gravity", X0, X0 * np.nan, {}),
    (ValueError, r"simulate: charges must be given for 'charged', got None", "charged", X0, X0, {}),
    (ValueError, r"simulate: charges must be \[B, N\], got \[5\]", "charged", X0, X0, {"charges": np.ones(5)}),
    (ValueError, r"charges must be \[2, 5\], got \[3, 5\]", "charged", X0, X0, {"charges": np.ones((3, 5))}),
    (ValueError, r"charges must be None for 'springs'", "springs", X0, X0, {"charges": 1, "springs": 1}),
    (ValueError, r"springs must be \[2, 5, 5\], got \[2, 4, 4\]", "springs", X0, X0, {"springs": np.ones((2, 4, 4))}),
    (ValueError, r"springs must be symmetric", "springs", X0, X0, {"springs": np.triu(np.ones((2, 5, 5)))}),
    (ValueError, r"x0 must have charged .* particles 0 and 1 of", "charged", X0 * 0, X0, {"charges": np.ones((2, 5))}),
    (ValueError, r"simulate: num_steps must be at least 1, got 0", "gravity", X0, X0, {"num_steps": 0}),
    (TypeError, r"simulate: num_steps must be a whole number, got 2\.5", "gravity", X0, X0, {"num_steps": 2.5}),
    (ValueError, r"simulate: dt must be a finite number, got inf", "gravity", X0, X0, {"dt": np.inf}),
    (TypeError, r"simulate: x0 must hold numbers, got <U1", "gravity", np.full((2, 5, 3), "a"), X0, {}),
]  # fmt: skip


@pytest.mark.parametrize("error, message, kind, x0, v0, more", BAD_SIMULATIONS)
def test_bad_simulations(error, message, kind, x0, v0, more):
    with pytest.raises(error, match=message):
        simulate(kind, x0, v0, **more)


def test_no_frame_to_keep():
    with pytest.raises(ValueError, match=r"num_steps must be more than save_every \(9\) to keep a frame, got 9"):
        simulate("springs", X0, X0, springs=np.ones((2, 5, 5)), num_steps=9, save_every=9)


def test_bad_datasets():
    with pytest.raises(ValueError, match=r"nbody_dataset: kind must be one of .* got 'spring'; did you mean 'springs'"):
        nbody_dataset("spring", "train")
    with pytest.raises(ValueError, match=r"nbody_dataset: split must be one of train, val, test; got 'valid'"):
        nbody_dataset("springs", "valid")
    with pytest.raises(ValueError, match=r"nbody_dataset: num_systems must be at least 1, got 0"):
        nbody_dataset("springs", "train", num_systems=0)
    with pytest.raises(TypeError, match=r"nbody_dataset: project must be true or false, got 'yes'"):
        nbody_dataset("springs", "train", project="yes")
    with pytest.raises(ValueError, match=r"nbody_dataset: seed must be at least 0, got -1"):
        nbody_dataset("springs", "train", seed=-1)
    with pytest.raises(ValueError, match=r"initial_state: num_systems must be at least 1, got 0"):
        initial_state("springs", 0, np.random.default_rng(0))


def test_frames_of_a_simulation_are_chosen(tmp_path):
    draw = lambda **more: nbody_dataset("springs", "val", num_systems=2, progress=False, **more)[1].x
    long = draw(num_frames=20)
    assert torch.equal(draw(num_frames=5, every=3), long[..., 0:15:3])
    assert torch.equal(draw(num_frames=4, frames=[6, None, 2]), long[..., 6:14:2])
    assert torch.equal(draw(num_frames=4, frames=[6, 10]), long[..., 6:10])
    with pytest.raises(ValueError, match=r"num_frames must be at most 4 for frames=\[6, 10\], got 5"):
        draw(num_frames=5, frames=[6, 10])
    with pytest.raises(ValueError, match=r"frames must count from the start of a simulation, got \[-5, None\]"):
        draw(num_frames=5, frames=[-5, None])


@pytest.mark.parametrize("from_files", [False, True])
def test_windows_of_later_frames(tmp_path, monkeypatch, from_files):
    """With a stride the windows of a system begin at every so-manieth of the generator's frames."""
    monkeypatch.setitem(nbody.ALL_FRAMES, "charged", 5)
    more = {"num_systems": 2, "progress": False}
    if from_files:
        write_official_files(tmp_path, "charged", "train_x", num_systems=2)
        more |= {"root": tmp_path, "suffix": "train_x"}
    whole = nbody_dataset("charged", "train", num_frames=5, **more)
    windows = nbody_dataset("charged", "train", num_frames=2, stride=2, velocities=True, **more)
    assert len(windows) == 4
    for number, window in enumerate(windows):
        system, start = divmod(number, 2)
        assert torch.equal(window.x, whole[system].x[..., 2 * start : 2 * start + 2])
        assert torch.equal(window.h, whole[system].h) and torch.equal(window.edge_attr, whole[system].edge_attr)
        assert window.v.shape == window.x.shape
    later = nbody_dataset("charged", "train", num_frames=2, stride=1, frames=[1, None], **more)
    assert torch.equal(later[2].x, whole[0].x[..., 3:5]) and len(later) == 6
    assert len(nbody_dataset("charged", "train", num_frames=None, stride=1, **more)) == 2
    assert nbody_dataset("charged", "test", num_frames=2, stride=1, **more).experiment is None
    whose = "for .*" if from_files else "with stride"
    with pytest.raises(ValueError, match=rf"num_frames must be at most 5 {whose}, got 6"):
        nbody_dataset("charged", "train", num_frames=6, stride=1, **more)
    with pytest.raises(ValueError, match="nbody_dataset: stride must be at least 1, got 0"):
        nbody_dataset("charged", "train", num_frames=2, stride=0, **more)
