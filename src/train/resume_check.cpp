#include "ssa/train/resume_check.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "ssa/base/error.h"

namespace ssa {
namespace {

/// Whether the key decides which rows a dataset makes, or their order.
bool decides_rows(const std::string& key) {
  return (key.starts_with("data.") && key != "data.path" && key != "data.sources") || key == "train.max_length" ||
         key == "train.seed";
}

template <class Sources>
auto* find_source(Sources& sources, const std::string& name) {
  const auto found = std::ranges::find(sources, name, [](const auto& source) { return source.name; });
  return found == sources.end() ? nullptr : &*found;
}

/// The differences between two mixes.
std::vector<ConfigChange> mix_changes(const Config& saved_config, const TrainerState& saved, const ResumedRun& now) {
  std::vector<ConfigChange> changes;
  const auto add = [&](const std::string& before, const std::string& after, AtResume at_resume = AtResume::refused) {
    changes.push_back({"data.sources", before, after, at_resume});
  };
  const auto with_weight = [](const SourceConfig& s) { return concat(s.name, " with weight ", s.weight); };
  const auto &before = saved_config.data.sources, &after = now.config.data.sources;
  for (const SourceConfig& source : before)
    if (!find_source(after, source.name)) add(with_weight(source), concat("no ", source.name));
  for (const SourceConfig& source : after) {
    const SourceConfig* other = find_source(before, source.name);
    if (!other) {
      add(concat("no ", source.name), with_weight(source));
      continue;
    }
    if (source.weight != other->weight) add(with_weight(*other), with_weight(source));
    const SourceState *was = find_source(saved.sources, source.name), *is = find_source(now.sources, source.name);
    if (was && is && was->dataset != is->dataset)
      add(concat(source.name, ", fingerprint ", was->dataset), concat(source.name, ", fingerprint ", is->dataset));
    else if (source.path != other->path)  // the same documents in another directory
      add(concat(source.name, " in ", other->path), concat(source.name, " in ", source.path), AtResume::free);
  }
  return changes;
}

}  // namespace

bool allows(const std::vector<std::string>& allowed, const std::string& key) {
  return std::ranges::any_of(allowed, [&](const std::string& a) { return key == a || key.starts_with(a + "."); });
}

ResumeChanges check_resume(const Config& saved_config, const TrainerState& saved, const ResumedRun& now,
                           const std::vector<std::string>& allowed, const std::string& checkpoint) {
  std::vector<ConfigChange> changes = config_changes(saved_config, now.config);
  const bool was_mixed = !saved_config.data.path, is_mixed = !now.config.data.path;
  if (was_mixed && is_mixed) {
    std::erase_if(changes, [](const ConfigChange& change) { return change.key == "data.sources"; });
    std::ranges::move(mix_changes(saved_config, saved, now), std::back_inserter(changes));
  }
  const bool path_kept = !was_mixed && !is_mixed;
  // Another directory with the same documents is the same data, and the same directory may have other documents.
  const bool same_documents = path_kept && !saved.dataset.empty() && saved.dataset == now.dataset;
  for (ConfigChange& change : changes)
    if (change.key == "data.path" && same_documents) change.at_resume = AtResume::free;
  if (path_kept && !saved.dataset.empty() && !same_documents)
    changes.push_back({"data.path", fmt::format("a dataset with fingerprint {}", saved.dataset),
                       fmt::format("{} with fingerprint {}", *now.config.data.path, now.dataset), AtResume::refused});

  // A checkpoint without a fingerprint records at least the number of rows, which follows from the documents and
  // `data`.
  if (path_kept && saved.dataset.empty() && saved.rows_per_epoch != now.rows_per_epoch &&
      std::ranges::none_of(changes, [](const ConfigChange& change) { return decides_rows(change.key); }))
    changes.push_back({"data.path", concat(saved.rows_per_epoch, " rows per epoch"),
                       concat(now.rows_per_epoch, " rows per epoch"), AtResume::refused});

  ResumeChanges result;
  std::string refused, keys;
  for (const ConfigChange& change : changes) {
    const std::string text =
        fmt::format("{}: {} in the checkpoint, {} now", change.key, shown(change.before), shown(change.after));
    const bool must_not = change.at_resume == AtResume::refused;
    if (must_not && !allows(allowed, change.key)) {
      refused += (refused.empty() ? "" : "; ") + text;
      if (!(keys + ",").ends_with(change.key + ",")) keys += (keys.empty() ? "" : ",") + change.key;
      continue;
    }
    result.lines.push_back(text + (must_not ? " (allowed by --allow-change)" : ""));
    result.data_changed |= must_not && (decides_rows(change.key) || (change.key == "data.path" && path_kept));
    result.mix_changed |= must_not && change.key == "data.sources";
  }
  if (!refused.empty())
    fail_usage("cannot resume from ", checkpoint, ": ", refused.c_str(),
               "; expected the same value. To change what the weights ", "or the data mean, give --allow-change ",
               keys);
  if (!result.data_changed) {
    const std::int64_t next = saved.position.epoch * saved.rows_per_epoch + saved.position.row;
    const auto &before = saved_config.data.skip_ranges, &after = now.config.data.skip_ranges;
    for (const RowRange& range : after)
      if (range.first < next && std::ranges::find(before, range) == before.end())
        result.lines.push_back(
            fmt::format("data.skip_ranges: rows {} to {} were read before the checkpoint, which "
                        "continues at row {}; an earlier checkpoint can leave them out",
                        range.first, std::min(range.last, next - 1), next));
  }
  if (saved.ranks != now.ranks)
    result.lines.push_back(fmt::format("ranks: {} in the checkpoint, {} now", saved.ranks, now.ranks));
  if (const std::int64_t rows = now.global_rows.rows_at(saved.step); saved.global_rows != rows)
    result.lines.push_back(fmt::format("rows per step: {} in the checkpoint, {} now", saved.global_rows, rows));
  return result;
}

std::vector<std::string> continue_data(TrainerState& state, const ResumedRun& now, const ResumeChanges& changes) {
  std::vector<std::pair<SourceState, SourcePosition>> known = std::move(state.former_sources);
  for (std::size_t i = 0; i < state.sources.size(); ++i)
    known.emplace_back(std::move(state.sources[i]), state.position.sources.at(i));
  state.former_sources.clear();
  const bool was_mixed = !state.sources.empty();
  state.sources.clear();
  const DataPosition before = std::exchange(state.position, {});
  if (now.sources.empty()) {
    state.former_sources = std::move(known);
    if (!was_mixed && !changes.data_changed) state.position = before;
    if (!was_mixed && !changes.data_changed) return {};
    return {"the rows have changed: data is read from its first row"};
  }
  if (!was_mixed && !state.dataset.empty())
    known.push_back({{.name = "",
                      .order = "",
                      .dataset = state.dataset,
                      .rows_per_epoch = state.rows_per_epoch,
                      .rows = state.rows,
                      .tokens = state.tokens},
                     {.epoch = before.epoch, .row = before.row}});
  const bool fresh = state.step == 0;
  if (!changes.data_changed) state.position.row = before.epoch * state.rows_per_epoch + before.row;
  std::vector<std::string> lines;
  for (const SourceState& source : now.sources) {
    SourceState& next = state.sources.emplace_back(source);
    SourcePosition& at = state.position.sources.emplace_back();
    const auto same_documents = [&](const auto& other) {
      return other.first.dataset == source.dataset && other.first.rows_per_epoch == source.rows_per_epoch;
    };
    auto found = std::ranges::find_if(known, [&](const auto& other) { return other.first.name == source.name; });
    if (found == known.end())
      found = std::ranges::find_if(
          known, [&](const auto& other) { return other.first.name.empty() && same_documents(other); });
    bool continues = false;
    if (found != known.end()) {
      next.rows = found->first.rows;
      next.tokens = found->first.tokens;
      continues = !changes.data_changed && same_documents(*found);
      if (continues) {
        next.order = found->first.order;
        at = found->second;
        if (changes.mix_changed) at.given = 0;
        if (changes.mix_changed)
          lines.push_back(
              concat("data.sources: ", source.name, " continues at row ", at.row, " of its epoch ", at.epoch));
      }
      known.erase(found);
    }
    if (!continues && !fresh) lines.push_back(concat("data.sources: ", source.name, " is read from its first row"));
  }
  for (auto& [source, at] : known)
    if (!source.name.empty()) state.former_sources.emplace_back(std::move(source), at);
  return lines;
}

std::vector<std::string> parse_allowed_changes(const std::string& argument) {
  std::vector<std::string> keys;
  for (std::size_t begin = 0; begin <= argument.size();) {
    const std::size_t end = std::min(argument.find(',', begin), argument.size());
    keys.push_back(argument.substr(begin, end - begin));
    begin = end + 1;
    if (!is_config_key(keys.back()))
      fail_usage("--allow-change ", argument, ": found '", keys.back(), "', expected config keys with commas between");
  }
  return keys;
}

}  // namespace ssa
