#include "ssa/eval/fp8_errors.h"

#include <cmath>

#include "eval/byte_model.h"
#include "ops/fp8_cases.h"
#include "support/error_of.h"
#include "support/test_model.h"

using namespace ssa;
using namespace ssa::eval;
using namespace ssa::test;

namespace {

using Kind = LinearProduct::Kind;

struct ErrorBench : LoadedByteModel {
  Setting setting = settings_of(model.source(), {.mode = "sparse"}).at(0);

  Fp8Errors measure(const std::vector<TokenIds>& rows, std::int64_t batch) {
    return measure_fp8_errors(stream, comm, loaded, setting, rows, batch);
  }
};

/// Of the first `columns` of a matrix with padded rows, or all.
Values values_of(const Tensor& tensor, std::int64_t columns = 0) {
  const float* data = tensor.as<float>();
  if (columns == 0) return {data, data + tensor.count()};
  Values values;
  for (std::int64_t row = 0; row < tensor.dim(0); ++row)
    values.insert(values.end(), data + row * tensor.dim(1), data + row * tensor.dim(1) + columns);
  return values;
}

/// a [M, K] @ b [N, K]^T
Values product(const Values& a, const Values& b, std::int64_t M, std::int64_t N, std::int64_t K) {
  Values out(static_cast<std::size_t>(M * N));
  for (std::int64_t m = 0; m < M; ++m)
    for (std::int64_t n = 0; n < N; ++n)
      for (std::int64_t k = 0; k < K; ++k)
        out[static_cast<std::size_t>(m * N + n)] +=
            a[static_cast<std::size_t>(m * K + k)] * b[static_cast<std::size_t>(n * K + k)];
  return out;
}

/// The error of a product by its definition, in float64.
double error_of(const LinearProduct& p) {
  const std::int64_t M = p.x.dim(0), N = p.w.dim(0), K = p.w.dim(1);
  OpRunner run(Precision::exact);
  const auto rounded = [&](const Values& x, std::int64_t rows, std::int64_t columns, Fp8Blocks blocks) {
    return dequantized(run, fp8_input(run, x, rows, columns, blocks));
  };
  const Values x = values_of(p.x), w = values_of(p.w), d_y = p.d_y ? values_of(p.d_y, N) : Values();
  switch (p.kind) {
    case Kind::forward:
      return relative_error(product(rounded(x, M, K, Fp8Blocks::row), rounded(w, N, K, Fp8Blocks::square), M, N, K),
                            product(x, w, M, N, K));
    case Kind::input_gradient: {
      const Values w_t = transpose(w, N, K);
      return relative_error(product(rounded(d_y, M, N, Fp8Blocks::row), rounded(w_t, K, N, Fp8Blocks::square), M, K, N),
                            product(d_y, w_t, M, K, N));
    }
    case Kind::weight_gradient: {
      const Values d_y_t = transpose(d_y, M, N), x_t = transpose(x, M, K);
      return relative_error(
          product(rounded(d_y_t, N, M, Fp8Blocks::square), rounded(x_t, K, M, Fp8Blocks::row), N, K, M),
          product(d_y_t, x_t, N, K, M));
    }
  }
  fail("unknown product");
}

}  // namespace

TEST_CASE("fp8 errors: every product has the error of its rounded operands, by definition") {
  ErrorBench bench;
  const std::vector<TokenIds> rows = random_rows(2, 32);
  const Fp8Errors errors = bench.measure(rows, 2);
  CHECK(errors.rows == 2);
  CHECK(errors.tokens == 32);
  REQUIRE(errors.layers.size() == 2);

  // The same pass in memory of its own.
  TestModel m(bench.setting.model, {.rows = 2, .tokens = 32, .path = bench.setting.path});
  const auto parameters = published_parameters(bench.setting.model);
  load_master_weights(m.stream, m.state, [&](std::size_t i, std::span<float> out, std::int64_t first) {
    bench.model.source().read(parameters[i], out, first);
  });
  HostBatch batch = random_batch(2, 32, 256, 5);
  for (std::size_t i = 0; i < batch.ids.size(); ++i) {
    batch.positions[i] = static_cast<std::int32_t>(i % 32);
    batch.targets[i] = i % 32 == 31 ? -100 : batch.ids[i + 1];
  }
  m.upload(batch);
  int products = 0;
  const PassHooks hooks{.after_product = [&](const LinearProduct& p) {
    ++products;
    const double got = errors.layers[static_cast<std::size_t>(p.layer)][static_cast<std::size_t>(p.which)]
                                    [static_cast<std::size_t>(p.kind)];
    INFO("layer " << p.layer << ", " << name_of(p.which) << ", product " << static_cast<int>(p.kind) << ": " << got);
    // f32 against f64: sums of at most 256 terms are within 1e-6, 1e-4 of an error of a few percent.
    CHECK(got == Approx(error_of(p)).epsilon(1e-3));
    CHECK(got > 0.01);
    CHECK(got < 0.08);
  }};
  forward_backward(m.stream, m.state.model(), m.state.batch, {.ce_gradient = 1.0f / 62}, m.state.sums.losses(),
                   Gradients::overwrite, {}, hooks);
  CHECK(products == 2 * 4 * 3);
}

