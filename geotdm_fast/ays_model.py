"""A trained model of Align Your Structures, with the methods of every `Model`."""

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from geotdm_fast.ays.as_geotdm import AysDiffusion
from geotdm_fast.ays.data import check_atoms
from geotdm_fast.ays.network import Network
from geotdm_fast.checkpoint import save_checkpoint
from geotdm_fast.conditions import Conditions
from geotdm_fast.config.ays_files import free_share
from geotdm_fast.data.chemistry.atom_graph import is_atom_graph
from geotdm_fast.data.chemistry.datasets import with_atoms
from geotdm_fast.data.chemistry.keys import knows_bond_orders
from geotdm_fast.data.convert import to_dataset
from geotdm_fast.data.replicas import FOLDER
from geotdm_fast.data.trajectory import Trajectory, TrajectoryDataset
from geotdm_fast.data.windows import centred
from geotdm_fast.diffusion import GeoTDM
from geotdm_fast.model import Model
from geotdm_fast.nn.plain import bare
from geotdm_fast.runtime.choices import require_sections
from geotdm_fast.runtime.files import PathLike
from geotdm_fast.runtime.shown import shown
from geotdm_fast.samples.record import Samples
from geotdm_fast.task import Task

# More than there are.
_ELEMENTS = 120
# Frames whose mean is below this (angstrom) are centred already: centred anew they would be rounded anew.
_CENTRED = 1e-5


