"""What a `Sampler` may be asked for of a model, and the words of whoever asks for it."""

from typing import NamedTuple

from geotdm_fast.diffusion import ays_ddim
from geotdm_fast.diffusion.framed import FramedDiffusion
from geotdm_fast.runtime.checks import as_whole
from geotdm_fast.runtime.choices import check_choice


class OptionNames(NamedTuple):
    """What the messages of errors call the options: `Sampler: num_steps`, `forecast: steps`, `--steps`."""

    method: str
    steps: str
    spacing: str
    eta: str

    @classmethod
    def of(cls, where: str, steps: str = "steps") -> "OptionNames":
        """Those of arguments of `where`, whose name for the calls of the network is `steps`."""
        return cls(*(f"{where}: {name}" for name in ("method", steps, "spacing", "eta")))


def checked_options(
    diffusion: FramedDiffusion,
    method: str | None,
    num_steps: int | None,
    spacing: str,
    eta: float,
    names: OptionNames,
) -> tuple[str, int]:
    """The method and the number of calls, filled in; options are those of `Sampler`, which has what they mean.

    Raises ValueError and TypeError as `Sampler` does, in the words of `names`.
    """
    method = diffusion.methods[0] if method is None else method
    check_choice(names.method, method, diffusion.methods)
    total = diffusion.num_timesteps
    num_steps = None if num_steps is None else as_whole(names.steps, num_steps)
    if diffusion.calls is not None:
        _check_student(diffusion.calls, method, num_steps, eta, names)
        num_steps = diffusion.calls
    if method == ays_ddim.NAME:
        _check_ays_ddim(diffusion, num_steps, spacing, names)
        num_steps = num_steps or total - 1
    check_choice(names.spacing, spacing, diffusion.spacings)
    if num_steps is not None and not 1 <= num_steps <= total:
        raise ValueError(f"{names.steps} must be in 1..{total}, the model's steps, got {num_steps}")
    if not 0 <= eta <= 1:
        raise ValueError(f"{names.eta} must be in 0..1, got {eta}")
    if eta and method not in ("ddim", ays_ddim.NAME):
        raise ValueError(f"{names.eta} is of the methods 'ddim' and 'ays_ddim' alone, got {eta} with '{method}'")
    return method, num_steps or total


def _check_student(calls: int, method: str, num_steps: int | None, eta: float, names: OptionNames) -> None:
    """ValueError where a student is asked for more than it was distilled to."""
    if num_steps not in (None, calls):
        raise ValueError(
            f"{names.steps} must be {calls}, the calls that this student was distilled to (or left out), got "
            f"{num_steps}; its teacher draws in more"
        )
    if method == ays_ddim.NAME:
        raise ValueError(f"{names.method} 'ays_ddim' stops before the data, which a student of one call cannot")
    if eta:
        raise ValueError(f"{names.eta} must be 0 of a student, whose one call adds no noise, got {eta}")


def _check_ays_ddim(diffusion: FramedDiffusion, num_steps: int | None, spacing: str, names: OptionNames) -> None:
    """ValueError where the method `ays_ddim` cannot be."""
    if diffusion.mode != "uncond":
        raise ValueError(f"{names.method} 'ays_ddim' is of mode 'uncond', got a model of mode '{diffusion.mode}'")
    if spacing != "uniform":
        raise ValueError(f"{names.spacing} must be 'uniform' for 'ays_ddim', which has its own, got '{spacing}'")
    most = diffusion.num_timesteps - 1
    if num_steps is not None and not 1 <= num_steps <= most:
        raise ValueError(f"{names.steps} must be in 1..{most} for 'ays_ddim', got {num_steps}")
