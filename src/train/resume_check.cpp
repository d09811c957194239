#include "ssa/train/resume_check.h"

#include <fmt/format.h>

#include <algorithm>

#include "ssa/base/error.h"

namespace ssa {
namespace {

bool allows(const std::vector<std::string>& allowed, const std::string& key) {
  return std::ranges::any_of(allowed, [&](const std::string& a) { return key == a || key.starts_with(a + "."); });
}

/// Whether the key decides which rows there are, or their order.
bool decides_rows(const std::string& key) {
  return (key.starts_with("data.") && key != "data.path") || key == "train.max_length" || key == "train.seed";
}

}  // namespace

ResumeChanges check_resume(const Config& saved_config, const TrainerState& saved, const ResumedRun& now,
                           const std::vector<std::string>& allowed, const std::string& checkpoint) {
  std::vector<ConfigChange> changes = config_changes(saved_config, now.config);
  // Another directory with the same documents is the same data, and the same directory may have other documents.
  const bool same_documents = !saved.dataset.empty() && saved.dataset == now.dataset;
  for (ConfigChange& change : changes)
    if (change.key == "data.path" && same_documents) change.at_resume = AtResume::free;
  if (!saved.dataset.empty() && !same_documents)
    changes.push_back({"data.path", fmt::format("a dataset with fingerprint {}", saved.dataset),
                       fmt::format("{} with fingerprint {}", now.config.data.path, now.dataset), AtResume::refused});

  // A checkpoint without a fingerprint records at least the number of rows, which follows from the documents and
  // `data`.
  if (saved.dataset.empty() && saved.rows_per_epoch != now.rows_per_epoch &&
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
    result.data_changed |= must_not && (change.key == "data.path" || decides_rows(change.key));
  }
  if (!refused.empty())
    fail_usage("cannot resume from ", checkpoint, ": ", refused.c_str(),
               "; expected the same value. To change what the weights ", "or the data mean, give --allow-change ",
               keys);
  if (saved.ranks != now.ranks)
    result.lines.push_back(fmt::format("ranks: {} in the checkpoint, {} now", saved.ranks, now.ranks));
  if (saved.global_rows != now.global_rows)
    result.lines.push_back(
        fmt::format("rows per step: {} in the checkpoint, {} now", saved.global_rows, now.global_rows));
  return result;
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
