#include <cstdint>
#include <string>
#include <vector>

#include "kernels/matmul/matmul.h"
#include "ssa/runtime/stream.h"
#include "support/catch.h"
#include "support/skip.h"

using namespace ssa;

namespace {

/// Records copy, product by 2, copy; runs it with new inputs, also after the scratch memory has moved.
void check_recorded_work(DeviceKind kind) {
  Stream stream(kind);
  constexpr std::int64_t kCount = 8;
  const DType act = kind == DeviceKind::cuda ? DType::bf16 : DType::f32;
  Buffer x(stream, kCount * size_of(act)), two(stream, size_of(act) * kCount * kCount),
      y(stream, kCount * sizeof(float));
  Buffer in(stream, x.bytes(), Buffer::Place::host), out(stream, y.bytes(), Buffer::Place::host);
  const auto set = [&](void* memory, std::int64_t i, float value) {
    if (act == DType::f32)
      static_cast<float*>(memory)[i] = value;
    else
      static_cast<bfloat16*>(memory)[i] = bfloat16(value);
  };
  std::vector<char> matrix(two.bytes());
  for (std::int64_t i = 0; i < kCount * kCount; ++i) set(matrix.data(), i, i % (kCount + 1) == 0 ? 2.0f : 0.0f);
  stream.copy(two.data(), matrix.data(), two.bytes());

  int called = 0;
  const auto work = [&] {
    ++called;
    stream.copy(x.data(), in.data(), x.bytes());
    matmul(stream, {.out = Tensor(y.data(), DType::f32, {1, kCount}),
                    .a = Tensor(x.data(), act, {1, kCount}),
                    .b = Tensor(two.data(), act, {kCount, kCount}),
                    .transpose_b = true});
    stream.copy(out.data(), y.data(), y.bytes());
  };
  const auto check = [&](float value) {
    stream.synchronize();
    for (std::int64_t i = 0; i < kCount; ++i) CHECK(static_cast<float*>(out.data())[i] == 2 * value);
  };
  const auto inputs = [&](float value) {
    for (std::int64_t i = 0; i < kCount; ++i) set(in.data(), i, value);
  };
  inputs(1);
  work();
  check(1);
  const auto recording = stream.record_work(work);
  CHECK(!stream.is_recording());
  check(1);  // recording runs nothing
  for (const float value : {3.0f, 4.0f}) {
    inputs(value);
    stream.replay(*recording);
    check(value);
  }
  stream.reserve_scratch(1024);
  inputs(5);
  stream.replay(*recording);
  check(5);
  const int before = called;
  std::vector<std::string> ops;
  stream.on_op([&](const char* op) { ops.emplace_back(op); });
  inputs(6);
  stream.replay(*recording);
  check(6);
  CHECK(called == before + 1);  // a recording does not report its ops, so the work itself runs
  CHECK(ops == std::vector<std::string>{"matmul"});
}

}  // namespace

TEST_CASE("recorded work runs again with what its inputs are by then") { check_recorded_work(DeviceKind::cpu); }

TEST_CASE("recorded work runs again on CUDA, as a graph") {
  if (ssa::test::skip_without_gpu()) return;
  check_recorded_work(DeviceKind::cuda);
}
