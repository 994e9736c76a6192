"""Whether data are those of a network of Align Your Structures."""

from geotdm_fast.data.chemistry.atom_graph import is_atom_graph, parts
from geotdm_fast.data.chemistry.names import NUM_ATOMS, NUM_EDGE_TYPES
from geotdm_fast.data.trajectory import Trajectory, TrajectoryDataset


def check_atoms(ft_dim: int, dataset: TrajectoryDataset, where: str) -> None:
    """Raise ValueError unless the first trajectory has the atoms and edges of an `AtomGraph` with ft_dim features.

    The numbers of all trajectories are looked at by the embeddings, on the CPU.
    """
    item: Trajectory = dataset[0]
    if item.x.shape[1] != 3:
        raise ValueError(f"{where}: positions must be in 3 dimensions, got {item.x.shape[1]}")
    if item.cell is not None:
        raise ValueError(f"{where}: data of Align Your Structures must have no periodic box: box: no")
    if item.condition_names:
        raise ValueError(f"{where}: data of Align Your Structures must have no conditions, got {item.condition_names}")
    came = item.h.shape[1] - 1
    if is_atom_graph(item.h, item.edge_attr, dataset.numbers_of(0), came) and came != ft_dim:
        raise ValueError(f"denoise_model.ft_dim must be {came}, the features of atoms in {where}, got {ft_dim}")
    if item.edge_attr is None or not is_atom_graph(item.h, item.edge_attr, dataset.numbers_of(0), ft_dim):
        raise ValueError(
            f"{where}: data of Align Your Structures must have z and features in h and types of edges in edge_attr "
            "[E, 1]: the key features of a data section makes them"
        )
    z, _, c = parts(item.h, item.edge_attr)
    for name, values, most in (("atomic numbers", z, NUM_ATOMS), ("types of edges", c, NUM_EDGE_TYPES)):
        wrong = values[(values < 0) | (values >= most)]
        if len(wrong):
            raise ValueError(f"{where}: {name} must be from 0 to {most - 1}, got {int(wrong[0])}")
