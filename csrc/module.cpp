// Every file that needs torch's headers, compiled as one, for each reads them anew.
#include "cpu/diffusion_step.cpp"
#include "cpu/egcl.cpp"
#include "cpu/gv_ff.cpp"
#include "cpu/layer_pairs.cpp"
#include "cpu/periodic_search.cpp"
#include "cpu/radius_graph.cpp"
#include "cpu/temporal_attention.cpp"
#include "ops.cpp"
