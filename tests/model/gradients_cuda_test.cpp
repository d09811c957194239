// The gradients of a step on a GPU against the CPU's, parameter by parameter. Finds a wrong `accumulate`, a gap that is
// not cleared or one bad layer, which the norm of all gradients can hide.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "ssa/comm/comm.h"
#include "ssa/train/optimizer_step.h"
#include "support/catch.h"
#include "support/op_runner.h"
#include "support/skip.h"
#include "support/skip_without_fp8.h"
#include "support/test_model.h"

using namespace ssa;
using namespace ssa::test;

namespace {

struct MethodCase {
  const char* name;
  AttentionPath path;
  std::int64_t window;
  bool tied;
  bool document_mask = false;  ///< of two documents in each sequence
};
constexpr MethodCase kMethodCases[] = {{"ssa", AttentionPath::ssa, 0, true},
                                       {"full", AttentionPath::full, 0, false},
                                       {"moba", AttentionPath::selected, 0, true},
                                       {"nsa", AttentionPath::nsa, 24, false},
                                       {"ssa with a document mask", AttentionPath::ssa, 0, true, true},
                                       {"nsa with a document mask", AttentionPath::nsa, 24, false, true}};

/// A shape that the CUDA kernels support. Every block is selected: where a near tie decides, bf16 may select another
/// block than f32, and gradients would differ by more than rounding. The ops' tests cover the selection.
ModelConfig model_config(const MethodCase& method) {
  ModelConfig c = small_model(128);
  c.hidden_size = 64;
  c.intermediate_size = 96;
  c.head_dim = 64;
  c.block_size = 16;
  c.block_counts = 8;
  c.window_size = method.window;
  c.tie_word_embeddings = method.tied;
  return c;
}

/// The tensors that a GPU stores in bf16.
std::vector<Tensor> act_tensors(const Activations& a) {
  std::vector<Tensor> tensors = {a.final_x,  a.final_norm, a.qkvg,     a.residual_delta, a.logits,
                                 a.d_x,      a.d_norm,     a.d_qkvg,   a.d_attention,    a.d_gate_up,
                                 a.d_swiglu, a.d_full,     a.d_sparse, a.d_compressed,   a.d_window};
  for (const LayerActivations& l : a.layers)
    tensors.insert(tensors.end(), {l.x, l.input_norm, l.q, l.k, l.v, l.k_mean, l.v_mean, l.full, l.sparse, l.compressed,
                                   l.window, l.attention, l.mid, l.post_norm, l.gate_up, l.swiglu});
  return tensors;
}

enum class Run { f32, rounded, cuda };  ///< rounded: on the CPU, with weights and activations rounded to bf16

/// The gradients of two micro-batches: the first overwrites, the second adds.
std::vector<Values> gradients_of(const MethodCase& method, Run run, const ModelConfig& config,
                                 const Fp8Layers& fp8 = {}) {
  // 96: the second document begins with a block.
  const PassShape pass{.rows = 2,
                       .tokens = fp8.any() || method.document_mask ? 96 : 90,
                       .path = method.path,
                       .fp8 = fp8,
                       .document_mask = method.document_mask};
  TestModel m(config, pass, BlockSelection::exact, run == Run::cuda ? DeviceKind::cuda : DeviceKind::cpu);
  m.initialize(31);
  SingleComm comm;
  publish_weights(m.stream, comm, m.state);
  if (run == Run::rounded) {
    round_to_bf16(m.state.weights);
    // Before each op, rounds the outputs of the previous op as a GPU stores them.
    m.stream.on_op([tensors = act_tensors(m.state.activations)](const char*) {
      for (const Tensor& tensor : tensors)
        if (tensor) round_to_bf16(tensor);
    });
  }
  const double alignment = 1.0 / static_cast<double>(pass.rows * pass.tokens * config.q_width() * 2);
  const PassScales scales{.alignment = alignment,
                          .ce_gradient = static_cast<float>(1.0 / static_cast<double>(pass.rows * pass.tokens)),
                          .alignment_gradient = static_cast<float>(10 * alignment)};
  m.poison_gradients();
  for (const std::uint64_t micro : {0, 1}) {
    HostBatch batch = random_batch(pass.rows, pass.tokens, config.vocab_size, 32 + micro);
    batch.full_stream = {1, 0};
    m.add_micro_batch(batch, scales, micro == 0 ? Gradients::overwrite : Gradients::add);
  }
  m.stream.on_op(nullptr);
  const std::vector<float> flat = m.read<float>(m.state.gradients);
  std::vector<Values> gradients;
  for (const Param& param : m.table.params()) {
    const auto begin = flat.begin() + param.offset;
    gradients.emplace_back(begin, begin + param.count());
  }
  return gradients;
}

}  // namespace

