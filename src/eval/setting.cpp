#include "ssa/eval/setting.h"

#include <algorithm>
#include <cmath>

namespace ssa::eval {
namespace {

ModelConfig overridden(ModelConfig model, const Overrides& overrides) {
  if (overrides.block_size) model.block_size = overrides.block_size;
  if (overrides.rope_scaling > 0) {
    RopeScaling scaling =
        model.rope_scaling.value_or(RopeScaling{.original_max_position_embeddings = model.max_position_embeddings});
    scaling.factor = overrides.rope_scaling;
    if (overrides.original_positions) scaling.original_max_position_embeddings = overrides.original_positions;
    model.rope_scaling = scaling;
    const double positions = scaling.factor * static_cast<double>(scaling.original_max_position_embeddings);
    constexpr double kMostPositions = 1e9;  // as model.max_position_embeddings
    if (positions > kMostPositions)
      fail_usage("--rope-scaling ", scaling.factor, ": ", positions, " positions, expected at most ", kMostPositions);
    model.max_position_embeddings = std::max<std::int64_t>(std::llround(positions), 1);
  }
  return model;
}

}  // namespace

std::string Setting::name() const {
  return sparse() ? concat("sparse ", model.block_counts, "x", model.block_size) : "full";
}

std::vector<Setting> settings_of(const ModelSource& source, const Overrides& overrides) {
  const std::string& mode = overrides.mode;
  if (mode != "sparse" && mode != "full" && mode != "both")
    fail_usage("--mode ", mode, ", expected sparse, full or both");
  const bool has_full = has_full_path(source.method(), source.config());
  if (!has_full && mode == "full")
    fail_usage("--mode full: ", source.path().string(), " is a model of method ", name_of(source.method()),
               ", which has no full attention; expected --mode sparse");

  const Setting base{.path = sparse_path(source.method(), source.config()),
                     .model = overridden(source.config(), overrides),
                     .selection = source.selection()};
  std::vector<Setting> settings;
  if (mode != "full") {
    if (base.selection == BlockSelection::reference && base.model.block_size < 2)
      fail_usage(overrides.block_size ? concat("--block-size ", overrides.block_size) : source.path().string(),
                 ": blocks of 1 token with selection reference, expected at least 2");
    std::vector<std::int64_t> budgets = overrides.block_counts;
    if (budgets.empty()) budgets = {base.model.block_counts};
    for (const std::int64_t budget : budgets) {
      settings.push_back(base);
      settings.back().model.block_counts = budget;
    }
  }
  if (mode != "sparse" && has_full) {
    settings.push_back(base);
    settings.back().path = AttentionPath::full;
  }
  return settings;
}

}  // namespace ssa::eval
