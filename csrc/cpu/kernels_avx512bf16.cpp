// AVX-512 with AVX512_BF16: matrix products of bfloat16 numbers, everything else and all sums in float32.
#define GEOTDM_ISA avx512bf16
#define GEOTDM_LOW_PRECISION
#define GEOTDM_WIDTH 16
#define GEOTDM_PANEL_VECTORS 2
#define GEOTDM_PANEL_ROWS 12
#include "kernels.inc"
static_assert(geotdm::avx512bf16::kPanel == geotdm::kPanelAVX512);
