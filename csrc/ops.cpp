// The schemas of all ops, and what this build is (`geotdm_fast._C.build_info`).
#include <pybind11/pybind11.h>
#include <torch/library.h>
#include <torch/version.h>

#include "cpu/kernels.h"
#include "temporal_schemas.h"

// geotdm_fast/ops/module.py finds it in the file: loading beside another torch could crash.
[[gnu::used]] static const char built_with[] = "geotdm_fast._C built with torch " TORCH_VERSION;

TORCH_LIBRARY(geotdm_fast, m) {
  m.def(
      "egcl_forward(Tensor x, Tensor h, Tensor first, Tensor sender, Tensor? edge_term, Tensor? shift, "
      "Tensor[] params, bool normalize, bool pre_norm, float? cutoff, bool residual, bool keep, "
      "bool low_precision) -> (Tensor x_out, Tensor h_out, Tensor[] kept)");
  m.def(
      "egcl_backward(Tensor grad_x_out, Tensor grad_h_out, Tensor x, Tensor h, Tensor first, Tensor sender, "
      "Tensor sender_first, Tensor by_sender, Tensor? edge_term, Tensor? shift, Tensor[] params, Tensor[] kept, "
      "bool wants_shift, bool wants_params, bool normalize, bool pre_norm, float? cutoff, bool residual, "
      "bool low_precision) -> (Tensor grad_x, "
      "Tensor grad_h, Tensor grad_edge_term, Tensor grad_shift, Tensor[] grad_params)");
  m.def("gv_ff_forward(Tensor k, Tensor u, Tensor[] params, bool low_precision) -> (Tensor q, Tensor w)");
  m.def(
      "gv_ff_backward(Tensor grad_q, Tensor grad_w, Tensor k, Tensor u, Tensor[] params, bool wants_params, "
      "bool low_precision) -> (Tensor grad_k, Tensor grad_u, Tensor[] grad_params)");
  m.def(GEOTDM_TEMPORAL_FORWARD_SCHEMA);
  m.def(GEOTDM_TEMPORAL_BACKWARD_SCHEMA);
  m.def(
      "diffusion_step(Tensor(a!) x, Tensor(b!) before, Tensor(c!)? positions, Tensor output, Tensor? noise, "
      "Tensor? x_ref, Tensor? first, Tensor coefficients, Tensor step) -> ()");
  m.def("radius_graph(Tensor x, Tensor? batch, float cutoff, bool loop) -> (Tensor edge_index, Tensor degree)");
  m.def(
      "radius_neighbours(Tensor x, Tensor? batch, float cutoff, int capacity, bool loop) -> "
      "(Tensor sender, Tensor degree)");
  m.def(
      "radius_graph_periodic(Tensor x, Tensor? batch, Tensor vectors, Tensor inverse, Tensor pbc, int[3] images, "
      "int most_boxes_away, float cutoff, bool loop) -> (Tensor edge_index, Tensor image, Tensor degree)");
  m.def(
      "radius_neighbours_periodic(Tensor x, Tensor? batch, Tensor vectors, Tensor inverse, Tensor pbc, int[3] images, "
      "int most_boxes_away, float cutoff, int capacity, bool loop) -> (Tensor sender, Tensor image, Tensor degree)");
}

PYBIND11_MODULE(_C, m) {
  m.doc() = "CPU kernels of geotdm_fast; importing it registers the ops.";
  m.def(
      "build_info",
      [] {
        pybind11::dict info;
        info["isa"] = geotdm::kernels(false).isa;
        info["low_precision_isa"] = geotdm::kernels(true).isa;
        info["compiler"] = __VERSION__;
        info["torch"] = TORCH_VERSION;
        info["panel"] = geotdm::kernels(false).panel;
        return info;
      },
      "The instruction set that runs on this machine, and the one for products of bfloat16 (amx, avx512bf16, or the "
      "same: then they are float32), the compiler, torch, and the panel: the width of what an op keeps for its "
      "backward "
      "is a multiple of that many floats.");
}