TEST_CASE("fp8 errors: a layer without products in FP8 has none") {
  ModelConfig config = small_model();
  config.hidden_size = 72;
  CHECK_FALSE(has_fp8_products(LinearLayer::o_proj, config));
  const double none = std::nan("");
  const Fp8Errors errors{.rows = 1, .tokens = 16, .layers = {{{{none, none, none}, {0.01, 0.02, 0.03}}}}};
  CHECK(errors.table().find("|     0 |                      - |") != std::string::npos);
  CHECK(errors.table().find("\n-: a width is no multiple of 16") != std::string::npos);
  CHECK(errors.json()["mean"]["qkvg_proj"]["forward"].dump() == "null");
}

TEST_CASE("fp8 errors: a model without any product in FP8 is refused") {
  Stream stream(DeviceKind::cpu);
  ModelConfig config = small_model();
  config.hidden_size = 72;
  CHECK(error_of([&] { expect_fp8_products(stream, config, random_rows(2, 32), 2); }) ==
        "--fp8-errors: qkvg_proj has 72 inputs, o_proj has 72 outputs, gate_up_proj has 72 inputs, down_proj has 72 "
        "outputs, expected multiples of 16");
}

TEST_CASE("fp8 errors: a product that is not finite has no error of 0") {
  ErrorBench bench;
  const ModelParams weights = bind_params(bench.loaded.table(), bench.setting.model, bench.loaded.weights());
  weights.layers[1].down_proj.as<float>()[0] = std::nanf("");
  const Fp8Errors errors = bench.measure(random_rows(2, 32), 2);
  const auto down = static_cast<std::size_t>(LinearLayer::down_proj);
  CHECK(errors.layers[0][down][0] < 0.08);
  CHECK(std::isinf(errors.layers[1][down][0]));
  CHECK(std::isinf(errors.mean()[down][0]));
  CHECK(errors.table().find("inf, inf, inf %") != std::string::npos);
  CHECK(errors.json()["layers"][1]["down_proj"]["forward"].dump() == "null");
}

TEST_CASE("fp8 errors: batches are added up, and the mean is over the layers") {
  ErrorBench bench;
  const std::vector<TokenIds> rows = random_rows(4, 32);
  const Fp8Errors whole = bench.measure(rows, 4), cut = bench.measure(rows, 2);
  const auto of = [](const Fp8Errors& errors, std::size_t layer, LinearLayer which, Kind kind) {
    return errors.layers[layer][static_cast<std::size_t>(which)][static_cast<std::size_t>(kind)];
  };
  for (const LinearLayer which : kLinearLayers) {
    INFO(name_of(which));
    for (const std::size_t layer : {0, 1}) {
      // The blocks of x and d_y are within a token; those of their transposes span the tokens of a batch. A float32
      // product of another size may differ in its last bit and so move one of the 8192 values of x over a boundary of
      // FP8. That turns the sign of its error: at most 4 / 8192 of the sum of squares, and several may move.
      for (const Kind kind : {Kind::forward, Kind::input_gradient})
        CHECK(of(cut, layer, which, kind) == Approx(of(whole, layer, which, kind)).epsilon(1e-3));
      CHECK(of(cut, layer, which, Kind::weight_gradient) ==
            Approx(of(whole, layer, which, Kind::weight_gradient)).epsilon(0.3));
    }
    const double first = of(whole, 0, which, Kind::forward), second = of(whole, 1, which, Kind::forward);
    CHECK(whole.mean()[static_cast<std::size_t>(which)][0] == Approx(std::hypot(first, second) / std::sqrt(2.0)));
  }
}
