#include "ssa/eval/fp8_errors.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "kernels/fp8_matmul/fp8_matmul.h"
#include "kernels/quantize_fp8/quantize_fp8.h"
#include "ssa/data/row_loader.h"
#include "ssa/train/model_state.h"

namespace ssa::eval {
namespace {

using Json = nlohmann::json;
constexpr const char* kKindNames[] = {"forward", "input_gradient", "weight_gradient"};
constexpr std::size_t kLayers = kLinearLayers.size(), kKinds = std::size(kKindNames);

/// Memory for one FP8 matrix.
struct OwnFp8 {
  Buffer values, scales;
  Fp8Matrix matrix;

  OwnFp8(Stream& stream, std::int64_t rows, std::int64_t columns, Fp8Blocks blocks) {
    const std::int64_t of_values = fp8_values_shape(rows, columns).count();
    const std::int64_t of_scales = fp8_scales_shape(rows, columns, blocks).count();
    values = Buffer(stream, static_cast<std::size_t>(of_values));
    scales = Buffer(stream, static_cast<std::size_t>(of_scales) * sizeof(float));
    matrix = Fp8Buffer{.values = Tensor(values.data(), DType::u8, {of_values}),
                       .scales = Tensor(scales.data(), DType::f32, {of_scales})}
                 .matrix(rows, columns, blocks);
  }
};

/// Rows of x may be padded to more than `columns`.
OwnFp8 rounded(Stream& stream, const Tensor& x, std::int64_t columns, Fp8Blocks blocks) {
  OwnFp8 fp8(stream, x.dim(0), columns, blocks);
  quantize_fp8(stream, {.plain = fp8.matrix, .x = x});
  return fp8;
}

OwnFp8 rounded_transpose(Stream& stream, const Tensor& x, std::int64_t columns, Fp8Blocks blocks) {
  OwnFp8 fp8(stream, columns, x.dim(0), blocks);
  quantize_fp8(stream, {.transposed = fp8.matrix, .x = x});
  return fp8;
}

/// The product with rounded operands.
void multiply(Stream& stream, const LinearProduct& p, const Tensor& out) {
  using Kind = LinearProduct::Kind;
  const std::int64_t N = p.w.dim(0), K = p.w.dim(1);
  const OwnFp8 a = p.kind == Kind::forward          ? rounded(stream, p.x, K, Fp8Blocks::row)
                   : p.kind == Kind::input_gradient ? rounded(stream, p.d_y, N, Fp8Blocks::row)
                                                    : rounded_transpose(stream, p.d_y, N, Fp8Blocks::square);
  const OwnFp8 b = p.kind == Kind::forward          ? rounded(stream, p.w, K, Fp8Blocks::square)
                   : p.kind == Kind::input_gradient ? rounded_transpose(stream, p.w, K, Fp8Blocks::square)
                                                    : rounded_transpose(stream, p.x, K, Fp8Blocks::row);
  fp8_matmul(stream, {.out = out, .a = a.matrix, .b = b.matrix});
  stream.synchronize();
}

/// Sums of squares of one product over the batches: of the exact values, and of the distances to them.
struct Squares {
  double distance = 0, exact = 0;
};

template <class T>
std::vector<T> on_host(Stream& stream, const Tensor& tensor) {
  std::vector<T> values(static_cast<std::size_t>(tensor.count()));
  stream.copy(values.data(), tensor.data(), tensor.bytes());
  stream.synchronize();
  return values;
}

/// Of the first `columns` columns, on the host, whose threads sum up one row each: the result does not depend on their
/// number.
template <class T>
Squares squares_of(Stream& stream, const Tensor& got_tensor, const Tensor& want_tensor, std::int64_t columns) {
  const std::vector<T> got = on_host<T>(stream, got_tensor), want = on_host<T>(stream, want_tensor);
  const std::int64_t rows = want_tensor.dim(0);
  std::vector<Squares> parts(static_cast<std::size_t>(rows));
#pragma omp parallel for
  for (std::int64_t row = 0; row < rows; ++row) {
    Squares part;
    for (std::int64_t column = 0; column < columns; ++column) {
      const double exact = static_cast<float>(want[static_cast<std::size_t>(row * want_tensor.dim(1) + column)]);
      const double distance =
          static_cast<float>(got[static_cast<std::size_t>(row * got_tensor.dim(1) + column)]) - exact;
      part.distance += distance * distance;
      part.exact += exact * exact;
    }
    parts[static_cast<std::size_t>(row)] = part;
  }
  Squares sum;
  for (const Squares& part : parts) sum.distance += part.distance, sum.exact += part.exact;
  return sum;
}

class Sums {
 public:
  Sums(Stream& stream, const ModelConfig& config)
      : stream_(stream),
        config_(config),
        sums_(static_cast<std::size_t>(config.num_hidden_layers) * kLayers * kKinds) {}

