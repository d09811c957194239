#include "data_tools/job_state.h"

#include <algorithm>
#include <optional>
#include <string>
#include <type_traits>

#include "data_tools/byte_source.h"
#include "data_tools/dataset_json.h"
#include "ssa/base/error.h"
#include "ssa/base/file.h"
#include "ssa/base/json_file.h"

namespace ssa {
namespace fs = std::filesystem;
using json = nlohmann::ordered_json;
namespace {

/// Calls visit(key, value) for the counters that a continued job adds to.
template <class Report, class Visit>
void visit_counters(Report& report, const Visit& visit) {
  visit("documents", report.documents);
  visit("validation_documents", report.validation_documents);
  visit("tokens", report.tokens);
  visit("validation_tokens", report.validation_tokens);
  visit("text_bytes", report.text_bytes);
  visit("empty", report.empty);
  visit("skipped", report.skipped);
  visit("messages_without_text", report.messages_without_text);
  visit("replaced", report.replaced);
  visit("file_bytes", report.file_bytes);
}

json to_json(const WriterState& state) {
  return {{"shards", shards_json(state.shards)},
          {"open_documents", state.open_documents},
          {"open_tokens", state.open_tokens},
          {"open_text_bytes", state.open_text_bytes ? json(*state.open_text_bytes) : json(nullptr)}};
}

WriterState writer_state(const json& state) {
  WriterState out;
  for (const json& shard : state.at("shards"))
    visit_fields(out.shards.emplace_back(), [&](const char* key, auto& value) {
      if constexpr (std::is_same_v<std::decay_t<decltype(value)>, std::optional<std::int64_t>>) {
        if (shard.contains(key)) value = shard.at(key).get<std::int64_t>();
      } else {
        shard.at(key).get_to(value);
      }
    });
  out.open_documents = state.at("open_documents");
  out.open_tokens = state.at("open_tokens");
  const json bytes = state.value("open_text_bytes", json(nullptr));  // earlier versions did not count them
  out.open_text_bytes = bytes.is_null() ? std::nullopt : std::optional(bytes.get<std::int64_t>());
  return out;
}

/// The inputs in the settings are [name, bytes, seconds since 1970, nanoseconds], all but the name null for a pipe.
/// Earlier versions had no times.
void check_inputs(const fs::path& path, const json& saved, const json& inputs) {
  const auto name = [](const json& list, std::size_t i) {
    return i < list.size() ? list.at(i).at(0).get<std::string>() : "none";
  };
  const auto version = [](const json& input) {
    return input.at(1).is_null() ? "a pipe" : to_string(FileVersion{input.at(1), input.at(2), input.at(3)});
  };
  for (std::size_t i = 0; i < std::max(saved.size(), inputs.size()); ++i) {
    if (name(saved, i) != name(inputs, i))
      fail_usage(path.string(), ": input ", i + 1, " of the interrupted job is ", name(saved, i), ", of this one ",
                 name(inputs, i), ": expected the same, or another --output");
    const json &before = saved.at(i), &now = inputs.at(i);
    if (before.at(1).is_null() && now.at(1).is_null()) continue;
    if (before.size() < 4 && !before.at(1).is_null())
      fail_usage(path.string(), ": an earlier version wrote it, without the times of the inputs: whether ",
                 name(inputs, i),
                 " has changed since is not known, expected another --output, or remove the directory "
                 "to start again");
    if (version(before) != version(now))
      fail_usage(path.string(), ": input ", name(inputs, i), " of the interrupted job was ", version(before),
                 ", is now ", version(now), ": expected the same file (cp -p keeps its time), or another --output");
  }
}

void check_settings(const fs::path& path, const json& saved, const json& settings) {
  for (const auto& [key, value] : settings.items()) {
    // Earlier versions had no chat templates.
    const json before = key == "chat_template" ? saved.value(key, json(nullptr)) : saved.at(key);
    if (key == "inputs")
      check_inputs(path, before, value);
    else if (before != value)
      fail_usage(path.string(), ": the interrupted job has ", key, " ", before.dump(), ", this one ", value.dump(),
                 ": expected the same, or another --output");
  }
}

}  // namespace

json job_settings(const TokenizeOptions& options, const Tokenizer& tokenizer,
                  const std::vector<std::optional<FileVersion>>& versions) {
  json files = json::array();
  for (std::size_t i = 0; i < versions.size(); ++i) {
    json& file = files.emplace_back(json::array({options.input.files[i].string(), nullptr, nullptr, nullptr}));
    if (const auto& version = versions[i]) file = {file[0], version->bytes, version->seconds, version->nanoseconds};
  }
  const json settings = {{"tokenizer", tokenizer.name()},
                         {"tokenizer_sha256", tokenizer.sha256()},
                         {"pre_tokenizer", options.tokenizer_options.pre_tokenizer},
                         {"eos_token_id", tokenizer.eos_token_id()},
                         {"inputs", files},
                         {"field", options.input.field},
                         {"conversations", options.input.field_kind == FieldKind::conversation},
                         {"chat_template", options.input.chat ? json(options.input.chat->name) : json(nullptr)},
                         {"split_blank_lines", options.input.split_blank_lines},
                         {"stdin_is_text", options.input.stdin_kind == InputKind::text},
                         {"shard_tokens", options.shard_tokens},
                         {"validation_fraction", options.validation_fraction},
                         {"max_documents", options.max_documents},
                         {"special_as_text", options.special_as_text}};
  // Names of files need not be UTF-8, which JSON is.
  return json::parse(settings.dump(-1, ' ', false, json::error_handler_t::replace));
}

JobState read_job_state(const fs::path& path, const json& settings) {
  constexpr const char* kAdvice = "; remove the directory to start again";
  json file;
  try {
    file = read_json_object<json>(path);
  } catch (const Error& error) {
    fail(error.what(), kAdvice);
  }
  try {
    check_settings(path, file.at("settings"), settings);
    JobState state;
    const json& place = file.at("place");
    state.place = {.file = place.at("file"), .row = place.at("row"), .offset = place.at("offset")};
    const json& counts = file.at("counts");
    visit_counters(state.counts, [&](const char* key, auto& value) { counts.at(key).get_to(value); });
    state.train = writer_state(file.at("train"));
    if (settings.at("validation_fraction") > 0) state.validation = writer_state(file.at("validation"));
    state.quarantine_bytes = file.at("quarantine_bytes");
    return state;
  } catch (const json::exception&) {
    fail(path.string(), ": a value is missing or of another type, expected the state of a job", kAdvice);
  }
}

void write_job_state(const fs::path& path, const json& settings, const JobState& state) {
  json counts;
  visit_counters(state.counts, [&](const char* key, const auto& value) { counts[key] = value; });
  const json file = {{"settings", settings},
                     {"place", {{"file", state.place.file}, {"row", state.place.row}, {"offset", state.place.offset}}},
                     {"counts", counts},
                     {"train", to_json(state.train)},
                     {"validation", state.validation ? to_json(*state.validation) : json(nullptr)},
                     {"quarantine_bytes", state.quarantine_bytes}};
  replace_file(path, file.dump(1) + "\n");
}

}  // namespace ssa
