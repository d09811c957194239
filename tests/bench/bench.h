// Benchmarks of the kernels. A benchmark makes one set of random tensors, returns a call of the op over it, and says
// what the op must read and write (or compute) at least; ssa_bench makes as many sets as it takes to leave nothing of a
// call in L2 when its set comes round again, times every call with events on the stream, and prints the median beside
// the ceiling measured in the same run: a large device copy for bytes, the 8192 cube of cuBLASLt for FLOPs.
//
//   SSA_BENCH(rmsnorm) {
//     const std::int64_t M = bench.shapes.M(), H = bench.shapes.hidden_size;
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
#include <string>
#include <vector>

#include "ssa/runtime/stream.h"

namespace ssa::bench {

/// ssa-1b by default; rows and tokens from the command line.
struct Shapes {
  std::int64_t rows = 4, tokens = 8192;
  std::int64_t hidden_size = 2048, intermediate_size = 8192, vocab_size = 128256;
  std::int64_t query_heads = 32, key_value_heads = 2, head_dim = 64, block_size = 16, block_counts = 16;

  std::int64_t M() const { return rows * tokens; }
  std::int64_t blocks() const { return (tokens + block_size - 1) / block_size; }
  std::int64_t qkvg_width() const { return (query_heads + 2 * key_value_heads) * head_dim + 3 * query_heads; }
};

/// The same tokens in rows of `shortest` tokens, of twice that and so on up to 32768, as far as they fill whole rows;
/// UsageError when they do not even in the shortest.
std::vector<Shapes> by_length(const Shapes& shapes, std::int64_t shortest);

/// What one call must do at least. The ceiling is that of FLOPs if there are any, else that of bytes.
struct Work {
  double bytes = 0;
  double flops = 0;
};

using Call = std::function<void(Stream&)>;

/// What a benchmark found.
struct Timing {
  double ms = 0, ceiling_share = 0;
};

class Bench {
 public:
  Bench(Stream& bench_stream, const Shapes& bench_shapes, std::string filter);

  Stream& stream;
  const Shapes shapes;

  /// Device tensors, which live until the `measure` that they were made in ends, or until `release`.
  Tensor empty(DType dtype, Shape shape);
  Tensor zeros(DType dtype, Shape shape);
  Tensor random(DType dtype, Shape shape, double scale = 1);                             ///< normal values, f32 or bf16
  Tensor integers(Shape shape, const std::function<std::int32_t(std::int64_t)>& value);  ///< i32, value(i) of element i

  void release() { buffers_.clear(); }

  /// Whether --only asks for `name`.
  bool wanted(const std::string& name) const { return name.find(filter_) != std::string::npos; }

  /// Whether --only gives the beginning of `name`. What takes a minute runs only then, and not among all benchmarks.
  bool asked_for(const std::string& name) const { return !filter_.empty() && name.starts_with(filter_); }

  /// All that the benchmarks of `group` find at other shapes, by name; prints nothing.
  std::map<std::string, Timing> timings(const std::string& group, const Shapes& other_shapes);

  /// Prints a line, unless the filter leaves `name` out.
  void measure(const std::string& name, const Work& work, const std::function<Call()>& make_set);
  void measure_ceilings();

  /// Of the calls in turn, after a few to warm up.
  double median_ms(const std::vector<Call>& calls);
  /// The line's last two columns: the rate of `work` done in `ms`, and its share of the measured ceiling.
  std::string rate(const Work& work, double ms) const;

 private:
  /// The same device, values and ceilings, and every benchmark is wanted.
  Bench(const Bench& other, const Shapes& other_shapes);

  double ceiling_share(const Work& work, double ms) const;

  std::string filter_;
  std::vector<Buffer> buffers_;
  std::shared_ptr<const Buffer> pool_;                  ///< random values that `random` copies from: f32, then bf16
  double copy_rate_ = 0, product_rate_ = 0;             ///< bytes and FLOPs a second
  std::map<std::string, Timing>* collected_ = nullptr;  ///< where `measure` puts what it finds, in place of printing it
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
