#include "bench/bench.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>

#include "kernels/matmul/matmul.h"
#include "ssa/base/command_line.h"
#include "ssa/base/program.h"
#include "ssa/base/random.h"
#include "ssa/config/config.h"

namespace ssa::bench {
namespace {

constexpr std::int64_t kPoolValues = 1 << 20;
constexpr double kCacheBytes = 200e6;  ///< that one round over the sets has to touch: three times the L2 of Hopper
constexpr int kMaxSets = 8, kWarmUps = 4, kRepetitions = 20;
constexpr double kWarmUpMs = 100;  ///< until the power limit has settled the clock
constexpr std::size_t kScratchBytes = std::size_t{1} << 30;

std::map<std::string, void (*)(Bench&)>& groups() {
  static std::map<std::string, void (*)(Bench&)> all;
  return all;
}

}  // namespace

Registration::Registration(const char* group, void (*run)(Bench&)) { groups().emplace(group, run); }

std::optional<Shapes> with_heads_of_128(const Shapes& shapes) {
  if (shapes.model.head_dim != 64 || shapes.model.num_key_value_heads % 2 != 0) return std::nullopt;
  Shapes wide = shapes;
  wide.model.head_dim = 128;
  wide.model.num_attention_heads /= 2;
  wide.model.num_key_value_heads /= 2;
  return wide;
}

std::vector<Shapes> by_length(const Shapes& shapes, std::int64_t shortest) {
  constexpr std::int64_t kLongest = 32768;
  if (shapes.M() % shortest != 0)
    fail_usage("lengths: ", shapes.M(), " tokens in all, expected a multiple of ", shortest);
  std::vector<Shapes> all;
  for (std::int64_t tokens = shortest; tokens <= kLongest && shapes.M() % tokens == 0; tokens *= 2) {
    Shapes& cut = all.emplace_back(shapes);
    cut.rows = shapes.M() / tokens;
    cut.tokens = tokens;
  }
  return all;
}

Bench::Bench(Stream& bench_stream, const Shapes& bench_shapes, std::string filter)
    : stream(bench_stream),
      shapes(bench_shapes),
      filter_(std::move(filter)),
      pool_(std::make_shared<Buffer>(bench_stream, kPoolValues * (sizeof(float) + sizeof(bfloat16)))) {
  stream.reserve_scratch(kScratchBytes);
  std::vector<float> values(kPoolValues);
  std::vector<bfloat16> rounded(kPoolValues);
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<float>(random_normal(1, RandomPurpose::test, 0, i));
    rounded[i] = bfloat16(values[i]);
  }
  stream.copy(pool_->data(), values.data(), kPoolValues * sizeof(float));
  stream.copy(static_cast<float*>(pool_->data()) + kPoolValues, rounded.data(), kPoolValues * sizeof(bfloat16));
  stream.synchronize();
}

Bench::Bench(const Bench& other, const Shapes& other_shapes)
    : stream(other.stream),
      shapes(other_shapes),
      pool_(other.pool_),
      copy_rate_(other.copy_rate_),
      product_rate_(other.product_rate_) {}

Tensor Bench::empty(DType dtype, Shape shape) {
  buffers_.emplace_back(stream, Tensor(nullptr, dtype, shape).bytes());
  return {buffers_.back().data(), dtype, shape};
}

Tensor Bench::zeros(DType dtype, Shape shape) {
  const Tensor tensor = empty(dtype, shape);
  stream.zero(tensor);
  return tensor;
}

