// How far the products of a trained model's linear layers are from those without FP8: for each product of a training
// pass that itself computes without FP8, the relative error of the same product with operands that are rounded as
// train.fp8 rounds them, |rounded - exact| / |exact| in the l2 norm over all sequences. docs/fp8.md has the operands.
#pragma once

#include <array>
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "ssa/comm/comm.h"
#include "ssa/eval/forward_pass.h"
#include "ssa/eval/request.h"
#include "ssa/model/fp8_layers.h"

namespace ssa::eval {

struct Fp8Errors {
  /// forward, input gradient, weight gradient; NaN where the widths of the layer have no FP8 products, infinity where
  /// a product is not finite
  using Products = std::array<double, 3>;

  std::int64_t rows = 0, tokens = 0;
  std::vector<std::array<Products, kLinearLayers.size()>> layers;

  /// Root of the mean square over the layers.
  std::array<Products, kLinearLayers.size()> mean() const;
  /// A line per layer, and the mean; percent.
  std::string table() const;
  /// {rows, tokens, mean: {qkvg_proj: {forward, input_gradient, weight_gradient}, ..}, layers: [{layer, qkvg_proj,
  /// ..}]}; null where there are no FP8 products, or where one is not finite.
  nlohmann::json json() const;
};

/// UsageError if a batch of `rows`, which have equal lengths, has a number of tokens without FP8 products, or if no
/// linear layer of the model or the device has any.
void expect_fp8_products(Stream& stream, const ModelConfig& config, const std::vector<TokenIds>& rows,
                         std::int64_t batch);

/// Forward and backward run over `batch` of the rows at a time, spread over the ranks. Errors as above.
Fp8Errors measure_fp8_errors(Stream& stream, Comm& comm, const LoadedModel& loaded, const Setting& setting,
                             const std::vector<TokenIds>& rows, std::int64_t batch);

}  // namespace ssa::eval
