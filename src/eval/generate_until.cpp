#include "ssa/eval/generate_until.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <map>
#include <memory>
#include <numeric>
#include <optional>

#include "ssa/eval/generate.h"
#include "ssa/eval/generation_task.h"
#include "ssa/eval/progress.h"
#include "ssa/tokenizer/utf8.h"

namespace ssa::eval {
namespace {

using Json = nlohmann::json;

/// The text of generated tokens without special ones; bytes that are not UTF-8 are replaced.
std::string answer_text(const Tokenizer& tokenizer, TokenIds ids) {
  std::erase_if(ids, [&](std::int32_t id) { return tokenizer.is_special(id); });
  std::string text = tokenizer.decode(ids);
  replace_invalid_utf8(text);
  return text;
}

/// Indices of the prompts, longest first.
std::vector<std::size_t> by_length(std::span<const TokenIds> prompts) {
  std::vector<std::size_t> order(prompts.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return prompts[a].size() > prompts[b].size(); });
  return order;
}

/// Token ids of all prompts' answers, from the rank that has each; the others have none.
void gather(Comm& comm, std::vector<TokenIds>& answers, std::int64_t max_new_tokens) {
  const std::size_t width = static_cast<std::size_t>(max_new_tokens) + 1;  // the length, then the ids
  std::vector<double> values(answers.size() * width, 0.0);
  for (std::size_t i = 0; i < answers.size(); ++i) {
    values[i * width] = static_cast<double>(answers[i].size());
    std::copy(answers[i].begin(), answers[i].end(), values.begin() + static_cast<std::ptrdiff_t>(i * width + 1));
  }
  if (!values.empty()) all_reduce(comm, values, ReduceOp::sum);
  for (std::size_t i = 0; i < answers.size(); ++i) {
    answers[i].resize(static_cast<std::size_t>(values[i * width]));
    for (std::size_t k = 0; k < answers[i].size(); ++k)
      answers[i][k] = static_cast<std::int32_t>(values[i * width + 1 + k]);
  }
}

/// The prompts as the model's inputs; counts those that were cut.
std::vector<TokenIds> encoded(TextEncoder& encoder, std::span<const std::string> prompts, const UntilOptions& options,
                              std::int64_t& cut_prompts) {
  const std::int64_t most = options.max_length - options.max_new_tokens;
  if (most < 1)
    fail_usage("--max-length ", options.max_length, ": the answers have up to ", options.max_new_tokens,
               " tokens, expected more than that");
  std::vector<TokenIds> all;
  for (const std::string& prompt : prompts) {
    TokenIds ids = encoder.encode(prompt);
    if (ids.empty()) ids = {encoder.prefix_token()};
    cut_prompts += static_cast<std::int64_t>(ids.size()) > most;
    all.push_back(truncated(std::move(ids), most, options.truncation));
  }
  return all;
}

Json sample_of(std::size_t index, const Document& document, const GenerationRule& rule, const std::string& text) {
  const Json parameters = {{"do_sample", false}, {"max_gen_toks", rule.max_new_tokens}, {"until", rule.until}};
  return {{"doc_id", index},
          {"target", document.answers},
          {"arguments", Json::array({Json::array({document.query, parameters})})},
          {"filtered_resps", Json::array({text})},
          {"filter", "none"}};
}

/// The mean of each metric: lengths in their order, or `score` before the task's own name.
std::vector<Metric> means(const GenerationRule& rule, const std::map<std::string, std::vector<double>>& values) {
  std::vector<Metric> metrics;
  for (const auto& [name, scores] : values)
    metrics.push_back(
        {.name = name,
         .value = mean(scores),
         .standard_error = has_standard_error(rule, name) ? mean_stderr(scores) : std::optional<double>()});
  const bool lengths = rule.score == AnswerScore::string_match;
  std::stable_sort(metrics.begin(), metrics.end(), [lengths](const Metric& a, const Metric& b) {
    return lengths ? std::stoll(a.name) < std::stoll(b.name) : a.name == "score" && b.name != "score";
  });
  return metrics;
}

}  // namespace

TokenIds truncated(TokenIds ids, std::int64_t most, Truncation truncation) {
  const auto length = static_cast<std::int64_t>(ids.size());
  if (length <= most) return ids;
  const std::int64_t kept_before = truncation == Truncation::middle ? most / 2 : 0;
  const auto first = ids.begin() + kept_before;
  ids.erase(first, first + (length - most));
  return ids;
}

std::string_view cut_at(std::string_view text, std::span<const std::string> until) {
  for (const std::string& stop : until) text = text.substr(0, text.find(stop));
  return text;
}

