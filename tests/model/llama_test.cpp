// The whole model as a function of its tokens and weights: causality, independent sequences, recomputation,
// derivatives. tests/golden compares its values with a reference.
#include "ssa/model/llama.h"

#include <cmath>
#include <cstring>
#include <map>
#include <string>

#include "ssa/train/optimizer_step.h"
#include "support/catch.h"
#include "support/error_of.h"
#include "support/op_runner.h"
#include "support/test_model.h"

using namespace ssa;
using namespace ssa::test;

namespace {

const std::vector<PathCase> kPaths = path_cases(/*window=*/5);

ModelConfig with_window(std::int64_t window) {
  ModelConfig c = small_model();
  c.window_size = window;
  return c;
}

/// Scales that give all loss terms of a path about the same weight.
PassScales scales_of(const ModelConfig& c, const PassShape& pass) {
  const double alignment = 1.0 / static_cast<double>(pass.rows * pass.tokens * c.q_width() * c.num_hidden_layers);
  return {.alignment = alignment,
          .ce_gradient = static_cast<float>(1.0 / static_cast<double>(pass.rows * pass.tokens)),
          .alignment_gradient = static_cast<float>(10 * alignment)};
}

/// The results of a forward pass per token: hidden states, losses, and the selected blocks of each layer.
struct PerToken {
  std::vector<float> hidden, losses;
  std::vector<std::vector<std::int32_t>> indices;
};

PerToken forward_tokens(TestModel& m, const HostBatch& batch) {
  m.upload(batch);
  m.state.sums.clear(m.stream);
  const std::int64_t tokens = m.state.batch.ids.count();
  PerToken out;
  out.losses.resize(static_cast<std::size_t>(tokens));
  Buffer losses(m.stream, out.losses.size() * sizeof(float));
  const Tensor on_device(losses.data(), DType::f32, {tokens});
  evaluate(m.stream, m.state.model(), m.state.batch, m.state.sums.losses(), m.state.sums.attention(), on_device);
  out.losses = m.read<float>(on_device);
  out.hidden = m.read<float>(m.state.activations.final_norm);
  for (const LayerActivations& layer : m.state.activations.layers)
    if (layer.indices) out.indices.push_back(m.read<std::int32_t>(layer.indices));
  return out;
}

/// Whether the values of tokens [begin, end) of a single sequence are the same bit for bit.
template <class T>
bool same_tokens(const std::vector<T>& a, const std::vector<T>& b, std::int64_t tokens, std::int64_t begin,
                 std::int64_t end) {
  const std::size_t each = a.size() / static_cast<std::size_t>(tokens);
  const auto from = static_cast<std::size_t>(begin) * each, to = static_cast<std::size_t>(end) * each;
  return a.size() == b.size() && std::memcmp(&a[from], &b[from], (to - from) * sizeof(T)) == 0;
}

}  // namespace

TEST_CASE("model: a token does not change any bit of earlier outputs, with every path") {
  constexpr std::int64_t kTokens = 30;  // the last block is incomplete
  for (const PathCase& path : kPaths)
    for (const BlockSelection selection : {BlockSelection::exact, BlockSelection::reference}) {
      const ModelConfig config = with_window(path.window);
      TestModel m(config, {.rows = 1, .tokens = kTokens, .path = path.path}, selection);
      m.initialize(3);
      HostBatch batch = random_batch(1, kTokens, config.vocab_size, 4);
      batch.full_stream = {path.full_stream};
      const PerToken before = forward_tokens(m, batch);
      bool selection_changed = before.indices.empty();
      for (std::int64_t t = 0; t < kTokens; ++t) {
        INFO(path.name << ", selection " << (selection == BlockSelection::exact ? "exact" : "reference") << ", token "
                       << t);
        HostBatch changed = batch;
        const auto at = static_cast<std::size_t>(t);
        changed.ids[at] = (batch.ids[at] + 7) % static_cast<std::int32_t>(config.vocab_size);
        if (t > 0 && batch.targets[at - 1] >= 0) changed.targets[at - 1] = changed.ids[at];
        const PerToken after = forward_tokens(m, changed);
        CHECK(same_tokens(before.hidden, after.hidden, kTokens, 0, t));
        CHECK_FALSE(same_tokens(before.hidden, after.hidden, kTokens, t, t + 1));
        // The loss at t - 1 is about token t itself.
        CHECK(same_tokens(before.losses, after.losses, kTokens, 0, std::max<std::int64_t>(0, t - 1)));
        for (std::size_t layer = 0; layer < before.indices.size(); ++layer) {
          CHECK(same_tokens(before.indices[layer], after.indices[layer], kTokens, 0, t));
          selection_changed |= !same_tokens(before.indices[layer], after.indices[layer], kTokens, t, kTokens);
        }
      }
      CHECK(selection_changed);  // otherwise the comparison of indices checks nothing
    }
}

