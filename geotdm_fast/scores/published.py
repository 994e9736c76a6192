"""The published results, shown beside ours: GeoTDM (arXiv 2410.13027, tables 1 to 6) and what it is compared with."""

from typing import NamedTuple

CONDITIONAL, UNCONDITIONAL, INTERPOLATION = "conditional", "unconditional", "interpolation"


class PaperRow(NamedTuple):
    """One published row.

    experiment: as `geotdm reproduce` calls it: charged, md:aspirin, zara1, ...
    task: conditional, unconditional or interpolation
    method: whose figures; protocol: of how many samples, on what
    scores: `ade`, `fde` (mean of 5 samples; pedestrians: best of 20), `nll` (nats), or `marginal`, `classification`,
        `prediction`
    """

    experiment: str
    task: str
    method: str
    protocol: str
    scores: dict[str, float]


GEOTDM = "GeoTDM"
EGNN = "EGNN"

# Conditional N-body, mean of 5 samples, 10 given frames and 20 to predict: ADE, FDE.
_NBODY = {
    GEOTDM: {"charged": (0.110, 0.258), "springs": (0.0030, 0.0079), "gravity": (0.256, 0.613)},
    "EqMotion": {"charged": (0.141, 0.310), "springs": (0.0134, 0.0358), "gravity": (0.302, 0.671)},
    EGNN: {"charged": (0.186, 0.426), "springs": (0.0101, 0.0231), "gravity": (0.310, 0.709)},
    "STFlow (other splits, more data)": {
        "charged": (0.093, 0.172), "springs": (0.0002, 0.0004), "gravity": (0.115, 0.245),
    },
}  # fmt: skip
# The same for the molecules of MD17.
_MD17 = {
    "aspirin": (0.107, 0.193), "benzene": (0.023, 0.039), "ethanol": (0.115, 0.209), "malonaldehyde": (0.107, 0.176),
    "naphthalene": (0.064, 0.087), "salicylic": (0.083, 0.120), "toluene": (0.083, 0.121), "uracil": (0.074, 0.099),
}  # fmt: skip
# Pedestrians, best of 20 samples, 8 given frames and 12 to predict: ADE, FDE (m).
_PEDESTRIANS = {
    "eth": (0.46, 0.64), "hotel": (0.13, 0.21), "univ": (0.24, 0.45), "zara1": (0.21, 0.39), "zara2": (0.16, 0.30),
}  # fmt: skip
# Unconditional, 20 frames: marginal, classification, prediction score.
_GENERATION = {
    "charged": (0.0055, 0.556, 0.00978),
    "aspirin": (0.726, 0.0348, 0.0212), "benzene": (0.597, 0.162, 0.0019), "ethanol": (0.314, 0.463, 0.0235),
    "malonaldehyde": (0.403, 0.335, 0.0146), "naphthalene": (0.770, 0.117, 0.0093), "salicylic": (0.559, 0.182, 0.0135),
    "toluene": (0.539, 0.112, 0.0118), "uracil": (0.954, 0.202, 0.0116),
}  # fmt: skip
# Ablations, mean of 5 samples: ADE, FDE of charged, of aspirin.
_ABLATIONS = {
    "prior N(0, I)": ((0.220, 0.485), (0.235, 0.393)),
    "prior: centre of mass of the last frame": ((0.135, 0.298), (0.119, 0.212)),
    "prior: last frame": ((0.123, 0.282), (0.110, 0.204)),
    "no equivariance": ((0.251, 0.542), (0.252, 0.440)),
    "equivariant convolution for attention": ((0.133, 0.312), (0.114, 0.208)),
    "no shift invariance": ((0.139, 0.330), (0.112, 0.212)),
}
# Diffusion steps: ADE, FDE, NLL (nats) of charged, of aspirin.
_STEPS = {
    "100 steps": ((0.120, 0.280, -547.5), (0.110, 0.198, -2125.7)),
    "1000 steps": ((0.110, 0.258, -982.7), (0.107, 0.193, -3461.4)),
}


def _rows() -> tuple[PaperRow, ...]:
    displacement = lambda values: dict(zip(("ade", "fde", "nll"), values, strict=False))
    rows = [
        PaperRow(name, CONDITIONAL, method, "mean of 5", displacement(values))
        for method, systems in _NBODY.items()
        for name, values in systems.items()
    ]
    # A user's own trajectory of the same molecule is not MD17: the protocol says whose figures they are.
    on_md17 = "on MD17, mean of 5"
    rows += [
        PaperRow(f"md:{name}", CONDITIONAL, GEOTDM, on_md17, displacement(values)) for name, values in _MD17.items()
    ]
    rows += [
        PaperRow(name, CONDITIONAL, GEOTDM, "best of 20", displacement(values)) for name, values in _PEDESTRIANS.items()
    ]
    for name, values in _GENERATION.items():
        scores = dict(zip(("marginal", "classification", "prediction"), values, strict=True))
        about = (name, "20 frames") if name == "charged" else (f"md:{name}", "on MD17, 20 frames")
        rows.append(PaperRow(about[0], UNCONDITIONAL, GEOTDM, about[1], scores))
    for table in (_ABLATIONS, _STEPS):
        for what, (charged, aspirin) in table.items():
            method = f"{GEOTDM}, {what}"
            rows.append(PaperRow("charged", CONDITIONAL, method, "mean of 5", displacement(charged)))
            rows.append(PaperRow("md:aspirin", CONDITIONAL, method, on_md17, displacement(aspirin)))
    rows.append(PaperRow("charged", UNCONDITIONAL, f"{GEOTDM}, 100 steps", "20 frames", {"classification": 0.170}))
    rows.append(PaperRow("charged", INTERPOLATION, GEOTDM, "mean of 5", {"ade": 0.055}))
    rows.append(PaperRow("charged", INTERPOLATION, "linear interpolation", "mean of 5", {"ade": 0.171}))
    return tuple(rows)


ROWS = _rows()
EXPERIMENTS = tuple(dict.fromkeys(row.experiment for row in ROWS))


def paper_rows(experiment: str, task: str) -> list[PaperRow]:
    """All published rows of an experiment and a task, GeoTDM's own first; none where there are none."""
    return [row for row in ROWS if (row.experiment, row.task) == (experiment, task)]


def paper_result(experiment: str, mode: str, num_given: int, num_drawn: int, prefix: bool = True) -> dict | None:
    """GeoTDM's figures for an experiment (one of `EXPERIMENTS`) and a task, or None where nothing was published.

    prefix: whether the given frames come first (a forecast, not an interpolation)
    Returns `protocol` and the scores: `ade` and `fde` (interpolation: `ade` alone), or those of a generation.
    """
    of_pedestrians = experiment in _PEDESTRIANS
    task = None
    if mode == "uncond":
        task = UNCONDITIONAL if num_drawn == 20 else None
    elif of_pedestrians and (num_given, num_drawn) == (8, 12):
        task = CONDITIONAL if prefix else None
    elif not of_pedestrians and (num_given, num_drawn) == (10, 20):
        task = CONDITIONAL if prefix else INTERPOLATION
    for row in ROWS:
        if (row.method, row.task, row.experiment) == (GEOTDM, task, experiment):
            return {"protocol": row.protocol, **row.scores}
    return None
