// Tensors of more than 2^31 elements. Their memory is reserved, and only the pages that the ops touch exist.
#include <sys/mman.h>

#include <cmath>
#include <vector>

#include "kernels/attention/decode/append_qkv.h"
#include "kernels/attention/decode/decode_attention.h"
#include "kernels/swiglu/swiglu.h"
#include "support/catch.h"

using namespace ssa;

namespace {

constexpr std::int64_t kElements = (std::int64_t{1} << 31) + (std::int64_t{1} << 20);

/// A float32 tensor of zeros in reserved memory.
class Reserved {
 public:
  explicit Reserved(const Shape& shape) : bytes_(static_cast<std::size_t>(count(shape)) * sizeof(float)) {
    data_ = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    REQUIRE(data_ != MAP_FAILED);
    tensor_ = Tensor(data_, DType::f32, shape);
  }
  ~Reserved() { munmap(data_, bytes_); }
  Reserved(const Reserved&) = delete;
  Reserved& operator=(const Reserved&) = delete;
  const Tensor& tensor() const { return tensor_; }

 private:
  static std::int64_t count(const Shape& shape) { return Tensor(nullptr, DType::f32, shape).count(); }

  std::size_t bytes_;
  void* data_;
  Tensor tensor_;
};

float value(std::int64_t i) { return std::sin(static_cast<float>(i)); }

std::vector<float> values(std::int64_t count, std::int64_t first) {
  std::vector<float> all;
  for (std::int64_t i = 0; i < count; ++i) all.push_back(value(first + i));
  return all;
}

/// Appends four tokens at the end of a cache of C tokens and attends to them from the last one.
std::vector<float> append_and_attend(const Tensor& k_cache, const Tensor& v_cache, const Tensor& k_mean) {
  constexpr std::int64_t kTokens = 4, HK = 4, HQ = 8, D = 64;
  const std::int64_t C = k_cache.dim(1);
  Stream stream(DeviceKind::cpu);
  constexpr std::int64_t kColumns = (HQ + 2 * HK) * D + 3 * HQ;
  std::vector<float> qkvg = values(kTokens * kColumns, 0), q(kTokens * HQ * D), gates(kTokens * HQ * 3);
  std::vector<float> cos_sin = values(kTokens * D, 7000), out(HQ * D);
  std::vector<std::int32_t> positions;
  for (std::int64_t t = C - kTokens; t < C; ++t) positions.push_back(static_cast<std::int32_t>(t));
  // The table of angles has rows for these positions only.
  append_qkv(stream, {.q = Tensor(q.data(), DType::f32, {1, kTokens, HQ, D}),
                      .gates = Tensor(gates.data(), DType::f32, {1, kTokens, HQ, 3}),
                      .k_cache = k_cache,
                      .v_cache = v_cache,
                      .k_mean = k_mean,
                      .qkvg = Tensor(qkvg.data(), DType::f32, {kTokens, kColumns}),
                      .positions = Tensor(positions.data(), DType::i32, {1, kTokens}),
                      .cos_sin = Tensor(cos_sin.data() - positions[0] * D, DType::f32, {C, D / 2, 2}),
                      .block_size = 4});
  decode_attention(stream, {.out = Tensor(out.data(), DType::f32, {1, 1, HQ, D}),
                            .q = Tensor(&q[(kTokens - 1) * HQ * D], DType::f32, {1, 1, HQ, D}),
                            .k = k_cache,
                            .v = v_cache,
                            .positions = Tensor(&positions.back(), DType::i32, {1, 1}),
                            .scale = 0.125f,
                            .window = kTokens});
  return out;
}

}  // namespace

TEST_CASE("a key/value cache of more than 2^31 elements is written and read at its end") {
  constexpr std::int64_t C = kElements / 256;
  const auto run = [](std::int64_t tokens) {
    const Reserved k({1, tokens, 4, 64}), v({1, tokens, 4, 64}), mean({1, tokens / 4, 4, 64});
    std::vector<float> result = append_and_attend(k.tensor(), v.tensor(), mean.tensor());
    const Tensor last = mean.tensor().view({tokens / 4, 256}).rows(tokens / 4 - 1, tokens / 4);
    result.insert(result.end(), last.as<float>(), last.as<float>() + 256);
    return result;
  };
  const std::vector<float> small = run(8);
  CHECK(std::abs(small[0]) > 1e-3f);
  CHECK(run(C) == small);
}

TEST_CASE("rows at the end of a tensor of more than 2^31 elements are where they belong") {
  constexpr std::int64_t F = 8192, M = kElements / (2 * F);
  const Reserved gate_up({M, 2 * F}), out({M, F});
  for (std::int64_t i = 0; i < 2 * F; ++i) static_cast<float*>(gate_up.tensor().data())[(M - 1) * 2 * F + i] = value(i);
  Stream stream(DeviceKind::cpu);
  swiglu_forward(stream, {.out = out.tensor().rows(M - 2, M), .gate_up = gate_up.tensor().rows(M - 2, M)});
  const float* last = static_cast<const float*>(out.tensor().data()) + (M - 1) * F;
  for (const std::int64_t i : {std::int64_t{0}, F / 2, F - 1}) {
    const double gate = value(i), expected = gate / (1 + std::exp(-gate)) * value(F + i);
    CHECK(std::abs(last[i] - expected) < 1e-6);
  }
}