TEST_CASE("model: the sequences of a micro-batch and their full_stream values are independent") {
  constexpr std::int64_t kTokens = 22;
  const ModelConfig config = small_model();
  TestModel m(config, {.rows = 2, .tokens = kTokens, .path = AttentionPath::ssa});
  m.initialize(5);
  HostBatch batch = random_batch(2, kTokens, config.vocab_size, 6);
  const auto hidden_of = [&](std::int32_t first, std::int32_t second) {
    batch.full_stream = {first, second};
    return forward_tokens(m, batch).hidden;
  };
  const auto sparse = hidden_of(0, 0), full = hidden_of(1, 1), mixed = hidden_of(1, 0);
  CHECK(same_tokens(mixed, full, 2, 0, 1));
  CHECK(same_tokens(mixed, sparse, 2, 1, 2));
  CHECK_FALSE(same_tokens(mixed, sparse, 2, 0, 1));
  CHECK_FALSE(same_tokens(mixed, full, 2, 1, 2));
}

TEST_CASE("model: full or selected attention alone gives the bits that path ssa passes on") {
  constexpr std::int64_t kTokens = 30;
  const ModelConfig config = small_model();
  TestModel m(config, {.rows = 1, .tokens = kTokens, .path = AttentionPath::ssa});
  m.initialize(7);
  HostBatch batch = random_batch(1, kTokens, config.vocab_size, 8);
  std::vector<float> of_stream[2];
  for (const bool full : {false, true}) {
    batch.full_stream = {full};
    const std::vector<float> both = forward_tokens(m, batch).hidden;
    batch.full_stream = {!full};  // ignored by a single path
    m.upload(batch);
    forward(m.stream, with_path(m.state.model(), full ? AttentionPath::full : AttentionPath::selected), m.state.batch,
            {}, {});
    of_stream[full] = m.read<float>(m.state.activations.final_norm);
    CHECK(same_tokens(of_stream[full], both, 1, 0, 1));
  }
  CHECK_FALSE(same_tokens(of_stream[0], of_stream[1], 1, 0, 1));
}

namespace {

/// Widths that FP8 supports; SwiGLU writes FP8.
ModelConfig fp8_model() {
  ModelConfig config = small_model(64);
  config.num_attention_heads = 16;  // 16 * (16 + 3) + 2 * 2 * 16 rows of the projection
  config.head_dim = 16;
  config.hidden_size = 128;
  config.intermediate_size = 128;
  config.initializer_range = 0.05;
  return config;
}

/// Outputs of qkvg_proj and the head that are no multiples of 16: 12 heads of 16, of which the rotary embedding writes
/// FP8, or 6 of 8, where a pass of its own rounds.
ModelConfig fp8_model_of_any_width(std::int64_t heads) {
  ModelConfig config = fp8_model();
  config.vocab_size = heads == 12 ? 257 : 67;
  config.num_attention_heads = heads;
  config.head_dim = heads == 12 ? 16 : 8;
  return config;
}

}  // namespace

