// ssa_inspect: describes a dataset, checkpoint, run, model directory or safetensors file, and verifies it.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "ssa/base/command_line.h"
#include "ssa/base/file.h"
#include "ssa/base/program.h"
#include "ssa/base/signals.h"
#include "ssa/config/config.h"
#include "ssa/config/hugging_face_config.h"
#include "ssa/data/dataset.h"
#include "ssa/data/unigram.h"
#include "ssa/io/checkpoint.h"
#include "ssa/io/huggingface.h"
#include "ssa/train/metrics_log.h"
#include "ssa/train/run_report.h"

namespace ssa {
namespace {

namespace fs = std::filesystem;

/// What to print or check in addition to the summary.
struct Wanted {
  bool verify = false, unigram = false;
};

std::string with_unit(std::uint64_t bytes) { return fmt::format("{:.1f} MB", static_cast<double>(bytes) / 1e6); }

/// Throws at the first value that is not finite.
void verify_finite(const SafetensorsReader& file) {
  std::vector<float> piece(std::size_t{1} << 20);
  for (const auto& tensor : file.tensors()) {
    const std::int64_t count = count_of(tensor.shape);
    for (std::int64_t first = 0; first < count; first += static_cast<std::int64_t>(piece.size())) {
      const std::span<float> part(piece.data(), std::min(piece.size(), static_cast<std::size_t>(count - first)));
      file.read(tensor, part, first);
      check_finite(concat(file.path().string(), ": tensor ", tensor.name), part, first);
    }
  }
}

/// One line per file: tensors, elements by dtype, size.
void print_summary(const SafetensorsReader& file) {
  std::map<std::string_view, std::int64_t> elements;
  std::uint64_t bytes = 0;
  for (const auto& tensor : file.tensors()) {
    elements[name_of(tensor.dtype)] += count_of(tensor.shape);
    bytes += tensor.bytes();
  }
  std::cout << "  " << file.path().filename().string() << ": " << file.tensors().size() << " tensors";
  for (const auto& [dtype, count] : elements) std::cout << ", " << count << " " << dtype;
  std::cout << ", " << with_unit(bytes) << "\n";
}

void print_model(const ModelConfig& m) {
  std::cout << "  model: " << m.num_hidden_layers << " layers, hidden " << m.hidden_size << ", intermediate "
            << m.intermediate_size << ", " << m.num_attention_heads << " heads (" << m.num_key_value_heads
            << " key/value) of " << m.head_dim << ", vocabulary " << m.vocab_size << ", blocks of " << m.block_size
            << ", " << m.block_counts << " selected\n";
}

void inspect_safetensors(const fs::path& path, const Wanted& wanted) {
  const SafetensorsReader file(path);
  std::cout << path.string() << ": safetensors\n";
  print_summary(file);
  for (const auto& tensor : file.tensors())
    std::cout << "  " << tensor.name << " " << name_of(tensor.dtype) << " " << to_string(tensor.shape) << "\n";
  if (wanted.verify) verify_finite(file);
}

void inspect_checkpoint(const fs::path& path, const Wanted& wanted) {
  const CheckpointReader checkpoint(path, wanted.verify ? Verify::checksums : Verify::sizes);
  std::cout << path.string() << ": checkpoint of step " << checkpoint.step() << "\n";
  print_summary(checkpoint.weights());
  print_summary(checkpoint.moments());
  nlohmann::json trainer = checkpoint.trainer();
  trainer.erase("spike_window");  // two long lists of numbers
  std::cout << "  trainer.json: " << trainer.dump() << "\n";
  const Config config = parse_config(checkpoint.config(), (path / "config.json").string());
  std::cout << "  method: " << name_of(config.attention.method) << "\n";
  print_model(config.model);
  checkpoint.check(published_parameters(config.model));
  if (wanted.verify) {
    verify_finite(checkpoint.weights());
    verify_finite(checkpoint.moments());
  }
}

void inspect_run(const fs::path& path, const Wanted& wanted) {
  std::cout << path.string() << ": run\n";
  const auto checkpoints = find_checkpoints(path, wanted.verify ? Verify::checksums : Verify::sizes);
  std::cout << "  " << checkpoints.size() << " checkpoints, newest first\n";
  std::string first_problem;
  for (const CheckpointInfo& info : checkpoints) {
    std::cout << "  " << info.path.filename().string() << ": " << (info.complete() ? "complete" : info.problem) << "\n";
    if (!info.complete() && first_problem.empty()) first_problem = info.path.string() + ": " + info.problem;
  }
  if (fs::exists(path / "metrics.jsonl")) {
    const auto last = last_metrics(path / "metrics.jsonl");
    std::cout << "  last metrics: " << (last.is_null() ? "none" : last.dump()) << "\n";
    const auto evaluation = last_evaluation(path / "metrics.jsonl");
    if (!evaluation.is_null()) std::cout << "  last evaluation: " << evaluation.dump() << "\n";
  }
  if (!wanted.verify) return;
  SSA_CHECK(!checkpoints.empty(), path.string(), ": --verify: found no checkpoints, expected at least one");
  SSA_CHECK(first_problem.empty(), first_problem);
  for (const CheckpointInfo& info : checkpoints) {
    const CheckpointReader checkpoint(info.path, Verify::sizes);
    verify_finite(checkpoint.weights());
    verify_finite(checkpoint.moments());
  }
}

void inspect_model(const fs::path& path, const Wanted& wanted) {
  HuggingFaceWeights weights(path);
  std::cout << path.string() << ": model directory\n";
  for (const SafetensorsReader& shard : weights.shards()) print_summary(shard);
  const HuggingFaceConfig config = read_hugging_face_config(path / "config.json");
  for (const std::string& note : config.notes) std::cout << "  config.json: " << note << "\n";
  const auto print_known = [](const char* what, const auto& known) {
    std::cout << "  " << what << ": ";
    if (known)
      std::cout << name_of(known->value) << " (" << known->reason << ")\n";
    else
      std::cout << "not named in config.json; ssa_eval --" << what << " needs it\n";
  };
  print_known("method", config.method);
  print_known("selection", config.selection);
  print_model(config.model);
  weights.check(config.model, config.dense ? std::optional(AddedGates{}) : std::nullopt);
  if (wanted.verify)
    for (const SafetensorsReader& shard : weights.shards()) verify_finite(shard);
}

void inspect_dataset(const fs::path& path, const Wanted& wanted) {
  const Dataset dataset(path);
  std::cout << path.string() << ": dataset\n  " << dataset.shards().size() << " shards, " << dataset.documents()
            << " documents, " << dataset.tokens() << " tokens\n";
  if (const auto& info = dataset.info())
    std::cout << "  tokenizer " << info->tokenizer_name << ", sha256 " << info->tokenizer_sha256 << ", vocabulary "
              << info->vocab_size << ", end-of-text " << info->eos_token_id << "\n";
  else
    std::cout << "  no dataset.json: tokenizer and checksums unknown\n";
  if (const auto bytes = dataset.text_bytes())
    std::cout << "  " << with_unit(static_cast<std::uint64_t>(*bytes)) << " of text, "
              << fmt::format("{:.2f}", static_cast<double>(*bytes) / static_cast<double>(dataset.tokens()))
              << " bytes per token\n";
  if (wanted.unigram) std::cout << "  unigram entropy " << unigram_entropy(dataset) << " nats per token\n";
  if (wanted.verify) dataset.verify();
}

/// Writes the page; with `watch`, again whenever the run has logged more, until a signal arrives.
void write_report(const fs::path& run, const fs::path& file, bool watch) {
  constexpr int kSeconds = 10;
  const fs::path metrics = run / "metrics.jsonl";
  if (!fs::exists(metrics)) fail_usage(run.string(), ": no metrics.jsonl, expected a run's output_dir for --html");
  if (file.has_parent_path()) make_directories(file.parent_path());
  if (watch) catch_stop_signals();
  std::optional<std::uintmax_t> written;
  do {
    const std::uintmax_t size = fs::file_size(metrics);
    if (size != written) replace_file(file, run_report(run, watch ? kSeconds : 0));
    if (!written) std::cout << "wrote " << file.string() << (watch ? "; Ctrl-C ends --watch" : "") << std::endl;
    written = size;
    for (int second = 0; watch && second < kSeconds && !stop_signal(); ++second)
      std::this_thread::sleep_for(std::chrono::seconds(1));
  } while (watch && !stop_signal());
}

/// The names of the .idx files in a directory, without the suffix.
std::set<std::string> index_names(const fs::path& directory) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(directory))
    if (entry.path().extension() == ".idx") names.insert(entry.path().stem().string());
  return names;
}

