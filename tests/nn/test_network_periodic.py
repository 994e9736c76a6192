"""Periodic boxes around whole networks: wrapped positions with images beside unwrapped ones without boxes."""

import pytest
import torch
from cases import MASKS, NUM_FRAMES, case, diffusion
from native_cases import needs_native
from tape import TapeRecorder
from tolerances import assert_same

from geotdm_fast import EGTN, ModelMeanType, backend
from geotdm_fast.conditioning import cond_mask, frames_of
from geotdm_fast.graphs import EdgeImages, Graph, NearestRule
from geotdm_fast.reference import Cell

BATCH = torch.tensor([0, 0, 0, 1, 1, 1, 1])
# Both graphs are small beside their boxes: of all images of a neighbour the nearest is the one of the unwrapped graph.
BOXES = 20 * torch.tensor([[[1.0, 0, 0], [0.2, 1, 0], [0, -0.1, 1]], [[1, 0.1, 0], [0, 1.5, 0], [0.3, 0, 1.2]]])


class NearestImages(NearestRule):
    """All pairs of a graph, each by the nearest of its images; a stand-in for a search in boxes."""

    def __init__(self, batch, vectors):
        super().__init__(len(batch), batch)
        self.vectors, self.inverse = vectors[:, None], torch.linalg.inv(vectors)

    def __call__(self, x):
        graph = super().__call__(x)
        row, col = graph.edge_index.clamp(max=graph.num_rows - 1)
        rows, box = x.flatten(0, 1), self.inverse[self.batch[row // x.shape[1]]]
        number = ((rows[row] - rows[col])[:, None] @ box.to(x.dtype))[:, 0].round()
        pbc = torch.ones(len(self.vectors), 3, dtype=torch.bool)
        graph.images = EdgeImages(graph.of_edges(number).to(torch.int8), Cell(self.vectors, pbc), self.batch)
        return graph


def all_pairs(batch):
    return (batch[:, None] == batch).fill_diagonal_(False).nonzero().T


def static(edge_index, turns, batch, vectors):
    """The graph whose images undo the wrapping of nodes by `turns` lattice vectors."""
    row, col = edge_index
    cell = Cell(vectors[:, None], torch.ones(len(vectors), 3, dtype=torch.bool))
    return Graph.static(
        edge_index, len(batch), images=EdgeImages((turns[row] - turns[col]).to(torch.int8), cell, batch)
    )


def wrapping(seed, batch, vectors):
    """Whole numbers [N, 3], and the lattice vectors [N, 3] that they are."""
    turns = torch.randint(-3, 4, (len(batch), 3), generator=torch.Generator().manual_seed(seed))
    return turns, (turns[:, :, None] * vectors[batch]).sum(1)


@pytest.mark.parametrize("kind", ["static", "rule"])
@pytest.mark.parametrize("by_modules", [False, True])
@pytest.mark.parametrize(("scale", "cutoff"), [(1, None), (0.5, 6.0), (-2, 6.0)])
def test_the_network_in_boxes_is_the_network_without(scale, cutoff, by_modules, kind):
    """But that x_out, (scaled positions after the last layer - x) / scale, has the wrapping's part in it."""
    torch.manual_seed(0)
    network = EGTN(2, 2, 0, 16, 8, "silu", True, 1, 3, scale, cutoff=cutoff).double()
    if by_modules:
        for spatial in (*network.s_modules, *network.s_modules_ref):
            spatial.edge_mlp.register_forward_hook(lambda *_: None)
    vectors, edge_index = BOXES.double(), all_pairs(BATCH)
    x_given, h = torch.randn(7, 3, 5).double(), torch.randn(7, 2).double()
    turns, by = wrapping(0, BATCH, vectors)
    boxed = static(edge_index, turns, BATCH, vectors) if kind == "static" else NearestImages(BATCH, vectors)
    step, mask = torch.zeros(7), cond_mask([[0, 2]], 5)

    def call(x_given, graph, **more):
        about = {"cond_mask": mask, "x_given": x_given, "graph": graph} | more
        return network(step, x_given[..., 2:], h, None, None, BATCH, **about)

    plain, wrapped = Graph.static(edge_index, 7), x_given + by[..., None]
    x_out, h_out = call(wrapped, boxed)
    expected_x, expected_h = call(x_given, plain)
    assert_same(x_out - (1 - 1 / scale) * by[..., None], expected_x, 1e-10)
    assert_same(h_out, expected_h, 1e-10)
    expected = call(x_given, plain, compute_ref=True)
    assert_same(call(wrapped, boxed, compute_ref=True) - by[..., None], expected, 1e-10)
    other, _ = call(wrapped, plain)
    assert not torch.allclose(other - (1 - 1 / scale) * by[..., None], expected_x), "the images count"


@pytest.mark.parametrize("cut", [[0, 2], [1, 3, 4]])
def test_given_frames_have_the_boxes_of_their_numbers(cut):
    """In boxes that change, the reference frame is that of the given frames alone."""
    torch.manual_seed(0)
    network = EGTN(1, 2, 0, 16, 8, "silu", True, 1, 5 - len(cut), 0.5).double()
    vectors = (BOXES[:, None] * torch.linspace(0.1, 0.2, 5)[:, None, None]).double()
    edge_index, number = all_pairs(BATCH), torch.randint(-1, 2, (18, 3), dtype=torch.int8)
    graph = lambda vectors: Graph.static(
        edge_index, 7, images=EdgeImages(number, Cell(vectors, torch.ones(2, 3, dtype=torch.bool)), BATCH)
    )
    x_given, h = torch.randn(7, 3, 5).double(), torch.randn(7, 2).double()
    mask = torch.zeros(1, 1, 5)
    mask[..., cut] = 1
    about = {"cond_mask": mask, "compute_ref": True}
    found = network(None, None, h, None, None, x_given=x_given, graph=graph(vectors), **about)
    layers = zip(network.s_modules_ref, network.t_modules_ref, strict=True)
    z = network._first_layer(network.input_linear_ref, h, None, len(cut), torch.float64)
    y = 0.5 * x_given[..., cut].transpose(1, 2)
    for spatial, temporal in layers:
        y, z = spatial.rows(y, z, graph(0.5 * vectors[:, cut]), None)
        y, z = temporal.rows(y, z, tuple(cut))
    w = z.mean(-1)[..., None] * network.ws
    w = torch.cat([w[:, :-1], 1 - w[:, :-1].sum(1, keepdim=True)], dim=1)  # [N, T_given, num_w]
    assert_same(found, torch.einsum("nts,ntd->nds", w, y) / 0.5, 1e-10)


@needs_native
@pytest.mark.parametrize("kind", ["static", "rule"])
def test_a_captured_chain_has_the_boxes_of_its_batch(kind):
    """On a tape nothing waits; a replay takes the boxes and images of another batch, and of its own positions."""
    batch = case("nbody").batch.to(dtype=torch.float32)
    given = cond_mask(MASKS["prefix"], NUM_FRAMES)
    num_noisy = len(frames_of(given).noisy)
    network = case("nbody").network(learned=True, num_w=num_noisy, hidden_dim=16, dtype=torch.float32,
                                    pre_norm=True, edge_dim=0, scale=0.5)  # fmt: skip
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(0.3)
    made = diffusion(network, "cond", "learned", model_mean_type=ModelMeanType.START_X)
    names = ("edge_index", "edge_attr")
    kwargs = {name: value for name, value in batch.model_kwargs().items() if name not in names}

    def draw(vectors, seed):
        turns, by = wrapping(seed, batch.batch, vectors)
        boxed = NearestImages(batch.batch, vectors)
        if kind == "static":
            boxed = static(all_pairs(batch.batch), turns, batch.batch, vectors)
        about = {"cond_mask": given, "x_given": batch.x + by[..., None], "graph": boxed}
        torch.manual_seed(17)
        return made.p_sample_loop((len(batch.x), 3, num_noisy), model_kwargs=kwargs | about)

    batches = [(BOXES, 0), (0.8 * BOXES, 1)]
    made.captures = None
    expected = [draw(*about) for about in batches]
    made.captures = type(diffusion(network).captures)(record=TapeRecorder())
    found = [draw(*about) for about in batches]
    assert len(made.captures) == len(made.captures.record.tapes) == 1
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b) and a.isfinite().all()
    assert not torch.equal(*expected)


@pytest.mark.parametrize("name", ["auto", "reference"])
def test_a_layer_takes_boxes(name):
    """Called with features last, by the op and by its modules."""
    torch.manual_seed(0)
    layer = EGTN(1, 2, 0, 16, 8, "silu", False, 0, 0).s_modules[0]
    turns, by = wrapping(0, BATCH, BOXES)
    boxed = static(all_pairs(BATCH), turns, BATCH, BOXES)
    x, h = torch.randn(7, 3, 4), torch.randn(7, 16, 4)
    with backend(name):
        expected_x, expected_h = layer(x, h, all_pairs(BATCH), None)
        hooks = [None, lambda *_: None]
        for hook in hooks:
            if hook is not None:
                layer.edge_mlp.register_forward_hook(hook)
            x_out, h_out = layer(x + by[..., None], h, boxed, None)
            assert_same(x_out - by[..., None], expected_x, 1e-5)
            assert_same(h_out, expected_h, 1e-4)
