"""The marginal score and its channels."""

import math

import pytest
import torch
from places import GOLDEN

from geotdm_fast.metrics import bond_lengths, close_pairs, coordinate_channels, marginal_distances, marginal_score
from geotdm_fast.runtime.files import read_npz


def test_golden():
    golden = read_npz(GOLDEN / "marginal_score.npz")
    real, fake = torch.from_numpy(golden["real"]), torch.from_numpy(golden["fake"])
    num_bins = int(golden["n_bins"])
    assert marginal_score(real, fake, num_bins) == pytest.approx(float(golden["score"]), rel=2e-5)
    torch.testing.assert_close(
        marginal_distances(real, fake, num_bins).float(),
        torch.from_numpy(golden["score_componentwise"]),
        rtol=2e-5,
        atol=0,
    )


def test_by_hand():
    # Two bins, [0, 1) and [1, 2], of width 1: densities 3/4 and 1/4 against 1/3 and 1/3 (one value lies outside).
    real = torch.tensor([0.0, 0.5, 0.9, 2.0]).view(2, 2, 1)
    fake = torch.tensor([0.1, 1.5, 7.0]).view(1, 3, 1)
    assert marginal_score(real, fake, num_bins=2) == pytest.approx((3 / 4 - 1 / 3 + 1 / 3 - 1 / 4) / 2)
    # Twice as wide, half as dense; a second channel is averaged with the first.
    torch.testing.assert_close(
        marginal_distances(torch.cat([real, 2 * real], 2), torch.cat([fake, 2 * fake], 2), num_bins=2),
        torch.tensor([0.25, 0.125], dtype=torch.float64),
    )


def test_zero_for_itself_in_any_order_and_float64():
    real = torch.randn(50, 20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert marginal_score(real, real.flip(0, 1)) == 0.0
    assert marginal_score(real, real + 0.1) > 0.01


def test_channels_of_bodies():
    x = torch.arange(24.0).view(4, 3, 2)
    channels = coordinate_channels(x)
    assert channels.shape == (4, 2, 3)
    assert channels[1, 0].tolist() == x[1, :, 0].tolist()


def test_bond_lengths_by_hand():
    # Atom 1 moves away from atom 0 along (3, 4, 0) t; atom 2 stays far off.
    t = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    x = torch.zeros(1, 3, 3, 3, dtype=torch.float64)
    x[0, 1, 0], x[0, 1, 1], x[0, 2, 2] = 3 * t, 4 * t, 12.0
    lengths = bond_lengths(x, torch.tensor([[0, 2], [1, 1]]))
    torch.testing.assert_close(lengths, torch.stack([5 * t, (144 + 25 * t**2).sqrt()], -1)[None])


def test_close_pairs():
    positions = torch.tensor([[0.0, 0, 0], [1.5, 0, 0], [3.0, 0, 0], [3.0, 1.6, 0]], dtype=torch.float64)
    assert close_pairs(positions).tolist() == [[0, 1], [1, 2]]
    assert close_pairs(positions, cutoff=1.7).tolist() == [[0, 1, 2], [1, 2, 3]]


OK = torch.rand(3, 4, 2)


@pytest.mark.parametrize(
    ("real", "fake", "num_bins", "message"),
    [
        (OK[0], OK, 5, r"marginal_score: real must be \[B, T, C\], none of them 0, got \[4, 2\]"),
        (OK[:0], OK, 5, r"real must be \[B, T, C\], none of them 0, got \[0, 4, 2\]"),
        (OK, OK[..., :1], 5, r"fake must be \[B, T, 2\], got \[3, 4, 1\]"),
        (OK, OK, 0, "num_bins must be at least 1, got 0"),
        (OK, OK / 0, 5, "fake must be finite, got 24 NaN or Inf of 24 numbers"),
        (OK * math.nan, OK, 5, "real must be finite, got 24 NaN or Inf of 24 numbers"),
        (OK * torch.tensor([1.0, 0.0]), OK, 5, "real must vary in every channel, got 0 throughout in channel 1"),
    ],
)
def test_score_errors_say_what_is_wrong(real, fake, num_bins, message):
    with pytest.raises(ValueError, match=message):
        marginal_score(real, fake, num_bins)


def test_channel_errors_say_what_is_wrong():
    x = torch.zeros(2, 3, 3, 4)
    with pytest.raises(ValueError, match=r"coordinate_channels: x must be \[N, D, T\], got \[2, 3, 3, 4\]"):
        coordinate_channels(x)
    with pytest.raises(ValueError, match=r"bond_lengths: x must be \[B, N, D, T\], got \[3, 3, 4\]"):
        bond_lengths(x[0], torch.zeros(2, 1, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"bond_lengths: edge_index must be \[2, C\] int64, got \[3, 1\]"):
        bond_lengths(x, torch.zeros(3, 1, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"bond_lengths: edge_index must name atoms 0..2, got 0..3"):
        bond_lengths(x, torch.tensor([[0], [3]]))
    with pytest.raises(ValueError, match=r"close_pairs: positions must be \[N, D\], got \[3\]"):
        close_pairs(torch.zeros(3))
    with pytest.raises(ValueError, match="close_pairs: cutoff must be positive, got -1"):
        close_pairs(torch.zeros(3, 3), cutoff=-1)
