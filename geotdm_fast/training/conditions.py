"""Which conditions a network is told, and their ranges, follow from the data that it is trained on."""

from collections.abc import Mapping

from geotdm_fast.conditions import Conditions
from geotdm_fast.config.ays_files import is_ays
from geotdm_fast.data.conditions import check_conditions, conditions_of
from geotdm_fast.data.trajectory import TrajectoryDataset

SECTION, KEY = "denoise_model", "conditions"


def take_conditions(config: dict, dataset: TrajectoryDataset) -> None:
    """Set denoise_model.conditions of a configuration, in place, to what the training data have.

    Ranges that the configuration says stay: they may be wider than the data. Raises ValueError where they do not hold
    the conditions of the data, or others.
    """
    if is_ays(config):
        return  # their networks are told none, and their data have none
    where = f"data.train ({dataset.name})"
    stated = Conditions.parse(config[SECTION].get(KEY), f"{SECTION}.{KEY}")
    if stated is None:
        names, values = conditions_of(dataset, where)
        config[SECTION][KEY] = Conditions.of(names, values).as_config() if names else None
    else:
        check_conditions(dataset, stated, where)


def check_told(config: Mapping, dataset: TrajectoryDataset, where: str) -> None:
    """ValueError unless the data have the conditions of denoise_model.conditions; numbers may be out of range."""
    check_conditions(dataset, Conditions.parse(config[SECTION].get(KEY)), where, extrapolate=True)