TEST_CASE("model: FP8 changes gradients by its rounding, in the chosen layers only, and leaves evaluation alone") {
  const ModelConfig config = fp8_model();
  const PassShape plain{.rows = 2, .tokens = 40, .path = AttentionPath::full};
  const HostBatch batch = random_batch(2, 40, config.vocab_size, 21);
  struct Result {
    std::vector<float> gradients;
    double evaluated = 0, trained = 0;
  };
  const auto run = [&](Fp8Mode mode, const std::vector<std::string>& exclude,
                       GradientCheckpointing checkpointing = GradientCheckpointing::none) {
    PassShape pass = plain;
    pass.checkpointing = checkpointing;
    pass.fp8 = Fp8Layers(config, mode, exclude);
    REQUIRE(why_unsupported(pass.fp8, config, 80).empty());
    TestModel m(config, pass);
    m.initialize(22);
    Result result;
    m.step(batch, scales_of(config, pass));
    result.gradients = m.read<float>(m.state.gradients);
    result.trained = m.state.sums.read(m.stream).ce;
    m.state.sums.clear(m.stream);
    evaluate(m.stream, m.state.model(), m.state.batch, m.state.sums.losses());
    result.evaluated = m.state.sums.read(m.stream).ce;
    return result;
  };
  const Result exact = run(Fp8Mode::none, {}), fp8 = run(Fp8Mode::linear, {});
  CHECK(exact.evaluated == exact.trained);
  CHECK(fp8.evaluated == exact.evaluated);
  CHECK(fp8.trained != exact.trained);
  CHECK(fp8.trained == Approx(exact.trained).epsilon(0.01));

  // Of every parameter: how far the gradients are apart. Roundings of 2 to 3 % in each operand, through two layers.
  const ParamTable table(config);
  const auto apart = [&](const Result& a, const Result& b, const Param& param) {
    const auto of = [&](const Result& r) {
      const auto begin = r.gradients.begin() + param.offset;
      return Values(begin, begin + param.count());
    };
    return relative_error(of(a), of(b));
  };
  for (const Param& param : table.params()) {
    INFO(param.name << " differs by " << apart(fp8, exact, param));
    CHECK(apart(fp8, exact, param) > 1e-3);
    CHECK(apart(fp8, exact, param) < 0.3);
  }
  // Only o_proj of the last layer: its weight gradient sees the rounded d_y and x, later weight gradients little.
  const Result one = run(Fp8Mode::linear, {"layers.0", "qkvg_proj", "gate_up_proj", "down_proj"});
  CHECK(one.trained != exact.trained);
  for (const Param& param : table.params())
    if (param.name == "model.layers.1.self_attn.o_proj.weight") CHECK(apart(one, exact, param) > 0.01);

  // Only the head: its input is exact, so that its loss and its weight gradient have the rounding of one product each.
  const Result all = run(Fp8Mode::all, {}), head = run(Fp8Mode::all, {"layers.0", "layers.1"});
  CHECK(head.evaluated == exact.evaluated);
  CHECK(head.trained == Approx(exact.trained).epsilon(0.01));
  CHECK(all.trained == Approx(exact.trained).epsilon(0.01));
  CHECK(all.trained != fp8.trained);
  for (const Param& param : table.params()) {
    INFO(param.name << " differs by " << apart(head, exact, param) << " and " << apart(all, exact, param));
    CHECK(apart(head, exact, param) > 1e-3);
    CHECK(apart(head, exact, param) < 0.1);
    CHECK(apart(all, exact, param) > 1e-3);
    CHECK(apart(all, exact, param) < 0.3);
  }
  CHECK((run(Fp8Mode::all, {"lm_head"}).gradients == fp8.gradients));
  CHECK((run(Fp8Mode::all, {}, GradientCheckpointing::full).gradients == all.gradients));

  CHECK((run(Fp8Mode::linear, {}).gradients == fp8.gradients));
  CHECK((run(Fp8Mode::linear, {}, GradientCheckpointing::selective).gradients == fp8.gradients));
  CHECK((run(Fp8Mode::linear, {}, GradientCheckpointing::full).gradients == fp8.gradients));
}

TEST_CASE("model: FP8 changes gradients by its rounding at outputs that are no multiples of 16") {
  const std::int64_t heads = GENERATE(12, 6);
  CAPTURE(heads);
  const ModelConfig config = fp8_model_of_any_width(heads);
  REQUIRE(config.qkvg_width() % kFp8Alignment != 0);
  const HostBatch batch = random_batch(2, 40, config.vocab_size, 28);
  const auto gradients = [&](Fp8Mode mode, const std::vector<std::string>& exclude,
                             GradientCheckpointing checkpointing) {
    PassShape pass{.rows = 2, .tokens = 40, .path = AttentionPath::full, .checkpointing = checkpointing};
    pass.logits_chunk = 48;
    pass.fp8 = Fp8Layers(config, mode, exclude);
    REQUIRE(why_unsupported(pass.fp8, config, 80).empty());
    TestModel m(config, pass);
    m.initialize(29);
    m.poison_gradients();
    m.add_micro_batch(batch, scales_of(config, pass), Gradients::overwrite);
    m.add_micro_batch(batch, scales_of(config, pass), Gradients::add);
    return m.read<float>(m.state.gradients);
  };
  constexpr auto kNone = GradientCheckpointing::none;
  const ParamTable table(config);
  const std::vector<std::string> others = {"layers.0", "o_proj", "gate_up_proj", "down_proj"};
  const std::vector<float> exact = gradients(Fp8Mode::none, {}, kNone), all = gradients(Fp8Mode::all, {}, kNone);
  const std::vector<float> few = gradients(Fp8Mode::all, others, kNone);
  // Two roundings of 2 to 3 % in each product, in two or eight of them, one after another.
  for (const auto& [got, limit] : {std::pair{&few, 0.1}, {&all, 0.3}})
    for (const Param& param : table.params()) {
      const auto of = [&](const std::vector<float>& flat) {
        return Values(flat.begin() + param.offset, flat.begin() + param.offset + param.count());
      };
      const double error = relative_error(of(*got), of(exact));
      INFO(param.name << " differs by " << error);
      CHECK(error > 1e-3);
      CHECK(error < limit);
    }
  CHECK((gradients(Fp8Mode::all, {}, GradientCheckpointing::selective) == all));
  CHECK((gradients(Fp8Mode::all, {}, GradientCheckpointing::full) == all));
}