  void add(const LinearProduct& p) {
    if (!has_fp8_products(p.which, config_)) return;
    const std::int64_t columns = p.kind == LinearProduct::Kind::forward ? p.w.dim(0) : p.w.dim(1);
    const Shape shape{p.out.dim(0), fp8_padded(columns)};
    const Buffer memory(stream_, static_cast<std::size_t>(shape.count()) * size_of(p.out.dtype()));
    const Tensor out(memory.data(), p.out.dtype(), shape);
    multiply(stream_, p, out);
    const Squares squares = out.dtype() == DType::bf16 ? squares_of<bfloat16>(stream_, out, p.out, columns)
                                                       : squares_of<float>(stream_, out, p.out, columns);
    Squares& sum = at(p.layer, p.which, static_cast<std::size_t>(p.kind));
    sum.distance += squares.distance;
    sum.exact += squares.exact;
  }

  void add_ranks(Comm& comm) {
    std::vector<double> flat;
    for (const Squares& s : sums_) flat.insert(flat.end(), {s.distance, s.exact});
    all_reduce(comm, flat, ReduceOp::sum);
    for (std::size_t i = 0; i < sums_.size(); ++i) sums_[i] = {.distance = flat[2 * i], .exact = flat[2 * i + 1]};
  }

  double error(std::int64_t layer, LinearLayer which, std::size_t kind) {
    if (!has_fp8_products(which, config_)) return std::numeric_limits<double>::quiet_NaN();
    const Squares& s = at(layer, which, kind);
    if (!std::isfinite(s.exact) || !std::isfinite(s.distance)) return std::numeric_limits<double>::infinity();
    return s.distance > 0 ? std::sqrt(s.distance / s.exact) : 0;
  }

 private:
  Squares& at(std::int64_t layer, LinearLayer which, std::size_t kind) {
    return sums_[(static_cast<std::size_t>(layer) * kLayers + static_cast<std::size_t>(which)) * kKinds + kind];
  }

  Stream& stream_;
  ModelConfig config_;
  std::vector<Squares> sums_;
};

/// The memory of a training pass without FP8.
struct TrainingPass {
  Activations activations;
  MicroBatch batch;
  LossSums losses;
  Tensor gradients;

