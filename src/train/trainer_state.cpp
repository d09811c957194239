#include "ssa/train/trainer_state.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "ssa/base/error.h"
#include "ssa/data/json_fields.h"

namespace ssa {

namespace {

nlohmann::json to_json(const SourceState& s, const SourcePosition& at) {
  return {{"name", s.name},
          {"order", s.order},
          {"epoch", at.epoch},
          {"epoch_row", at.row},
          {"rows", s.rows},
          {"tokens", s.tokens},
          {"mix_rows", at.given},
          {"rows_per_epoch", s.rows_per_epoch},
          {"dataset_fingerprint", s.dataset}};
}

std::pair<SourceState, SourcePosition> source_state(const JsonFields& fields) {
  SourceState s{.name = fields.text("name"),
                .order = fields.text("order"),
                .dataset = fields.text("dataset_fingerprint"),
                .rows_per_epoch = fields.count("rows_per_epoch"),
                .rows = fields.count("rows"),
                .tokens = fields.count("tokens")};
  const SourcePosition at{
      .epoch = fields.count("epoch"), .row = fields.count("epoch_row"), .given = fields.count("mix_rows")};
  SSA_CHECK(at.row < s.rows_per_epoch, fields.where(), ": epoch_row is ", at.row, ", expected below rows_per_epoch ",
            s.rows_per_epoch);
  return {std::move(s), at};
}

}  // namespace

nlohmann::json to_json(const TrainerState& s, const SpikeDetector& spikes) {
  nlohmann::json sources = nlohmann::json::array(), former = nlohmann::json::array();
  for (std::size_t i = 0; i < s.sources.size(); ++i) sources.push_back(to_json(s.sources[i], s.position.sources.at(i)));
  for (const auto& [source, at] : s.former_sources) former.push_back(to_json(source, at));
  return {{"step", s.step},
          {"epoch", s.position.epoch},
          {"epoch_row", s.position.row},
          {"rows", s.rows},
          {"tokens", s.tokens},
          {"skipped_updates", s.skipped_updates},
          {"earlier_steps", s.earlier_steps},
          {"total_steps", s.total_steps},
          {"global_batch_rows", s.global_rows},
          {"rows_per_epoch", s.rows_per_epoch},
          {"ranks", s.ranks},
          {"dataset_fingerprint", s.dataset},
          {"sources", sources},
          {"former_sources", former},
          {"metrics_lines", s.metrics_lines},
          {"spike_window", spikes.state()}};
}

TrainerState trainer_state(const nlohmann::json& json, const std::string& where, SpikeDetector& spikes) {
  const JsonFields fields(json, where);
  TrainerState s;
  s.step = fields.count("step");
  s.tokens = fields.count("tokens");
  s.total_steps = fields.count("total_steps");
  s.global_rows = fields.count("global_batch_rows");
  s.rows_per_epoch = fields.count("rows_per_epoch");
  s.ranks = fields.count("ranks");
  if (json.contains("epoch_row")) {
    s.position = {fields.count("epoch"), fields.count("epoch_row")};
    s.rows = fields.count("rows");
    s.skipped_updates = fields.count("skipped_updates");
    // Absent in checkpoints of builds without init_state run.
    if (fields.has("earlier_steps")) s.earlier_steps = fields.count("earlier_steps");
    s.dataset = fields.text("dataset_fingerprint");
    s.metrics_lines = fields.count("metrics_lines");
    spikes.set_state(json.at("spike_window"));
    if (fields.has("sources")) {  // absent in checkpoints of builds without data.sources
      for (const JsonFields& source : fields.objects("sources")) {
        const auto [state, at] = source_state(source);
        s.sources.push_back(state);
        s.position.sources.push_back(at);
      }
      for (const JsonFields& source : fields.objects("former_sources"))
        s.former_sources.push_back(source_state(source));
    }
  } else {
    // The first builds saved no position in the data, no fingerprint and no losses: every step read the next whole
    // batch of an epoch.
    SSA_CHECK(s.global_rows > 0 && s.rows_per_epoch >= s.global_rows, where, ": global_batch_rows is ", s.global_rows,
              ", expected from 1 to rows_per_epoch ", s.rows_per_epoch);
    const std::int64_t steps_per_epoch = s.rows_per_epoch / s.global_rows;
    s.position = {s.step / steps_per_epoch, s.step % steps_per_epoch * s.global_rows};
    s.rows = s.step * s.global_rows;
  }
  return s;
}

}  // namespace ssa
