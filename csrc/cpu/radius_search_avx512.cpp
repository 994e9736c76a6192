// AVX-512 (F).
#define GEOTDM_ISA avx512
#define GEOTDM_BYTES 64
#include "radius_search.inc"