TEST_CASE(
    "model: weights are rounded to FP8 in the first micro-batch of a step, and no other tensor in a pass of its own") {
  const ModelConfig config = fp8_model();
  PassShape pass{.rows = 2, .tokens = 40, .path = AttentionPath::ssa};
  pass.fp8 = Fp8Layers(config, Fp8Mode::all, {});
  const HostBatch batch = random_batch(2, 40, config.vocab_size, 25);
  const PassScales scales = scales_of(config, pass);
  int rounded = 0;
  // Two micro-batches, and an evaluation between them.
  const auto gradients = [&](TestModel& m, Weights second) {
    m.poison_gradients();
    std::vector<int> passes;
    for (const Weights weights : {Weights::changed, second}) {
      rounded = 0;
      m.upload(batch);
      forward_backward(m.stream, m.state.model(), m.state.batch, scales, m.state.sums.losses(),
                       passes.empty() ? Gradients::overwrite : Gradients::add, {}, {}, weights);
      passes.push_back(rounded);
      evaluate(m.stream, m.state.model(), m.state.batch, m.state.sums.losses());
    }
    CHECK((passes == std::vector<int>{8, second == Weights::changed ? 8 : 0}));  // 4 weights of 2 layers
    return m.read<float>(m.state.gradients);
  };
  const auto count = [&](const char* op) { rounded += std::string_view(op) == "quantize_fp8"; };
  TestModel m(config, pass), fresh(config, pass);
  m.stream.on_op(count);
  fresh.stream.on_op(count);
  m.initialize(26);
  const std::vector<float> first = gradients(m, Weights::unchanged);
  CHECK((gradients(m, Weights::changed) == first));
  m.initialize(27);
  fresh.initialize(27);
  CHECK((gradients(m, Weights::unchanged) == gradients(fresh, Weights::unchanged)));
  CHECK((m.read<float>(m.state.gradients) != first));

  // The final norm writes FP8 only.
  m.upload(batch);
  const Tensor& norm = m.state.activations.final_norm;
  const std::vector<float> before(static_cast<std::size_t>(norm.count()), 7);
  m.stream.copy(norm.data(), before.data(), norm.bytes());
  forward_backward(m.stream, m.state.model(), m.state.batch, scales, m.state.sums.losses(), Gradients::overwrite);
  CHECK((m.read<float>(norm) == before));
}

TEST_CASE("model: the head in FP8 has the gradients of untied and of tied embeddings, in chunks") {
  const HostBatch batch = random_batch(2, 40, 64, 23);
  for (const bool tied : {false, true}) {
    ModelConfig config = fp8_model();
    config.tie_word_embeddings = tied;
    const auto gradients = [&](Fp8Mode mode, std::int64_t chunk) {
      PassShape pass{.rows = 2, .tokens = 40, .path = AttentionPath::ssa, .logits_chunk = chunk};
      pass.fp8 = Fp8Layers(config, mode, {"layers.0", "layers.1"});
      TestModel m(config, pass);
      m.initialize(24);
      m.step(batch, scales_of(config, pass));
      m.add_micro_batch(batch, scales_of(config, pass), Gradients::add);
      const std::vector<float> values = m.read<float>(m.state.gradients);
      return Values(values.begin(), values.end());
    };
    const Values exact = gradients(Fp8Mode::linear, 0), whole = gradients(Fp8Mode::all, 80);
    CAPTURE(tied);
    CHECK(relative_error(whole, exact) > 0.005);
    CHECK(relative_error(whole, exact) < 0.08);  // two roundings of 2.6 % in each product, and more through the layers
    // The blocks of hidden^T and d_logits^T end with the chunk, so that their rounding differs.
    CHECK(relative_error(gradients(Fp8Mode::all, 32), exact) < 0.08);
    CHECK(relative_error(gradients(Fp8Mode::all, 32), whole) < 0.05);
  }
}

