// AMX: matrix products of bfloat16 numbers in tiles, everything else and all sums in float32, by AVX-512.
#define GEOTDM_ISA amx
#define GEOTDM_LOW_PRECISION
#define GEOTDM_AMX
#define GEOTDM_WIDTH 16
#define GEOTDM_PANEL_VECTORS 2
#define GEOTDM_PANEL_ROWS 12
#include "kernels.inc"
static_assert(geotdm::amx::kPanel == geotdm::kPanelAVX512);
