// A whole training step, for each method: tokens per second, and the time of each op.
//
// A step is what train.cpp does on the device: forward and backward of one micro-batch, gradient norm, AdamW. The
// median over kSteps steps counts. One more step records an event before every op: the time of an op is the time until
// the next op starts. Its least work is about the same as in the op's own benchmark.
//
// By length: the step alone, for every method, with sequences of 2048 to 32768 tokens and a constant number of tokens.
// The memory of one model is freed before the next one is made.
#include <algorithm>
#include <cstdio>
#include <iterator>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "bench/attention_bench.h"
#include "kernels/fp8_matmul/fp8_matmul.h"
#include "ssa/base/error.h"
#include "ssa/base/random.h"
#include "ssa/train/flops.h"
#include "ssa/train/optimizer_step.h"

namespace ssa {
namespace {

using bench::Work;

constexpr std::size_t kSteps = 7, kStepsOfLength = 3;
constexpr std::int64_t kShortest = 2048;  ///< sequence length of the table by length

ModelConfig model_config(const bench::Shapes& s, Method method) {
  ModelConfig c = s.model;
  c.max_position_embeddings = s.tokens;
  if (method != Method::nsa) c.window_size = 0;
  return c;
}

/// The least work of all calls of an op in a step; ops that are missing are too small to matter.
std::map<std::string, Work> step_work(const bench::Shapes& s, const ModelConfig& c, Method method) {
  const auto M = static_cast<double>(s.M()), L = static_cast<double>(c.num_hidden_layers);
  const auto H = static_cast<double>(c.hidden_size), F = static_cast<double>(c.intermediate_size);
  const auto V = static_cast<double>(c.vocab_size), q_bytes = 2 * M * static_cast<double>(c.q_width());
  const auto heads = static_cast<double>(c.num_attention_heads), kv_heads = static_cast<double>(c.num_key_value_heads);
  const double parameters = static_cast<double>(matmul_parameters(c)), head = V * H;
  const auto all_parameters = static_cast<double>(ParamTable(c).size());

  const MeanKeys mean = mean_keys(c, s.tokens);
  // FLOPs of one product of attention with `keys` keys per query, over all layers, sequences and positions.
  const auto product = [&](double keys) { return L * bench::product_flops(s, M * keys * kv_heads); };
  const Branches computed = branches_of(training_path(method), c);
  const double dense = computed.full ? mean.causal : mean.window;
  const double branches = 1 + (computed.compressed ? 1 : 0) + (computed.window ? 1 : 0);  // in gated_sum
  return {{"matmul", {.flops = 6 * (parameters - head) * M}},
          {"linear_cross_entropy", {.flops = 6 * head * M}},
          {"causal_attention_forward", {.flops = 2 * product(dense)}},
          {"causal_attention_backward", {.flops = 5 * product(dense)}},
          {"sparse_attention_forward", {.flops = 2 * product(mean.selected)}},
          {"sparse_attention_backward", {.flops = 5 * product(mean.selected)}},
          {"compressed_attention_forward", {.flops = 2 * product(mean.complete_blocks)}},
          {"compressed_attention_backward", {.flops = 5 * product(mean.complete_blocks)}},
          {"select_blocks", {.flops = product(mean.complete_blocks)}},
          {"rmsnorm_forward", {.bytes = (8 * L + 2) * M * H * 2}},
          {"rmsnorm_backward", {.bytes = (8 * L + 4) * M * H * 2}},
          {"qkv_rope_forward", {.bytes = L * M * 4 * static_cast<double>(c.qkvg_width())}},
          {"qkv_rope_backward", {.bytes = L * M * 6 * static_cast<double>(c.qkvg_width())}},
          {"gated_sum_forward", {.bytes = L * (branches + 1) * q_bytes}},
          {"gated_sum_backward", {.bytes = L * (2 * branches + 1) * q_bytes}},
          {"gate_alignment_forward", {.bytes = L * 3 * q_bytes}},
          {"gate_alignment_backward", {.bytes = L * (5 * q_bytes + M * heads * 32)}},
          {"swiglu_forward", {.bytes = L * 3 * M * F * 2}},
          {"swiglu_backward", {.bytes = L * 5 * M * F * 2}},
          {"squared_norm", {.bytes = 4 * all_parameters}},
          {"adamw", {.bytes = 30 * all_parameters}}};
}

/// The initial distribution, from a small pool of random values that is repeated.
void fill_weights(bench::Bench& bench, SingleComm& comm, const ModelState& state, double deviation) {
  constexpr std::int64_t kPool = std::int64_t{1} << 20;
  const Tensor normal = bench.random(DType::f32, {kPool}, deviation);
  const std::vector<float> ones(kPool, 1.0f);
  for (const Param& param : state.table().params()) {
    const Tensor weights = state.table().view(state.master, param);
    const void* values = param.decay ? normal.data() : ones.data();
    for (std::size_t done = 0; done < weights.bytes(); done += normal.bytes())
      bench.stream.copy(static_cast<char*>(weights.data()) + done, values,
                        std::min(normal.bytes(), weights.bytes() - done));
  }
  publish_weights(bench.stream, comm, state);
  bench.stream.synchronize();
  bench.release();
}

void fill_batch(Stream& stream, const MicroBatch& batch, const ModelConfig& c, std::int64_t rows, std::int64_t tokens) {
  std::vector<std::int32_t> ids, targets, positions, stream_of(static_cast<std::size_t>(rows), 1);
  for (std::int64_t i = 0; i <= rows * tokens; ++i)
    ids.push_back(static_cast<std::int32_t>(random_uniform(2, RandomPurpose::test, 0, static_cast<std::uint64_t>(i)) *
                                            static_cast<double>(c.vocab_size)));
  targets.assign(ids.begin() + 1, ids.end());
  ids.pop_back();
  for (std::int64_t i = 0; i < rows * tokens; ++i) positions.push_back(static_cast<std::int32_t>(i % tokens));
  const std::pair<Tensor, const std::vector<std::int32_t>*> uploads[] = {
      {batch.ids, &ids}, {batch.targets, &targets}, {batch.positions, &positions}, {batch.full_stream, &stream_of}};
  for (const auto& [tensor, values] : uploads) stream.copy(tensor.data(), values->data(), tensor.bytes());
  stream.synchronize();
}

/// A model and a batch of random tokens.
class Training {
 public:
  Training(bench::Bench& bench, const bench::Shapes& shapes, Method method, Fp8Mode fp8 = Fp8Mode::none)
      : stream_(bench.stream),
        config_(model_config(shapes, method)),
        table_(config_),
        state_(stream_,
               {.model = config_,
                .pass = {.rows = shapes.rows,
                         .tokens = shapes.tokens,
                         .path = training_path(method),
                         .fp8 = Fp8Layers(config_, fp8, {})},
                .kind = DeviceKind::cuda},
               table_),
        tokens_(static_cast<double>(shapes.M())) {
    fill_weights(bench, comm_, state_, config_.initializer_range);
    fill_batch(stream_, state_.batch, config_, shapes.rows, shapes.tokens);
    const double elements = tokens_ * static_cast<double>(config_.q_width() * config_.num_hidden_layers);
    scales_ = {.alignment = 1 / elements,
               .ce_gradient = static_cast<float>(1 / tokens_),
               .alignment_gradient = static_cast<float>(10 / elements)};
  }

