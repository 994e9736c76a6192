// AVX2 and FMA: 16 registers of 8 floats hold a 6 x 16 tile.
#define GEOTDM_ISA avx2
#define GEOTDM_WIDTH 8
#define GEOTDM_PANEL_VECTORS 2
#define GEOTDM_PANEL_ROWS 6
#include "kernels.inc"
