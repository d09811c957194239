#include "ssa/train/optimizer_step.h"

#include <limits>
#include <string>
#include <vector>

#include "support/catch.h"
#include "support/test_model.h"

using namespace ssa;
using namespace ssa::test;

TEST_CASE("optimizer step: of several bad gradients, the one that the backward pass computes first is named") {
  TestModel m(small_model(), {.rows = 1, .tokens = 4, .path = AttentionPath::full});
  const auto spoil = [&](const std::string& name) {
    m.table.view(m.state.gradients, m.table.find(name)).as<float>()[0] = std::numeric_limits<float>::quiet_NaN();
    return first_nonfinite_gradient(m.stream, m.state);
  };
  CHECK(first_nonfinite_gradient(m.stream, m.state).empty());
  // Each is computed before those above it, whatever its place in the table.
  for (const std::string name :
       {"model.embed_tokens.weight", "model.layers.0.input_layernorm.weight", "model.layers.0.self_attn.k_proj.weight",
        "model.layers.0.mlp.down_proj.weight", "model.layers.1.self_attn.q_proj.weight",
        "model.layers.1.self_attn.o_proj.weight", "model.layers.1.post_attention_layernorm.weight",
        "model.layers.1.mlp.gate_proj.weight", "model.norm.weight"})
    CHECK(spoil(name) == name);
}
