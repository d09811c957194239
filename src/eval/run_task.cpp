#include "ssa/eval/run_task.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>

#include "ssa/eval/python_text.h"
#include "ssa/eval/text_files.h"

namespace ssa::eval {
namespace {

using Json = nlohmann::json;

/// The requests of one document: all.requests[first_request], ...
struct RequestGroup {
  const Document* document;
  std::string context;
  std::vector<std::string> continuations;
  std::size_t first_request;
};

/// Runs body; an error's message gets the file and the document's number in front.
template <class Body>
void for_document(const Task& task, std::size_t index, Body&& body) {
  try {
    body();
  } catch (const Error& error) {
    fail(task.file.string(), ": document ", index + 1, ": ", error.what());
  }
}

struct TaskRequests {
  std::vector<RequestGroup> groups;  ///< one per document
  std::vector<Request> requests;
  std::size_t cut_prompts = 0;  ///< groups of which a request loses the beginning of its context
};

bool is_cut(const Request& request, std::int64_t max_length) {
  return static_cast<std::int64_t>(request.context.size() + request.continuation.size()) > max_length + 1;
}

TaskRequests make_requests(TextEncoder& encoder, const Task& task, const TaskOptions& options, std::size_t documents,
                           std::int64_t seed) {
  TaskRequests all;
  PythonRandom random(seed);
  for (std::size_t i = 0; i < documents; ++i)
    for_document(task, i, [&] {
      const Document& document = task.documents[i];
      RequestGroup group{
          .document = &document, .context = {}, .continuations = {}, .first_request = all.requests.size()};
      if (task.kind == TaskKind::rolling) {
        group.continuations = {document.query};
        for (Request& request :
             rolling_requests(encoder.encode(document.query), encoder.prefix_token(), options.max_length,
                              options.stride ? options.stride : options.max_length))
          all.requests.push_back(std::move(request));
      } else {
        group.context = fewshot_context(task, document, options.num_fewshot, random);
        if (task.kind == TaskKind::loglikelihood) group.continuations = {document.target};
        for (const std::string& choice : document.choices) group.continuations.push_back(" " + choice);
        bool cut = false;
        for (const std::string& continuation : group.continuations) {
          all.requests.push_back(make_request(encoder, group.context, continuation));
          model_input(all.requests.back(), options.max_length, options.max_length_name);  // an error if it is too long
          cut = cut || is_cut(all.requests.back(), options.max_length);
        }
        all.cut_prompts += cut;
      }
      all.groups.push_back(std::move(group));
    });
  return all;
}

std::size_t evaluated_documents(const Task& task, const TaskOptions& options) {
  const std::size_t documents = task.documents.size();
  return options.limit ? std::min(documents, static_cast<std::size_t>(*options.limit)) : documents;
}

std::vector<Metric> choice_metrics(const std::vector<double>& acc, const std::vector<double>& acc_norm) {
  return {{.name = "acc", .value = mean(acc), .standard_error = mean_stderr(acc)},
          {.name = "acc_norm", .value = mean(acc_norm), .standard_error = mean_stderr(acc_norm)}};
}

/// A rolling task's sums over its documents.
struct RollingSums {
  double log_likelihood = 0;
  std::int64_t words = 0, bytes = 0;

