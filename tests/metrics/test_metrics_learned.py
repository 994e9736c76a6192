"""The classification and prediction scores on toy trajectories whose answer is known."""

import math

import pytest
import torch

from geotdm_fast.metrics import classification_score, prediction_score

QUICK = {"num_epochs": 8, "progress": False}


def walks(seed: int, num_graphs: int = 400, step: float = 1.0) -> torch.Tensor:
    """Random walks [B, 3, 3, 12]."""
    generator = torch.Generator().manual_seed(seed)
    return step * torch.randn(num_graphs, 3, 3, 12, generator=generator).cumsum(-1)


def lines(seed: int, curve: float = 0.0, num_graphs: int = 200) -> torch.Tensor:
    """Motions [B, 3, 3, 12] of constant velocity, or of an acceleration of `curve` along it."""
    generator = torch.Generator().manual_seed(seed)
    start, velocity = torch.randn(2, num_graphs, 3, 3, 1, generator=generator)
    time = torch.linspace(0, 1, 12)
    return start + velocity * (time + curve * time**2)


def test_classifier_cannot_tell_equal_from_equal_and_tells_different():
    same = classification_score(walks(0), walks(1), **QUICK)
    assert same == pytest.approx(math.log(2), abs=0.05)
    different = classification_score(walks(0), walks(1, step=2.0), **QUICK)
    assert different < 0.45


def test_classifier_reads_single_node_features_and_no_others():
    real, fake = walks(0, 40), walks(1, 40)
    h = torch.randn(40, 3, 1, generator=torch.Generator().manual_seed(2))
    without = classification_score(real, fake, num_epochs=1, progress=False)
    assert classification_score(real, fake, h, num_epochs=1, progress=False) != without
    assert classification_score(real, fake, h.expand(-1, -1, 2), num_epochs=1, progress=False) == without


def test_prediction_is_better_from_samples_that_move_as_the_real_ones():
    quick = {"num_given": 6, "num_epochs": 40, "progress": False}
    good = prediction_score(lines(0), lines(1), **quick)
    bad = prediction_score(lines(0), lines(1, curve=-3.0), **quick)
    assert good < 0.5 * bad


@pytest.mark.parametrize("score", [classification_score, prediction_score])
def test_seeded_and_apart_from_the_global_generator(score):
    quick = {"num_epochs": 2, "progress": False}
    real, fake = walks(0, 30), walks(1, 30)
    state = torch.random.get_rng_state()
    first = score(real, fake, seed=1, **quick)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(3)
    assert score(real, fake, seed=1, **quick) == first
    assert score(real, fake, seed=2, **quick) != first


def test_float64_and_two_dimensions():
    real, fake = walks(0, 20)[:, :, :2].double(), walks(1, 20)[:, :, :2].double()
    assert math.isfinite(classification_score(real, fake, num_epochs=1, progress=False))
    single = prediction_score(real.float(), fake.float(), num_epochs=1, progress=False)
    assert prediction_score(real, fake, num_epochs=1, progress=False) == pytest.approx(single, rel=1e-4)


def test_progress_is_shown_unless_silenced(capsys):
    prediction_score(walks(0, 4), walks(1, 4), num_epochs=1, progress=False)
    assert capsys.readouterr().err == ""
    prediction_score(walks(0, 4), walks(1, 4), num_epochs=1)
    assert "prediction score" in capsys.readouterr().err


X = torch.zeros(2, 3, 3, 12)


@pytest.mark.parametrize("score", [classification_score, prediction_score])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"real": X[0]}, r"real must be \[B, N, D, T\], none of them 0, got \[3, 3, 12\]"),
        ({"real": X[:0]}, r"real must be \[B, N, D, T\], none of them 0, got \[0, 3, 3, 12\]"),
        ({"fake": X[:1]}, r"fake must be \[2, 3, 3, 12\] like real, got \[1, 3, 3, 12\]"),
        ({"real": X + math.nan}, "real must be finite, got 216 NaN or Inf of 216 numbers"),
        ({"fake": X + math.inf}, "fake must be finite, got 216 NaN or Inf of 216 numbers"),
        ({"h": X[..., 0, 0]}, r"h must be \[2, 3, F\], got \[2, 3\]"),
        ({"num_epochs": 0}, "num_epochs must be at least 1, got 0"),
    ],
)
def test_errors_say_what_is_wrong(score, change, message):
    with pytest.raises(ValueError, match=f"{score.__name__}: {message}"):
        score(**({"real": X, "fake": X} | change))


def test_number_of_given_frames():
    with pytest.raises(ValueError, match=r"prediction_score: num_given must be in 1..11, got 12"):
        prediction_score(X, X, num_given=12)
