"""What a file of samples may hold."""

import numpy as np
import pytest

from geotdm_fast.samples.npz import FORMAT, read_samples, write_samples


def arrays(**change):
    """Two samples of two graphs of two nodes, three given frames and two drawn."""
    x = np.random.default_rng(0).normal(size=(4, 3, 5)).astype(np.float32)
    whole = {
        "format": FORMAT,
        "samples": np.stack([x[..., 3:], -x[..., 3:]]),
        "target": x[..., 3:],
        "x_given": x[..., :3],
        "cond_mask": np.array([True, True, True, False, False]),
        "batch": np.array([0, 0, 1, 1]),
        "scored": np.arange(4),
        "h": np.ones((4, 1), np.float32),
        "edge_index": np.array([[0, 1, 2, 3], [1, 0, 3, 2]]),
        "atomic_numbers": np.zeros(0, np.int64),
        "scale": 2.0,
        "unit": "m",
        "name": "pairs",
        "mode": "cond",
        "seed": 7,
        "checkpoint": "best.safetensors",
    }
    return whole | change


def test_a_whole_file(tmp_path):
    np.savez(tmp_path / "s.npz", **arrays())
    samples = read_samples(tmp_path / "s.npz")
    assert (samples.num_graphs, samples.num_samples, samples.scale, samples.seed) == (2, 2, 2.0, 7)
    assert samples.method is None and samples.num_steps is None  # a file of before


def test_how_they_were_drawn_is_read_back(tmp_path):
    np.savez(tmp_path / "s.npz", **arrays(method="dpmpp_2m", num_steps=5))
    samples = read_samples(tmp_path / "s.npz")
    write_samples(tmp_path / "again.npz", samples)
    again = read_samples(tmp_path / "again.npz")
    assert (again.method, again.num_steps) == (samples.method, samples.num_steps) == ("dpmpp_2m", 5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cond_mask": np.array([1.0, 1, 1, 0, 0])}, "cond_mask must be bool, got float64"),
        ({"batch": np.array([0, 0, 1, 10**9])}, r"batch must"),
        ({"batch": np.array([0, 0, 1, 2**62])}, r"batch must"),
        ({"batch": np.array([0.0, 0, 1, 1])}, r"batch must"),
        ({"scored": np.array([4])}, r"scored must be in 0\.\.3, got 4\.\.4"),
        ({"scored": np.zeros(0, np.int64)}, "scored must be"),
        ({"edge_index": np.array([[0], [-1]])}, r"edge_index must be in 0\.\.3, got -1\.\.0"),
        ({"atomic_numbers": np.full(4, 10**9)}, r"atomic_numbers must be in 0\.\.118"),
        ({"h": np.ones((3, 1), np.float32)}, r"h must be \[4, F\] or \[4, F, T\], got \[3, 1\]"),
        ({"samples": arrays()["samples"].astype(complex)}, "samples must be floating point, got complex128"),
        ({"samples": arrays()["samples"] > 0}, "samples must be floating point, got bool"),
        ({"target": arrays()["target"].astype(int)}, "target must be floating point, got int64"),
        ({"target": np.float32(3.0)}, r"target must be \[N, D, T\], got \[\]"),
        ({"batch": np.int64(0)}, r"batch must be \[N\], got \[\]"),
        ({"batch": np.zeros(0, np.int64)}, r"batch must be \[N\], got \[0\]"),
        ({"edge_index": np.zeros(2, np.int64)}, r"edge_index must be \[2, E\], got \[2\]"),
        ({"atomic_numbers": np.zeros((4, 1), np.int64)}, r"atomic_numbers must be \[N\], got \[4, 1\]"),
        ({"scale": 0.0}, "scale must be a positive, finite number, got 0.0"),
        ({"scale": np.nan}, "scale must be a positive, finite number, got nan"),
        ({"scale": np.inf}, "scale must be a positive, finite number, got inf"),
        ({"scale": "x"}, "scale must be one number, got <U1"),
        ({"scale": np.ones(3)}, r"scale must be one number, got float64 \[3\]"),
        ({"seed": 1.5}, "seed must be one number, got float64"),
        ({"name": 3}, "name must be one text, got int64"),
        ({"num_steps": 0}, "num_steps must be at least 1, got 0"),
        ({"num_steps": 2.5}, "num_steps must be one number, got float64"),
        ({"method": 3}, "method must be one text, got int64"),
    ],
)
def test_what_no_samples_are(tmp_path, change, message):
    np.savez(tmp_path / "s.npz", **arrays(**change))
    with pytest.raises(ValueError, match=rf"s\.npz: {message}"):
        read_samples(tmp_path / "s.npz")


@pytest.mark.parametrize("dims", [1, 4])
def test_dimensions(tmp_path, dims):
    part = lambda *shape: np.zeros(shape, np.float32)
    change = {"samples": part(2, 4, dims, 2), "target": part(4, dims, 2), "x_given": part(4, dims, 3)}
    np.savez(tmp_path / "s.npz", **arrays(**change))
    with pytest.raises(ValueError, match=f"samples must be in 2 or 3 dimensions.*got D = {dims}"):
        read_samples(tmp_path / "s.npz")
