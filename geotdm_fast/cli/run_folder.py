"""The folder of a training, ours or the official code's: its weights by name, and the configuration beside them."""

import json
from pathlib import Path


def weights_in(folder: Path, name: str | int, where: str) -> Path:
    """The file of the weights that a configuration calls `name`: best, last, or the number of an epoch.

    where: the key that named them, for messages. Raises FileNotFoundError naming the files that were looked for.
    """
    ours = name if name in ("best", "last") else f"epoch_{str(name).removeprefix('epoch_')}"
    candidates = [folder / f"{ours}.safetensors", folder / f"ckpt_{name}.pt"]
    for path in candidates:
        if path.is_file():
            return path
    looked_for = " nor ".join(map(str, candidates))
    raise FileNotFoundError(
        f"{where}: '{name}' must be the weights of a training in {folder}; found neither {looked_for}"
    )


def training_file_in(folder: Path) -> Path:
    """The YAML that an official training copied into its folder.

    Raises FileNotFoundError for none, ValueError for several; --config names one.
    """
    from geotdm_fast.config.files import read_yaml

    found = [path for path in sorted(folder.glob("*.yaml")) if "train" in read_yaml(path)]
    if len(found) == 1:
        return found[0]
    expected = f"{folder} must hold the YAML file of the training beside its weights"
    if not found:
        raise FileNotFoundError(f"{expected}, got none; --config FILE.yaml names it")
    names = ", ".join(path.name for path in found)
    raise ValueError(f"{expected}, one alone, got {names}; --config FILE.yaml says which")


def is_training(folder: Path) -> bool:
    """Whether `geotdm train` wrote weights into the folder."""
    return (folder / "last.safetensors").is_file()


def final_test_weights(folder: Path) -> Path:
    """The weights that `train.final_test_ckpt` of the training in `folder` names."""
    from geotdm_fast.checkpoint import CONFIG_KEY, load_tensors

    _, metadata = load_tensors(folder / "last.safetensors")
    train = json.loads(metadata.get(CONFIG_KEY, "{}")).get("train", {})
    return weights_in(folder, train.get("final_test_ckpt", "best"), "train.final_test_ckpt")
