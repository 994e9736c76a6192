"""The workloads: graphs, networks and inputs of the sizes that people run, and the work that they need at least."""

from dataclasses import dataclass

import torch
from torch import Tensor

from geotdm_fast import EGTN, radius_graph
from geotdm_fast.conditioning import cond_mask
from geotdm_fast.data.molecule import molecule_graph
from geotdm_fast.data.trajectory import Batch, Trajectory, collate
from geotdm_fast.graphs import EdgeImages, Graph
from geotdm_fast.reference import Cell
from geotdm_fast.runtime.choices import check_choice
from geotdm_fast.runtime.files import PathLike, read_npz

# Aspirin, C9H8O4: the ring 0-5, the acid 6-9 (C, =O, O, H), the ester O 10 and acetyl 11-13 (C, =O, CH3), ring H 14-17,
# methyl H 18-20.
ASPIRIN_ATOMS = (6, 6, 6, 6, 6, 6, 6, 8, 8, 1, 8, 6, 8, 6, 1, 1, 1, 1, 1, 1, 1)
ASPIRIN_BONDS = (
    *((0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 0)),
    *((0, 6), (6, 7), (6, 8), (8, 9)),
    *((1, 10), (10, 11), (11, 12), (11, 13)),
    *((2, 14), (3, 15), (4, 16), (5, 17), (13, 18), (13, 19), (13, 20)),
)
# Alanine dipeptide, CH3-CO-NH-CH(CH3)-CO-NH-CH3: acetyl 0-5, alanine 6-15, methylamide 16-21.
ALANINE_DIPEPTIDE_ATOMS = (1, 6, 1, 1, 6, 8, 7, 1, 6, 1, 6, 1, 1, 1, 6, 8, 7, 1, 6, 1, 1, 1)
ALANINE_DIPEPTIDE_BONDS = (
    *((1, 0), (1, 2), (1, 3), (1, 4), (4, 5), (4, 6)),
    *((6, 7), (6, 8), (8, 9), (8, 10), (10, 11), (10, 12), (10, 13), (8, 14), (14, 15), (14, 16)),
    *((16, 17), (16, 18), (18, 19), (18, 20), (18, 21)),
)
# Adenylate kinase, hydrogens included: atoms, and within 5 angstrom of an atom about as many others (the file: 43.5).
LARGE_ATOMS = 3341
LARGE_CUTOFF = 5.0
LARGE_DENSITY = 0.1  # atoms per cubic angstrom, as in water

# name: (graphs, frames, given frames, layers, hidden width)
SIZES = {
    "nbody": (32, 30, 10, 6, 128),
    "md": (8, 30, 10, 6, 128),
    "ped": (100, 20, 8, 4, 64),
    "long": (8, 512, 128, 6, 128),
    "large": (1, 10, 5, 6, 128),
}
ABOUT = {
    "nbody": "5 charged particles x 32 systems, complete graphs",
    "md": "21 atoms of aspirin x 8 windows, bonds to 3 hops",
    "ped": "1 to 3 pedestrians x 100 scenes, 2-D, complete graphs with self-loops, |r| for |r|^2",
    "long": "22 atoms of alanine dipeptide x 8 windows of 512 frames, bonds to 3 hops",
    "large": "a protein's 3341 atoms, 10 frames, the first one's radius graph (a random gas unless a file is given)",
}


