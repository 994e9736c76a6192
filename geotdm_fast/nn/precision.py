"""The precision of matrix products, set on a whole model."""

from typing import TYPE_CHECKING

from torch import nn

from geotdm_fast.reference import PRECISIONS
from geotdm_fast.runtime.choices import check_choice

# What the mixin is mixed into.
if TYPE_CHECKING:
    _Module = nn.Module
else:
    _Module = object


class PrecisionMixin(_Module):
    """`set_precision` for modules: the inputs of matrix products are rounded, sums stay in the model's own dtype."""

    precision: str = "fp32"

    def set_precision(self, precision: str) -> nn.Module:
        """Set `fp32` (no rounding), `tf32` (10 bits of mantissa) or `bf16` (7 bits) here and in every layer below.

        The CPU kernels round for `bf16` alone, on processors with AMX or AVX512_BF16; elsewhere they are as exact as
        `fp32`. Parameters stay in their dtype. Returns self. Raises ValueError for another name.
        """
        check_choice("set_precision: precision", precision, PRECISIONS)
        for module in self.modules():
            if isinstance(module, PrecisionMixin):
                module.precision = precision
        return self
