// Any x86-64 (SSE2), and the vectors of other processors.
#define GEOTDM_ISA baseline
#define GEOTDM_WIDTH 4
#define GEOTDM_PANEL_VECTORS 2
#define GEOTDM_PANEL_ROWS 6
#include "kernels.inc"
