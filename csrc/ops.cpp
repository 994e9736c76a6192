// The schemas of all ops, and what this build is: by torch's stable ABI and without Python's, so that one file serves
// every torch from 2.10 on and every Python.
#include <torch/csrc/stable/library.h>
#include <torch/headeronly/version.h>

#include <sstream>

#include "cpu/kernels.h"
#include "temporal_schemas.h"

STABLE_TORCH_LIBRARY(geotdm_fast, m) {
  m.def("build_info() -> str");
  m.def(
      "edge_tables(Tensor edge_index, int num_rows) -> "
      "(Tensor order, Tensor first, Tensor sender, Tensor sender_first, Tensor by_sender)");
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
      "packed_layer_pair(Tensor[] egcl_params, Tensor[] attention_params, Tensor turns, bool low_precision, "
      "int precision) -> Tensor packed");
  m.def("same_numbers(Tensor[] tensors, Tensor kept, Tensor sizes) -> bool");
  m.def(
      "layer_pairs(Tensor x, Tensor h, Tensor first, Tensor sender, Tensor[] edge_terms, Tensor? shift, "
      "Tensor[] packed, int phases, bool normalize, bool pre_norm, float? cutoff, int window, bool low_precision, "
      "int precision) -> (Tensor x_out, Tensor h_out)");
  m.def(
      "diffusion_step(Tensor(a!) x, Tensor(b!) before, Tensor(c!)? positions, Tensor output, Tensor? noise, "
      "Tensor? x_ref, Tensor? first, Tensor coefficients, Tensor step) -> ()");
  m.def(
      "layer_pairs_step(Tensor(a!) x, Tensor(b!) before, Tensor(c!)? positions, Tensor(d!) step, Tensor? noise, "
      "Tensor? x_ref, Tensor? first_node, Tensor coefficients, Tensor? given, Tensor? noisy, float scale, "
      "Tensor features, Tensor rows, Tensor first_edge, Tensor sender, Tensor[] edge_terms, Tensor? shift, "
      "Tensor[] packed, int phases, bool normalize, bool pre_norm, float? cutoff, int window, bool low_precision, "
      "int precision) -> ()");
  m.def("reference_frame(Tensor y, Tensor z, Tensor ws) -> Tensor x_ref");
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

namespace geotdm {

namespace {

// As JSON: the instruction set that runs on this machine, and the one for products of bfloat16 (amx, avx512bf16, or the
// same: then they are float32), the compiler, the torch whose headers were read, and the panel: the width of what an op
// keeps for its backward is a multiple of that many floats.
std::string build_info() {
  std::ostringstream text;
  text << R"({"isa": ")" << kernels(false).isa << R"(", "low_precision_isa": ")" << kernels(true).isa
       << R"(", "compiler": ")" << __VERSION__ << R"(", "torch": ")" << TORCH_VERSION << R"(", "panel": )"
       << kernels(false).panel << "}";
  return text.str();
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(geotdm_fast, CompositeExplicitAutograd, m) { m.impl("build_info", TORCH_BOX(&build_info)); }

}  // namespace geotdm