Tensor Bench::random(DType dtype, Shape shape, double scale) {
  const Tensor tensor = empty(dtype, shape);
  const std::size_t size = size_of(dtype), pool = kPoolValues * size;
  SSA_CHECK(dtype == DType::f32 || dtype == DType::bf16, "bench: random ", name_of(dtype));
  const char* from = static_cast<const char*>(pool_->data()) + (dtype == DType::bf16 ? kPoolValues * sizeof(float) : 0);
  std::vector<float> scaled;
  Buffer scaled_pool;
  if (scale != 1) {  // rare: scaled on the host
    std::vector<char> host(pool);
    stream.copy(host.data(), from, pool);
    stream.synchronize();
    for (std::int64_t i = 0; i < kPoolValues; ++i) {
      if (dtype == DType::f32) {
        reinterpret_cast<float*>(host.data())[i] *= static_cast<float>(scale);
      } else {
        auto& value = reinterpret_cast<bfloat16*>(host.data())[i];
        value = bfloat16(static_cast<float>(value) * static_cast<float>(scale));
      }
    }
    scaled_pool = Buffer(stream, pool);
    stream.copy(scaled_pool.data(), host.data(), pool);
    stream.synchronize();
    from = static_cast<const char*>(scaled_pool.data());
  }
  for (std::size_t done = 0; done < tensor.bytes(); done += pool)
    stream.copy(static_cast<char*>(tensor.data()) + done, from, std::min(pool, tensor.bytes() - done));
  stream.synchronize();
  return tensor;
}

Tensor Bench::integers(Shape shape, const std::function<std::int32_t(std::int64_t)>& value) {
  const Tensor tensor = empty(DType::i32, shape);
  std::vector<std::int32_t> host(static_cast<std::size_t>(tensor.count()));
  for (std::size_t i = 0; i < host.size(); ++i) host[i] = value(static_cast<std::int64_t>(i));
  stream.copy(tensor.data(), host.data(), tensor.bytes());
  stream.synchronize();
  return tensor;
}

double Bench::median_ms(const std::vector<Call>& calls) {
  for (const auto warm_up = stream.record(); stream.elapsed_ms(*warm_up, *stream.record()) < kWarmUpMs;)
    for (int i = 0; i < kWarmUps; ++i) calls[static_cast<std::size_t>(i) % calls.size()](stream);
  std::vector<std::shared_ptr<Stream::Event>> begin, end;
  for (std::size_t i = 0; i < kRepetitions; ++i) {
    begin.push_back(stream.record());
    calls[i % calls.size()](stream);
    end.push_back(stream.record());
  }
  std::vector<double> ms;
  for (std::size_t i = 0; i < kRepetitions; ++i) ms.push_back(stream.elapsed_ms(*begin[i], *end[i]));
  std::nth_element(ms.begin(), ms.begin() + kRepetitions / 2, ms.end());
  return ms[kRepetitions / 2];
}

double Bench::ceiling_share(const Work& work, double ms) const {
  return work.flops > 0 ? work.flops / ms * 1e3 / product_rate_ : work.bytes / ms * 1e3 / copy_rate_;
}

std::string Bench::rate(const Work& work, double ms) const {
  char text[64];
  if (work.flops > 0)
    std::snprintf(text, sizeof(text), "%7.1f TFLOP/s | %5.1f %%", work.flops / ms * 1e-9,
                  100 * ceiling_share(work, ms));
  else
    std::snprintf(text, sizeof(text), "%8.0f GB/s   | %5.1f %%", work.bytes / ms * 1e-6, 100 * ceiling_share(work, ms));
  return text;
}

std::map<std::string, Timing> Bench::timings(const std::string& group, const Shapes& other_shapes) {
  std::map<std::string, Timing> found;
  Bench other(*this, other_shapes);
  other.collected_ = &found;
  groups().at(group)(other);
  return found;
}

void Bench::measure(const std::string& name, const Work& work, const std::function<Call()>& make_set) {
  if (!wanted(name)) return;
  const int sets = std::clamp(static_cast<int>(std::ceil(kCacheBytes / std::max(work.bytes, 1.0))), 1, kMaxSets);
  std::vector<Call> calls;
  for (int i = 0; i < sets; ++i) calls.push_back(make_set());
  const double ms = median_ms(calls);
  release();
  if (collected_) {
    (*collected_)[name] = {ms, ceiling_share(work, ms)};
    return;
  }
  std::printf("| %-44s | %9.4f | %s |\n", name.c_str(), ms, rate(work, ms).c_str());
  std::fflush(stdout);
}

