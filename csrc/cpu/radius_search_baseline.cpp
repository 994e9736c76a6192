// Any x86-64 (SSE2), and the vectors of other processors.
#define GEOTDM_ISA baseline
#define GEOTDM_BYTES 16
#include "radius_search.inc"
