"""The data of trainings of Align Your Structures: sets by shares, epochs of runs, frames on disk."""

import numpy as np
import pytest
import torch
from ays_trainings import folder_of_runs, run, source_of
from tiny_ays import SIZES, SPAN, WATER, interpolator_config, raw_config
from tiny_training import assert_same_run, log_of

from geotdm_fast.config.files import normalise_config
from geotdm_fast.data import open_dataset
from geotdm_fast.training.random_streams import mixed_order
from geotdm_fast.training.shares import shares_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return folder_of_runs(tmp_path_factory)


def test_sets_are_drawn_by_their_shares(folder):
    order = mixed_order(0, 1, [10, 30], [3.0, 1.0])
    assert len(order) == 40 and 22 <= int((order < 10).sum()) <= 37
    first = order[order < 10][:10]
    assert sorted(first.tolist()) == list(range(10))  # all of a set before one of it again
    assert not torch.equal(order, mixed_order(0, 2, [10, 30], [3.0, 1.0]))
    assert mixed_order(0, 0, [3, 4], [1.0, 0.0]).max() < 3
    config = interpolator_config(folder)
    source = source_of(config, shares=[(6, 0.0), (len(open_dataset(config["data"]["train"])) - 6, 1.0)])
    assert min(int(source.training(step)[0].items.min()) for step in range(4)) >= 6
    config["data"]["train"]["ratio"] = [0.5, 0.5]
    run(config, folder / "mixed")
    section = config["data"]["train"] | {"path": [str(folder / "[ew]*.npz"), str(folder / "water.npz")]}
    data = open_dataset(section | {"ratio": [2, 1]})
    (all_of_both, _), (water, _) = shares_of(section | {"ratio": [2, 1]}, data)
    assert all_of_both + water == len(data) and water < all_of_both
    # A file at several lags, or with molecules side by side, is one entry.
    lags = section | {"every": [1, 2], "ratio": [2, 1]}
    data = open_dataset(lags)
    alone = [len(open_dataset(lags | {"path": [path], "ratio": [1]})) for path in lags["path"]]
    assert shares_of(lags, data) == [(alone[0], 2), (alone[1], 1)] and sum(alone) == len(data)
    pair = folder / "pair.npz"
    z, jitter = np.array([8, 1, 1, 8, 1, 1]), 0.03 * np.random.default_rng(0).normal(size=(20, 6, 3))
    frames = np.concatenate([WATER, WATER + 5]) + jitter
    np.savez(pair, R=frames, z=z, batch=np.array([0, 0, 0, 1, 1, 1]), edge_index=np.array([[0, 1, 3, 4], [1, 0, 4, 3]]))
    side = section | {"path": [str(pair)], "ratio": [1], "split_ratio": [1, 0, 0]}
    data = open_dataset(side)
    assert len(data.items.parts) == 2 and shares_of(side, data) == [(len(data), 1)]
    config["data"]["train"] |= {"split_by": "replica", "split_ratio": [0.5, 0.5, 0]}
    with pytest.raises(
        ValueError, match=r"data\.train: ratio needs windows of all 2 entries of the list, of which 1 have some"
    ):
        run(config, folder / "mixed_wrong")


def test_an_epoch_of_runs_has_a_window_of_each(folder):
    config = interpolator_config(folder, num_steps=None, num_epochs=3, epoch="runs", batch_size=1, log_every_step=1)
    config["train"] |= {"eval_every_epoch": 2, "checkpoint_every_steps": None}
    run(config, folder / "epochs")
    log = log_of(folder / "epochs")
    assert [(line["step"], line["epoch"]) for line in log if "loss" in line] == [(i, (i + 1) // 2) for i in range(1, 7)]
    assert [line["step"] for line in log if "val_loss" in line] == [4, 6]
    raw = raw_config(folder)
    raw["data"] = {"train": {"kind": "conformers", "path": str(folder / "conformers.npz")}}
    raw["denoise_model"] = {"type": "basic_es", **SIZES}
    raw["train"]["epoch"] = "runs"
    with pytest.raises(ValueError, match=r"train\.epoch runs needs data\.train\.kind npz or file, .* got conformers"):
        normalise_config(raw)


def test_frames_on_disk_train_alike(tmp_path):
    rng = np.random.default_rng(0)
    rows = lambda frame: "".join(f"{s} {a} {b} {c}\n" for s, (a, b, c) in zip("OHH", frame, strict=True))
    frames = [WATER + 3 + 0.02 * rng.normal(size=(3, 3)) for _ in range(30)]
    (tmp_path / "w.xyz").write_text("".join(f"3\nwater\n{rows(frame)}" for frame in frames))
    section = {"kind": "file", "path": str(tmp_path / "w.xyz"), "span": SPAN}
    raw = raw_config(tmp_path) | {"data": {"train": section | {"cache": str(tmp_path / "cache")}}}
    run(normalise_config(raw), tmp_path / "cached")
    run(normalise_config(raw | {"data": {"train": section}}), tmp_path / "plain")
    assert_same_run(tmp_path / "cached", tmp_path / "plain")
