#include "support/op_runner.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

#include "ssa/base/random.h"

namespace ssa::test {
namespace {

constexpr std::int32_t kPoison = -0x40000000;  ///< value of i32 outputs before they are written
/// More than any test case needs. On the CPU no op has any.
constexpr std::size_t kScratchBytes = std::size_t{256} << 20;

/// The arithmetic type to convert a tensor element of type T with.
template <class T>
using Arithmetic = std::conditional_t<std::is_same_v<T, double>, double, float>;

/// Calls f.operator()<T>() with the C++ type of a floating-point dtype.
template <class F>
void visit_real(DType dtype, F&& f) {
  switch (dtype) {
    case DType::f64: return f.template operator()<double>();
    case DType::f32: return f.template operator()<float>();
    case DType::bf16: return f.template operator()<bfloat16>();
    default: fail("op runner: tensor of ", name_of(dtype));
  }
}

template <class T>
void copy_to_device(Stream& stream, const Tensor& tensor, const std::vector<T>& host) {
  SSA_CHECK(static_cast<std::int64_t>(host.size()) == tensor.count(), "op runner: ", host.size(), " values for ",
            tensor.shape().to_string());
  stream.copy(tensor.data(), host.data(), tensor.bytes());
  stream.synchronize();
}

template <class T>
std::vector<T> copy_to_host(Stream& stream, const Tensor& tensor) {
  std::vector<T> host(static_cast<std::size_t>(tensor.count()));
  stream.copy(host.data(), tensor.data(), tensor.bytes());
  stream.synchronize();
  return host;
}

Values all_nan(const Shape& shape) { return Values(static_cast<std::size_t>(shape.count()), std::nan("")); }

double round_bf16(double value) { return static_cast<float>(bfloat16(static_cast<float>(value))); }

}  // namespace

Values random_values(std::int64_t count, std::uint64_t seed, double scale) {
  Values values(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = scale * random_normal(seed, RandomPurpose::test, 0, i);
  return values;
}

void round_to_bf16(const Tensor& tensor) {
  float* values = tensor.as<float>();
  const std::int64_t count = tensor.count();
  for (std::int64_t i = 0; i < count; ++i) values[i] = static_cast<float>(bfloat16(values[i]));
}

Values loss_weights(std::int64_t count, std::uint64_t seed) { return random_values(count, seed); }

double weighted_sum(const Values& values, const Values& weights) {
  double sum = 0;
  for (std::size_t i = 0; i < values.size(); ++i) sum += values[i] * weights[i];
  return sum;
}

Values added(Values after, const Values& before) {
  SSA_CHECK(after.size() == before.size(), "compared ", after.size(), " values with ", before.size());
  for (std::size_t i = 0; i < after.size(); ++i) after[i] -= before[i];
  return after;
}

Values head_dots(const Values& a, const Values& b, std::int64_t D) {
  Values dots(a.size() / static_cast<std::size_t>(D));
  for (std::size_t i = 0; i < a.size(); ++i) dots[i / static_cast<std::size_t>(D)] += a[i] * b[i];
  return dots;
}

double relative_error(const Values& got, const Values& want) {
  SSA_CHECK(got.size() == want.size(), "compared ", got.size(), " values with ", want.size());
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    if (got[i] == want[i]) {  // equal infinities too
      if (std::isfinite(want[i])) norm += want[i] * want[i];
      continue;
    }
    if (!std::isfinite(got[i]) || !std::isfinite(want[i])) return std::numeric_limits<double>::infinity();
    difference += (got[i] - want[i]) * (got[i] - want[i]);
    norm += want[i] * want[i];
  }
  return difference == 0 ? 0 : std::sqrt(difference / std::max(norm, 1e-60));
}

const Values& output(const Outputs& outputs, const std::string& name) {
  for (const Output& o : outputs)
    if (o.name == name) return o.values;
  fail("no output named ", name);
}

OpRunner::OpRunner(Precision precision)
    : precision_(precision), stream_(precision == Precision::cuda ? DeviceKind::cuda : DeviceKind::cpu) {
  switch (precision) {
    case Precision::exact:
    case Precision::rounded: act_ = real_ = DType::f64; break;
    case Precision::f32: act_ = real_ = DType::f32; break;
    case Precision::cuda: act_ = DType::bf16, real_ = DType::f32; break;
  }
  if (precision == Precision::cuda) stream_.reserve_scratch(kScratchBytes);
}

Tensor OpRunner::make(DType dtype, Shape shape) {
  buffers_.emplace_back(stream_, std::max<std::size_t>(Tensor(nullptr, dtype, shape).bytes(), 1));
  return {buffers_.back().data(), dtype, shape};
}

Tensor OpRunner::upload(const Values& values, DType dtype, Shape shape) {
  const Tensor tensor = make(dtype, shape);
  visit_real(dtype, [&]<class T>() {
    std::vector<T> host(values.size());
    for (std::size_t i = 0; i < values.size(); ++i) host[i] = T(static_cast<Arithmetic<T>>(values[i]));
    copy_to_device(stream_, tensor, host);
  });
  return tensor;
}

Tensor OpRunner::act_input(const Values& values, Shape shape) {
  Values stored = values;
  if (precision_ == Precision::rounded)
    for (double& v : stored) v = round_bf16(v);
  const Tensor tensor = upload(stored, act_, shape);
  act_tensors_.push_back(tensor.data());
  return tensor;
}

Tensor OpRunner::f32_input(const Values& values, Shape shape) { return upload(values, real_, shape); }
Tensor OpRunner::f64_input(const Values& values, Shape shape) { return upload(values, DType::f64, shape); }

Tensor OpRunner::i32_input(const std::vector<std::int32_t>& values, Shape shape) {
  const Tensor tensor = make(DType::i32, shape);
  copy_to_device(stream_, tensor, values);
  return tensor;
}

Tensor OpRunner::act_output(Shape shape) { return act_input(all_nan(shape), shape); }
Tensor OpRunner::f32_output(Shape shape) { return f32_input(all_nan(shape), shape); }

Tensor OpRunner::i32_output(Shape shape) {
  return i32_input(std::vector<std::int32_t>(static_cast<std::size_t>(shape.count()), kPoison), shape);
}

Values OpRunner::read(Tensor tensor) {
  Values values;
  values.reserve(static_cast<std::size_t>(tensor.count()));
  visit_real(tensor.dtype(), [&]<class T>() {
    for (const T x : copy_to_host<T>(stream_, tensor)) values.push_back(static_cast<Arithmetic<T>>(x));
  });
  const bool round = precision_ == Precision::rounded &&
                     std::find(act_tensors_.begin(), act_tensors_.end(), tensor.data()) != act_tensors_.end();
  if (round)
    for (double& v : values) v = round_bf16(v);
  return values;
}

std::vector<std::int32_t> OpRunner::read_i32(Tensor tensor) { return copy_to_host<std::int32_t>(stream_, tensor); }

}  // namespace ssa::test
