"""Periodic boxes: what they are made of, and the shifts of a graph's edges."""

import pytest
import torch

from geotdm_fast.graphs import EdgeImages, Graph
from geotdm_fast.reference import Cell

SKEWED = torch.tensor([[4.0, 0, 0], [1, 5, 0], [-2, 0.5, 3]], dtype=torch.float64)


def test_boxes_come_in_four_shapes():
    assert Cell.of("test", SKEWED).vectors.shape == (1, 1, 3, 3)
    assert Cell.of("test", SKEWED.expand(2, 3, 3)).vectors.shape == (2, 1, 3, 3)
    cell = Cell.of("test", SKEWED.expand(2, 5, 3, 3), torch.tensor([True, False, True]), num_graphs=2, num_frames=5)
    assert cell.vectors.shape == (2, 5, 3, 3) and cell.pbc.tolist() == [[True, False, True]] * 2
    assert Cell.of("test", cell) is cell


def test_heights_are_the_volume_over_the_faces():
    (a, b, c), volume = SKEWED, 4 * 5 * 3
    faces = torch.stack(
        [torch.linalg.cross(b, c).norm(), torch.linalg.cross(c, a).norm(), torch.linalg.cross(a, b).norm()]
    )
    torch.testing.assert_close(Cell.of("test", SKEWED).heights()[0, 0], volume / faces)


def test_images_within_a_cutoff():
    cell = Cell.of("test", torch.diag(torch.tensor([4.0, 5.0, 3.0])), torch.tensor([True, True, False]))
    assert cell.images_within("test", 3.9) == (1, 1, 0)
    assert cell.images_within("test", 9.0) == (3, 2, 0)
    with pytest.raises(
        ValueError, match=r"test: cutoff must need at most 64 images .* got 300.0, which needs \[76, 61, 0\]"
    ):
        cell.images_within("test", 300.0)


def test_a_vector_of_zeros_stands_for_an_open_direction():
    vectors = torch.tensor([[3.0, 4, 0], [0, 0, 0], [0, 0, 2]])
    made = Cell.of("test", vectors, torch.tensor([True, False, True])).vectors[0, 0]
    torch.testing.assert_close(made[[0, 2]], vectors[[0, 2]])
    torch.testing.assert_close(made[1].abs(), torch.tensor([0.8, 0.6, 0]), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("cell", "pbc", "error", "message"),
    [
        (torch.ones(3), None, TypeError, r"cell must be a tensor \[3, 3\], \[G, 3, 3\] or \[G, T, 3, 3\], got \[3\]"),
        (torch.ones(2, 3), None, ValueError, r"cell must be \[3, 3\], got \[2, 3\]"),
        (torch.ones(3, 3), None, ValueError, r"cell must span a volume, got .* of graph 0, frame 0"),
        (torch.eye(3).log(), None, ValueError, r"cell must be finite, got -inf in vector 0 of graph 0, frame 0"),
        (torch.zeros(3, 3), None, ValueError, r"zeros for vector 0 of graph 0, frame 0; pbc says"),
        (torch.eye(3), torch.ones(3), TypeError, "pbc must be a tensor of bool, got torch.float32"),
        (torch.eye(3), torch.ones(2, dtype=torch.bool), ValueError, r"pbc must be \[3\], got \[2\]"),
        (torch.eye(3).expand(3, 3, 3), None, ValueError, "cell must be of 1 or 2 graphs, got 3"),
        (torch.eye(3).expand(1, 3, 3, 3), None, ValueError, "cell must be of 1 or 4 frames, got 3"),
    ],
)
def test_bad_boxes_are_errors(cell, pbc, error, message):
    with pytest.raises(error, match=f"test: .*{message}"):
        Cell.of("test", cell, pbc, num_graphs=2, num_frames=4)


def test_a_box_is_of_three_dimensions():
    with pytest.raises(ValueError, match="a cell must come with positions in 3 dimensions, got 2"):
        Cell.of("test", SKEWED, dim=2)


