"""What is in a file of conformers, and the configuration of a structure model of them."""

import warnings
from collections.abc import Mapping

from geotdm_fast.data.chemistry.names import NUM_BOND_TYPES
from geotdm_fast.data.sections import open_dataset
from geotdm_fast.inspection.findings import Findings
from geotdm_fast.plots.molecule import SYMBOLS

_FEWEST = 5  # molecules that can be split into 60, 20 and 20 %


def inspect_conformers(section: Mapping) -> Findings:
    """What the data of a section of kind conformers are. Raises what opening them raises, with `findings`."""
    found = Findings()
    found.add("kind", "conformers: one frame of each molecule")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            dataset = open_dataset(section, progress=False)
        except ValueError as error:
            error.findings = found  # type: ignore[attr-defined]  # for whoever shows the error
            raise
        finally:
            found.notes += dict.fromkeys(str(warning.message) for warning in said)
    sizes = sorted({len(item.x) for item in dataset})
    numbers = sorted({int(z) for item in dataset for z in item.h[:, 0]})
    types = sorted({int(c) for item in dataset if item.edge_attr is not None for c in item.edge_attr[:, 0]})
    features = dataset[0].h.shape[1] - 1
    found.add("molecules", str(len(dataset)))
    found.add("atoms", str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}")
    found.add("elements", ", ".join(SYMBOLS.get(z, f"[{z}]") for z in numbers))
    bonds = [c for c in types if c <= NUM_BOND_TYPES]
    found.add("edges", f"{len(bonds)} types of bonds, {len(types) - len(bonds)} of pairs further apart")
    found.add("features", f"{features} of an atom, beside its atomic number")
    if len(dataset) < _FEWEST:
        found.why = f"{len(dataset)} molecules cannot be split into 60, 20 and 20 %"
        return found
    found.config = {
        "data": {split: dict(section) | {"split": split} for split in ("train", "val", "test")},
        "denoise_model": {"type": "basic_es", "ft_dim": features},
    }
    return found