  std::vector<Metric> metrics() const {
    const double word = -log_likelihood / static_cast<double>(words),
                 byte = -log_likelihood / static_cast<double>(bytes);
    return {{.name = "word_perplexity", .value = std::exp(word), .higher_is_better = false},
            {.name = "byte_perplexity", .value = std::exp(byte), .higher_is_better = false},
            {.name = "bits_per_byte", .value = byte / std::numbers::ln2, .higher_is_better = false}};
  }
};

Json sample_of(const Task& task, std::size_t index, const RequestGroup& group, const std::vector<Score>& scores) {
  Json responses = Json::array(), arguments = Json::array();
  for (std::size_t k = 0; k < group.continuations.size(); ++k) {
    if (task.kind == TaskKind::rolling)
      responses.push_back(scores[k].log_likelihood);
    else
      responses.push_back({scores[k].log_likelihood, scores[k].greedy});
    arguments.push_back(task.kind == TaskKind::rolling ? Json::array({group.continuations[k]})
                                                       : Json::array({group.context, group.continuations[k]}));
  }
  return {
      {"doc_id", index},
      {"target", task.kind == TaskKind::multiple_choice ? Json(group.document->gold) : Json(group.document->target)},
      {"arguments", arguments},
      {"filtered_resps", responses},
      {"filter", "none"}};
}

struct SeedResult {
  std::vector<Metric> metrics;
  Json samples;
};

SeedResult run_seed(ForwardPass& pass, Comm& comm, TextEncoder& encoder, const Task& task, const TaskOptions& options,
                    std::size_t documents, std::int64_t seed) {
  const TaskRequests requests = make_requests(encoder, task, options, documents, seed);
  if (requests.cut_prompts > 0 && comm.rank() == 0)
    spdlog::warn("{}: {} of {} prompts cut on the left to {} {} tokens", task.name, requests.cut_prompts, documents,
                 options.max_length_name, options.max_length);
  const std::vector<Score> all_scores =
      score(pass, comm, requests.requests,
            {.rows = options.rows,
             .max_length = options.max_length,
             .greedy = task.kind == TaskKind::loglikelihood,
             .what = options.quiet ? std::string() : concat(task.name, ", ", pass.setting().name()),
             .stop = options.stop});
  SeedResult result;
  if (all_scores.empty() && !requests.requests.empty()) return result;
  if (options.samples) result.samples = Json::array();
  std::vector<double> acc, acc_norm, log_likelihoods;
  RollingSums sums;
  for (std::size_t i = 0; i < requests.groups.size(); ++i) {
    const RequestGroup& group = requests.groups[i];
    const std::size_t end = i + 1 < requests.groups.size() ? requests.groups[i + 1].first_request : all_scores.size();
    std::vector<Score> scores(all_scores.begin() + static_cast<std::ptrdiff_t>(group.first_request),
                              all_scores.begin() + static_cast<std::ptrdiff_t>(end));
    Json scored = Json::object();
    switch (task.kind) {
      case TaskKind::multiple_choice: {
        std::vector<double> values;
        for (const Score& one : scores) values.push_back(one.log_likelihood);
        const Choice choice = choose(values, group.document->choices);
        acc.push_back(choice.best == group.document->gold);
        acc_norm.push_back(choice.best_norm == group.document->gold);
        scored = {{"acc", acc.back()}, {"acc_norm", acc_norm.back()}};
        break;
      }
      case TaskKind::loglikelihood:
        acc.push_back(scores[0].greedy);
        log_likelihoods.push_back(scores[0].log_likelihood);
        scored = {{"acc", acc.back()}, {"perplexity", log_likelihoods.back()}};
        break;
      case TaskKind::rolling: {
        Score total;
        for (const Score& one : scores) total.log_likelihood += one.log_likelihood;
        scores = {total};
        const std::int64_t words = count_words(group.document->target);
        const auto bytes = static_cast<std::int64_t>(group.document->target.size());
        sums.log_likelihood += total.log_likelihood;
        sums.words += words;
        sums.bytes += bytes;
        scored = {{"word_perplexity", {total.log_likelihood, words}},
                  {"byte_perplexity", {total.log_likelihood, bytes}}};
        break;
      }
      case TaskKind::generation: break;
    }
    if (!options.samples) continue;
    result.samples.push_back(sample_of(task, i, group, scores));
    result.samples.back().update(scored);
  }
  switch (task.kind) {
    case TaskKind::multiple_choice: result.metrics = choice_metrics(acc, acc_norm); break;
    case TaskKind::loglikelihood:
      result.metrics = {{.name = "acc", .value = mean(acc), .standard_error = mean_stderr(acc)},
                        {.name = "perplexity",
                         .value = perplexity(log_likelihoods),
                         .standard_error = perplexity_stderr(log_likelihoods),
                         .higher_is_better = false}};
      break;
    case TaskKind::rolling: result.metrics = sums.metrics(); break;
    case TaskKind::generation: break;
  }
  return result;
}

constexpr const char* output_type(TaskKind kind) {
  switch (kind) {
    case TaskKind::multiple_choice: return "multiple_choice";
    case TaskKind::loglikelihood: return "loglikelihood";
    case TaskKind::rolling: return "loglikelihood_rolling";
    case TaskKind::generation: return "generate_until";
  }
  return "?";
}

}  // namespace

Choice choose(const std::vector<double>& log_likelihoods, const std::vector<std::string>& choices) {
  std::vector<double> normalized;
  for (std::size_t k = 0; k < choices.size(); ++k)
    normalized.push_back(log_likelihoods[k] / static_cast<double>(code_points(choices[k])));
  return {.best = arg_max(log_likelihoods), .best_norm = arg_max(normalized)};
}

Task text_task(const std::vector<std::string>& files) {
  Task task{.name = "text", .kind = TaskKind::rolling, .file = files.front(), .documents = {}, .pool = {}};
  for (const std::string& file : files)
    for (Document& document : text_documents(file)) task.documents.push_back(std::move(document));
  return task;
}

void check_task(TextEncoder& encoder, const Task& task, const TaskOptions& options) {
  make_requests(encoder, task, options, evaluated_documents(task, options), options.seeds.front());
}

TaskResult run_task(ForwardPass& pass, Comm& comm, TextEncoder& encoder, const Task& task, const TaskOptions& options) {
  SSA_CHECK(task.kind != TaskKind::generation, task.name,
            ": its answers are generated, expected a task of likelihoods");
  const std::size_t documents = evaluated_documents(task, options);
  const bool shots = task.kind != TaskKind::rolling && options.num_fewshot > 0;
  TaskResult result{.task = task.name,
                    .dataset = task.file.string(),
                    .output_type = output_type(task.kind),
                    .num_fewshot = shots ? options.num_fewshot : 0,
                    .documents = static_cast<std::int64_t>(task.documents.size()),
                    .evaluated = static_cast<std::int64_t>(documents),
                    .metrics = {}};
  std::vector<std::vector<Metric>> runs;
  for (const std::int64_t seed : options.seeds) {
    // Without examples nothing is random: every seed gives the same result.
    if (!runs.empty() && !shots) {
      runs.push_back(runs.front());
      continue;
    }
    SeedResult run = run_seed(pass, comm, encoder, task, options, documents, seed);
    if (run.metrics.empty()) return result;
    if (runs.empty() && options.samples) result.samples = std::move(run.samples);
    runs.push_back(std::move(run.metrics));
  }
  result.metrics = over_seeds(runs);
  return result;
}

}  // namespace ssa::eval
