"""What an experiment is that the paper has not."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Simulation:
    """What one experiment forecasts, by which network, and what of it is scored.

    about: what the data are; made_by: the command that makes their file, or what it holds
    given, drawn: frames of a window; stride: frames from one window to the next, of train and of val and test
    section: keys of all data sections; network, diffusion, train: what differs from the `small` preset
    scores: scores of molecules beside ADE and FDE; r_max: where radial distribution functions end (angstrom)
    num_graphs: test windows at most; num_samples, steps: drawn for each of them, by how many calls of the network
    structure: of models of Align Your Structures, denoise_model, diffusion and train of the structure model that is
        trained before; None: of GeoTDM
    """

    about: str
    made_by: str
    given: int
    drawn: int
    stride: tuple[int, int]
    section: dict[str, Any]
    network: dict[str, Any]
    train: dict[str, Any]
    scores: tuple[str, ...]
    r_max: float = 8.0
    num_graphs: int = 20
    diffusion: dict[str, Any] = field(default_factory=dict)
    num_samples: int = 5
    steps: int = 5
    structure: dict[str, dict[str, Any]] | None = None