TEST_CASE("model: the memory plan has the inputs that layers keep in FP8, and the operands of the head") {
  const ModelConfig config = fp8_model();
  const auto planned = [](Fp8Mode mode, const std::vector<std::string>& exclude,
                          const ModelConfig& model = fp8_model()) {
    const PassShape pass{.rows = 2, .tokens = 40, .path = AttentionPath::full, .fp8 = Fp8Layers(model, mode, exclude)};
    std::map<std::string, std::size_t> bytes;
    for (const MemoryPlan::Category& c : plan_memory({.model = model, .pass = pass}, ParamTable(model)).categories)
      for (const Arena::Entry& entry : c.entries) bytes[entry.name] += entry.bytes;
    return bytes;
  };
  const auto all = planned(Fp8Mode::all, {}), some = planned(Fp8Mode::linear, {"layers.0"});
  // Two layers keep the transposed inputs of their linear layers in FP8, and one of f32 exists for evaluation.
  CHECK(all.at("fp8 swiglu^T") == 2 * 80 * 128);
  CHECK(all.at("fp8 scales of swiglu^T") == 2 * 128 * 4);
  CHECK(all.at("fp8 norm outputs^T") == 2 * 80 * 128);
  CHECK(all.at("swiglu") == 4 * 80 * 128);
  CHECK(planned(Fp8Mode::none, {}).at("swiglu") == 2 * 4 * 80 * 128);
  CHECK(some.at("swiglu") == 2 * 4 * 80 * 128);
  CHECK(some.at("fp8 swiglu^T") == 80 * 128);
  CHECK(all.at("fp8 lm_head x") == 80 * 128);
  CHECK(all.at("fp8 lm_head x^T") == 80 * 128);
  CHECK(all.at("fp8 lm_head w") == 64 * 128);
  CHECK(all.at("fp8 lm_head w^T") == 64 * 128);
  CHECK(all.at("fp8 lm_head d_logits") == 80 * 64);
  CHECK(all.at("fp8 lm_head d_logits^T") == 80 * 64);
  CHECK(all.at("fp8 scales of lm_head d_logits") == 512);  // 80 scales of 4 bytes, in units of 256
  // Layer by layer: qkvg_proj has 368 outputs, gate_up_proj 256.
  CHECK(all.at("fp8 weights") == static_cast<std::size_t>(2 * (config.qkvg_width() + 256 + 256 + 128) * 128));
  CHECK(all.at("fp8 weights^T") == all.at("fp8 weights"));
  CHECK(some.at("fp8 weights") == all.at("fp8 weights") / 2);
  CHECK(all.contains("fp8 d_gate_up"));
  CHECK_FALSE(all.contains("d_qkvg"));
  CHECK(some.contains("d_qkvg"));
  const auto wide = planned(Fp8Mode::all, {}, fp8_model_of_any_width(12));
  // Memory for multiples of 16: 292 outputs of qkvg_proj, 257 of the head; rows of activations have room for it, too.
  CHECK(wide.at("fp8 weights") == static_cast<std::size_t>(2 * (304 + 192 + 256 + 128) * 128));
  CHECK(wide.at("fp8 weights^T") == wide.at("fp8 weights"));
  CHECK(wide.at("fp8 lm_head w") == 272 * 128);
  CHECK(wide.at("fp8 lm_head d_logits^T") == 80 * 272);
  CHECK(wide.at("q, k, v, gate projection") == 4 * 80 * 304);
  CHECK(wide.at("logits chunk") == 4 * 80 * 272);
  CHECK(planned(Fp8Mode::none, {}, fp8_model_of_any_width(12)).at("logits chunk") == 4 * 80 * 264);
  CHECK_FALSE(planned(Fp8Mode::linear, {}).contains("fp8 lm_head w"));
  CHECK_FALSE(planned(Fp8Mode::all, {"lm_head"}).contains("fp8 lm_head w"));
  CHECK_FALSE(planned(Fp8Mode::all, {"layers.0", "layers.1"}).contains("fp8 d_gate_up"));
}

