"""The memory-efficient structure for edges that are not the same in all frames."""

from torch import Tensor

from bench.peers.baselines import EfficientEGTN, PlainSpatial, to_frames, to_rows


class FramewiseSpatial(PlainSpatial):
    """`PlainSpatial` with every frame of a node as a node of its own."""

    def forward(self, x: Tensor, h: Tensor, edge_index: Tensor, edge_attr: Tensor | None) -> tuple[Tensor, Tensor]:
        """x [N, D, T], h [N, H, T]; edge_index [2, E] between rows i T + t, edge_attr [E, A, 1] or None."""
        num_frames = x.shape[2]
        rows = super().forward(to_rows(x)[..., None], to_rows(h)[..., None], edge_index, edge_attr)
        x, h = (to_frames(value[..., 0], num_frames) for value in rows)
        return x, h


class FramewiseEGTN(EfficientEGTN):
    """`EfficientEGTN` with edges of every frame: edge_index [2, E] between rows i T + t, without features."""

    spatial = FramewiseSpatial