  const ModelConfig& config() const { return config_; }

  void step() {
    state_.sums.clear(stream_);
    forward_backward(stream_, state_.model(), state_.batch, scales_, state_.sums.losses(), Gradients::overwrite);
    measure_gradients(stream_, state_);
    update_weights(stream_, exchange_, moments_, state_, TrainConfig(), 1e-5, 0.1, ++steps_);
  }

  /// The median of `steps` steps, after one to warm up.
  double median_ms(std::size_t steps) {
    step();
    std::vector<double> times;
    while (times.size() < steps) {
      const auto begin = stream_.record();
      step();
      times.push_back(stream_.elapsed_ms(*begin, *stream_.record()));
    }
    std::nth_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(steps / 2), times.end());
    return times[steps / 2];
  }

  double tokens_per_second(double ms) const { return tokens_ / ms * 1e3; }
  double model_tflops(double ms) const {
    return tokens_per_second(ms) * model_flops_per_token(config_, config_.max_position_embeddings) * 1e-12;
  }

 private:
  Stream& stream_;
  SingleComm comm_;
  ModelConfig config_;
  ParamTable table_;
  ModelState state_;
  RankGroups groups_{comm_, 0};
  StepExchange exchange_{stream_, groups_, state_};
  MomentStaging moments_{stream_, state_};
  double tokens_;
  PassScales scales_;
  std::int64_t steps_ = 0;
};

/// nullptr, after a line that says why, if the model does not fit on the GPU.
std::unique_ptr<Training> make_training(bench::Bench& bench, const std::string& name, const bench::Shapes& shapes,
                                        Method method, Fp8Mode fp8 = Fp8Mode::none) {
  try {
    return std::make_unique<Training>(bench, shapes, method, fp8);
  } catch (const Error& error) {
    std::printf("\n%s: skipped: %s\n", name.c_str(), error.what());
    std::fflush(stdout);
    return nullptr;
  }
}

void measure_step(bench::Bench& bench, Method method, Fp8Mode fp8) {
  std::string name = "training_step_" + std::string(name_of(method));
  if (fp8 != Fp8Mode::none) name += "_fp8_" + std::string(name_of(fp8));
  if (!bench.wanted(name)) return;
  Stream& stream = bench.stream;
  const auto training = make_training(bench, name, bench.shapes, method, fp8);
  if (!training) return;
  const double ms = training->median_ms(kSteps);
  std::printf("\n%s: %.1f ms, %.0f tokens/s, %.1f model TFLOP/s\n\n", name.c_str(), ms, training->tokens_per_second(ms),
              training->model_tflops(ms));

  std::vector<std::pair<std::string, std::shared_ptr<Stream::Event>>> marks;
  stream.on_op([&](const char* op) { marks.emplace_back(op, stream.record()); });
  training->step();
  stream.on_op(nullptr);
  const auto end = stream.record();
  struct Total {
    int calls = 0;
    double ms = 0;
  };
  std::map<std::string, Total> totals;
  for (std::size_t i = 0; i < marks.size(); ++i) {
    Total& total = totals[marks[i].first];
    ++total.calls;
    total.ms += stream.elapsed_ms(*marks[i].second, i + 1 < marks.size() ? *marks[i + 1].second : *end);
  }
  std::vector<std::pair<std::string, Total>> order(totals.begin(), totals.end());
  std::sort(order.begin(), order.end(), [](const auto& a, const auto& b) { return a.second.ms > b.second.ms; });
  auto work = step_work(bench.shapes, training->config(), method);
  // Most of it is in FP8, whose ceiling is another one.
  if (fp8 != Fp8Mode::none) work.erase("matmul");
  if (fp8 == Fp8Mode::all) work.erase("linear_cross_entropy");
  std::printf("| op | calls | ms | of the step | rate | ceiling |\n|---|---|---|---|---|---|\n");
  for (const auto& [op, total] : order) {
    const auto known = work.find(op);
    std::printf("| %-29s | %4d | %8.3f | %5.1f %% | %s |\n", op.c_str(), total.calls, total.ms, 100 * total.ms / ms,
                known == work.end() ? "                | " : bench.rate(known->second, total.ms).c_str());
  }
  std::fflush(stdout);
}

SSA_BENCH(training_step) {
  const bool fp8_runs = why_no_fp8(bench.stream).empty();
  for (const Method method : {Method::ssa, Method::full, Method::moba, Method::nsa})
    for (const Fp8Mode fp8 : {Fp8Mode::none, Fp8Mode::linear, Fp8Mode::all})
      if (fp8 == Fp8Mode::none || fp8_runs) measure_step(bench, method, fp8);
}

SSA_BENCH(lengths_step) {
  constexpr Method kMethods[] = {Method::full, Method::ssa, Method::moba, Method::nsa};
  const auto asked = [&](Method method) { return bench.asked_for("lengths_step_" + std::string(name_of(method))); };
  if (std::none_of(std::begin(kMethods), std::end(kMethods), asked)) return;
  std::printf("\nThe training step, %lld tokens, by tokens per sequence\n\n", static_cast<long long>(bench.shapes.M()));
  std::printf("| tokens | method | ms | tokens/s | model TFLOP/s | full's time / this |\n");
  std::printf("|---|---|---|---|---|---|\n");
  for (const bench::Shapes& shapes : bench::by_length(bench.shapes, kShortest)) {
    double full_ms = 0;  // 0: excluded by --only
    for (const Method method : kMethods) {
      if (!asked(method)) continue;
      const std::string name(name_of(method));
      const auto training = make_training(bench, name, shapes, method);
      if (!training) continue;
      const double ms = training->median_ms(kStepsOfLength);
      std::printf("| %6lld | %6s | %6.1f | %8.0f | %13.1f |", static_cast<long long>(shapes.tokens), name.c_str(), ms,
                  training->tokens_per_second(ms), training->model_tflops(ms));
      if (method == Method::full) full_ms = ms;
      if (full_ms > 0) std::printf(" %18.2f |", full_ms / ms);
      std::printf("\n");
      std::fflush(stdout);
    }
  }
}

}  // namespace
}  // namespace ssa
