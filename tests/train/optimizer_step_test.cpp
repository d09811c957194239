#include "ssa/train/optimizer_step.h"

#include <limits>
#include <string>
#include <vector>

#include "support/catch.h"
#include "support/test_model.h"

using namespace ssa;
using namespace ssa::test;

namespace {

/// The state of rank 1 of 2.
struct SecondRank {
  explicit SecondRank(int zero_stage)
      : state(stream,
              {.model = model,
               .pass = {.rows = 1, .tokens = 4, .path = AttentionPath::full},
               .ranks = 2,
               .zero_stage = zero_stage},
              table, 1) {}

  std::string first_nonfinite() { return first_nonfinite_tensor(stream, comm, state); }

  const ModelConfig model = small_model();
  const ParamTable table{model, 2};
  const BucketOrder order{model};
  Stream stream{DeviceKind::cpu};
  SingleComm comm;
  const ModelState state;
};

}  // namespace

TEST_CASE("optimizer step: first_nonfinite_tensor returns the first in the order of the computation") {
  SingleComm comm;
  TestModel m(small_model(), {.rows = 1, .tokens = 4, .path = AttentionPath::full});
  const auto spoil = [&](const std::string& name) {
    m.table.view(m.state.gradients, m.table.find(name)).as<float>()[0] = std::numeric_limits<float>::quiet_NaN();
    return first_nonfinite_tensor(m.stream, comm, m.state);
  };
  CHECK(first_nonfinite_tensor(m.stream, comm, m.state) == "none");
  // The backward pass computes each of these gradients before the previous ones in this list.
  for (const std::string name :
       {"model.embed_tokens.weight", "model.layers.0.input_layernorm.weight", "model.layers.0.self_attn.k_proj.weight",
        "model.layers.0.mlp.down_proj.weight", "model.layers.1.self_attn.q_proj.weight",
        "model.layers.1.self_attn.o_proj.weight", "model.layers.1.post_attention_layernorm.weight",
        "model.layers.1.mlp.gate_proj.weight", "model.norm.weight"})
    CHECK(spoil(name) == "gradient of " + name);

  // A weight comes before all gradients, and one that the forward pass uses earlier before others.
  CHECK(weights_are_finite(m.stream, comm, m.state));
  const auto spoil_weight = [&](const std::string& name) {
    m.table.view(m.state.weights, m.table.find(name)).as<float>()[1] = -std::numeric_limits<float>::infinity();
    return first_nonfinite_tensor(m.stream, comm, m.state);
  };
  for (const std::string name : {"model.norm.weight", "model.layers.1.mlp.down_proj.weight",
                                 "model.layers.1.self_attn.q_proj.weight", "model.layers.0.mlp.gate_proj.weight"})
    CHECK(spoil_weight(name) == "weight of " + name);
  CHECK(!weights_are_finite(m.stream, comm, m.state));
}

TEST_CASE("optimizer step: at ZeRO stage 2 the first gradient that is not finite is found from the step's sums") {
  SecondRank rank(2);
  CHECK(rank.first_nonfinite() == "none");
  const auto spoil = [&](std::size_t bucket) {
    *rank.state.sums.local_squared_norm(bucket).as<double>() = std::numeric_limits<double>::infinity();
    return rank.first_nonfinite();
  };
  // The backward pass computes each of these before the previous ones in this list.
  CHECK(spoil(rank.order.embedding) == "gradient of model.embed_tokens.weight");
  CHECK(spoil(rank.order.norms) == "gradient of a norm's weight");
  CHECK(spoil(rank.order.layer(0)) == "gradient of a matrix of model.layers.0");
  CHECK(spoil(rank.order.layer(1)) == "gradient of a matrix of model.layers.1");
}

TEST_CASE("optimizer step: at ZeRO stage 3 a weight that is not finite is found in the rank's shard") {
  SecondRank rank(3);
  CHECK(rank.first_nonfinite() == "none");
  CHECK(weights_are_finite(rank.stream, rank.comm, rank.state));
  const auto spoil = [&](std::size_t bucket) {  // the first element that this rank owns
    *rank.state.owned_weights(rank.table.buckets()[bucket]).as<float>() = std::numeric_limits<float>::quiet_NaN();
    return rank.first_nonfinite();
  };
  const auto owner = [&](std::size_t bucket) {
    const std::int64_t first = rank.table.slice(rank.table.buckets()[bucket], 1).begin;
    for (const Param& param : rank.table.params())
      if (param.offset <= first && first < param.offset + param.count()) return "weight of " + param.name;
    FAIL("no parameter has element " << first);
    return std::string();
  };
  for (const std::size_t bucket : {rank.order.layer(1), rank.order.layer(0), rank.order.embedding})
    CHECK(spoil(bucket) == owner(bucket));
  CHECK(!weights_are_finite(rank.stream, rank.comm, rank.state));
}
