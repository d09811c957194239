// Runs one op in several precisions on the same values. A case of an op is a function over an OpRunner: it makes
// tensors from host values, calls the op, and names its outputs. The same function then serves the derivative test (f64
// on the CPU), the comparison of CUDA with the CPU, and the benchmark.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "ssa/runtime/stream.h"

namespace ssa::test {

using Values = std::vector<double>;

/// `count` normal values x scale; the same for the same seed.
Values random_values(std::int64_t count, std::uint64_t seed, double scale = 1.0);

struct Output {
  std::string name;
  Values values;
};
using Outputs = std::vector<Output>;

const Values& output(const Outputs& outputs, const std::string& name);

enum class Precision {
  exact,    ///< CPU, every real tensor f64
  f32,      ///< CPU, f32: the CPU backend as it trains
  rounded,  ///< CPU in f64, but act inputs and act outputs are rounded to bf16: the error bf16 itself makes
  cuda,     ///< CUDA, act is bf16
};

class OpRunner {
 public:
  explicit OpRunner(Precision precision);

  Stream& stream() { return stream_; }
  DType act() const { return act_; }

  /// Inputs, uploaded with rounding to the dtype that this precision uses.
  Tensor act_input(const Values& values, Shape shape);
  Tensor f32_input(const Values& values, Shape shape);
  Tensor f64_input(const Values& values, Shape shape);
  Tensor i32_input(const std::vector<std::int32_t>& values, Shape shape);

  /// Outputs, filled with NaN (integers with a large negative number) so that an element nobody writes shows.
  Tensor act_output(Shape shape);
  Tensor f32_output(Shape shape);
  Tensor i32_output(Shape shape);

  /// The values of a tensor, after the work queued so far.
  Values read(Tensor tensor);
  std::vector<std::int32_t> read_i32(Tensor tensor);

 private:
  Tensor make(DType dtype, Shape shape);
  Tensor upload(const Values& values, DType dtype, Shape shape);

  Precision precision_;
  Stream stream_;
  DType act_, real_;
  std::vector<Buffer> buffers_;
  std::vector<const void*> act_tensors_;  ///< whose values `read` rounds when the precision is `rounded`
};

/// Central difference of `loss` at x along a random direction against <gradient, direction>. `loss` runs in f64, so
/// with step 1e-4 the truncation error is about 1e-8 of the third derivative and rounding about 1e-12: tolerance 1e-6
/// of the larger side (or of `floor` where both vanish) holds for every smooth op. Checks `directions` of them.
template <class Loss>
void check_gradient(const std::string& name, Loss&& loss, const Values& x, const Values& gradient,
                    double tolerance = 1e-6, double floor = 1e-3, int directions = 3);

/// The same for `loss(inputs)` and one member of the inputs; the others stay as they are in `in`.
template <class Loss, class Inputs, class Base>
void check_gradient(const std::string& name, Loss&& loss, const Inputs& in, Values Base::*member,
                    const Values& gradient, double tolerance = 1e-6, double floor = 1e-3, int directions = 3);

/// A scalar to differentiate: the sum of values weighted by fixed random numbers; `weights` are those numbers, which is
/// the d_out that the backward op gets.
Values loss_weights(std::int64_t count, std::uint64_t seed = 77);
double weighted_sum(const Values& values, const Values& weights);

/// Relative l2 distance of `got` from `want`; NaN anywhere gives infinity.
double relative_error(const Values& got, const Values& want);

/// What an op added to an accumulated output.
Values added(Values after, const Values& before);

/// Sum over D of a * b, for each head.
Values head_dots(const Values& a, const Values& b, std::int64_t D);

/// Runs `run(OpRunner&) -> Outputs` on the CPU in f32 and f64: each output's relative l2 distance must be at most
/// `tolerance` (f32 rounding of sums some thousand terms long), and the f32 bits the same on one and on three threads.
template <class Run>
void check_f32(Run&& run, double tolerance = 1e-5);

/// Runs `run(OpRunner&) -> Outputs` in exact, rounded and CUDA precision: for each output, CUDA's error against `exact`
/// must be at most twice that of `rounded` (both in l2), plus `slack` relative (f32 accumulation order). Runs CUDA
/// twice and wants equal bits. Without a GPU it says so and passes.
template <class Run>
void check_cuda(Run&& run, double slack = 1e-5);

bool have_cuda();
void warn_no_cuda();  ///< says once that the CUDA ops are not run here

}  // namespace ssa::test

#include "support/op_runner_inl.h"