@dataclass(frozen=True)
class Workload:
    """A batch, the network for it (arguments of `EGTN`), and which frames are given.

    num_given: the first so many; 0: all are noisy, and the model is not conditional
    cutoff: of the radius graph of the first frame, which the batch has (angstrom); None: the edges are others
    images: of its edges, where the atoms are in a periodic box
    """

    name: str
    batch: Batch
    arguments: dict
    num_given: int
    cutoff: float | None = None
    images: EdgeImages | None = None

    @property
    def num_nodes(self) -> int:
        return self.batch.x.shape[0]

    @property
    def num_edges(self) -> int:
        return self.batch.edge_index.shape[1]

    @property
    def num_frames(self) -> int:
        return self.batch.x.shape[2]

    @property
    def sizes(self) -> dict[str, int]:
        """What the time depends on, for the record."""
        return {
            "graphs": self.batch.num_graphs,
            "nodes": self.num_nodes,
            "edges": self.num_edges,
            "frames": self.num_frames,
            "given": self.num_given,
            "dim": self.batch.x.shape[1],
            "layers": self.arguments["n_layers"],
            "hidden": self.arguments["hidden_dim"],
        }

    def network(self, seed: int = 0, graph: dict | None = None) -> EGTN:
        """Our network with random float32 weights; the random stream goes on as if nothing had been drawn.

        graph: of `EGTN`; None: the edges of the batch
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return EGTN(**self.arguments, graph=graph)

    def inputs(self, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, seed: int = 0) -> dict:
        """The keyword arguments of one denoiser call; the same numbers for every dtype."""
        noisy = self.batch.x[..., self.num_given :]
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(noisy.shape, generator=generator)
        step = torch.randint(0, 1000, (self.batch.num_graphs,), generator=generator)
        batch = self.batch.to(device, dtype)
        inputs = batch.model_kwargs() | {
            "diffusion_t": step[self.batch.batch].to(device),
            "x": (noisy + 0.5 * noise).to(device, dtype),
        }
        if self.num_given:
            mask = cond_mask([[0, self.num_given]], self.num_frames)
            inputs |= {"cond_mask": mask.to(device), "x_given": batch.x}
        return inputs

    def graph(self, device: torch.device | str = "cpu") -> Graph:
        """The edges of the batch."""
        edge_index = self.batch.edge_index.to(device)
        images = None if self.images is None else self.images.to(torch.device(device))
        return Graph.static(edge_index, self.num_nodes, images=images)

    def graph_of_frames(self, device: torch.device | str = "cpu") -> Graph:
        """The radius graph of every frame of `inputs`, by the positions in float32."""
        y = torch.cat([self.batch.x[..., : self.num_given].to(device), self.inputs(device)["x"]], dim=2)
        y, batch = y.transpose(1, 2).contiguous(), self.batch.batch.to(device)
        if self.images is None:
            return Graph.per_frame(radius_graph(y, self.cutoff, batch), *y.shape[:2])
        cell = self.images.to(torch.device(device)).cell
        edge_index, number = radius_graph(y, self.cutoff, batch, cell=cell)
        return Graph.per_frame(edge_index, *y.shape[:2], images=EdgeImages(number, cell, batch))

    def cotangents(self, device: torch.device | str = "cpu", seed: int = 1) -> tuple[Tensor, Tensor]:
        """Gradients of x_out and h_out that backward starts from, float32."""
        generator = torch.Generator().manual_seed(seed)
        num_noisy = self.num_frames - self.num_given
        draw = lambda width: torch.randn(self.num_nodes, width, num_noisy, generator=generator).to(device)
        return draw(self.batch.x.shape[1]), draw(self.arguments["hidden_dim"])

    def flop(self, mode: str = "inference") -> float:
        """The least operations of one call, two for each multiply-add; forward + backward counts three times forward.

        Per layer and node-frame 12 H^2 + 6 T H multiply-adds, per layer and edge-frame 2 H^2 (`spatial` + `temporal`).
        """
        forward = self.arguments["n_layers"] * (self.spatial_flop() + self.temporal_flop())
        return forward * (3 if mode == "training" else 1)

    def spatial_flop(self) -> float:
        """One spatial layer: P, Q and the node MLP (5 H^2) for each node-frame, W2 and U1 for each edge-frame."""
        square = self.arguments["hidden_dim"] ** 2
        return 2.0 * self.num_frames * (5 * self.num_nodes + 2 * self.num_edges) * square

    def temporal_flop(self) -> float:
        """One temporal layer: q, k, v and the gate (7 H^2), and attention with its table (6 T H) for a node-frame."""
        width = self.arguments["hidden_dim"]
        return 2.0 * self.num_nodes * self.num_frames * (7 * width**2 + 6 * self.num_frames * width)


def make_workload(
    name: str,
    *,
    num_graphs: int | None = None,
    num_frames: int | None = None,
    n_layers: int | None = None,
    hidden_dim: int | None = None,
    large_file: PathLike | None = None,
    num_atoms: int | None = None,
    cutoff: float = LARGE_CUTOFF,
    periodic: bool = False,
    seed: int = 0,
) -> Workload:
    """The workload `name` of `SIZES`, at other sizes where they are given.

    large_file: an .npz with R [frames, atoms, 3] (angstrom) and z [atoms] for `large`; None: a gas of the same density
    num_atoms: of that gas; None: as many as the protein has
    cutoff: of the radius graph of `large` (angstrom); periodic: whether its gas is in a periodic box
    Raises ValueError for an unknown name, sizes below 1 and a file that does not fit.
    """
    check_choice("make_workload: name", name, SIZES)
    given = {"num_graphs": num_graphs, "num_frames": num_frames, "n_layers": n_layers, "hidden_dim": hidden_dim}
    for key, value in (given | {"num_atoms": num_atoms}).items():
        least = 2 if key == "num_frames" and name != "large" else 1
        if value is not None and value < least:
            raise ValueError(f"make_workload: {key} must be at least {least}, got {value}")
    graphs, frames, given_frames, layers, width = SIZES[name]
    frames_wanted, images = num_frames or frames, None
    if periodic and (name != "large" or large_file is not None or (num_graphs or graphs) != 1):
        raise ValueError("make_workload: periodic must be of one gas, the workload large without a file")
    if name == "large":
        generator = torch.Generator().manual_seed(seed)
        num_atoms = num_atoms or LARGE_ATOMS
        item, images = _large(generator, frames_wanted, large_file, num_atoms, cutoff, periodic)
        items = [item] * (num_graphs or graphs)
    else:
        items = make_trajectories(name, num_graphs or graphs, frames_wanted, seed)
    batch = collate(items)
    num_given = min(max(1, given_frames * frames_wanted // frames), frames_wanted - 1)
    arguments = {
        "n_layers": n_layers or layers,
        "node_dim": batch.h.shape[1],
        "edge_dim": 0 if batch.edge_attr is None else batch.edge_attr.shape[1],
        "hidden_dim": hidden_dim or width,
        "time_emb_dim": 32,
        "act_fn": "silu",
        "learn_ref_frame": num_given > 0,
        "n_layers_ref": 2,
        "num_w": frames_wanted - num_given,
        "pre_norm": name == "ped",
    }
    return Workload(name, batch, arguments, num_given, cutoff if name == "large" else None, images)


def make_trajectories(name: str, count: int, num_frames: int, seed: int = 0) -> list[Trajectory]:
    """The first `count` graphs of the workload `name`, any but `large`, with so many frames."""
    make = {"nbody": _nbody, "md": _aspirin, "ped": _pedestrians, "long": _alanine_dipeptide}[name]
    generator = torch.Generator().manual_seed(seed)
    return [make(generator, num_frames, index) for index in range(count)]


def complete_edges(size: int, loops: bool = False) -> Tensor:
    """[2, E]: every ordered pair."""
    pairs = torch.ones(size, size) if loops else torch.ones(size, size).fill_diagonal_(0)
    return pairs.nonzero().T.contiguous()


def _nbody(generator: torch.Generator, num_frames: int, index: int) -> Trajectory:
    charge = torch.randint(0, 2, (5, 1), generator=generator) * 2.0 - 1
    row, col = edges = complete_edges(5)
    x = _walk(torch.randn(5, 3, generator=generator), num_frames, generator)
    return Trajectory(x, charge, edges, charge[row] * charge[col], torch.arange(5))


def _pedestrians(generator: torch.Generator, num_frames: int, index: int) -> Trajectory:
    size = 1 + index % 3
    x = _walk(2 * torch.randn(size, 2, generator=generator), num_frames, generator)
    h = torch.stack([torch.ones(size, num_frames), torch.zeros(size, num_frames)], dim=1)
    return Trajectory(x, h, complete_edges(size, loops=True), None, torch.zeros(1, dtype=torch.int64))


def _aspirin(generator: torch.Generator, num_frames: int, index: int) -> Trajectory:
    return _molecule(ASPIRIN_ATOMS, ASPIRIN_BONDS, generator, num_frames)


def _alanine_dipeptide(generator: torch.Generator, num_frames: int, index: int) -> Trajectory:
    return _molecule(ALANINE_DIPEPTIDE_ATOMS, ALANINE_DIPEPTIDE_BONDS, generator, num_frames)


def _molecule(atoms: tuple, bonds: tuple, generator: torch.Generator, num_frames: int) -> Trajectory:
    """The bond graph to 3 hops is the molecule's own; positions are random, for no time depends on them."""
    start = 2 * torch.randn(len(atoms), 3, generator=generator)
    h, edge_index, edge_attr = molecule_graph(start, torch.tensor(atoms), bonds=torch.tensor(bonds), max_hops=3)
    return Trajectory(_walk(start, num_frames, generator), h, edge_index, edge_attr, torch.arange(len(atoms)))