TEST_CASE("model: the hooks of a pass name each bucket before its use and when its gradients are complete") {
  for (const bool tied : {true, false}) {
    ModelConfig config = small_model();
    config.tie_word_embeddings = tied;
    const PassShape pass{.rows = 1, .tokens = 8, .path = AttentionPath::full};
    TestModel m(config, pass);
    m.initialize(7);
    m.upload(random_batch(1, 8, config.vocab_size, 8));
    m.poison_gradients();
    const BucketOrder order(config);
    std::vector<std::size_t> read, written, complete;
    std::vector<std::vector<float>> then;
    const PassHooks hooks{.before_weights = [&](std::size_t bucket) { read.push_back(bucket); },
                          .before_gradients =
                              [&](std::size_t bucket) {
                                written.push_back(bucket);
                                // Nothing of it has been written yet, not even zeros.
                                CHECK(std::isnan(m.read<float>(m.state.pass_gradients[bucket])[0]));
                              },
                          .after_gradients =
                              [&](std::size_t bucket) {
                                complete.push_back(bucket);
                                then.push_back(m.read<float>(m.state.pass_gradients[bucket]));
                              }};
    forward_backward(m.stream, m.state.model(), m.state.batch, scales_of(config, pass), m.state.sums.losses(),
                     Gradients::overwrite, {}, hooks);
    std::vector<std::size_t> reads = order.forward();
    reads.insert(reads.end(), {order.layer(1), order.layer(0)});
    CHECK(read == reads);
    read.clear();
    evaluate(m.stream, m.state.model(), m.state.batch, m.state.sums.losses(), {}, {}, hooks);
    CHECK(read == order.forward());
    std::vector<std::size_t> want = {order.layer(1), order.layer(0), order.norms, order.embedding};
    if (!tied) want.insert(want.begin(), order.head);
    CHECK(complete == want);
    for (std::size_t i = 0; i < complete.size(); ++i) {
      CAPTURE(tied, i);
      CHECK((then[i] == m.read<float>(m.state.pass_gradients[complete[i]])));
      CHECK(std::ranges::none_of(then[i], [](float x) { return std::isnan(x); }));
    }
    std::ranges::sort(written);
    std::ranges::sort(want);
    CHECK(written == want);
  }
}

TEST_CASE("model: gradient checkpointing does not change any bit of losses and gradients") {
  for (const PathCase& path : kPaths)
    for (const std::int64_t tokens : {1, 3, 30}) {
      const ModelConfig config = with_window(path.window);
      HostBatch batch = random_batch(2, tokens, config.vocab_size, 8);
      batch.full_stream = {path.full_stream, path.full_stream};
      std::vector<float> kept_gradients;
      std::vector<double> kept_sums;
      for (const GradientCheckpointing checkpointing :
           {GradientCheckpointing::none, GradientCheckpointing::selective, GradientCheckpointing::full}) {
        INFO(path.name << ", " << tokens << " tokens, checkpointing " << name_of(checkpointing));
        const PassShape pass{.rows = 2, .tokens = tokens, .path = path.path, .checkpointing = checkpointing};
        TestModel m(config, pass);
        m.initialize(7);
        m.step(batch, scales_of(config, pass));
        const auto gradients = m.read<float>(m.state.gradients);
        const auto sums = m.state.sums.read_all(m.stream);
        if (checkpointing == GradientCheckpointing::none) {
          kept_gradients = gradients;
          kept_sums = sums;
          CHECK((m.state.sums.read(m.stream).ce > 0) == (tokens > 2));  // two pieces of one token have no label
        } else {
          CHECK(same_tokens(gradients, kept_gradients, 1, 0, 1));
          CHECK(same_tokens(sums, kept_sums, 1, 0, 1));
        }
      }
    }
}

TEST_CASE("model: overwriting gradients gives the same bits as adding to zero, whatever they contained") {
  constexpr std::int64_t kTokens = 13;
  for (const PathCase& path : kPaths)
    for (const bool tied : {false, true})
      for (const bool labelled : {false, true}) {  // the first micro-batch
        INFO(path.name << (tied ? ", tied" : ", not tied") << (labelled ? ", labelled" : ", no label"));
        ModelConfig config = with_window(path.window);
        config.tie_word_embeddings = tied;
        const PassShape pass{.rows = 2, .tokens = kTokens, .path = path.path, .logits_chunk = 9};
        TestModel m(config, pass);
        m.initialize(13);
        REQUIRE(m.table.size() > m.table.parameter_count());  // there is padding
        HostBatch first = random_batch(2, kTokens, config.vocab_size, 14);
        HostBatch second = random_batch(2, kTokens, config.vocab_size, 15);
        first.full_stream = second.full_stream = {path.full_stream, path.full_stream};
        if (!labelled) first.targets.assign(first.targets.size(), -100);
        const auto gradients_of = [&](Gradients of_first) {
          m.state.sums.clear(m.stream);
          m.add_micro_batch(first, scales_of(config, pass), of_first);
          m.add_micro_batch(second, scales_of(config, pass), Gradients::add);
          measure_gradients(m.stream, m.state);
          return m.read<float>(m.state.gradients);
        };
        m.stream.zero(m.state.gradients);
        const std::vector<float> added = gradients_of(Gradients::add);
        const std::vector<double> sums = m.state.sums.read_all(m.stream);
        m.poison_gradients();
        CHECK((gradients_of(Gradients::overwrite) == added));  // 0 = -0, NaN differs from itself
        CHECK(m.state.sums.read_all(m.stream) == sums);        // the norm among them
        const double squared_norm = m.state.sums.read(m.stream).squared_norm;
        CHECK(std::isfinite(squared_norm));
        CHECK(squared_norm > 0);
      }
}