Answers generate_until(Stream& stream, Comm& comm, const LoadedModel& loaded, const Setting& setting,
                       TextEncoder& encoder, std::span<const std::string> prompts, const UntilOptions& options) {
  Answers answers;
  const Tokenizer& tokenizer = encoder.tokenizer();
  const std::vector<TokenIds> inputs = encoded(encoder, prompts, options, answers.cut_prompts);
  const std::vector<std::size_t> order = by_length(inputs);
  const auto rows = static_cast<std::size_t>(options.rows);
  const auto stops = [&](const TokenIds& ids) {
    const std::string text = answer_text(tokenizer, ids);
    return cut_at(text, options.until).size() < text.size();
  };
  const ContinueOptions continue_options{
      .max_new_tokens = options.max_new_tokens,
      .end_token = static_cast<std::int32_t>(setting.model.eos_token_id),
      .vocab_size = tokenizer.vocab_size(),
      .stops = options.until.empty() ? std::function<bool(const TokenIds&)>() : stops};

  std::vector<TokenIds> found(inputs.size());
  std::unique_ptr<Decoder> decoder;  // of the same shape on every rank, so that no result depends on the ranks
  const std::size_t batches = (order.size() + rows - 1) / rows;
  Progress progress(comm, options.what, static_cast<std::int64_t>(batches));
  for (std::size_t b = 0; b < batches; ++b) {
    if (static_cast<int>(b % static_cast<std::size_t>(comm.size())) != comm.rank()) continue;
    progress.at(static_cast<std::int64_t>(b));
    if (!decoder) {
      const auto longest = static_cast<std::int64_t>(inputs[order[0]].size());
      decoder.reset(
          new Decoder(make_decoder(stream, loaded, setting, static_cast<std::int64_t>(std::min(rows, order.size())),
                                   longest + options.max_new_tokens, longest)));
    }
    const std::span<const std::size_t> items =
        std::span(order).subspan(b * rows, std::min(rows, order.size() - b * rows));
    std::vector<TokenIds> batch;
    for (const std::size_t i : items) batch.push_back(inputs[i]);
    std::vector<TokenIds> texts = continue_prompts(*decoder, batch, continue_options);
    for (std::size_t k = 0; k < items.size(); ++k) found[items[k]] = std::move(texts[k]);
  }
  gather(comm, found, options.max_new_tokens);

  std::vector<std::string> until = options.until;
  const std::int32_t eos = tokenizer.eos_token_id();  // its text, spelled by other tokens, also ends an answer
  if (const std::string text = tokenizer.decode(std::span(&eos, 1)); !text.empty()) until.push_back(text);
  for (const TokenIds& ids : found) {
    const std::string text = answer_text(tokenizer, ids);
    answers.texts.emplace_back(cut_at(text, until));
  }
  return answers;
}

TaskResult run_generation_task(Stream& stream, Comm& comm, const LoadedModel& loaded, const Setting& setting,
                               TextEncoder& encoder, const Task& task, const TaskOptions& options,
                               Truncation truncation) {
  const GenerationRule* const rule = find_generation_rule(task.name);
  SSA_CHECK(rule, task.name, ": not a task of generated answers");
  std::size_t documents = task.documents.size();
  if (options.limit) documents = std::min(documents, static_cast<std::size_t>(*options.limit));
  std::vector<std::string> prompts;
  for (std::size_t i = 0; i < documents; ++i) prompts.push_back(task.documents[i].query);
  const UntilOptions until{.rows = options.rows,
                           .max_length = options.max_length,
                           .max_new_tokens = rule->max_new_tokens,
                           .until = rule->until,
                           .truncation = truncation,
                           .what = concat(task.name, ", ", setting.name())};
  const Answers answers = generate_until(stream, comm, loaded, setting, encoder, prompts, until);
  if (answers.cut_prompts > 0 && comm.rank() == 0)
    spdlog::warn("{}: {} of {} prompts cut {} to {} tokens, --max-length {} less the {} of an answer", task.name,
                 answers.cut_prompts, documents, truncation == Truncation::left ? "on the left" : "in the middle",
                 until.max_length - until.max_new_tokens, until.max_length, until.max_new_tokens);

  TaskResult result{.task = task.name,
                    .dataset = task.file.string(),
                    .output_type = "generate_until",
                    .num_fewshot = 0,
                    .documents = static_cast<std::int64_t>(task.documents.size()),
                    .evaluated = static_cast<std::int64_t>(documents),
                    .metrics = {}};
  if (options.samples) result.samples = Json::array();
  std::map<std::string, std::vector<double>> values;
  for (std::size_t i = 0; i < documents; ++i) {
    const Document& document = task.documents[i];
    const double score = answer_score(*rule, document, answers.texts[i]);
    if (options.samples) result.samples.push_back(sample_of(i, document, *rule, answers.texts[i]));
    for (const std::string& name : metric_names(*rule, document)) {
      values[name].push_back(score);
      if (options.samples) result.samples.back()[name] = score;
    }
  }
  result.metrics = over_seeds(std::vector(options.seeds.size(), means(*rule, values)));
  return result;
}

}  // namespace ssa::eval
