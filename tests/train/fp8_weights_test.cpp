// What ranks send at ZeRO stage 3 when the linear layers are in FP8. The ranks are threads of this process, so that a
// test can count bytes.
#include "ssa/train/fp8_weights.h"

#include <algorithm>
#include <barrier>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "kernels/quantize_fp8/quantize_fp8.h"
#include "ssa/train/optimizer_step.h"
#include "ssa/train/step_exchange.h"
#include "support/catch.h"
#include "support/test_model.h"

using namespace ssa;
using namespace ssa::test;

namespace {

/// What the threads share.
struct Ranks {
  explicit Ranks(int count) : size(count), barrier(count), tensors(static_cast<std::size_t>(count)) {}

  int size;
  std::barrier<> barrier;
  std::vector<Tensor> tensors;  ///< of the collective that runs, per rank
};

/// The collectives that StepExchange calls for weights, and the bytes that this rank received.
class ThreadComm : public Comm {
 public:
  ThreadComm(Ranks& ranks, int rank) : ranks_(ranks), rank_(rank) {}

  int rank() const override { return rank_; }
  int size() const override { return ranks_.size; }
  int local_rank() const override { return rank_; }
  int local_size() const override { return ranks_.size; }
  Comm* background() override { return nullptr; }
  std::unique_ptr<Comm> for_thread() override { fail("ThreadComm: for_thread"); }
  std::unique_ptr<Comm> split(int) override { fail("ThreadComm: split"); }
  void send(Tensor, int) override { fail("ThreadComm: send"); }
  void receive(Tensor, int) override { fail("ThreadComm: receive"); }
  void barrier() override { ranks_.barrier.arrive_and_wait(); }
  void reduce_scatter(Stream&, Tensor, Tensor) override { fail("ThreadComm: reduce_scatter"); }

  void all_reduce(Stream&, Tensor tensor, ReduceOp op) override {
    SSA_CHECK(op == ReduceOp::max, "ThreadComm: expected a maximum");
    std::vector<std::int32_t> largest(tensor.as<std::int32_t>(), tensor.as<std::int32_t>() + tensor.count());
    of_others(tensor, [&](int, const Tensor& other) {
      for (std::size_t i = 0; i < largest.size(); ++i) largest[i] = std::max(largest[i], other.as<std::int32_t>()[i]);
    });
    std::copy(largest.begin(), largest.end(), tensor.as<std::int32_t>());
    barrier();
    reduced += static_cast<std::int64_t>(tensor.bytes());
  }
  void all_gather(Stream&, Tensor in, Tensor out) override {
    SSA_CHECK(in.bytes() * static_cast<std::size_t>(size()) == out.bytes(), "ThreadComm: parts");
    char* to = static_cast<char*>(out.data());
    std::memmove(to + static_cast<std::size_t>(rank_) * in.bytes(), in.data(), in.bytes());
    of_others(in, [&](int rank, const Tensor& other) {
      std::memcpy(to + static_cast<std::size_t>(rank) * in.bytes(), other.data(), in.bytes());
      received += static_cast<std::int64_t>(in.bytes());
    });
  }
  void broadcast(Stream&, Tensor tensor, int root) override {
    of_others(tensor, [&](int rank, const Tensor& other) {
      if (rank != root) return;
      std::memcpy(tensor.data(), other.data(), tensor.bytes());
      received += static_cast<std::int64_t>(tensor.bytes());
    });
  }

  std::int64_t received = 0;  ///< by all_gather and broadcast
  std::int64_t reduced = 0;   ///< bytes of tensors in all_reduce

 private:
  void of_others(const Tensor& own, const std::function<void(int, const Tensor&)>& read) {
    ranks_.tensors[static_cast<std::size_t>(rank_)] = own;
    barrier();
    for (int rank = 0; rank < size(); ++rank)
      if (rank != rank_) read(rank, ranks_.tensors[static_cast<std::size_t>(rank)]);
    barrier();
  }

