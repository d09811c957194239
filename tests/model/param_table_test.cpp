#include "ssa/model/param_table.h"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "support/catch.h"
#include "support/error_of.h"

using namespace ssa;
using namespace ssa::test;

namespace {

/// Most widths are not a multiple of the alignment.
ModelConfig odd_model(bool tied) {
  ModelConfig c;
  c.vocab_size = 19;
  c.hidden_size = 12;
  c.intermediate_size = 20;
  c.num_hidden_layers = 2;
  c.num_attention_heads = 3;
  c.num_key_value_heads = 1;
  c.head_dim = 6;
  c.tie_word_embeddings = tied;
  return c;
}

/// Names and shapes of odd_model as the published checkpoints have them, in the order of the header.
std::vector<std::pair<std::string, Shape>> published_names(bool tied) {
  std::vector<std::pair<std::string, Shape>> all = {{"model.embed_tokens.weight", {19, 12}}};
  for (const std::string layer : {"model.layers.0.", "model.layers.1."})
    for (const auto& [name, shape] : std::vector<std::pair<std::string, Shape>>{{"self_attn.q_proj.weight", {18, 12}},
                                                                                {"self_attn.k_proj.weight", {6, 12}},
                                                                                {"self_attn.v_proj.weight", {6, 12}},
                                                                                {"self_attn.g_proj.weight", {9, 12}},
                                                                                {"self_attn.o_proj.weight", {12, 18}},
                                                                                {"mlp.gate_proj.weight", {20, 12}},
                                                                                {"mlp.up_proj.weight", {20, 12}},
                                                                                {"mlp.down_proj.weight", {12, 20}}})
      all.emplace_back(layer + name, shape);
  if (!tied) all.emplace_back("lm_head.weight", Shape{19, 12});
  for (const std::string layer : {"model.layers.0.", "model.layers.1."}) {
    all.emplace_back(layer + "input_layernorm.weight", Shape{12});
    all.emplace_back(layer + "post_attention_layernorm.weight", Shape{12});
  }
  all.emplace_back("model.norm.weight", Shape{12});
  return all;
}

}  // namespace

TEST_CASE("param table: every published parameter has its name, shape and a range of its own") {
  for (const bool tied : {true, false})
    for (const int shards : {1, 2, 3, 8}) {
      const ModelConfig config = odd_model(tied);
      const ParamTable table(config, shards);
      INFO((tied ? "tied" : "untied") << ", " << shards << " shards");
      const auto published = published_names(tied);
      REQUIRE(published.size() == table.params().size());
      std::int64_t end = 0, count = 0;
      for (std::size_t i = 0; i < published.size(); ++i) {
        const Param& p = table.params()[i];
        INFO(p.name);
        CHECK(p.name == published[i].first);
        CHECK(p.shape == published[i].second);
        CHECK(p.offset >= end);
        end = p.offset + p.count();
        count += p.count();
        CHECK(p.decay == (p.name.find("norm") == std::string::npos));
        CHECK(&table.find(p.name) == &p);
      }
      CHECK(end <= table.size());
      CHECK(count == table.parameter_count());
      check_error(error_of([&] { table.find("lm_head.bias"); }), "lm_head.bias");
      if (tied) check_error(error_of([&] { table.find("lm_head.weight"); }), "lm_head.weight");
    }
}

