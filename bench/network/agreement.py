"""Networks of radius graphs against the equations, on few atoms: in float64, as plain PyTorch, those of a whole protein
take longer than all that is timed."""

from collections.abc import Sequence

from bench.common import correctness
from bench.common.workloads import make_workload
from bench.network.contenders import make_contender, make_truth

MOST_ATOMS, MOST_FRAMES = 400, 4


def few(spec: dict) -> dict[str, int]:
    """The sizes at which the gas `spec` is compared."""
    return {"num_frames": min(spec["num_frames"], MOST_FRAMES), "num_atoms": min(spec["num_atoms"], MOST_ATOMS)}


def errors_on_few_atoms(spec: dict, names: Sequence[str], dtype: str, mode: str, device: str) -> dict[str, dict]:
    """What a row says of the error of each implementation, on the gas `spec` with at most 400 atoms and 4 frames.

    Raises ValueError if one is not correct.
    """
    sizes, found = few(spec), {}
    workload = make_workload(**spec | sizes)
    of_frames = workload.graph_of_frames(device)
    for name in names:
        contender = make_contender(workload, name, dtype, device)
        truth = make_truth(workload, device, of_frames if name == "ours_current" else None)
        found[name] = {"error": correctness.check([contender], truth, mode)[contender.key], "error_of": sizes}
    return found
