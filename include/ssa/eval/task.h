// The tasks: documents of local files, with the prompts, targets and few-shot examples of lm-evaluation-harness.
//
//   task                                  prompt + target or choice                          fields of a document
//   arc_easy, arc_challenge               "Question: {question}\nAnswer:" + " {choice}"      question, choices {text,
//                                                                                            label}, answerKey
//   piqa                                  "Question: {goal}\nAnswer:" + " {sol1 or sol2}"    goal, sol1, sol2, label
//   hellaswag                             "{activity_label}: {ctx_a} {Ctx_b}" + " {ending}"  activity_label, ctx_a,
//                                                                                            ctx_b, endings, label
//   lambada_openai (lambada), _standard   all words but the last + " {last word}"            text
//   wikitext                              each page of a text file                           (WikiText's raw text)
//   RULER's and LongBench's               generation_task.h
//
// A file of documents is JSON Lines or one JSON array, with the fields of the data sets on Hugging Face. ARC's original
// files (question {stem, choices}) are read too. Any multiple-choice task also takes the rendered form query, choices,
// gold, where `query` is the whole prompt. docs/tasks.md shows a document of each format.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "ssa/eval/python_random.h"

namespace ssa::eval {

enum class TaskKind {
  multiple_choice,  ///< the most likely of several choices
  loglikelihood,    ///< the log-likelihood of one target, and whether greedy decoding gives it
  rolling,          ///< the log-likelihood of the whole text
  generation,       ///< the score of a generated answer (generation_task.h)
};

struct Document {
  std::string query;                 ///< the prompt; rolling: the scored text
  std::vector<std::string> choices;  ///< multiple_choice: without the leading space
  std::size_t gold = 0;              ///< index of the right choice
  std::string target;  ///< loglikelihood: with the leading space; rolling: the original text, whose words and bytes
                       ///< are counted
  std::string source;  ///< the document as JSON with sorted keys, to compare documents; generation: empty
  std::vector<std::string> answers = {};  ///< generation: the right ones
  std::vector<std::string> classes = {};  ///< generation: of a classification
  std::int64_t length = 0;                ///< RULER: the length that the document counts for

  bool operator==(const Document&) const = default;
};

struct Task {
  std::string name;
  TaskKind kind;
  std::filesystem::path file;
  std::vector<Document> documents;
  std::vector<Document> pool;  ///< few-shot examples are drawn from these
  /// Whether an example that equals the document is left out; one more example is then drawn. The harness does so for
  /// tasks without a test split (piqa, hellaswag). Also set where the pool is the task's own documents.
  bool leave_out_document = false;
};

/// The supported tasks, for messages.
std::string task_names();

/// Reads the documents of `name` from `file`, or if that is empty from the file in `dir` that is named after the task.
/// The pool is read from the training split next to it (NAME_train.jsonl, or the original data set's file name).
/// Without one, and always for lambada_openai, the pool is the documents themselves. UsageError for an unknown task or
/// one without a file; Error naming file, line and field for a malformed document.
Task load_task(const std::string& name, const std::filesystem::path& file, const std::filesystem::path& dir);

/// The documents of a JSON Lines file or JSON array.
std::vector<Document> read_documents(const std::string& task, const std::filesystem::path& file);

/// The pages of WikiText's raw text; a line "= Title =" starts a page.
std::vector<std::string> wikitext_pages(std::string_view text);
/// Undoes WikiText's tokenization, as the harness does before scoring a page.
std::string wikitext_detokenize(std::string_view page);

/// The prompt of a document: `num_fewshot` examples drawn from the pool, with their answers, then the document's query.
/// Call it for the documents in order, with the same `random`, to get the harness's draws.
std::string fewshot_context(const Task& task, const Document& document, std::int64_t num_fewshot, PythonRandom& random);

}  // namespace ssa::eval
