"""Quality against steps: pieces that resume, a verdict that follows from the rows."""

import json

import numpy as np
import pytest
from PIL import Image
from tiny_models import charged_config, ethanol_config, write_checkpoint, write_ethanol

from bench.sampling import steps, steps_report

SMALL = ["--num-graphs", "2", "--num-samples", "2", "--seeds", "2", "--steps", "2", "5", "--threads", "1", "--quiet"]


def command(tmp_path, checkpoint, *more):
    out = ["--out", str(tmp_path / "steps.jsonl"), "--plot", str(tmp_path / "steps.png")]
    return ["--checkpoint", str(checkpoint), *SMALL, *out, *more]


def lines(tmp_path):
    return [json.loads(line) for line in (tmp_path / "steps.jsonl").read_text().splitlines()]


def test_pieces_table_verdict_and_resume(tmp_path, capsys, monkeypatch):
    checkpoint = write_checkpoint(tmp_path / "charged.safetensors", charged_config())
    words = command(tmp_path, checkpoint, "--methods", "ddim", "--spacing", "log_snr")
    real, left = steps.sample, 3

    def interrupted(*args, **options):
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return real(*args, **options)

    monkeypatch.setattr(steps, "sample", interrupted)
    assert steps.main(words) == 130
    assert len(lines(tmp_path)) == 3
    with open(tmp_path / "steps.jsonl", "a") as file:
        file.write('{"benchmark": "ste')  # as a kill leaves it
    left = 5
    assert steps.main(words) == 0, "five pieces are left of 2 seeds x (ddpm 25; ddim 25, 5, 2)"
    printed = capsys.readouterr().out
    assert "2 graphs x 2 samples, 2 seeds" in printed and "NLL at most" in printed
    assert "How few steps cost nothing" in printed and "ddim log_snr fp32:" in printed
    left = 0
    before = (tmp_path / "steps.jsonl").read_text()
    assert steps.main(words) == 0, "nothing is left to draw"
    assert (tmp_path / "steps.jsonl").read_text() == before
    rows = [json.loads(line) for line in before.splitlines() if line.endswith("}")]
    assert [(row["method"], row["steps"], row["seed"]) for row in rows if "ade_mean" in row] == [
        (method, count, seed)
        for seed in (0, 1)
        for method, count in (("ddpm", 25), ("ddim", 25), ("ddim", 5), ("ddim", 2))
    ]
    assert rows[0]["seconds"] > 0 and rows[0]["marginal"] > 0 and rows[0]["variety"] > 0 and "commit" in rows[0]
    with Image.open(tmp_path / "steps.png") as picture:
        assert picture.size[0] > 900
    left = 1
    assert steps.main([*words, "--num-samples", "1"]) == 130, "another request has pieces of its own"


def test_unconditional_molecules_with_data_of_ones_own(tmp_path, capsys):
    write_ethanol(tmp_path / "ethanol.npz")
    checkpoint = write_checkpoint(tmp_path / "ethanol.safetensors", ethanol_config("elsewhere.npz"))
    data = ["--data", str(tmp_path / "ethanol.npz"), "--methods", "ddpm", "--spacing", "uniform", "--precision", "bf16"]
    assert steps.main(command(tmp_path, checkpoint, *data)) == 0
    printed = capsys.readouterr().out
    assert "ADE" not in printed.split("How few")[0] and "marginal" in printed and "ddpm uniform bf16:" in printed
    precisions = {(row["steps"], row["precision"]) for row in lines(tmp_path) if "precision" in row}
    assert precisions == {(25, "fp32"), (25, "bf16"), (5, "bf16"), (2, "bf16")}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--seeds", "1"], "--seeds must be at least 2"),
        (["--methods", "dpm"], "method must be one of"),
        (["--checkpoint", "none.safetensors"], "none.safetensors: no such file"),
        (["--data", "none.npz"], "--data none.npz: no such file or folder"),
    ],
)
def test_users_errors(tmp_path, capsys, more, message):
    checkpoint = write_checkpoint(tmp_path / "charged.safetensors", charged_config())
    assert steps.main([*command(tmp_path, checkpoint), *more]) == 2
    assert message in capsys.readouterr().err


def test_variety():
    samples = np.zeros((3, 4, 2, 5))
    samples[1, :, 0] = 3.0
    samples[2, :, 1] = 4.0
    assert steps.variety(samples) == pytest.approx((3 + 4 + 5) / 3)


def rows_of(values: dict) -> list[dict]:
    """(method, steps) to the ADE, the variety and the seconds of three seeds."""
    return [
        {"method": method, "steps": count, "spacing": "uniform", "precision": "fp32", "total_steps": 100, "seed": seed}
        | {"ade_mean": ade + 0.1 * (seed - 1), "variety": variety + 0.1 * (seed - 1), "seconds": seconds}
        for (method, count), (ade, variety, seconds) in values.items()
        for seed in range(3)
    ]


def test_verdict_follows_from_the_rows():
    rows = rows_of(
        {
            ("ddpm", 100): (1.0, 2.0, 1.0),  # standard deviation 0.1
            ("ddpm", 50): (1.19, 2.0, 0.5),
            ("ddpm", 20): (1.21, 2.0, 0.2),  # too far
            ("ddim", 20): (0.2, 2.0, 0.25),  # better is no harm
            ("ddim", 10): (0.2, 1.7, 0.1),  # lost its variety
            ("ddim", 5): (0.2, 2.3, 0.05),
            ("dpmpp_2m", 10): (9.0, 2.0, 0.1),
        }
    )
    text = steps_report.verdict(rows)
    assert "ddpm uniform fp32: 50\n" in text and "ddim uniform fp32: 20\n" in text
    assert "dpmpp_2m uniform fp32: none of 10" in text
    assert "ddim with 20 steps (uniform, fp32), 4.0 times as fast" in text