TEST_CASE("param table: matrices that one product reads are adjacent and aligned") {
  const ParamTable table(odd_model(false));
  for (const std::string layer : {"model.layers.0.", "model.layers.1."}) {
    const auto adjacent = [&](const std::string& first, const std::string& second) {
      const Param& a = table.find(layer + first);
      CHECK(table.find(layer + second).offset == a.offset + a.count());
    };
    adjacent("self_attn.q_proj.weight", "self_attn.k_proj.weight");
    adjacent("self_attn.k_proj.weight", "self_attn.v_proj.weight");
    adjacent("self_attn.v_proj.weight", "self_attn.g_proj.weight");
    adjacent("mlp.gate_proj.weight", "mlp.up_proj.weight");
    for (const char* first : {"self_attn.q_proj.weight", "self_attn.o_proj.weight", "mlp.gate_proj.weight",
                              "mlp.down_proj.weight", "input_layernorm.weight", "post_attention_layernorm.weight"})
      CHECK(table.find(layer + first).offset % ParamTable::kAlignment == 0);
  }
  for (const char* name : {"model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"})
    CHECK(table.find(name).offset % ParamTable::kAlignment == 0);
}

TEST_CASE("param table: buckets cover the buffer, contain whole parameters of one kind, and divide into equal slices") {
  for (const bool tied : {true, false})
    for (const int shards : {1, 2, 3, 8}) {
      const ParamTable table(odd_model(tied), shards);
      INFO((tied ? "tied" : "untied") << ", " << shards << " shards");
      CHECK(table.buckets().size() == (tied ? 4u : 5u));  // embedding, two layers, head, norms
      std::int64_t end = 0;
      for (const Bucket& bucket : table.buckets()) {
        CHECK(bucket.range.begin == end);
        CHECK(bucket.range.count() > 0);
        CHECK(bucket.range.count() % (shards * ParamTable::kAlignment) == 0);
        std::int64_t slice_end = end;
        for (int shard = 0; shard < shards; ++shard) {
          const Range slice = table.slice(bucket, shard);
          CHECK(slice.begin == slice_end);
          CHECK(slice.count() == bucket.range.count() / shards);
          slice_end = slice.end;
        }
        end = bucket.range.end;
        CHECK(slice_end == end);
      }
      CHECK(end == table.size());
      for (const Param& p : table.params()) {
        const auto home = std::find_if(table.buckets().begin(), table.buckets().end(),
                                       [&](const Bucket& b) { return p.offset < b.range.end; });
        INFO(p.name);
        CHECK(p.offset + p.count() <= home->range.end);
        CHECK(home->decay == p.decay);
      }
    }
}

TEST_CASE("param table: a tied head is the embedding, an untied head a parameter of its own") {
  for (const bool tied : {true, false}) {
    const ModelConfig config = odd_model(tied);
    const ParamTable table(config);
    std::vector<float> memory(static_cast<std::size_t>(table.size()));
    const ModelParams params = bind_params(table, config, Tensor(memory.data(), DType::f32, {table.size()}));
    CHECK((params.lm_head.data() == params.embedding.data()) == tied);
    CHECK(params.lm_head.shape() == Shape{19, 12});
    REQUIRE(params.layers.size() == 2);
    CHECK(params.layers[1].qkvg_proj.shape() == Shape{3 * 6 + 2 * 6 + 3 * 3, 12});
    CHECK(params.layers[1].gate_up_proj.shape() == Shape{40, 12});
    CHECK(params.layers[1].down_proj.as<float>() ==
          memory.data() + table.find("model.layers.1.mlp.down_proj.weight").offset);
  }
}

TEST_CASE("param table: overwritten and added gradients cover every element of the buffer once") {
  for (const bool tied : {true, false})
    for (const int shards : {1, 2, 3, 8}) {
      INFO((tied ? "tied" : "untied") << ", " << shards << " shards");
      const ModelConfig config = odd_model(tied);
      const ParamTable table(config, shards);
      std::vector<float> times(static_cast<std::size_t>(table.size()));
      const Tensor flat(times.data(), DType::f32, {table.size()});
      const auto count = [](const Tensor& t) {
        for (std::int64_t i = 0; i < t.count(); ++i) ++t.as<float>()[i];
      };
      const ModelParams gradients = bind_params(table, config, flat);
      for (const LayerParams& layer : gradients.layers)
        for (const Tensor& matrix : {layer.qkvg_proj, layer.o_proj, layer.gate_up_proj, layer.down_proj}) count(matrix);
      count(gradients.lm_head);
      for (const Tensor& added : added_gradients(table, config, split_by_bucket(table, flat))) count(added);
      CHECK(std::all_of(times.begin(), times.end(), [](float n) { return n == 1; }));
    }
}