class AysModel(Model):
    """Network, diffusion, task and configuration of a model of Align Your Structures.

        model = geotdm_fast.load("outputs/my_interpolator")
        samples = model.forecast(data, num_samples=5, method="dpmpp_2m", steps=20)

    network: of `geotdm_fast.ays`; diffusion: `AysDiffusion`; task: which frames are given

    What data a method takes, `Model` says. Every frame is centred on its atoms, and atoms and edges are made as the
    data section of the training says, where the data do not have them. With positions and `ase.Atoms` may go
    `molecule`, an SDF or MOL file with the bond orders of their atoms, instead of `data.train.molecule`; where the
    training knew bond orders and named no one file, it must be given. A structure model (`type: basic_es`) generates
    structures, trajectories of one frame; an interpolator forecasts from frame 0, interpolates between two frames, or
    generates; one of conditioning `unconditional_forward` forecasts and generates.
    """

    def __init__(self, network: nn.Module, diffusion: GeoTDM, task: Task, config: Mapping, name: str = "model"):
        if not isinstance(bare(network), Network):
            raise TypeError(f"AysModel: network must be of geotdm_fast.ays, got {type(bare(network)).__name__}")
        require_sections("AysModel: config", config, "denoise_model")
        super().__init__(network, diffusion, task, config, name)  # type: ignore[arg-type]  # no EGTN

    def save(self, path: PathLike) -> None:
        """As `Model.save`; of a model that `free` gave, the file is that of the model it came from, which generates
        too.

        Its network is one of conditioning `unconditional_forward`, of which nothing but frame 0 or no frame is asked.
        """
        if free_share(self.config) and not self.task.is_conditional:
            save_checkpoint(path, self.network, self.config)
        else:
            super().save(path)

    def to(self, device: torch.device | str) -> "AysModel":
        """This model, moved to `device`. Raises ValueError for a configuration without the section diffusion."""
        require_sections(f"to: the configuration of {self.name}", self.config, "diffusion")
        self.network.to(device)
        self.diffusion = AysDiffusion(self._atoms, self.config["diffusion"], torch.device(device), self.task.mode)
        return self

    @property
    def _atoms(self) -> Network:
        return cast(Network, bare(self.network))

    @property
    def conditions(self) -> Conditions | None:
        """None: these networks are told no numbers."""
        return None

    @property
    def num_frames(self) -> int:
        """T: the frames of a trajectory, given and drawn."""
        if self.task.num_frames is not None:
            return self.task.num_frames
        if not self.task.is_conditional or self._fills_gaps:
            return self.task.window(1)
        span = self.data.get("span")
        if span is None:
            raise ValueError(f"{self.name}: the configuration must have data.train.span, the frames of a window")
        return int(span)

    def generate(self, data: Any, num_samples: int = 1, **options: Any) -> Samples:
        """Make whole trajectories of the molecules of `data`, whose positions are not looked at but by scores.

        Of a model that is given frame 0 in half of its training, too: see `free`. Data and options as for `sample`.
        """
        if self.task.is_conditional and free_share(self.config):
            return self.free().generate(data, num_samples, **options)
        return super().generate(data, num_samples, **options)

    def free(self) -> "AysModel":
        """The same model, which is given nothing. ValueError for one that was never trained so."""
        if not free_share(self.config):
            raise ValueError(f"free: {self.name} is a model of conditioning '{self._atoms.conditioning}'")
        require_sections(f"free: the configuration of {self.name}", self.config, "diffusion")
        task = Task(num_frames=self.num_frames)
        diffusion = AysDiffusion(self._atoms, self.config["diffusion"], self.device, task.mode)
        return AysModel(self._atoms, diffusion, task, self.config, self.name)

    def _dataset(
        self,
        data: Any,
        where: str,
        conditions: Mapping[str, Any] | None = None,
        extrapolate: bool = False,
        molecule: PathLike | None = None,
        **arrays: Any,
    ) -> TrajectoryDataset:
        if conditions:
            raise ValueError(f"{where}: {self.name} is told no conditions, got {', '.join(conditions)}")
        section, ft_dim = self.data, self.config["denoise_model"]["ft_dim"]
        # The features of other models have a place for each element; here they are left for those of atoms.
        elements = {} if section.get("atom_types") is not None else {"num_types": _ELEMENTS}
        dataset = to_dataset(data, section | elements, where, **arrays)
        item = dataset[0]
        numbers = dataset.numbers_of(0)
        if not is_atom_graph(item.h, item.edge_attr, numbers, ft_dim) and numbers is not None:
            molecule = self._molecule(where, molecule)
            dataset = with_atoms(dataset, section.get("features"), section.get("max_hops", 3), molecule, where)
        elif molecule is not None:
            raise TypeError(
                f"{where}: molecule must come with positions and z, got {dataset.name}, whose atoms are known"
            )
        check_atoms(ft_dim, dataset, f"{where}: {dataset.name}")
        centred_one_by_one = copy.copy(dataset)
        centred_one_by_one.items = _Centred(dataset.items)
        return centred_one_by_one

    def _molecule(self, where: str, given: PathLike | None) -> PathLike | None:
        """The file of bond orders and features for positions: `given`, or the training's; None where it had none.

        Raises ValueError without `given` where the training knew bond orders of no such file: without them every bond
        would be single; and for one given to a model that learned no types of bonds.
        """
        section = self.data
        came = section.get("molecule")
        if not knows_bond_orders(section):
            if given is not None:
                raise ValueError(
                    f"{where}: molecule must be left out for {self.name}, which was trained without bond orders (no "
                    f"data.train.molecule, no file of SDF), got {shown(str(given))}"
                )
            return None
        if given is not None:
            return given
        if isinstance(came, str) and FOLDER not in came:
            return came
        read = f"data.train.molecule {shown(came)}" if came is not None else f"bond orders of {shown(section['path'])}"
        raise ValueError(
            f"{where}: molecule must be given, an SDF or MOL file of the atoms of the data (molecule=FILE), for "
            f"{self.name}, which was trained with {read}"
        )


class _Centred(Sequence[Trajectory]):
    """Trajectories whose frames are centred one by one."""

    def __init__(self, items: Sequence[Trajectory]):
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Trajectory:  # type: ignore[override]  # no slices
        item = self.items[index]
        mean: Tensor = item.x.mean(dim=0)
        if item.origin is None and bool((mean.abs() <= _CENTRED).all()):
            return item
        return dataclasses.replace(item, x=centred(item.x, "frames"), origin=None)
