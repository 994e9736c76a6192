"""What stands around the emulated kernels: memory that is written where it must not be, and their errors, are seen."""

import ctypes

import emulated_build
import emulated_temporal
import pytest
import torch
from emulated_temporal import Buffer, Call, turns
from native_cases import temporal_inputs

from geotdm_fast.reference import sinusoid


def write(address: int, value: float = 1.0) -> None:
    ctypes.c_float.from_address(address).value = value


class Library:
    """Functions of the header, in Python."""

    def __init__(self, forward, report=None):
        self.functions = {"geotdm_temporal_forward": forward, "geotdm_emulation_report": lambda: report}

    def __getitem__(self, name):
        function = self.functions.get(name, lambda *_: 8)
        return type("Function", (), {"__call__": staticmethod(function)})()


def call(monkeypatch, forward, report=None):
    monkeypatch.setattr(emulated_build, "kernels", lambda width: Library(lambda made, _: forward(made._obj), report))
    x, h, *params = temporal_inputs(2, 3, 2, 5)
    return Call(x, h, params).forward()


def test_outputs_are_what_the_function_wrote_and_nan_elsewhere(monkeypatch):
    def forward(made):
        assert (made.in_.num_nodes, made.in_.num_frames, made.in_.dim, made.in_.width) == (2, 3, 2, 5)
        assert (made.in_.num_turns, made.in_.time_emb_dim, made.in_.window, made.in_.precision) == (12, 13, 3, 0)
        assert all(p % 256 == 0 for p in (made.in_.x, made.in_.params[3], made.x_out, made.workspace))
        write(made.x_out + 4, 7.0)

    x_out, h_out = call(monkeypatch, forward)
    assert x_out[0, 0, 1] == 7 and x_out.isnan().sum() == 11 and h_out.isnan().all() and h_out.shape == (2, 3, 5)


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (lambda made: write(made.x_out + 48), "0 bytes after x_out, of 48, are written"),
        (lambda made: write(made.h_out - 4), "1 bytes before h_out, of 120, are written"),
        (lambda made: write(made.workspace + 8), "0 bytes after workspace, of 8, are written"),
        (lambda made: write(made.in_.h), "h is an input and is written"),
        (lambda made: write(made.in_.params[17]), "time_b is an input and is written"),
    ],
)
def test_what_is_written_elsewhere_is_seen(forward, message, monkeypatch):
    with pytest.raises(MemoryError, match=message):
        call(monkeypatch, forward)


def test_errors_and_reports_are_raised(monkeypatch):
    with pytest.raises(RuntimeError, match="temporal_attention_forward: no such width"):
        call(monkeypatch, lambda made: b"no such width")
    with pytest.raises(RuntimeError, match="temporal_attention_forward: threads disagree"):
        call(monkeypatch, lambda made: None, report=b"threads disagree")


def test_structures_have_the_header_s_sizes():
    """All members are of 4 or 8 bytes and none is padded."""
    in_ = 8 + 8 * 4 + 3 * 8 + 18 * 8
    assert ctypes.sizeof(emulated_temporal.TemporalAttention) == in_
    assert ctypes.sizeof(emulated_temporal.TemporalForward) == in_ + 3 * 8
    assert ctypes.sizeof(emulated_temporal.TemporalBackward) == in_ + 4 * 8 + 18 * 8 + 8


@pytest.mark.parametrize("time_emb_dim", [1, 2, 5, 32])
def test_turns_are_the_halves_of_the_sinusoid(time_emb_dim):
    """psi's angles are differences: sin(a - b) = sin a cos b - cos a sin b."""
    frames = [0, 3, 4, 40]
    table = turns(frames, time_emb_dim)
    n = time_emb_dim // 2
    assert table.shape == (4, 2 * n)
    cos, sin = table[:, 0::2].double(), table[:, 1::2].double()
    expected = sinusoid(torch.tensor([40 - 3]), time_emb_dim, torch.float64)[0]
    assert (sin[3] * cos[1] - cos[3] * sin[1] - expected[:n]).abs().sum() < 1e-6 * max(n, 1)
    assert (cos[3] * cos[1] + sin[3] * sin[1] - expected[n : 2 * n]).abs().sum() < 1e-6 * max(n, 1)


def test_an_empty_buffer_has_margins_too():
    buffer = Buffer("x", 0)
    buffer.check()
    write(buffer.address)
    with pytest.raises(MemoryError, match="0 bytes after x, of 0"):
        buffer.check()
