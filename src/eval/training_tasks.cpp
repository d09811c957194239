#include "ssa/eval/training_tasks.h"

#include <memory>

#include "ssa/base/checksum.h"
#include "ssa/base/file.h"
#include "ssa/eval/run_task.h"
#include "ssa/eval/task.h"
#include "ssa/eval/text_encoder.h"
#include "ssa/train/model_tokenizer.h"
#include "ssa/train/run_plan.h"

namespace ssa::eval {
namespace fs = std::filesystem;
namespace {

/// Most batches of texts have new lengths, for which no algorithms are to be timed.
class WithoutTiming {
 public:
  explicit WithoutTiming(Stream& stream) : stream_(stream), before_(stream.times_alternatives()) {
    stream.time_alternatives(false);
  }
  ~WithoutTiming() { stream_.time_alternatives(before_); }
  WithoutTiming(const WithoutTiming&) = delete;
  WithoutTiming& operator=(const WithoutTiming&) = delete;

 private:
  Stream& stream_;
  bool before_;
};

/// Runs body; an error gets the key in front.
template <class Body>
auto of_key(const char* key, Body&& body) {
  try {
    return body();
  } catch (const UsageError& error) {
    throw UsageError(concat(key, ": ", error.what()));
  } catch (const Error& error) {
    throw Error(concat(key, ": ", error.what()));
  }
}

Task load(const TaskConfig& task) {
  if (!fs::exists(task.path))
    fail_usage(task.path, ": no such file or directory, expected the documents of ", task.name,
               ", or a directory with ", task.name, ".jsonl or ", task.name, "_test.jsonl");
  const bool directory = fs::is_directory(task.path);
  Task loaded = load_task(task.name, directory ? "" : task.path, directory ? task.path : "");
  if (loaded.kind == TaskKind::generation)
    fail_usage("task ", task.name, ": its answers are generated, which only ssa_eval --tasks does; expected a task of ",
               "choices or likelihoods");
  return loaded;
}

std::unique_ptr<TextEncoder> load_encoder(const Config& config) {
  const std::string tokenizer = training_tokenizer(config);
  return of_key("train.eval_tokenizer", [&] {
    return std::make_unique<TextEncoder>(
        tokenizer,
        EncodedModel{.name = "the model", .model = config.model, .data = training_dataset_info(config.data)});
  });
}

struct Loaded {
  explicit Loaded(const Config& c) : config(c), encoder(load_encoder(c)) {
    for (const TaskConfig& task : c.train.eval_tasks)
      tasks.push_back(of_key("train.eval_tasks", [&] { return load(task); }));
    for (const Task& task : tasks) of_key("train.eval_tasks", [&] { check_task(*encoder, task, options({})); });
  }

  TaskOptions options(const std::function<bool()>& stop) const {
    TaskOptions options{.rows = config.train.per_device_train_batch_size,
                        .max_length = config.train.max_length,
                        .max_length_name = "train.max_length",
                        .num_fewshot = config.train.eval_tasks_num_fewshot,
                        .quiet = true,
                        .stop = stop};
    if (config.train.eval_tasks_limit > 0) options.limit = config.train.eval_tasks_limit;
    return options;
  }

  Config config;
  std::unique_ptr<TextEncoder> encoder;
  std::vector<Task> tasks;
};

std::optional<EvalLosses> run(Loaded& loaded, const TrainedWeights& trained, const std::function<bool()>& stop) {
  const WithoutTiming without_timing(trained.stream);
  const LoadedModel model(trained.table, trained.weights);
  EvalLosses scores;
  for (const auto& [attention, path] : evaluation_paths(loaded.config)) {
    const Setting setting{.path = path, .model = loaded.config.model, .selection = loaded.config.attention.selection};
    ForwardPass pass(trained.stream, model, setting);
    for (const Task& task : loaded.tasks) {
      const TaskResult result = run_task(pass, trained.comm, *loaded.encoder, task, loaded.options(stop));
      if (result.metrics.empty()) return std::nullopt;
      for (const Metric& metric : result.metrics)
        scores[concat("task_", metric.name, attention, "/", task.name)] = metric.value;
    }
  }
  return scores;
}

}  // namespace

TaskEvaluation training_tasks(const Config& config) {
  if (config.train.eval_tasks.empty()) return {};
  const auto loaded = std::make_shared<Loaded>(config);
  TaskEvaluation evaluation;
  for (const Task& task : loaded->tasks) {
    const std::string text = ssa::read_file(task.file);
    evaluation.lines.push_back(concat(task.name, ": ", task.documents.size(), " documents of ", task.file.string(),
                                      ", XXH3 ", xxh3_hex(text.data(), text.size())));
  }
  evaluation.run = [loaded](const TrainedWeights& trained, const std::function<bool()>& stop) {
    return eval::run(*loaded, trained, stop);
  };
  return evaluation;
}

}  // namespace ssa::eval