TEST_CASE("model: each layer has its own kept activations, and recomputed ones are shared") {
  const ModelConfig config = small_model();
  for (const GradientCheckpointing mode :
       {GradientCheckpointing::none, GradientCheckpointing::selective, GradientCheckpointing::full})
    for (const bool backward : {true, false}) {
      INFO(name_of(mode) << (backward ? ", with backward" : ", forward only"));
      TestModel m(config,
                  {.rows = 1, .tokens = 8, .path = AttentionPath::ssa, .checkpointing = mode, .backward = backward});
      const auto& layers = m.state.activations.layers;
      const auto own = [&](Tensor LayerActivations::*activation) {
        return (layers[0].*activation).data() != (layers[1].*activation).data();
      };
      CHECK(own(&LayerActivations::x) == backward);
      CHECK(own(&LayerActivations::swiglu) == (backward && mode == GradientCheckpointing::none));
      CHECK(own(&LayerActivations::gate_up) == (backward && mode != GradientCheckpointing::full));
    }
}

TEST_CASE("model: with_path rejects a path with branches that the model lacks") {
  TestModel m(small_model(), {.rows = 1, .tokens = 8, .path = AttentionPath::selected});
  CHECK(with_path(m.state.model(), AttentionPath::selected).shape.path == AttentionPath::selected);
  check_error(error_of([&] { with_path(m.state.model(), AttentionPath::full); }), "lack a branch");
  check_error(error_of([&] { with_path(m.state.model(), AttentionPath::nsa); }), "lack a branch");
}

TEST_CASE("model: a measuring stream collects the largest scratch of a pass and runs nothing") {
  const ModelConfig config = small_model();
  for (const AttentionPath path :
       {AttentionPath::full, AttentionPath::selected, AttentionPath::nsa, AttentionPath::ssa}) {
    PassShape pass{.rows = 2, .tokens = 64, .path = path};
    CHECK(pass_scratch_bytes(config, pass, DeviceKind::cpu) == 0);
    const std::size_t with_backward = pass_scratch_bytes(config, pass, DeviceKind::cuda);
    CHECK(with_backward >= 1024 * 32 * sizeof(float));  // rmsnorm_backward's shares
    pass.backward = false;
    CHECK(pass_scratch_bytes(config, pass, DeviceKind::cuda) >= 2 * 64 * sizeof(float));  // the losses
    CHECK(pass_scratch_bytes(config, pass, DeviceKind::cuda) < with_backward);
  }
}

TEST_CASE("model: logits in chunks give the loss and gradients of a single chunk") {
  constexpr std::int64_t kTokens = 21;
  const ModelConfig config = small_model();
  const HostBatch batch = random_batch(2, kTokens, config.vocab_size, 9);
  std::vector<float> whole;
  double whole_loss = 0;
  for (const std::int64_t chunk : {42, 5, 1}) {
    const PassShape pass{.rows = 2, .tokens = kTokens, .path = AttentionPath::full, .logits_chunk = chunk};
    TestModel m(config, pass);
    m.initialize(10);
    m.step(batch, scales_of(config, pass));
    const auto gradients = m.read<float>(m.state.gradients);
    const double loss = m.state.sums.read(m.stream).ce;
    if (whole.empty()) {
      whole = gradients;
      whole_loss = loss;
    }
    double difference = 0, norm = 0;
    for (std::size_t i = 0; i < whole.size(); ++i) {
      difference += std::pow(gradients[i] - whole[i], 2);
      norm += std::pow(whole[i], 2);
    }
    INFO("chunks of " << chunk);
    CHECK(std::abs(loss - whole_loss) < 1e-6 * whole_loss);  // f32 logits, summed in f64
    CHECK(std::sqrt(difference) < 1e-6 * std::sqrt(norm));   // f32 sums in another order
  }
}