TEST_CASE("model: rounding weights and activations to bf16 changes every gradient slightly") {
  // The comparison with CUDA below uses this error: it must be small and not zero.
  for (const MethodCase& method : kMethodCases) {
    const ParamTable table(model_config(method));
    const std::vector<Values> exact = gradients_of(method, Run::f32, model_config(method));
    const std::vector<Values> rounded = gradients_of(method, Run::rounded, model_config(method));
    for (std::size_t i = 0; i < exact.size(); ++i) {
      const double error = relative_error(rounded[i], exact[i]);
      INFO(method.name << ", " << table.params()[i].name << ": relative error " << error);
      CHECK(error > 1e-4);
      CHECK(error < 0.1);
    }
  }
}

TEST_CASE("model: on CUDA every parameter's gradient equals the CPU's within bf16 precision") {
  if (skip_without_gpu()) return;
  for (const MethodCase& method : kMethodCases) {
    const ParamTable table(model_config(method));
    const std::vector<Values> exact = gradients_of(method, Run::f32, model_config(method));
    const std::vector<Values> rounded = gradients_of(method, Run::rounded, model_config(method));
    const std::vector<Values> got = gradients_of(method, Run::cuda, model_config(method));
    for (std::size_t i = 0; i < exact.size(); ++i) {
      // Twice the error of rounding what is stored, as for the ops; the rest is for what kernels round inside, such as
      // probabilities before their product with v.
      const double allowed = 2 * relative_error(rounded[i], exact[i]) + 1e-3;
      const double error = relative_error(got[i], exact[i]);
      INFO(method.name << ", " << table.params()[i].name << ": relative error " << error << ", allowed " << allowed);
      CHECK(error <= allowed);
    }
  }
}

TEST_CASE("model: on CUDA every parameter's gradient in FP8 equals the CPU's, which rounds the same operands") {
  if (skip_without_fp8()) return;
  for (const MethodCase& method : kMethodCases)
    for (const std::int64_t intermediate : {96, 128}) {  // with 128 SwiGLU writes FP8
      ModelConfig config = model_config(method);
      config.intermediate_size = intermediate;
      config.vocab_size = intermediate == 96 ? 257 : 64;
      config.initializer_range = 0.05;  // larger weights amplify the rounding from layer to layer
      const Fp8Layers fp8(config, Fp8Mode::all, {});
      const ParamTable table(config);
      const std::vector<Values> exact = gradients_of(method, Run::f32, config, fp8);
      const std::vector<Values> rounded = gradients_of(method, Run::rounded, config, fp8);
      const std::vector<Values> got = gradients_of(method, Run::cuda, config, fp8);
      for (std::size_t i = 0; i < exact.size(); ++i) {
        // As above. A value near the middle of two FP8 numbers goes the other way after a bf16 rounding, in `rounded`
        // as on the GPU.
        const double allowed = 2 * relative_error(rounded[i], exact[i]) + 1e-3;
        const double error = relative_error(got[i], exact[i]);
        INFO(method.name << ", " << table.params()[i].name << ": relative error " << error << ", allowed " << allowed);
        CHECK(error <= allowed);
        CHECK(allowed < 0.3);
      }
    }
}
