// AVX2.
#define GEOTDM_ISA avx2
#define GEOTDM_BYTES 32
#include "radius_search.inc"