TEST_CASE("model: the gradient of both aligned outputs is the sum of those of each") {
  constexpr std::int64_t kTokens = 21;
  const ModelConfig config = small_model();
  const PassShape pass{.rows = 2, .tokens = kTokens, .path = AttentionPath::ssa};
  TestModel m(config, pass);
  m.initialize(13);
  HostBatch batch = random_batch(2, kTokens, config.vocab_size, 14);
  batch.full_stream = {1, 0};
  PassScales scales = scales_of(config, pass);
  scales.alignment_gradient *= 100;  // so that no part of the sum is small
  const auto gradients = [&](AlignedOutputs outputs, float gradient) {
    PassScales these = scales;
    these.aligned_outputs = outputs;
    these.alignment_gradient = gradient;
    m.step(batch, these);
    return m.read<float>(m.state.gradients);
  };
  const float weight = scales.alignment_gradient;
  const auto none = gradients(AlignedOutputs::both, 0), both = gradients(AlignedOutputs::both, weight),
             full = gradients(AlignedOutputs::full, weight), sparse = gradients(AlignedOutputs::sparse, weight);
  double difference = 0, of_both = 0, of_full = 0, of_sparse = 0;
  for (std::size_t i = 0; i < none.size(); ++i) {
    difference += std::pow(double{full[i]} + double{sparse[i]} - double{none[i]} - double{both[i]}, 2);
    of_both += std::pow(both[i] - none[i], 2);
    of_full += std::pow(full[i] - none[i], 2);
    of_sparse += std::pow(sparse[i] - none[i], 2);
  }
  CHECK(std::sqrt(difference) < 1e-5 * std::sqrt(of_both));  // f32 rounding of each pass
  CHECK(of_full > 0.01 * of_both);
  CHECK(of_sparse > 0.01 * of_both);
}

TEST_CASE("model: gradients are the derivative of the loss, parameter by parameter") {
  // Central differences along each parameter's own gradient, in f32. Every block is selected: a step that changes the
  // selection is a discontinuity. The alignment loss has stop-gradients and no derivative to compare with, so its
  // weight is 0 here; the golden cases check its gradient.
  constexpr std::int64_t kTokens = 11;
  for (const PathCase& path : kPaths) {
    ModelConfig config = with_window(path.window);
    config.block_counts = 4;
    config.tie_word_embeddings = path.path != AttentionPath::nsa;  // both kinds of head
    const PassShape pass{.rows = 2, .tokens = kTokens, .path = path.path};
    TestModel m(config, pass);
    m.initialize(11);
    HostBatch batch = random_batch(2, kTokens, config.vocab_size, 12);
    batch.full_stream = {path.full_stream, path.full_stream};
    PassScales scales = scales_of(config, pass);
    scales.alignment_gradient = 0;
    m.step(batch, scales);
    const auto gradients = m.read<float>(m.state.gradients);
    const auto loss = [&] {
      m.state.sums.clear(m.stream);
      forward_backward(m.stream, m.state.model(), m.state.batch, scales, m.state.sums.losses(), Gradients::overwrite);
      return m.state.sums.read(m.stream).ce * static_cast<double>(scales.ce_gradient);
    };
    for (const Param& param : m.table.params()) {
      INFO(path.name << ", " << param.name);
      const float* gradient = &gradients[static_cast<std::size_t>(param.offset)];
      const auto count = static_cast<std::size_t>(param.count());
      double squared = 0;
      for (std::size_t i = 0; i < count; ++i) squared += std::pow(gradient[i], 2);
      const double norm = std::sqrt(squared);
      REQUIRE(norm > 0);
      // Weights move by `step` along the gradient: the loss by about 2 step norm, against its rounding error of 1e-7.
      const double step = 3e-3;
      float* weight = m.table.view(m.state.weights, param).as<float>();
      const std::vector<float> original(weight, weight + count);
      const auto loss_at = [&](double distance) {
        for (std::size_t i = 0; i < count; ++i)
          weight[i] = static_cast<float>(original[i] + distance / norm * gradient[i]);
        const double value = loss();
        std::copy(original.begin(), original.end(), weight);
        return value;
      };
      const double slope = (loss_at(step) - loss_at(-step)) / (2 * step);
      CHECK(std::abs(slope - norm) < 1e-3 * norm);
    }
  }
}
