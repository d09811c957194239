#include "ssa/train/optimizer_step.h"

#include <limits>
#include <string>
#include <vector>

#include "support/catch.h"
#include "support/test_model.h"

using namespace ssa;
using namespace ssa::test;

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
  const ModelConfig model = small_model();
  const ParamTable table(model, 2);
  Stream stream(DeviceKind::cpu);
  SingleComm comm;
  const ModelState state(
      stream,
      {.model = model, .pass = {.rows = 1, .tokens = 4, .path = AttentionPath::full}, .ranks = 2, .zero_stage = 2},
      table, 1);
  CHECK(first_nonfinite_tensor(stream, comm, state) == "none");
  const BucketOrder order(model);
  const auto spoil = [&](std::size_t bucket) {
    *state.sums.local_squared_norm(bucket).as<double>() = std::numeric_limits<double>::infinity();
    return first_nonfinite_tensor(stream, comm, state);
  };
  // The backward pass computes each of these before the previous ones in this list.
  CHECK(spoil(order.embedding) == "gradient of model.embed_tokens.weight");
  CHECK(spoil(order.norms) == "gradient of a norm's weight");
  CHECK(spoil(order.layer(0)) == "gradient of a matrix of model.layers.0");
  CHECK(spoil(order.layer(1)) == "gradient of a matrix of model.layers.1");
}

TEST_CASE("optimizer step: at ZeRO stage 3 a weight that is not finite is found in the rank's shard") {
  const ModelConfig model = small_model();
  const ParamTable table(model, 2);
  Stream stream(DeviceKind::cpu);
  SingleComm comm;
  const ModelState state(
      stream,
      {.model = model, .pass = {.rows = 1, .tokens = 4, .path = AttentionPath::full}, .ranks = 2, .zero_stage = 3},
      table, 1);
  CHECK(first_nonfinite_tensor(stream, comm, state) == "none");
  CHECK(weights_are_finite(stream, comm, state));
  const auto spoil = [&](std::size_t bucket) {  // the first element that this rank owns
    *state.owned_weights(table.buckets()[bucket]).as<float>() = std::numeric_limits<float>::quiet_NaN();
    return first_nonfinite_tensor(stream, comm, state);
  };
  const auto owner = [&](std::size_t bucket) {
    const std::int64_t first = table.slice(table.buckets()[bucket], 1).begin;
    for (const Param& param : table.params())
      if (param.offset <= first && first < param.offset + param.count()) return "weight of " + param.name;
    FAIL("no parameter has element " << first);
    return std::string();
  };
  const BucketOrder order(model);
  for (const std::size_t bucket : {order.layer(1), order.layer(0), order.embedding})
    CHECK(spoil(bucket) == owner(bucket));
  CHECK(!weights_are_finite(stream, comm, state));
}