void inspect(const fs::path& path, const Wanted& wanted) {
  if (const auto prefix = megatron_prefix(path)) return inspect_dataset(*prefix, wanted);
  const auto no_dataset = [&](void (*inspect_it)(const fs::path&, const Wanted&)) {
    if (wanted.unigram) fail_usage("--unigram: ", path.string(), " is no dataset, expected one");
    inspect_it(path, wanted);
  };
  if (fs::is_regular_file(path)) return no_dataset(inspect_safetensors);
  if (!fs::is_directory(path)) fail_usage(path.string(), ": no such file or directory");
  if (is_checkpoint(path)) return no_dataset(inspect_checkpoint);
  if (fs::is_directory(path / "checkpoints") || fs::exists(path / "metrics.jsonl")) return no_dataset(inspect_run);
  if (has_weights(path)) return no_dataset(inspect_model);
  const std::set<std::string> names = index_names(path);
  const bool ours =
      std::any_of(names.begin(), names.end(), [](const auto& name) { return name.starts_with("shard-"); });
  const bool unfinished = fs::exists(path / kTokenizeStateName), split = fs::exists(path / "train" / "dataset.json");
  if (ours || unfinished || split || fs::exists(path / "dataset.json")) return inspect_dataset(path, wanted);
  // In a directory of Megatron's tools every prefix is a dataset.
  if (!names.empty()) {
    for (const std::string& name : megatron_names(path)) inspect_dataset(path / name, wanted);
    return;
  }
  fail_usage(path.string(), ": neither a dataset, a checkpoint, a run nor a model directory");
}