  Ranks& ranks_;
  int rank_;
};

/// Calls `body` on each rank. Throws what a rank threw.
void on_ranks(int count, const std::function<void(ThreadComm&)>& body) {
  Ranks ranks(count);
  std::vector<std::string> errors(static_cast<std::size_t>(count));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < count; ++rank)
    threads.emplace_back([&, rank] {
      try {
        ThreadComm comm(ranks, rank);
        body(comm);
      } catch (const std::exception& error) {
        errors[static_cast<std::size_t>(rank)] = error.what();
      }
      ranks.barrier.arrive_and_drop();
    });
  for (std::thread& thread : threads) thread.join();
  for (const std::string& error : errors) CHECK(error == "");
}

/// More layers than have memory. Matrices of several blocks, cut and whole, and all of multiples of 16. With 3 ranks a
/// layer has an odd number of 128 elements.
ModelConfig model_for_fp8() {
  ModelConfig c = small_model();
  c.num_hidden_layers = 4;
  c.hidden_size = 160;
  c.intermediate_size = 272;
  c.num_attention_heads = 16;
  c.num_key_value_heads = 4;
  c.head_dim = 16;
  return c;
}

/// The same with outputs of qkvg_proj that are no multiple of 16: with 12 heads, after which the matrices begin at
/// multiples of 256 elements, or with 9 heads, after which they do not.
ModelConfig model_with_heads(std::int64_t heads) {
  ModelConfig c = model_for_fp8();
  c.hidden_size = 128;
  c.num_attention_heads = heads;
  c.num_key_value_heads = heads / 3;
  return c;
}

/// All weights at a time, of which every rank has a part.
std::vector<float> whole_weights(const ParamTable& table, const ModelConfig& config, float factor) {
  std::vector<float> all =
      read_range(table, {0, table.size()}, [&](std::size_t i, std::span<float> out, std::int64_t first) {
        initialize_param(table, config, i, 3, out, first);
      });
  for (float& weight : all) weight *= factor;
  return all;
}

template <class T>
bool same(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() && std::equal(a.as<T>(), a.as<T>() + a.count(), b.as<T>());
}

bool same_fp8(const Fp8Matrix& a, const Fp8Matrix& b) {
  for (std::int64_t r = 0; r < a.rows; r += kFp8Block)
    for (std::int64_t c = 0; c < a.columns; c += kFp8Block)
      if (a.scales.as<float>()[fp8_scale_index(a, r, c)] != b.scales.as<float>()[fp8_scale_index(b, r, c)])
        return false;
  return same<std::uint8_t>(a.values.rows(0, a.rows), b.values.rows(0, b.rows));
}

/// A rank with its shard of the weights, and the passes of a step as far as they read weights.
class RankOfStage3 {
 public:
  RankOfStage3(ThreadComm& comm_in, const ModelConfig& config, const Fp8Layers& fp8)
      : comm(comm_in),
        table(config, comm.size()),
        stream(DeviceKind::cpu),
        state(stream,
              {.model = config,
               .pass = {.rows = 1, .tokens = 16, .path = AttentionPath::full, .fp8 = fp8},
               .ranks = comm.size(),
               .zero_stage = 3},
              table, comm.rank()),
        groups(comm, 0),
        exchange(stream, groups, state, /*overlap=*/false) {}

  /// Every rank sets its part.
  void set(const std::vector<float>& all) {
    weights = all;
    for (const Bucket& bucket : table.buckets()) {
      const Range owned = state.owned(bucket);
      std::copy(all.begin() + owned.begin, all.begin() + owned.end, state.owned_weights(bucket).as<float>());
    }
  }
  /// As after an update.
  void tell_changed() {
    for (const std::size_t bucket : BucketOrder(config()).forward()) exchange.gather_weights(bucket);
  }

  /// Checks what a pass finds in each call of the hook.
  void pass(const PassHooks& hooks, bool training) {
    const BucketOrder order(config());
    for (const std::size_t bucket : order.forward()) {
      hooks.before_weights(bucket);
      check(bucket, training, /*backward=*/false);
    }
    for (std::int64_t i = config().num_hidden_layers - 1; training && i >= 0; --i) {
      hooks.before_weights(order.layer(i));
      check(order.layer(i), training, /*backward=*/true);
    }
  }
  void train(std::int64_t micro = 0, std::int64_t count = 1) { pass(exchange.hooks(micro, count), true); }
  void evaluate() { pass(exchange.forward_hooks(), false); }