TEST_CASE("param table: without padding the added gradients are the embedding, unless tied, and the norms") {
  for (const bool tied : {true, false}) {
    ModelConfig config = odd_model(tied);
    config.hidden_size = 128;
    const ParamTable table(config);
    std::vector<float> memory(static_cast<std::size_t>(table.size()));
    const auto added =
        added_gradients(table, config, split_by_bucket(table, Tensor(memory.data(), DType::f32, {table.size()})));
    REQUIRE(added.size() == (tied ? 1u : 2u));
    CHECK(added.back().count() == 5 * 128);
    if (!tied) CHECK(added.front().count() == 19 * 128);
  }
}

TEST_CASE("param table: the backward order has every parameter once, from the final norm to the embedding") {
  for (const bool tied : {true, false}) {
    const ModelConfig config = odd_model(tied);
    const ParamTable table(config);
    const std::vector<const Param*> order = backward_order(table, config);
    CHECK(order.size() == table.params().size());
    CHECK(std::set<const Param*>(order.begin(), order.end()).size() == order.size());
    CHECK(order.front()->name == "model.norm.weight");
    CHECK(order.back()->name == "model.embed_tokens.weight");
  }
}

TEST_CASE("param table: initial weights depend on seed, parameter and element alone") {
  const ModelConfig config = odd_model(true);
  const ParamTable table(config), cut(config, 8);
  std::set<std::vector<float>> distinct;
  for (std::size_t i = 0; i < table.params().size(); ++i) {
    INFO(table.params()[i].name);
    const auto count = static_cast<std::size_t>(table.params()[i].count());
    const auto draw = [&](const ParamTable& from, std::uint64_t seed, std::size_t pieces) {
      std::vector<float> values(count);
      for (std::size_t begin = 0; begin < count; begin += (count + pieces - 1) / pieces) {
        const std::size_t size = std::min(count - begin, (count + pieces - 1) / pieces);
        initialize_param(from, config, i, seed, std::span(values).subspan(begin, size),
                         static_cast<std::int64_t>(begin));
      }
      return values;
    };
    const auto values = draw(table, 1, 1);
    CHECK(values == draw(cut, 1, 1));
    CHECK(values == draw(table, 1, 5));
    const int threads = omp_get_max_threads();
    omp_set_num_threads(3);
    CHECK(values == draw(table, 1, 1));
    omp_set_num_threads(threads);
    if (table.params()[i].decay) {
      CHECK(values != draw(table, 2, 1));
      CHECK(distinct.insert(values).second);
    } else {
      CHECK(std::all_of(values.begin(), values.end(), [](float w) { return w == 1.0f; }));
    }
  }
}

TEST_CASE("param table: initial matrices are normal with the config's deviation") {
  ModelConfig config = odd_model(true);
  config.vocab_size = 2000;
  config.hidden_size = 100;
  const ParamTable table(config);
  std::vector<float> values(200000);
  initialize_param(table, config, 0, 42, values, 0);
  double mean = 0, square = 0, within = 0;
  for (const double w : values) {
    mean += w;
    square += w * w;
    within += std::abs(w) < config.initializer_range;
  }
  const auto n = static_cast<double>(values.size());
  const double sigma = config.initializer_range;
  // Five standard errors of each estimate.
  CHECK(std::abs(mean / n) < 5 * sigma / std::sqrt(n));
  CHECK(std::abs(square / n - sigma * sigma) < 5 * sigma * sigma * std::sqrt(2 / n));
  CHECK(std::abs(within / n - 0.682689) < 5 * std::sqrt(0.6827 * 0.3173 / n));
}