int run(int argc, char** argv) {
  std::string argument, html;
  bool watch = false;
  Wanted wanted;
  CommandLine line({.program = "ssa_inspect",
                    .usage = "PATH [options]",
                    .summary = "Describes a dataset, checkpoint, run, model directory or .safetensors file.",
                    .footer = "Example:\n"
                              "  ssa_inspect runs/ssa-1b --verify\n"
                              "  ssa_inspect runs/ssa-1b --html report.html --watch\n\n"
                              "Exit code: 0 done, 1 failed or found a fault, 2 wrong usage"});
  line.add_option("PATH", argument,
                  "a dataset or Megatron prefix, a checkpoint, a run (output_dir), a Hugging Face directory, or a "
                  ".safetensors file")
      ->required();
  line.add_flag("--verify", wanted.verify,
                "read everything and check checksums, shapes, token ids and finite values; the first fault is an "
                "error; for a run, every checkpoint must be complete");
  line.add_flag("--unigram", wanted.unigram,
                "for a dataset: the entropy of its token frequencies, which is the loss of a model that has learned "
                "nothing else");
  line.add_option("--html", html,
                  "for a run: writes its curves, warnings, checkpoints, log and config as one HTML page")
      ->option_text("FILE");
  line.add_flag("--watch", watch, "with --html: writes the page again while the run continues; the browser reloads it");
  if (!line.read(argc, argv)) return kExitDone;
  if (watch && html.empty()) fail_usage("--watch: expected --html FILE with it");
  if (!html.empty() && (wanted.verify || wanted.unigram))
    line.fail("--html excludes ", wanted.verify ? "--verify" : "--unigram");
  // "dir/" and "dir" name the same directory, and the output uses its last component.
  fs::path path = fs::path(argument).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();
  if (!html.empty()) {
    write_report(path, html, watch);
    return kExitDone;
  }
  inspect(path, wanted);
  if (wanted.verify) std::cout << "verified\n";
  return kExitDone;
}

}  // namespace
}  // namespace ssa

int main(int argc, char** argv) {
  return ssa::run_program("ssa_inspect", [&] { return ssa::run(argc, argv); });
}
