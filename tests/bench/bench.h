// Benchmarks of the kernels. A benchmark states the least work of an op (bytes moved or FLOPs), makes one set of random
// tensors, and returns a call of the op over it. ssa_bench makes enough sets that none is still in L2 when its turn
// comes again, times each call with events on the stream, and prints the median and its share of a ceiling measured in
// the same run: the rate of a large device copy for bytes, of an 8192^3 product of cuBLASLt for FLOPs.
//
//   SSA_BENCH(rmsnorm) {
//     const std::int64_t M = bench.shapes.M(), H = bench.shapes.model.hidden_size;
//     bench.measure("rmsnorm_forward", {.bytes = 2.0 * M * H * 2}, [&] {
//       const Tensor out = bench.empty(DType::bf16, {M, H}), x = bench.random(DType::bf16, {M, H});
//       ...
//       return [=](Stream& stream) { rmsnorm_forward(stream, {.out = out, .x = x, ...}); };
//     });
//   }
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "ssa/model/model_config.h"
#include "ssa/runtime/stream.h"

namespace ssa::bench {

/// ssa-1b, with the window of 512 tokens that the benchmarks of nsa have.
inline ModelConfig default_model() {
  ModelConfig model;
  model.vocab_size = 128256;
  model.hidden_size = 2048;
  model.intermediate_size = 8192;
  model.num_hidden_layers = 16;
  model.num_attention_heads = 32;
  model.num_key_value_heads = 2;
  model.head_dim = 64;
  model.window_size = 512;
  return model;
}

/// What is timed, from the command line.
struct Shapes {
  std::int64_t rows = 4, tokens = 8192;
  ModelConfig model = default_model();
  /// Tokens per document of a sequence, for the ops that take documents; 0 = no document mask.
  std::int64_t document_tokens = 0;

  std::int64_t M() const { return rows * tokens; }
  std::int64_t blocks() const { return (tokens + model.block_size - 1) / model.block_size; }
};

/// `shapes` with heads of 128 and half as many of them, so that q, k and v have the same size. nullopt unless its heads
/// are of 64 and its number of key/value heads is even.
std::optional<Shapes> with_heads_of_128(const Shapes& shapes);

/// The same number of tokens as sequences of `shortest` tokens, of twice that and so on up to 32768, as long as they
/// fill whole sequences. UsageError if they do not fill sequences of `shortest` tokens.
std::vector<Shapes> by_length(const Shapes& shapes, std::int64_t shortest);

/// The least work of one call. It is compared with the FLOP ceiling if flops is set, else with the copy ceiling.
struct Work {
  double bytes = 0;
  double flops = 0;
};

using Call = std::function<void(Stream&)>;

/// The result of one benchmark.
struct Timing {
  double ms = 0, ceiling_share = 0;
};

class Bench {
 public:
  Bench(Stream& bench_stream, const Shapes& bench_shapes, std::string filter);

  Stream& stream;
  const Shapes shapes;

  /// Device tensors. They are freed at the end of the `measure` call that made them, or by `release`.
  Tensor empty(DType dtype, Shape shape);
  Tensor zeros(DType dtype, Shape shape);
  Tensor random(DType dtype, Shape shape, double scale = 1);                             ///< normal values, f32 or bf16
  Tensor integers(Shape shape, const std::function<std::int32_t(std::int64_t)>& value);  ///< i32, value(i) of element i

  void release() { buffers_.clear(); }

  /// Whether `name` contains the text of --only.
  bool wanted(const std::string& name) const { return name.find(filter_) != std::string::npos; }

  /// Whether `name` starts with the text of --only. Benchmarks that take a minute run only then.
  bool asked_for(const std::string& name) const { return !filter_.empty() && name.starts_with(filter_); }

  /// Runs the benchmarks of `group` at other shapes; returns the results by name and prints nothing.
  std::map<std::string, Timing> timings(const std::string& group, const Shapes& other_shapes);

  /// Times the calls that `make_set` returns and prints a line, unless --only excludes `name`.
  void measure(const std::string& name, const Work& work, const std::function<Call()>& make_set);
  /// Measures the ceilings and prints them. `model`: what the line calls it.
  void measure_ceilings(const std::string& model);

  /// The median over calls in turn, after warming up.
  double median_ms(const std::vector<Call>& calls);
  /// The last two columns of a line: the rate of `work` done in `ms`, and its share of the ceiling.
  std::string rate(const Work& work, double ms) const;

 private:
  /// Shares device, values and ceilings with `other`; runs every benchmark.
  Bench(const Bench& other, const Shapes& other_shapes);

  double ceiling_share(const Work& work, double ms) const;

  std::string filter_;
  std::vector<Buffer> buffers_;
  std::shared_ptr<const Buffer> pool_;                  ///< random values that `random` copies from: f32, then bf16
  double copy_rate_ = 0, product_rate_ = 0;             ///< bytes and FLOPs per second
  std::map<std::string, Timing>* collected_ = nullptr;  ///< if set, `measure` fills it instead of printing
};

/// Adds a group of benchmarks at program start; groups run in the order of their names.
struct Registration {
  Registration(const char* group, void (*run)(Bench&));
};

#define SSA_BENCH(group)                                                               \
  static void bench_##group(::ssa::bench::Bench& bench);                               \
  static const ::ssa::bench::Registration registration_##group(#group, bench_##group); \
  static void bench_##group(::ssa::bench::Bench& bench)

}  // namespace ssa::bench
