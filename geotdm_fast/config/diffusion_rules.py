"""What the keys of the section `diffusion` ask of one another, and what follows from them."""

from collections.abc import Mapping

# What goes with each kind; the first of the means is the default.
MEAN_TYPES = {"gaussian": ("epsilon", "start_x", "previous_x"), "flow": ("start_x", "velocity", "displacement")}
PRIORS = {
    "gaussian": ("learned", "com", "com_last", "last_frame", "none"),
    "flow": ("learned", "last_frame", "walk", "velocity"),
}
# Of a flow, where nothing else is asked for.
SIGMA, TIME_POWER = 1.0, 1.0


def time_power(config: Mapping) -> float | None:
    """Of the real times that training draws of a flow; None of a diffusion, which has whole steps."""
    diffusion = config["diffusion"]
    if diffusion.get("kind", "gaussian") != "flow":
        return None
    return diffusion.get("time_power") or TIME_POWER


def derive_diffusion(config: Mapping, where: str) -> None:
    """Fill what is left open in `config['diffusion']`, in place. Raises ValueError naming what does not go together."""
    diffusion, kind = config["diffusion"], config["diffusion"]["kind"]
    if diffusion["model_mean_type"] is None:
        diffusion["model_mean_type"] = MEAN_TYPES[kind][0]
    for key, known in (("model_mean_type", MEAN_TYPES[kind]), ("prior", PRIORS[kind])):
        if diffusion[key] is not None and diffusion[key] not in known:
            raise ValueError(
                f"{where}: diffusion.{key} must be one of {', '.join(known)} for diffusion.kind {kind}, got "
                f"{diffusion[key]}"
            )
    check_keys_of_kind(diffusion, where)
    if kind == "flow":
        _derive_flow(config, where)
    if diffusion["prior"] == "learned" and not config["denoise_model"]["learn_ref_frame"]:
        raise ValueError(f"{where}: diffusion.prior learned needs denoise_model.learn_ref_frame true")


def check_student(config: Mapping, where: str) -> None:
    """ValueError where `diffusion.calls` and the section `distill` do not go together, or with `train`."""
    train = config["train"]
    if (config["diffusion"]["calls"] is None) != (config.get("distill") is None):
        raise ValueError(
            f"{where}: diffusion.calls and the section distill, with the folder of its teacher's draws (pairs), are of "
            "a student, and go together; `geotdm distill` writes both"
        )
    if config.get("distill") is None:
        if config["diffusion"]["call_step"] is not None:
            raise ValueError(f"{where}: diffusion.call_step is of a student, with diffusion.calls 1")
        return
    call_step, total = config["diffusion"]["call_step"], config["diffusion"]["num_timesteps"]
    if call_step is not None and call_step >= total:
        raise ValueError(
            f"{where}: diffusion.call_step must be below diffusion.num_timesteps, {total}, got {call_step}"
        )
    if config["data"]["train"].get("ratio") is not None:
        raise ValueError(
            f"{where}: data.train.ratio does not go with the section distill: a student learns from all pairs alike"
        )
    wrong = [key for key in ("rotate", "context_noise", "block_history", "nll_every_step") if train[key]]
    if wrong or train["eval"] == "nll":
        key = wrong[0] if wrong else "eval nll"
        raise ValueError(f"{where}: train.{key} does not go with the section distill: a student learns given pairs")


def check_keys_of_kind(diffusion: Mapping, where: str) -> None:
    """ValueError naming a key of the section that its `kind` does not have; keys may be left out."""
    if diffusion.get("kind", "gaussian") == "flow":
        for key, default in (("beta_schedule_name", "linear"), ("model_var_type", "fixed_large"), ("call_step", None)):
            if diffusion.get(key, default) != default:
                raise ValueError(f"{where}: diffusion.{key} does not go with diffusion.kind flow, got {diffusion[key]}")
        return
    for key in ("sigma", "time_power"):
        if diffusion.get(key) is not None:
            raise ValueError(f"{where}: diffusion.{key} is of diffusion.kind flow, got it for kind gaussian")


def _derive_flow(config: Mapping, where: str) -> None:
    diffusion, train = config["diffusion"], config["train"]
    for key, default in (("sigma", SIGMA), ("time_power", TIME_POWER)):
        if diffusion[key] is None:
            diffusion[key] = default
        if not diffusion[key] > 0:
            raise ValueError(f"{where}: diffusion.{key} must be above 0, got {diffusion[key]:g}")
    if diffusion["mode"] == "uncond" and diffusion["prior"] is not None:
        raise ValueError(
            f"{where}: diffusion.prior of a flow must be left out with diffusion.mode uncond: no frame is given"
        )
    if train["eval"] == "nll" or train["nll_every_step"] is not None:
        key = "eval nll" if train["eval"] == "nll" else "nll_every_step"
        raise ValueError(f"{where}: train.{key} does not go with diffusion.kind flow, which has no likelihood here")
