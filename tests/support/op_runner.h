// Runs one op in several precisions on the same values. A test case of an op is a function over an OpRunner: it makes
// tensors from host values, calls the op, and returns its outputs by name. One such function is enough for the
// derivative test (f64 on the CPU), for f32 against f64, and for CUDA against the CPU.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "ssa/runtime/stream.h"
#include "support/skip.h"

namespace ssa::test {

using Values = std::vector<double>;

/// `count` normal values times `scale`; the same values for the same seed.
Values random_values(std::int64_t count, std::uint64_t seed, double scale = 1.0);

/// Rounds an f32 tensor of the CPU as bf16 stores it.
void round_to_bf16(const Tensor& tensor);

struct Output {
  std::string name;
  Values values;
};
using Outputs = std::vector<Output>;

/// The values of the output of that name.
const Values& output(const Outputs& outputs, const std::string& name);

enum class Precision {
  exact,    ///< CPU, every act and f32 tensor in f64
  f32,      ///< CPU, f32: the CPU backend as it trains
  rounded,  ///< CPU in f64, with act inputs and outputs rounded to bf16: the error that bf16 storage alone makes
  cuda,     ///< CUDA, act is bf16
};

class OpRunner {
 public:
  explicit OpRunner(Precision precision);

  Stream& stream() { return stream_; }
  DType act() const { return act_; }

  /// Input tensors, rounded to the dtype of this precision.
  Tensor act_input(const Values& values, Shape shape);
  Tensor f32_input(const Values& values, Shape shape);
  Tensor f64_input(const Values& values, Shape shape);
  Tensor i32_input(const std::vector<std::int32_t>& values, Shape shape);

  /// Output tensors, filled with NaN (i32: a large negative number), so that an element the op does not write shows.
  Tensor act_output(Shape shape);
  Tensor f32_output(Shape shape);
  Tensor i32_output(Shape shape);

  /// The values of a tensor, after the queued work has finished.
  Values read(Tensor tensor);
  std::vector<std::int32_t> read_i32(Tensor tensor);

 private:
  Tensor make(DType dtype, Shape shape);
  Tensor upload(const Values& values, DType dtype, Shape shape);

  Precision precision_;
  Stream stream_;
  DType act_, real_;
  std::vector<Buffer> buffers_;
  std::vector<const void*> act_tensors_;  ///< tensors that `read` rounds when the precision is `rounded`
};

/// Compares <gradient, u> with the central difference of `loss` at x along u, for `directions` random directions u.
/// `loss` runs in f64: with a step of 1e-4 the truncation error is about 1e-8 times the third derivative and the
/// rounding error about 1e-12, so every smooth op is within 1e-6 of the larger side. `floor` replaces the larger side
/// where both sides vanish.
template <class Loss>
void check_gradient(const std::string& name, Loss&& loss, const Values& x, const Values& gradient,
                    double tolerance = 1e-6, double floor = 1e-3, int directions = 3);

/// The same for `loss(inputs)` and one member of the inputs; the other members stay as they are in `in`.
template <class Loss, class Inputs, class Base>
void check_gradient(const std::string& name, Loss&& loss, const Inputs& in, Values Base::*member,
                    const Values& gradient, double tolerance = 1e-6, double floor = 1e-3, int directions = 3);

/// Fixed random weights that make a scalar loss of an output: the loss is weighted_sum(out, weights), and the weights
/// are the d_out of the backward op.
Values loss_weights(std::int64_t count, std::uint64_t seed = 77);
double weighted_sum(const Values& values, const Values& weights);

/// |got - want| / |want| in the l2 norm; infinity if either has a NaN, or an infinity that the other lacks.
double relative_error(const Values& got, const Values& want);

/// The values that an op added to an accumulated output: after - before.
Values added(Values after, const Values& before);

/// Sum over D of a * b, for each head.
Values head_dots(const Values& a, const Values& b, std::int64_t D);

/// Runs `run(OpRunner&) -> Outputs` on the CPU in f32 and f64. The relative error of each output must be at most
/// `tolerance` (f32 rounding of sums of some thousand terms), and the f32 bits the same on one thread and on three.
template <class Run>
void check_f32(Run&& run, double tolerance = 1e-5);

/// Runs `run(OpRunner&) -> Outputs` in exact, rounded and CUDA precision. CUDA's relative error must be at most twice
/// the error of `rounded`, plus `slack` for the accumulation order in f32. A second CUDA run must give the same bits.
/// Needs a GPU: the test calls skip_without_gpu() first.
template <class Run>
void check_cuda(Run&& run, double slack = 1e-5);

}  // namespace ssa::test

#include "support/op_runner_inl.h"