def boxed(num_frames=1, edges=7, nodes=5, graphs=2):
    """Edges of two graphs, nodes 0, 1 and 2, 3, 4, and their boxes."""
    generator = torch.Generator().manual_seed(0)
    vectors = SKEWED + torch.rand(graphs, num_frames, 3, 3, generator=generator, dtype=torch.float64)
    batch = torch.tensor([0, 0, 1, 1, 1])
    edge_index = torch.tensor([[1, 0, 4, 2, 3, 1, 0], [0, 1, 2, 2, 4, 0, 0]])[:, :edges]
    number = torch.randint(-2, 3, (edges, 3), generator=generator, dtype=torch.int8)
    images = EdgeImages(number, Cell.of("test", vectors), batch)
    return edge_index, images, batch


def test_shifts_of_edges_that_are_the_same_in_all_frames():
    edge_index, images, batch = boxed()
    shift = Graph.static(edge_index, 5, images=images).shift(3)
    for e, receiver in enumerate(edge_index[0]):
        torch.testing.assert_close(shift[e], images.number[e].double() @ images.cell.vectors[batch[receiver], 0])


def test_shifts_in_boxes_that_change():
    edge_index, images, batch = boxed(num_frames=3)
    graph = Graph.static(edge_index, 5, images=images)
    shift = graph.shift(3)
    assert shift.shape == (7, 3, 3)
    for e, receiver in enumerate(edge_index[0]):
        for t in range(3):
            expected = images.number[e].double() @ images.cell.vectors[batch[receiver], t]
            torch.testing.assert_close(shift[e, t], expected)
    every = graph.of_frames(3)
    torch.testing.assert_close(every.shift(3), shift.flatten(0, 1))
    some, kept = every.at_frames([2, 0])
    torch.testing.assert_close(some.shift(2), every.shift(3)[kept])
    same, kept = graph.at_frames([2, 0])
    assert kept is None
    torch.testing.assert_close(same.shift(2), shift[:, [2, 0]])
    torch.testing.assert_close(every.scaled(-0.5).shift(3), -0.5 * every.shift(3))


def test_shifts_are_differentiable_in_the_vectors():
    edge_index, images, _ = boxed(num_frames=2)

    def shift(vectors):
        moved = images._replace(cell=Cell(vectors, images.cell.pbc))
        return Graph.static(edge_index, 5, images=moved).shift(2)

    assert torch.autograd.gradcheck(shift, images.cell.vectors.requires_grad_())


def test_images_are_int8_of_each_edge():
    edge_index, images, _ = boxed()
    with pytest.raises(ValueError, match=r"Graph.static: images.number must be \[7, 3\], got \[6, 3\]"):
        Graph.static(edge_index, 5, images=images._replace(number=images.number[:6]))
    with pytest.raises(TypeError, match=r"Graph.per_frame: images.number must be int8, got torch.int64"):
        Graph.per_frame(edge_index, 5, 1, images=images._replace(number=images.number.long()))


def test_what_is_made_of_boxes_is_held_unless_they_want_a_gradient():
    edge_index, images, _ = boxed(num_frames=3)
    made = Graph.static(edge_index, 5, images=images).of_frames(3)
    assert made.shift(3) is made.shift(3) and made.scaled(2.0) is made.scaled(2.0)
    wanted = images._replace(cell=Cell(images.cell.vectors.requires_grad_(), images.cell.pbc))
    made = Graph.static(edge_index, 5, images=wanted).of_frames(3)
    found = []
    for _ in range(2):  # a backward frees what its forward kept
        shifts = [made.shift(3), made.scaled(2.0).shift(3), made.at_frames([2, 0])[0].shift(2)]
        found += torch.autograd.grad(sum(shift.square().sum() for shift in shifts), wanted.cell.vectors)
    assert torch.equal(*found)