  const ModelConfig& config() const { return state.shape().model; }

  ThreadComm& comm;
  ParamTable table;
  Stream stream;
  ModelState state;
  RankGroups groups;
  StepExchange exchange;
  std::vector<float> weights;

 private:
  void check(std::size_t bucket, bool training, bool backward) {
    const BucketOrder order(config());
    const Range range = table.buckets()[bucket].range;
    const auto layer = static_cast<std::int64_t>(bucket) - static_cast<std::int64_t>(order.first_layer);
    const bool is_layer = layer >= 0 && layer < config().num_hidden_layers;
    const Tensor all(weights.data(), DType::f32, {std::ssize(weights)});
    const Tensor gathered = state.pass_weights[bucket];
    if (!is_layer) {
      SSA_CHECK(same<float>(gathered, all.rows(range.begin, range.end)), "bucket ", bucket, " has other weights");
      return;
    }
    for (const LinearLayer which : kLinearLayers) {
      const auto [inputs, outputs] = widths_of(which, config());
      const Range matrix = range_of(table, config(), layer, which);
      const Tensor x = all.rows(matrix.begin, matrix.end).view({outputs, inputs});
      if (!training || !state.shape().pass.fp8.has(layer, which)) {
        const Tensor got = gathered.rows(matrix.begin - range.begin, matrix.end - range.begin).view({outputs, inputs});
        SSA_CHECK(same<float>(got, x), name_of(which), " of layer ", layer, " has other weights");
        continue;
      }
      const Fp8Weight& got =
          state.model().acts.fp8.weights[static_cast<std::size_t>(layer)][static_cast<std::size_t>(which)];
      const auto aligned = [&](const Fp8Matrix& m) {
        return reinterpret_cast<std::uintptr_t>(m.values.data()) % Arena::kAlignment == 0;
      };
      SSA_CHECK(aligned(got.w) && aligned(got.w_t), name_of(which), " of layer ", layer, " is not aligned");
      Arena measure;
      const auto lay_out = [&](Arena& arena, std::int64_t rows, std::int64_t columns) {
        const Shape scales = fp8_scales_shape(rows, columns, Fp8Blocks::square);
        return Fp8Buffer{.values = arena.allocate("values", DType::u8, {fp8_values_shape(rows, columns).count()}),
                         .scales = arena.allocate("scales", DType::f32, {scales.count()})}
            .matrix(rows, columns, Fp8Blocks::square);
      };
      lay_out(measure, outputs, inputs);
      lay_out(measure, inputs, outputs);
      const Buffer memory(stream, measure.used());
      Arena arena(memory.data(), memory.bytes());
      const Fp8Matrix w = lay_out(arena, outputs, inputs), w_t = lay_out(arena, inputs, outputs);
      quantize_fp8(stream, {.plain = w, .transposed = w_t, .x = x});
      SSA_CHECK(same_fp8(got.w, w), name_of(which), " of layer ", layer, " has other bits in FP8");
      SSA_CHECK(!backward || same_fp8(got.w_t, w_t), name_of(which), "^T of layer ", layer, " has other bits in FP8");
    }
  }
};

}  // namespace