def _large(
    generator: torch.Generator, num_frames: int, file: PathLike | None, num_atoms: int, cutoff: float, periodic: bool
) -> tuple[Trajectory, EdgeImages | None]:
    side = (num_atoms / LARGE_DENSITY) ** (1 / 3)
    if file is None:
        start = side * torch.rand(num_atoms, 3, generator=generator)
        x, z = _walk(start, num_frames, generator), torch.randint(0, 5, (num_atoms,), generator=generator)
    else:
        arrays = read_npz(file, required=("R", "z"))
        if arrays["R"].ndim != 3 or len(arrays["R"]) < num_frames:
            raise ValueError(f"{file}: R must be [at least {num_frames}, atoms, 3], got {list(arrays['R'].shape)}")
        x = torch.from_numpy(arrays["R"][:num_frames]).float().permute(1, 2, 0).contiguous()
        z = torch.from_numpy(arrays["z"]).long().unique(return_inverse=True)[1]
    h = torch.nn.functional.one_hot(z).float()
    if not periodic:
        return Trajectory(x, h, radius_graph(x[..., 0], cutoff), None, torch.arange(len(x))), None
    cell = Cell.of("make_workload", side * torch.eye(3))
    edge_index, number = radius_graph(x[..., 0].contiguous(), cutoff, cell=cell)
    item = Trajectory(x, h, edge_index, None, torch.arange(len(x)), cell=cell.vectors[0, 0], pbc=cell.pbc[0])
    return item, EdgeImages(number, cell, None)


def _walk(start: Tensor, num_frames: int, generator: torch.Generator) -> Tensor:
    """[N, D] to [N, D, T]: a random walk of small steps."""
    steps = 0.1 * torch.randn(*start.shape, num_frames, generator=generator)
    steps[..., 0] = 0
    return start[..., None] + steps.cumsum(-1)
