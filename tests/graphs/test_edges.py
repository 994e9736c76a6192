"""The tables of edges: by the compiled module and by torch, the same."""

import pytest
import torch
from native_cases import needs_native

from geotdm_fast.graphs.edges import sorted_edges
from geotdm_fast.ops import native

NO_MODULE = "not there"


def by_torch(monkeypatch, edge_index, num_rows):
    with monkeypatch.context() as patch:
        patch.setattr(native, "missing", NO_MODULE)
        return sorted_edges(edge_index, num_rows)


def drawn(num_rows, num_edges):
    """Edges in any order, with repeats and self-loops."""
    return torch.randint(num_rows, (2, num_edges), generator=torch.Generator().manual_seed(num_edges))


def test_the_tables_are_what_their_names_say():
    order, tables = sorted_edges(torch.tensor([[2, 0, 2, 0], [1, 2, 0, 0]]), 3)
    assert order.tolist() == [1, 3, 0, 2]
    assert tables.first.tolist() == [0, 2, 2, 4] and tables.sender.tolist() == [2, 0, 1, 0]
    assert tables.sender_first.tolist() == [0, 2, 3, 4] and tables.by_sender.tolist() == [1, 3, 2, 0]


@needs_native
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
@pytest.mark.parametrize(("num_rows", "num_edges"), [(0, 0), (3, 0), (1, 4), (5, 20), (40, 30), (300, 4000)])
def test_the_module_sorts_as_torch_does(num_rows, num_edges, dtype, monkeypatch):
    in_any_order = drawn(max(num_rows, 1), num_edges).to(dtype)
    ascending = torch.stack([in_any_order[0].sort().values, in_any_order[1]])
    strided = in_any_order.t().contiguous().t()
    for edge_index in (in_any_order, ascending, strided):
        order, tables = sorted_edges(edge_index, num_rows)
        expected_order, expected = by_torch(monkeypatch, edge_index, num_rows)
        assert (order is None) == (expected_order is None)
        for found, right in zip([*tables, order], [*expected, expected_order], strict=True):
            assert found is right or (torch.equal(found, right) and found.dtype == right.dtype == torch.int64)


@pytest.mark.parametrize("missing", [native.missing, NO_MODULE])
@pytest.mark.parametrize(
    ("edges", "said"),
    [
        ([[0, 1], [2, -1]], "egcl: edge_index must not be negative, got -1"),
        ([[0, 3], [2, 1]], r"egcl: edge_index must be in 0\.\.2, got 3"),
        ([[2**40, 0], [2, 1]], rf"egcl: edge_index must be in 0\.\.2, got {2**40}"),
    ],
)
def test_an_index_out_of_range_is_refused(edges, said, missing, monkeypatch):
    monkeypatch.setattr(native, "missing", missing)
    with pytest.raises(ValueError, match=said):
        sorted_edges(torch.tensor(edges), 3)


@needs_native
def test_the_op_is_what_torch_is_told_of_it():
    torch.library.opcheck(torch.ops.geotdm_fast.edge_tables.default, (drawn(5, 20), 5))
    with pytest.raises(ValueError, match=r"egcl: edge_index must be \[2, 20\], got \[3, 20\]"):
        torch.ops.geotdm_fast.edge_tables(torch.zeros(3, 20, dtype=torch.int64), 5)
    with pytest.raises(ValueError, match=r"egcl: edge_index must be \[2, E\], got \[4\]"):
        torch.ops.geotdm_fast.edge_tables(torch.zeros(4, dtype=torch.int64), 5)
    for num_rows in (-1, 2**63 - 1):
        with pytest.raises(ValueError, match=rf"egcl: num_rows must be in 0\.\.2\^60 - 1, got {num_rows}"):
            torch.ops.geotdm_fast.edge_tables(drawn(5, 20), num_rows)
