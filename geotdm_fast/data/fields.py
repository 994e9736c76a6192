"""Further fields of trajectories and batches: set and read by attribute and by key, batched and taken apart again."""

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

Own = TypeVar("Own", bound="Fields")


class Fields:
    """What `Trajectory` and `Batch` have in common: `item.x` is `item["x"]`, and any further field can be set.

    A further field is batched as PyTorch Geometric does it: tensors are joined along their first axis; those whose name
    contains `index` hold numbers of nodes, are shifted by the nodes of the graphs before, and joined along their last
    axis; tensors without an axis and plain numbers become one tensor [B]; anything else becomes a list.
    """

    if TYPE_CHECKING:

        def __setattr__(self, name: str, value: Any) -> None:
            """Any further field can be set."""

    def __getattr__(self, name: str) -> Any:
        # Asked for what is not there alone; copying and pickling look for names of their own.
        if not name.startswith("_"):
            raise AttributeError(f"{type(self).__name__} has no field '{name}', only {', '.join(field_names(self))}")
        raise AttributeError(name)

    def __getitem__(self, name: str) -> Any:
        if not isinstance(name, str):
            raise TypeError(f"{type(self).__name__}: a field is chosen by its name, got {name!r}")
        if name not in self:
            raise KeyError(f"{type(self).__name__} has no field '{name}', only {', '.join(field_names(self))}")
        return getattr(self, name)

    def __setitem__(self, name: str, value: Any) -> None:
        setattr(self, name, value)

    def __contains__(self, name: str) -> bool:
        return name in field_names(self)

    # Fields are chosen by name: without this, Python would count 0, 1, 2, ... through __getitem__.
    __iter__ = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({shown_fields(self)})"

    def keys(self) -> list[str]:
        """The names of all fields."""
        return field_names(self)

    @property
    def num_nodes(self) -> int:
        return self.x.shape[0]

    def to(self: Own, device: torch.device | str | int | None = None, dtype: torch.dtype | None = None) -> Own:
        """A copy on `device`, its float tensors in `dtype`; `origin` and `conditions` keep theirs."""
        casts = lambda name, tensor: tensor.is_floating_point() and name not in ("origin", "conditions")
        return self._with_tensors(lambda name, tensor: tensor.to(device, dtype if casts(name, tensor) else None))

    def cpu(self: Own) -> Own:
        """A copy on the CPU."""
        return self.to("cpu")

    def cuda(self: Own, device: int | None = None) -> Own:
        """A copy on a CUDA device, by default the current one."""
        return self.to("cuda" if device is None else f"cuda:{device}")

    def pin_memory(self: Own) -> Own:
        """A copy in pinned memory, from where copies to CUDA need not be waited for."""
        return self._with_tensors(lambda _, tensor: tensor.pin_memory())

    def without(self: Own, names: Sequence[str]) -> Own:
        """A copy without some further fields; an `edge_attr` among them is None."""
        kept = copy.copy(self)
        for name in names:
            if name in self.__dataclass_fields__:
                setattr(kept, name, None)
            elif name in self:
                delattr(kept, name)
        return kept

    def _with_tensors(self: Own, function: Callable[[str, Tensor], Tensor]) -> Own:
        moved = copy.copy(self)
        vars(moved).update({k: function(k, v) for k, v in vars(self).items() if isinstance(v, Tensor)})
        return moved


def field_names(item: Fields) -> list[str]:
    """The names of all fields of a trajectory or a batch."""
    return [name for name in vars(item) if not name.startswith("_")]


def shown_fields(item: Fields) -> str:
    """`x=[15, 3, 30], h=[15, 1], ...`: the shapes of all fields, and the values of those that are no tensors."""
    # Most data have no box and no conditions, and are not asked about them.
    is_there = lambda value: isinstance(value, Tensor) or bool(value)
    rare = ("cell", "pbc", "conditions", "condition_names")
    names = [name for name in field_names(item) if name not in rare or is_there(getattr(item, name))]
    return ", ".join(f"{name}={_shown(getattr(item, name))}" for name in names)


def further_names(item: Fields) -> list[str]:
    """The fields of a trajectory or a batch that its class does not have."""
    return [name for name in field_names(item) if name not in item.__dataclass_fields__]


def join_field(name: str, values: Sequence[Any], offsets: Sequence[int]) -> tuple[Any, list[int] | None]:
    """One further field of a batch from those of its graphs, and how many rows each graph has in it.

    offsets: the nodes before each graph. None for the rows where each graph has one entry.
    Raises ValueError for tensors that cannot be joined.
    """
    first = values[0]
    if isinstance(first, (int, float)):
        return torch.tensor(values), None
    if not isinstance(first, Tensor):
        return list(values), None
    if names_nodes(name):
        values = [value + offset for value, offset in zip(values, offsets, strict=True)]
    try:
        if first.dim() == 0:
            return torch.stack(list(values)), None
        return torch.cat(list(values), dim=axis_of(name)), [value.shape[axis_of(name)] for value in values]
    except (RuntimeError, TypeError) as error:
        shapes = [list(value.shape) if isinstance(value, Tensor) else type(value).__name__ for value in values]
        differs = next((i for i, shape in enumerate(shapes) if shape[1:] != shapes[0][1:]), 0)
        raise ValueError(
            f"collate: {name} of graph {differs} must be joined with {shapes[0]} of graph 0, got {shapes[differs]}"
        ) from error


def names_nodes(name: str) -> bool:
    """Whether a field holds numbers of nodes, by its name."""
    return "index" in name


def axis_of(name: str) -> int:
    """The axis along which the tensors of a field are joined."""
    return -1 if names_nodes(name) else 0


def _shown(value: Any) -> str:
    return str(list(value.shape)) if isinstance(value, Tensor) else repr(value)
