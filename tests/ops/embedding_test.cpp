#include "ops/embedding_cases.h"

using namespace ssa;
using namespace ssa::test;

TEST_CASE("embedding copies the weight row of each id") {
  for (const EmbeddingCase& c : kEmbeddingCases) {
    CAPTURE(c.M, c.V, c.H);
    const EmbeddingInputs in(c);
    OpRunner run(Precision::exact);
    const Values out = output(run_embedding_forward(run, c, in), "out");
    Values want;
    for (std::int32_t id : in.ids)
      want.insert(want.end(), in.weight.begin() + id * c.H, in.weight.begin() + (id + 1) * c.H);
    CHECK(out == want);
  }
}

TEST_CASE("embedding backward is the derivative of forward, for repeated ids too") {
  for (const EmbeddingCase& c : kEmbeddingCases) {
    CAPTURE(c.M, c.V, c.H);
    const EmbeddingInputs in(c);
    OpRunner run(Precision::exact);
    const Outputs backward = run_embedding_backward(run, c, in);
    const auto loss = [&](const EmbeddingInputs& at) {
      OpRunner r(Precision::exact);
      return weighted_sum(output(run_embedding_forward(r, c, at), "out"), in.d_out);
    };
    check_gradient("weight", loss, in, &EmbeddingInputs::weight, added(output(backward, "d_weight"), in.d_weight));
  }
}

TEST_CASE("embedding in f32 agrees with f64 on any number of threads") {
  for (const EmbeddingCase& c : kEmbeddingCases) {
    CAPTURE(c.M, c.V, c.H);
    const EmbeddingInputs in(c);
    check_f32([&](OpRunner& run) { return run_embedding_forward(run, c, in); });
    check_f32([&](OpRunner& run) { return run_embedding_backward(run, c, in); });
  }
}

TEST_CASE("embedding refuses tensors that do not fit") {
  const EmbeddingCase c{3, 5, 8};
  const EmbeddingInputs in(c);
  OpRunner run(Precision::f32);
  const Tensor weight = run.act_input(in.weight, {5, 8}), ids = run.i32_input(in.ids, {3});
  CHECK_THROWS_WITH(embedding_forward(run.stream(), {.out = run.act_output({3, 7}), .ids = ids, .weight = weight}),
                    "embedding_forward: out is [3, 7], expected [3, 8]");
  CHECK_THROWS_WITH(embedding_backward(run.stream(), {.d_weight = weight, .d_out = run.act_output({2, 8}), .ids = ids}),
                    "embedding_backward: d_out is [2, 8], expected [3, 8]");
}

TEST_CASE("embedding on CUDA agrees with the CPU") {
  if (skip_without_gpu()) return;
  for (const EmbeddingCase& c : kEmbeddingCases) {
    CAPTURE(c.M, c.V, c.H);
    const EmbeddingInputs in(c);
    check_cuda([&](OpRunner& run) { return run_embedding_forward(run, c, in); });
    check_cuda([&](OpRunner& run) { return run_embedding_backward(run, c, in); });
  }
}
