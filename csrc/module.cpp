// Every file that needs torch's headers, compiled as one: each alone would read them for 20 seconds.
#include "cpu/diffusion_step.cpp"
#include "cpu/egcl.cpp"
#include "cpu/gv_ff.cpp"
#include "cpu/periodic_search.cpp"
#include "cpu/radius_graph.cpp"
#include "cpu/temporal_attention.cpp"
#include "ops.cpp"
