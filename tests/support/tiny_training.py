"""A training that takes milliseconds a step, for the tests of training."""

import json
import pathlib

from warm_python import WarmPython

from geotdm_fast.checkpoint import load_tensors
from geotdm_fast.config.files import normalise_config

# Without the picture, which takes longer than the training.
RUN = """
import json, sys, torch
torch.set_num_threads(1)
from geotdm_fast.training import output, train
output.Output._draw = lambda self: None
train(json.loads(sys.argv[1]), output_dir=sys.argv[2], device="cpu", progress=False)
"""


def tiny_config(**train) -> dict:
    """Six charged systems of three given frames and three to predict, batches of four and two."""
    section = lambda split, count: {"kind": "nbody", "system": "charged", "split": split, "num_systems": count}
    return normalise_config(
        {
            "data": {split: section(split, count) | {"num_frames": 6} for split, count in (("train", 6), ("val", 3))},
            "denoise_model": {
                "n_layers": 1,
                "node_dim": 1,
                "edge_dim": 1,
                "hidden_dim": 16,
                "time_emb_dim": 8,
                "learn_ref_frame": True,
                "n_layers_ref": 1,
                "num_w": 3,
            },
            "diffusion": {"beta_schedule_name": "linear", "num_timesteps": 25},
            "train": {
                "exp_name": "tiny",
                "cond_mask": [[0, 3]],
                "batch_size": 4,
                "num_steps": 10,
                "lr": 1e-3,
                "ema_decay": 0.9,
                "log_every_step": 3,
                "eval_every_epoch": 2,
                "checkpoint_every_steps": 4,
                "checkpoint_every_minutes": None,
                **train,
            },
        }
    )


def start(config: dict, output: pathlib.Path) -> WarmPython:
    """The training in a process of its own, on one thread."""
    return WarmPython("-c", RUN, json.dumps(config), str(output))


def steps_logged(output: pathlib.Path) -> int:
    """The last step in the log of a run that may be writing it."""
    log = output / "log.jsonl"
    lines = log.read_text().split("\n")[:-1] if log.is_file() else []
    return json.loads(lines[-1])["step"] if lines else 0


def log_of(output: pathlib.Path) -> list[dict]:
    """The log's records without what depends on the clock."""
    records = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in r.items() if k not in ("seconds", "graphs_per_second")} for r in records]


def assert_same_run(one: pathlib.Path, other: pathlib.Path) -> None:
    """Every number that two runs left is the same, bit for bit."""
    for name in ("last", "best", "state"):
        a, _ = load_tensors(one / f"{name}.safetensors")
        b, _ = load_tensors(other / f"{name}.safetensors")
        assert a.keys() == b.keys()
        different = [key for key in a if a[key].numpy().tobytes() != b[key].numpy().tobytes()]
        assert not different, f"{name}: {different}"
    assert log_of(one) == log_of(other)
