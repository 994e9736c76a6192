"""What CHECKPOINT stands for on the command line."""

from pathlib import Path

from geotdm_fast import checkpoint_paths
from geotdm_fast.cli.telling import tell

HELP = (
    "file of weights (.safetensors, .pt), the folder of a training, or the name of a model that comes with the package"
)


def checkpoint_file(text: str) -> Path:
    """As `geotdm_fast.checkpoint_paths.checkpoint_file`; what is taken of a folder is told."""
    path = checkpoint_paths.checkpoint_file(text)
    if Path(text).is_dir():
        tell(f"{text}: taking {path.name}")
    return path