  TrainingPass(Arena& arena, const ModelConfig& config, const PassShape& shape, DeviceKind kind, std::int64_t size)
      : activations(lay_out_activations(arena, config, shape, kind)),
        batch(allocate_batch(arena, shape)),
        losses{.ce = arena.allocate("sum", DType::f64, {1}), .alignment = arena.allocate("sum", DType::f64, {1})},
        gradients(arena.allocate("gradients", DType::f32, {size})) {}
};

void upload(Stream& stream, const MicroBatch& batch, const std::vector<TokenIds>& rows, bool sparse) {
  std::vector<std::int32_t> ids, targets, positions;
  for (const TokenIds& row : rows) {
    ids.insert(ids.end(), row.begin(), row.end());
    targets.insert(targets.end(), row.begin() + 1, row.end());
    targets.push_back(kIgnoredLabel);
    for (std::size_t i = 0; i < row.size(); ++i) positions.push_back(static_cast<std::int32_t>(i));
  }
  const std::vector<std::int32_t> streams(rows.size(), sparse ? 0 : 1);
  const std::pair<Tensor, const std::vector<std::int32_t>*> uploads[] = {
      {batch.ids, &ids}, {batch.targets, &targets}, {batch.positions, &positions}, {batch.full_stream, &streams}};
  for (const auto& [tensor, values] : uploads) stream.copy(tensor.data(), values->data(), tensor.bytes());
  stream.synchronize();
}

void run_pass(Stream& stream, const LoadedModel& loaded, const Setting& setting, const std::vector<TokenIds>& rows,
              Sums& sums) {
  const ModelConfig& c = setting.model;
  const auto count = static_cast<std::int64_t>(rows.size()), tokens = static_cast<std::int64_t>(rows.front().size());
  const PassShape shape{.rows = count, .tokens = tokens, .path = setting.path, .selection = setting.selection};
  check_supported({.model = c, .pass = shape, .kind = stream.kind()});
  Arena measure;
  TrainingPass(measure, c, shape, stream.kind(), loaded.table().size());
  const Buffer memory(stream, measure.used());
  Arena arena(memory.data(), memory.bytes());
  const TrainingPass pass(arena, c, shape, stream.kind(), loaded.table().size());
  for (const Tensor& sum : {pass.losses.ce, pass.losses.alignment}) stream.zero(sum);
  stream.reserve_scratch(pass_scratch_bytes(c, shape, stream.kind()));
  const Llama model = bind_llama(c, shape, bind_params(loaded.table(), c, loaded.weights()), pass.activations,
                                 bind_gradients(loaded.table(), c, pass.gradients));
  upload_rotary_table(stream, model);
  upload(stream, pass.batch, rows, setting.sparse());
  const PassScales scales{.ce_gradient = static_cast<float>(1.0 / static_cast<double>(count * (tokens - 1)))};
  const PassHooks hooks{.after_product = [&](const LinearProduct& p) { sums.add(p); }};
  forward_backward(stream, model, pass.batch, scales, pass.losses, Gradients::overwrite, {}, hooks);
  stream.synchronize();
}

Json json_of(const std::array<Fp8Errors::Products, kLayers>& layer) {
  Json all;
  for (const LinearLayer which : kLinearLayers) {
    Json& one = all[std::string(name_of(which))];
    for (std::size_t kind = 0; kind < kKinds; ++kind)
      one[kKindNames[kind]] = layer[static_cast<std::size_t>(which)][kind];
  }
  return all;
}

}  // namespace

std::array<Fp8Errors::Products, kLayers> Fp8Errors::mean() const {
  std::array<Products, kLayers> mean{};
  for (std::size_t which = 0; which < kLayers; ++which)
    for (std::size_t kind = 0; kind < kKinds; ++kind) {
      for (const auto& layer : layers) mean[which][kind] += layer[which][kind] * layer[which][kind];
      mean[which][kind] = std::sqrt(mean[which][kind] / static_cast<double>(layers.size()));
    }
  return mean;
}

std::string Fp8Errors::table() const {
  std::string text = "| layer |", rule = "|-------|";
  for (const LinearLayer which : kLinearLayers) {
    text += fmt::format(" {:>22} |", concat(name_of(which), ": y, d_x, d_w"));
    rule += std::string(24, '-') + "|";
  }
  text += "\n" + rule + "\n";
  const auto add = [&](const std::string& name, const std::array<Products, kLayers>& layer) {
    text += fmt::format("| {:>5} |", name);
    for (const Products& p : layer)
      text +=
          std::isnan(p[0])
              ? fmt::format(" {:>22} |", "-")
              : fmt::format(" {:>22} |", fmt::format("{:.2f}, {:.2f}, {:.2f} %", 100 * p[0], 100 * p[1], 100 * p[2]));
    text += "\n";
  };
  for (std::size_t i = 0; i < layers.size(); ++i) add(std::to_string(i), layers[i]);
  add("mean", mean());
  const auto has_none = [](const Products& p) { return std::isnan(p[0]); };
  if (!layers.empty() && std::ranges::any_of(layers.front(), has_none))
    text += concat("-: a width is no multiple of ", kFp8Alignment, ", so there are no products in FP8\n");
  return text;
}

Json Fp8Errors::json() const {
  Json all = Json::array();
  for (std::size_t i = 0; i < layers.size(); ++i) {
    Json one = json_of(layers[i]);
    one["layer"] = i;
    all.push_back(one);
  }
  return {{"rows", rows}, {"tokens", tokens}, {"mean", json_of(mean())}, {"layers", all}};
}

void expect_fp8_products(Stream& stream, const ModelConfig& config, const std::vector<TokenIds>& rows,
                         std::int64_t batch) {
  SSA_CHECK(!rows.empty() && rows.front().size() > 1, "--fp8-errors: no sequence of at least 2 tokens");
  if (const std::string reason = why_no_fp8(stream); !reason.empty()) fail_usage("--fp8-errors: ", reason);
  if (std::ranges::none_of(kLinearLayers, [&](LinearLayer which) { return has_fp8_products(which, config); })) {
    std::string misfits;
    for (const LinearLayer which : kLinearLayers) misfits += (misfits.empty() ? "" : ", ") + misfit_of(which, config);
    fail_usage("--fp8-errors: ", misfits, ", expected multiples of ", kFp8Alignment);
  }
  const auto count = static_cast<std::int64_t>(rows.size()), tokens = static_cast<std::int64_t>(rows.front().size());
  for (const std::int64_t some : {std::min(batch, count), (count - 1) % batch + 1})
    if (some * tokens % kFp8Alignment != 0)
      fail_usage("--fp8-errors: ", some, " sequences of ", tokens, " tokens, expected a multiple of ", kFp8Alignment,
                 " tokens; --rows, --limit and --max-length choose");
}

Fp8Errors measure_fp8_errors(Stream& stream, Comm& comm, const LoadedModel& loaded, const Setting& setting,
                             const std::vector<TokenIds>& rows, std::int64_t batch) {
  expect_fp8_products(stream, setting.model, rows, batch);
  const auto count = static_cast<std::int64_t>(rows.size()), tokens = static_cast<std::int64_t>(rows.front().size());
  Sums sums(stream, setting.model);
  for (std::int64_t first = comm.rank() * batch; first < count; first += comm.size() * batch)
    run_pass(stream, loaded, setting, {rows.begin() + first, rows.begin() + std::min(count, first + batch)}, sums);
  sums.add_ranks(comm);

  Fp8Errors errors{.rows = count, .tokens = tokens, .layers = {}};
  for (std::int64_t layer = 0; layer < setting.model.num_hidden_layers; ++layer) {
    auto& of_layer = errors.layers.emplace_back();
    for (const LinearLayer which : kLinearLayers)
      for (std::size_t kind = 0; kind < kKinds; ++kind)
        of_layer[static_cast<std::size_t>(which)][kind] = sums.error(layer, which, kind);
  }
  return errors;
}

}  // namespace ssa::eval
