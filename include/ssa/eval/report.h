// The results of an evaluation: a table for the terminal, and JSON in the format of lm-evaluation-harness's results.
//
// The JSON has one document per setting: the object itself for one setting, else an array of them. A document:
//   results        {task: {name, alias, sample_len, "acc,none", "acc_stderr,none" (or "N/A"), ...}}; over several
//                  seeds the values are means, and "acc_std,none" is their sample standard deviation
//   configs        {task: {task, dataset_path, output_type, num_fewshot, metric_list, metadata: {version, and
//                  document_mask: true if the rows of --data had one}}}
//   versions, n-shot, higher_is_better, n-samples {task: {original, effective}}
//   samples        {task: [document]}, with --log-samples
//   attention      attention_report.h, with --attention-stats
//   config         {model, model_args {pretrained, method, mode, block_size, block_counts, ...}, batch_size, device,
//                  ...}
//   date, model_name, max_length
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "ssa/eval/metrics.h"
#include "ssa/eval/setting.h"

namespace ssa::eval {

struct TaskResult {
  std::string task;
  std::string dataset;      ///< path of its documents
  std::string output_type;  ///< as the harness names it: multiple_choice, loglikelihood, loglikelihood_rolling
  std::int64_t num_fewshot = 0;
  std::int64_t documents = 0, evaluated = 0;  ///< in the file; evaluated after --limit
  bool document_mask = false;                 ///< of a dataset's rows
  std::vector<Metric> metrics;
  nlohmann::json samples = {};  ///< an array, or null
};

/// The parameters that apply to all results.
struct ReportHead {
  std::string model;  ///< path
  std::string method;
  std::string device;
  std::int64_t rows = 0, max_length = 0;
  std::vector<std::int64_t> seeds;
  std::optional<std::int64_t> limit = {};
};

class Report {
 public:
  explicit Report(ReportHead head) : head_(std::move(head)) {}

  /// Starts the section of a setting; the following results go into it.
  void begin(const Setting& setting);
  void add(TaskResult result);
  /// Adds another key to the current section's document.
  void attach(const std::string& key, nlohmann::json value);

  /// | task | shots | attention | metric | value | stderr |, one line per metric.
  std::string table() const;
  nlohmann::json json() const;
  /// Writes json() to a file.
  void write(const std::filesystem::path& file) const;

 private:
  struct Section {
    Setting setting;
    std::vector<TaskResult> results;
    nlohmann::json more;
  };
  nlohmann::json document(const Section& section) const;

  ReportHead head_;
  std::vector<Section> sections_;
};

}  // namespace ssa::eval