void Bench::measure_ceilings(const std::string& model) {
  constexpr std::int64_t kCopied = std::int64_t{2} << 30, kCube = 8192;
  {
    const Tensor from = random(DType::f32, {kCopied / 4}), to = empty(DType::f32, {kCopied / 4});
    const double ms = median_ms({[=](Stream& s) { s.copy(to.data(), from.data(), from.bytes()); }});
    copy_rate_ = 2e3 * static_cast<double>(kCopied) / ms;
    release();
  }
  const Tensor a = random(DType::bf16, {kCube, kCube}), b = random(DType::bf16, {kCube, kCube});
  const Tensor out = empty(DType::bf16, {kCube, kCube});
  const double ms = median_ms({[=](Stream& s) { matmul(s, {.out = out, .a = a, .b = b, .transpose_b = true}); }});
  product_rate_ = 2e3 * static_cast<double>(kCube * kCube * kCube) / ms;
  release();
  std::printf("%s; %s, %lld sequences of %lld tokens. Ceilings: copy %.0f GB/s, 8192^3 product %.0f TFLOP/s\n\n",
              stream.device_name().c_str(), model.c_str(), static_cast<long long>(shapes.rows),
              static_cast<long long>(shapes.tokens), copy_rate_ * 1e-9, product_rate_ * 1e-12);
  std::printf("| %-44s | %9s | %15s | %7s |\n|---|---|---|---|\n", "kernel", "ms", "rate", "ceiling");
}

}  // namespace ssa::bench

int main(int argc, char** argv) {
  using namespace ssa;
  return run_program("ssa_bench", [&] {
    bench::Shapes shapes;
    std::int64_t tokens = 0;
    std::string config, only;
    CommandLine line({.program = "ssa_bench",
                      .usage = "[options]",
                      .summary = "Times every kernel on GPU 0 at the shapes of a model: ms, rate, and percent of the "
                                 "ceiling\nmeasured in the same run.",
                      .footer =
                          "lengths_attention, lengths_step and lengths_step_moba time attention and the training "
                          "step\nby sequence length, groups_attention sparse attention by group, block and head size, "
                          "documents_attention\nattention with a document mask, decoding the generation of text. They "
                          "take a minute and run only if\n--only begins their name.\n\nExamples:\n  ssa_bench --rows 4 "
                          "--only rmsnorm\n  ssa_bench "
                          "--only lengths\n  ssa_bench --config configs/ssa-300m.json --rows 8 --only training_step"});
    line.add_option("--config", config, "times the shapes of its model instead of ssa-1b's")->option_text("FILE");
    line.add_option("--rows", shapes.rows, "sequences per batch")
        ->option_text("B")
        ->capture_default_str()
        ->transform(integer(1));
    line.add_option("--tokens", tokens, "tokens per sequence (default: train.max_length of --config, else 8192)")
        ->option_text("T")
        ->transform(integer(1));
    line.add_option("--only", only, "time only kernels whose names contain this")->option_text("NAME");
    if (!line.read(argc, argv)) return kExitDone;
    if (!config.empty()) {
      const Config from = load_config(find_config(config));
      const std::int64_t window = from.model.window_size > 0 ? from.model.window_size : shapes.model.window_size;
      shapes.model = from.model;
      shapes.model.window_size = window;
      shapes.tokens = from.train.max_length;
    }
    if (tokens > 0) shapes.tokens = tokens;
    if (shapes.tokens < shapes.model.block_size)
      fail_usage("--tokens ", shapes.tokens, ": expected at least the ", shapes.model.block_size, " of a block");
    Stream stream(DeviceKind::cuda);
    bench::Bench bench(stream, shapes, only);
    bench.measure_ceilings(config.empty() ? "ssa-1b" : config);
    for (const auto& [group, run] : bench::groups()) run(bench);
    return kExitDone;
  });
}
