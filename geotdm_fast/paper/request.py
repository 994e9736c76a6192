"""What one asks of `geotdm reproduce`: which experiment, on which data, changed how."""

from dataclasses import dataclass

from geotdm_fast.data.pedestrian import SCENES
from geotdm_fast.paper.simulations import SIMULATIONS, is_simulation
from geotdm_fast.runtime.choices import check_choice
from geotdm_fast.scores.published import CONDITIONAL, INTERPOLATION, UNCONDITIONAL

SYSTEMS = ("charged", "springs", "gravity")
TASKS = (CONDITIONAL, UNCONDITIONAL, INTERPOLATION)
PRESETS = ("paper", "small")
MOLECULE = "md:"
MD17_MOLECULES = (
    "aspirin", "benzene", "ethanol", "malonaldehyde", "naphthalene", "salicylic", "toluene", "uracil",
)  # fmt: skip


@dataclass(frozen=True)
class Request:
    """What is to be reproduced.

    experiment: charged, springs, gravity, md:<molecule>, eth, hotel, univ, zara1, zara2, or one of `SIMULATIONS`
    task: conditional, unconditional or interpolation (pedestrians and `SIMULATIONS`: conditional alone)
    preset: `paper`, or `small` for two cores and half an hour (`SIMULATIONS`, which are not the paper's: small alone)
    data: folder of the official N-body files (None: simulated), of the recordings, or folder or file of the molecule;
        file of a simulation
    every: keep every so-manieth frame of a molecule; None: 10 for MD17's own files (md17_*.npz), else 1
    label: what the data are, for the tables; None: by the experiment and the files' names
    overrides: `section.key=value` texts, as for `geotdm train --set`
    num_graphs, num_samples, method, steps, spacing: of the samples; None: as the preset says
    seed: of training and samples
    """

    experiment: str
    task: str = CONDITIONAL
    preset: str = "paper"
    data: str | None = None
    every: int | None = None
    label: str | None = None
    overrides: tuple[str, ...] = ()
    num_graphs: int | None = None
    num_samples: int | None = None
    method: str | None = None
    steps: int | None = None
    spacing: str | None = None
    seed: int = 1

    @property
    def changes(self) -> tuple[str, ...]:
        """What is asked for beside the preset, as one types it: `section.key=value`, `--option value`."""
        options = ("every", "num_graphs", "num_samples", "method", "steps", "spacing")
        asked = {name: getattr(self, name) for name in options}
        if self.seed != type(self).seed:
            asked["seed"] = self.seed
        typed = (f"--{name.replace('_', '-')} {value}" for name, value in asked.items() if value is not None)
        return (*self.overrides, *typed)


def is_pedestrian(experiment: str) -> bool:
    """Whether the experiment is a scene of ETH/UCY."""
    return experiment in SCENES


def is_molecule(experiment: str) -> bool:
    """Whether the experiment is a molecule, md:<name>."""
    return experiment.startswith(MOLECULE)


def trains_on_windows(request: Request) -> bool:
    """Whether the training has all windows of a system, not the first alone."""
    return request.experiment in SYSTEMS and request.preset == "small" and request.task == CONDITIONAL


def check_request(request: Request) -> None:
    """Raise ValueError for an experiment, task or preset that does not exist or does not go with another."""
    known = (*SYSTEMS, *SCENES, *SIMULATIONS)
    if request.experiment in MD17_MOLECULES:
        raise ValueError(f"reproduce: experiment must be md:{request.experiment} for the molecule of that name")
    if not is_molecule(request.experiment):
        check_choice("reproduce: experiment (or md:<molecule>)", request.experiment, known)
    elif request.experiment == MOLECULE:
        raise ValueError("reproduce: md: must name a molecule, as in md:ethanol")
    check_choice("reproduce: task", request.task, TASKS)
    check_choice("reproduce: preset", request.preset, PRESETS)
    if is_pedestrian(request.experiment) and request.task != CONDITIONAL:
        raise ValueError(f"reproduce: pedestrians have the task conditional alone, got '{request.task}'")
    if is_simulation(request.experiment) and (request.task, request.preset) != (CONDITIONAL, "small"):
        raise ValueError(
            f"reproduce: {request.experiment} has the task conditional and the preset small alone (--preset small), "
            f"got '{request.task}' and '{request.preset}'"
        )
    if request.every is not None and not is_molecule(request.experiment):
        raise ValueError("reproduce: every is of molecules alone")