TEST_CASE("fp8 weights: at ZeRO stage 3 a layer is gathered in bytes, with the bits of rounding all its weights") {
  const int ranks = GENERATE(2, 3, 4);
  CAPTURE(ranks);
  const ModelConfig config = model_for_fp8();
  on_ranks(ranks, [&](ThreadComm& comm) {
    RankOfStage3 rank(comm, config, Fp8Layers(config, Fp8Mode::linear, {}));
    SSA_CHECK(ranks != 3 || rank.table.buckets()[1].range.count() % 256 == 128, "an even number of 128 elements");
    const BucketOrder order(config);
    const auto others = [&](std::size_t bucket, std::int64_t width) {
      return rank.table.buckets()[bucket].range.count() / ranks * (ranks - 1) * width;
    };
    const std::int64_t ends = others(order.norms, 4) + others(order.embedding, 4), layer = others(order.layer(0), 1);
    const std::int64_t maxima =
        config.num_hidden_layers * static_cast<std::int64_t>(rank.state.fp8_layers[0].maxima.bytes());
    const auto expect = [&](std::int64_t received, std::int64_t reduced) {
      SSA_CHECK(comm.received == received && comm.reduced == reduced, "received ", comm.received, " bytes and reduced ",
                comm.reduced, ", expected ", received, " and ", reduced);
      comm.received = comm.reduced = 0;
    };
    rank.set(whole_weights(rank.table, config, 1.0f));
    // Each layer in the forward pass; in the backward pass those that are not there any more.
    rank.train();
    expect(ends + 4 * layer + 2 * layer, maxima);
    // The two first layers are still there, and the maxima stay.
    rank.train();
    expect(2 * layer + 2 * layer, 0);
    rank.set(whole_weights(rank.table, config, -3.7f));
    rank.tell_changed();
    expect(ends + layer, maxima / config.num_hidden_layers);
    // An evaluation reads what a pass without FP8 reads, 4 bytes on the CPU.
    rank.evaluate();
    expect(4 * others(order.layer(0), 4), 0);
    rank.train();
    expect(4 * layer + 2 * layer, maxima / config.num_hidden_layers * (config.num_hidden_layers - 1));
  });
}

TEST_CASE("fp8 weights: matrices and layers that are excluded from FP8 are gathered as they are, the others in bytes") {
  const int ranks = GENERATE(2, 4);
  CAPTURE(ranks);
  const ModelConfig config = model_for_fp8();
  on_ranks(ranks, [&](ThreadComm& comm) {
    const Fp8Layers fp8(config, Fp8Mode::linear,
                        {"layers.0.o_proj", "layers.1", "layers.2.qkvg_proj", "layers.2.down_proj"});
    RankOfStage3 rank(comm, config, fp8);
    rank.set(whole_weights(rank.table, config, 1.0f));
    rank.train();
    rank.evaluate();
    comm.received = 0;
    rank.exchange.gather_weights(BucketOrder(config).layer(0));  // with one matrix of 4 bytes per element
    std::int64_t want = 0;
    const Bucket& bucket = rank.table.buckets()[BucketOrder(config).layer(0)];
    for (const LinearLayer which : kLinearLayers) {
      const Range matrix = range_of(rank.table, config, 0, which);
      want += (matrix.count() - common(matrix, rank.state.owned(bucket)).count()) * (fp8.has(0, which) ? 1 : 4);
    }
    SSA_CHECK(comm.received == want, "received ", comm.received, " bytes, expected ", want);
    rank.set(whole_weights(rank.table, config, 2.3f));
    rank.tell_changed();
    rank.train();
  });
}

TEST_CASE("fp8 weights: matrices whose outputs are no multiple of 16 have the bits of rounding them as a whole") {
  const std::int64_t heads = GENERATE(12, 9);
  const int ranks = GENERATE(2, 3);
  CAPTURE(heads, ranks);
  const ModelConfig config = model_with_heads(heads);
  REQUIRE(config.qkvg_width() % kFp8Alignment != 0);
  on_ranks(ranks, [&](ThreadComm& comm) {
    for (const std::vector<std::string>& exclude : {std::vector<std::string>{}, {"layers.0.o_proj", "layers.1"}}) {
      RankOfStage3 rank(comm, config, Fp8Layers(config, Fp8Mode::linear, exclude));
      SSA_CHECK(static_cast<bool>(rank.state.fp8_layers[0].bytes) == (heads == 12 && exclude.empty()), heads,
                " heads: one all_gather or not");
      for (const float factor : {1.0f, -3.7f}) {
        rank.set(whole_weights(rank.table, config, factor));
        rank.tell_changed();
        rank.train();
        rank.evaluate();
      }
    }
  });
}

