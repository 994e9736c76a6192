// AVX-512 (F, VL, DQ, BW): 32 registers of 16 floats hold a 12 x 32 tile.
#define GEOTDM_ISA avx512
#define GEOTDM_WIDTH 16
#define GEOTDM_PANEL_VECTORS 2
#define GEOTDM_PANEL_ROWS 12
#include "kernels.inc"
static_assert(geotdm::avx512::kPanel == geotdm::kPanelAVX512);
