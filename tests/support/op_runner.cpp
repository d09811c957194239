#include "support/op_runner.h"

#include <limits>

#include "ssa/base/random.h"

namespace ssa::test {
namespace {

constexpr std::int32_t kPoison = -0x40000000;

template <class F>
void visit_real(DType dtype, F&& f) {
  switch (dtype) {
    case DType::f64: return f(double{});
    case DType::f32: return f(float{});
    case DType::bf16: return f(bfloat16{});
    default: fail("op runner: tensor of ", name_of(dtype));
  }
}

double round_bf16(double value) { return static_cast<float>(bfloat16(static_cast<float>(value))); }

}  // namespace

Values random_values(std::int64_t count, std::uint64_t seed, double scale) {
  Values values(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = scale * random_normal(seed, RandomPurpose::test, 0, i);
  return values;
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
    if (got[i] == want[i]) {  // also equal infinities
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

bool have_cuda() { return cuda_device_count() > 0; }

void warn_no_cuda() {
  static const bool warned = [] {
    WARN("no GPU in this build or machine: CUDA ops are skipped");
    return true;
  }();
  static_cast<void>(warned);
}

OpRunner::OpRunner(Precision precision)
    : precision_(precision), stream_(precision == Precision::cuda ? DeviceKind::cuda : DeviceKind::cpu) {
  switch (precision) {
    case Precision::exact:
    case Precision::rounded: act_ = real_ = DType::f64; break;
    case Precision::f32: act_ = real_ = DType::f32; break;
    case Precision::cuda: act_ = DType::bf16, real_ = DType::f32; break;
  }
  stream_.reserve_scratch(std::size_t{256} << 20);
}

Tensor OpRunner::make(DType dtype, Shape shape) {
  buffers_.emplace_back(stream_, std::max<std::size_t>(Tensor(nullptr, dtype, shape).bytes(), 1));
  return {buffers_.back().data(), dtype, shape};
}

Tensor OpRunner::upload(const Values& values, DType dtype, Shape shape) {
  const Tensor tensor = make(dtype, shape);
  SSA_CHECK(static_cast<std::int64_t>(values.size()) == tensor.count(), "op runner: ", values.size(), " values for ",
            shape.to_string());
  visit_real(dtype, [&]<class T>(T) {
    std::vector<T> host(values.size());
    for (std::size_t i = 0; i < values.size(); ++i)
      host[i] = T(static_cast<std::conditional_t<sizeof(T) == 8, double, float>>(values[i]));
    stream_.copy(tensor.data(), host.data(), tensor.bytes());
    stream_.synchronize();
  });
  return tensor;
}

Tensor OpRunner::act_input(const Values& values, Shape shape) {
  Tensor tensor;
  if (precision_ == Precision::rounded) {
    Values rounded = values;
    for (double& v : rounded) v = round_bf16(v);
    tensor = upload(rounded, act_, shape);
  } else {
    tensor = upload(values, act_, shape);
  }
  act_tensors_.push_back(tensor.data());
  return tensor;
}

Tensor OpRunner::f32_input(const Values& values, Shape shape) { return upload(values, real_, shape); }
Tensor OpRunner::f64_input(const Values& values, Shape shape) { return upload(values, DType::f64, shape); }

Tensor OpRunner::i32_input(const std::vector<std::int32_t>& values, Shape shape) {
  const Tensor tensor = make(DType::i32, shape);
  SSA_CHECK(static_cast<std::int64_t>(values.size()) == tensor.count(), "op runner: ", values.size(), " values for ",
            shape.to_string());
  stream_.copy(tensor.data(), values.data(), tensor.bytes());
  stream_.synchronize();
  return tensor;
}

Tensor OpRunner::act_output(Shape shape) {
  const Tensor tensor = upload(Values(static_cast<std::size_t>(shape.count()), std::nan("")), act_, shape);
  act_tensors_.push_back(tensor.data());
  return tensor;
}

Tensor OpRunner::f32_output(Shape shape) {
  return upload(Values(static_cast<std::size_t>(shape.count()), std::nan("")), real_, shape);
}

Tensor OpRunner::i32_output(Shape shape) {
  return i32_input(std::vector<std::int32_t>(static_cast<std::size_t>(shape.count()), kPoison), shape);
}

Values OpRunner::read(Tensor tensor) {
  Values values(static_cast<std::size_t>(tensor.count()));
  const bool round = precision_ == Precision::rounded &&
                     std::find(act_tensors_.begin(), act_tensors_.end(), tensor.data()) != act_tensors_.end();
  visit_real(tensor.dtype(), [&]<class T>(T) {
    std::vector<T> host(values.size());
    stream_.copy(host.data(), tensor.data(), tensor.bytes());
    stream_.synchronize();
    for (std::size_t i = 0; i < values.size(); ++i)
      values[i] = round ? round_bf16(static_cast<double>(static_cast<float>(host[i])))
                        : static_cast<double>(static_cast<std::conditional_t<sizeof(T) == 8, double, float>>(host[i]));
  });
  return values;
}

std::vector<std::int32_t> OpRunner::read_i32(Tensor tensor) {
  std::vector<std::int32_t> values(static_cast<std::size_t>(tensor.count()));
  stream_.copy(values.data(), tensor.data(), tensor.bytes());
  stream_.synchronize();
  return values;
}

}  // namespace ssa::test