TEST_CASE("fp8 weights: the gathered weights of a GPU, 2 bytes each, have room for both ways of every width") {
  for (const std::int64_t heads : {1, 3, 6, 9, 12, 15, 16})
    for (const std::int64_t hidden : {16, 48, 144, 768})
      for (const int ranks : {2, 3, 8}) {
        CAPTURE(heads, hidden, ranks);
        ModelConfig config = model_with_heads(heads);
        config.num_key_value_heads = 1;
        config.hidden_size = hidden;
        StateShape shape{.model = config,
                         .pass = {.rows = 1, .tokens = 16, .path = AttentionPath::full, .fp8 = {}},
                         .kind = DeviceKind::cuda,
                         .ranks = ranks,
                         .zero_stage = 3};
        shape.pass.fp8 = Fp8Layers(config, Fp8Mode::all, {});
        const MemoryPlan plan = plan_memory(shape, ParamTable(config, ranks));  // checks the bounds of each matrix
        std::size_t apart = 0;
        for (const MemoryPlan::Category& category : plan.categories)
          for (const Arena::Entry& entry : category.entries)
            if (entry.name == "fp8 weights^T of a pass") apart += entry.bytes;
        const bool ragged = config.qkvg_width() % kFp8Alignment != 0;
        CHECK(apart == (ragged ? 2 * static_cast<std::size_t>(hidden * fp8_padded(config.qkvg_width())) : 0));
      }
}

TEST_CASE("fp8 weights: an untied LM head in FP8 is gathered in the first micro-batch of a step only") {
  ModelConfig config = model_for_fp8();
  config.vocab_size = 64;
  config.tie_word_embeddings = false;
  on_ranks(2, [&](ThreadComm& comm) {
    RankOfStage3 rank(comm, config, Fp8Layers(config, Fp8Mode::all, {}));
    rank.set(whole_weights(rank.table, config, 1.0f));
    rank.train(0, 2);
    comm.received = 0;
    // The head's memory is the embedding's, which is gathered once more.
    const PassHooks hooks = rank.exchange.hooks(1, 2);
    const BucketOrder order(config);
    for (const std::size_t bucket : order.forward()) hooks.before_weights(bucket);
    const std::int64_t embedding = rank.table.buckets()[order.embedding].range.count() / 2 * 4;
    const std::int64_t layer = rank.table.buckets()[order.layer(0)].range.count() / 2;
    SSA_CHECK(comm.received == embedding + 2 * layer, "received ", comm.received, " bytes, expected ",
              embedding + 2 * layer);
  });
}

TEST_CASE("fp8 weights: at ZeRO stage 3 they take the memory of the gathered weights, at stage 2 their own") {
  const ModelConfig config = model_for_fp8();
  const ParamTable table(config, 2);
  const auto plan = [&](int stage, Fp8Mode mode) {
    return plan_memory(
        {.model = config,
         .pass = {.rows = 1, .tokens = 16, .path = AttentionPath::full, .fp8 = Fp8Layers(config, mode, {})},
         .kind = DeviceKind::cuda,
         .ranks = 2,
         .zero_stage = stage},
        table);
  };
  const auto entry = [](const MemoryPlan& memory, const std::string& category, const std::string& name) {
    for (const MemoryPlan::Category& c : memory.categories)
      for (const Arena::Entry& e : c.entries)
        if (c.name == category && e.name == name) return static_cast<std::int64_t>(e.bytes);
    return std::int64_t{0};
  };
  const auto total = [](const MemoryPlan& memory, const std::string& category) {
    for (const MemoryPlan::Category& c : memory.categories)
      if (c.name == category) return static_cast<std::int64_t>(c.bytes);
    return std::int64_t{0};
  };
  std::int64_t matrices = 0;
  for (const LinearLayer which : kLinearLayers) matrices += range_of(table, config, 0, which).count();
  const MemoryPlan two = plan(2, Fp8Mode::linear), three = plan(3, Fp8Mode::linear);
  for (const char* name : {"fp8 weights", "fp8 weights^T"}) {
    CHECK(entry(two, "activations", name) == 4 * matrices);
    CHECK(entry(three, "activations", name) == 0);
  }
  const std::int64_t scales = entry(three, "weights", "fp8 scales of a pass"),
                     maxima = entry(three, "weights", "fp8 maxima of blocks");
  CHECK(scales > 0);
  CHECK(maxima > 0);
  CHECK(total(three, "weights") == total(plan(3, Fp8Mode::none), "weights") + scales + maxima);
  CHECK(two.to_string().find("fp8 maxima") == std::string::npos);
}
