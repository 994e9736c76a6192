"""The paper's own results, shown beside ours (arXiv 2410.13027, tables 1 to 4)."""

import re

# Conditional N-body, mean of 5 samples, 10 given frames and 20 to predict: ADE, FDE.
_FORECAST = {
    "charged": (0.110, 0.258), "springs": (0.0030, 0.0079), "gravity": (0.256, 0.613),
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


def paper_result(name: str, mode: str, num_given: int, num_drawn: int) -> dict[str, float | str] | None:
    """The paper's figures for a data set known by its name and task, or None.

    Returns `protocol` and `ade`, `fde` (mode `cond`) or `marginal`, `classification`, `prediction` (`uncond`).
    """
    words = re.findall(r"[a-z]+\d?", name.lower())
    find = lambda table: next((table[word] for word in words if word in table), None)
    if mode == "uncond" and num_drawn == 20 and (row := find(_GENERATION)):
        marginal, classification, prediction = row
        scores = {"marginal": marginal, "classification": classification, "prediction": prediction}
        return {"protocol": "20 frames", **scores}
    if mode == "cond" and (num_given, num_drawn) == (10, 20):
        # A user's own trajectory of the same molecule is not MD17: the label says whose figures they are.
        for table, protocol in ((_FORECAST, "mean of 5"), (_MD17, "on MD17, mean of 5")):
            if row := find(table):
                return {"protocol": protocol, "ade": row[0], "fde": row[1]}
    if mode == "cond" and (num_given, num_drawn) == (8, 12) and (row := find(_PEDESTRIANS)):
        return {"protocol": "best of 20", "ade": row[0], "fde": row[1]}
    return None
