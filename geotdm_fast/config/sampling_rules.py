"""How a model is best drawn, where its configuration says it: the section `sampling`."""

from collections.abc import Mapping

from geotdm_fast.config.settings import DIFFUSION, SAMPLING, converted, fill
from geotdm_fast.runtime.choices import check_choice, require_sections

SECTION = "sampling"
# What a model of each kind can be recommended. Of `Sampler`, whose `ays_ddim` is for those who ask for it.
METHODS = {"gaussian": ("ddpm", "ddim", "dpmpp_2m", "dpmpp_2m_sde"), "flow": ("euler", "heun", "ab2")}
SPACINGS = {"gaussian": ("uniform", "quadratic", "log_snr"), "flow": ("uniform", "quadratic", "early")}
_OF_DIFFUSION = ("kind", "num_timesteps", "calls")


def recommended_sampling(config: Mapping, where: str = "config") -> dict | None:
    """{method, steps, spacing} of the section `sampling`, filled in and checked; None where there is none.

    config: a configuration whose section `diffusion` is checked. steps: None for all of the model's
    Raises ValueError naming the key, for a method and a spacing of another kind of diffusion, for more steps than the
    model has, for a student, which draws in its own number of calls, and for a configuration without `diffusion`.
    """
    if config.get(SECTION) is None:
        return None
    require_sections(f"{where}: the configuration", config, "diffusion")
    given = {key: config["diffusion"][key] for key in _OF_DIFFUSION if key in config["diffusion"]}
    diffusion = converted(given, DIFFUSION, f"{where}: diffusion")
    where = f"{where}: {SECTION}"
    section = fill(config[SECTION], SAMPLING, where)
    if diffusion.get("calls") is not None:
        raise ValueError(f"{where} must be left out of a student (diffusion.calls), which draws in one call")
    kind = diffusion.get("kind", "gaussian")
    for key, known in (("method", METHODS[kind]), ("spacing", SPACINGS[kind])):
        check_choice(f"{where}.{key} (of diffusion.kind {kind})", section[key], known)
    most = diffusion["num_timesteps"]
    if section["steps"] is not None and section["steps"] > most:
        raise ValueError(f"{where}.steps must be in 1..{most}, the model's steps, got {section['steps']}")
    return section
