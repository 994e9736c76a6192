// The backward of one precision and width: nothing is kept from the forward, everything is recomputed, some nodes at a
// time, so that memory does not grow with their number.
#pragma once

#include "attention_gradient.cuh"
#include "mlp_gradient.cuh"
#include "pipeline.cuh"
#include "pipelines.h"
#include "weight_gradient.cuh"

namespace geotdm::cuda {

template <Precision P, int H>
struct BackwardPass {
  // Rows of nodes that are worked on at a time, about: enough for every multiprocessor, few enough for memory.
  static constexpr int kRowsAtOnce = 32768;
  static constexpr int kParts = 32;

  static int64_t nodes_at_once(const TemporalAttention& in) {
    const int64_t nodes = kRowsAtOnce / in.num_frames > 1 ? kRowsAtOnce / in.num_frames : 1;
    return nodes < in.num_nodes ? nodes : in.num_nodes;
  }

  struct Memory {
    Weights<P> weights;
    float *sums, *gate_sums;
    RowArrays<P> rows;

    Memory(const TemporalAttention& in, Workspace& workspace) {
      weights = take_weights<P, H>(workspace);
      sums = workspace.take<float>(int64_t{kParts} * GradientLayout<H>::size());
      gate_sums = workspace.take<float>(kGateParts * GateGradient<P, H>::kSize);
      const int64_t count = nodes_at_once(in) * in.num_frames;
      rows = take_rows<P, H>(workspace, count);
      const auto take = [&](int columns) { return workspace.take<Element<P>>(count * columns); };
      rows.h = take(H), rows.grad_out = take(H + kTurns);
      for (auto& hidden : rows.hidden) hidden = take(H);
      for (auto& hidden : rows.grad_hidden) hidden = take(H);
      rows.grad_q = take(H), rows.grad_k = take(H), rows.grad_v = take(H);
      rows.grad_turned = take(kTurns), rows.turned_sums = take(kTurns);
      for (float** row : {&rows.highest, &rows.scale, &rows.mean, &rows.grad_gate}) *row = workspace.take<float>(count);
    }
  };

  static size_t workspace(const TemporalAttention& in) {
    Workspace count(nullptr);
    Memory(in, count);
    return count.used();
  }

  static int run(const TemporalBackward& call, Stream stream) {
    Workspace workspace(call.workspace);
    const Memory memory(call.in, workspace);
    if (const int error = prepare<P, H>(call.in, memory.weights, stream)) return error;
    const int64_t step = nodes_at_once(call.in);
    for (int64_t node = 0; node < call.in.num_nodes; node += step)
      if (const int error = part(call, memory, node, step, stream)) return error;
    using Collect = CollectGradients<H>;
    // Of no nodes there are no sums.
    const bool is_any = call.in.num_nodes > 0;
    typename Collect::Arguments collect{
        call.in, memory.sums, memory.gate_sums, is_any ? kParts : 0, is_any ? kGateParts : 0, {}};
    for (int param = 0; param < kNumParams; ++param) collect.grads[param] = call.grad_params[param];
    const int widest = call.in.time_emb_dim > call.in.width ? call.in.time_emb_dim : call.in.width;
    const int blocks = (call.in.width * widest + Collect::kThreads - 1) / Collect::kThreads;
    return launch<Collect>(collect, blocks, kNumParams, Collect::kThreads, 0, stream);
  }

  // Nodes node .. node + step - 1.
  static int part(const TemporalBackward& call, const Memory& memory, int64_t node, int64_t step, Stream stream) {
    TemporalAttention in = call.in;
    const int64_t left = in.num_nodes - node, row = node * in.num_frames;
    in.num_nodes = step < left ? step : left;
    in.x += row * in.dim, in.h += row * in.width;
    const float *grad_x_out = call.grad_x_out + row * in.dim, *grad_h_out = call.grad_h_out + row * in.width;
    float *grad_x = call.grad_x + row * in.dim, *grad_h = call.grad_h + row * in.width;
    const RowTiling tiling(in.num_nodes, in.num_frames);

    using Project = ProjectRows<P, H, true>;
    if (const int error =
            launch_tiles<Project>({in, tiling, memory.weights, Project::stages(), memory.rows, grad_h_out}, 1, stream))
      return error;
    const AttentionGradientArguments<P> attention{in, tiling, memory.rows, grad_x_out, grad_x};
    if (const int error = launch_tiles<QueryGradient<P, H>>(attention, QueryGradient<P, H>::kParts, stream))
      return error;
    if (const int error = launch_tiles<KeyGradient<P, H>>(attention, KeyGradient<P, H>::kParts, stream)) return error;
    using Mlp = MlpGradient<P, H>;
    if (const int error =
            launch_tiles<Mlp>({in, tiling, memory.weights, Mlp::stages(), memory.rows, grad_h_out, grad_h}, 1, stream))
      return error;
    return weights_gradients(memory, tiling.num_rows, node == 0, stream);
  }

  static int weights_gradients(const Memory& memory, int64_t num_rows, bool is_first, Stream stream) {
    using Layout = GradientLayout<H>;
    const RowArrays<P>& r = memory.rows;
    const int wide = H + kTurns;
    const int rows_of_part = static_cast<int>((num_rows + kParts - 1) / kParts + kRows - 1) / kRows * kRows;
    const auto square = [&](int which, const Element<P>* left, const Element<P>* right) {
      return RowProduct<P>{left, right, H, H, Layout::matrix(which), Layout::bias(which)};
    };
    using Square = WeightGradient<P, H, H>;
    typename Square::Arguments squares{
        {square(kQ1, r.grad_hidden[kHiddenQ], r.h), square(kQ2, r.grad_q, r.hidden[kHiddenQ]),
         square(kK1, r.grad_hidden[kHiddenK], r.h), square(kK2, r.grad_k, r.hidden[kHiddenK]),
         square(kV1, r.grad_hidden[kHiddenV], r.h), square(kV2, r.grad_v, r.hidden[kHiddenV]),
         square(kX1, r.grad_hidden[kHiddenX], r.v)},
        num_rows,
        rows_of_part,
        is_first,
        memory.sums};
    if (const int error =
            launch<Square>(squares, kNumMatrices * Square::kBlocksX, kParts, Square::kThreads, Square::kBytes, stream))
      return error;
    using Turns = WeightGradient<P, H, kTurns>;
    typename Turns::Arguments turns{
        {{r.q, r.grad_turned, wide, kTurns, Layout::turns(0), kNoBias},
         {r.grad_out, r.turned_sums, wide, kTurns, Layout::turns(1), Layout::bias(kNumMatrices)}},
        num_rows,
        rows_of_part,
        is_first,
        memory.sums};
    if (const int error = launch<Turns>(turns, 2 * Turns::kBlocksX, kParts, Turns::kThreads, Turns::kBytes, stream))
      return error;
    using Gate = GateGradient<P, H>;
    return launch<Gate>({r.grad_gate, r.hidden[kHiddenX], num_rows, is_first, memory.gate_sums}, kGateParts, 1,
                        Gate::kThreads, Gate::kBytes, stream);
  }
};

template <Precision P, int H>
size_t Backward<P, H>::workspace(const TemporalAttention& in) {
  return BackwardPass<P, H>::workspace(in);
}

template <Precision P, int H>
int Backward<P, H>::run(const TemporalBackward& call, StreamHandle stream) {
  return BackwardPass<P, H>::run(call, stream);
}

}  // namespace geotdm::cuda
