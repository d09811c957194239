// The tasks: documents of local files, with the prompts, targets and few-shot examples of lm-evaluation-harness.
//
//   task                                  what is asked                                      fields of a document
//   arc_easy, arc_challenge               "Question: {question}\nAnswer:" + " {choice}"      question, choices {text,
//                                                                                            label}, answerKey
//   piqa                                  "Question: {goal}\nAnswer:" + " {sol1 or sol2}"    goal, sol1, sol2, label
//   hellaswag                             "{activity_label}: {ctx_a} {Ctx_b}" + " {ending}"  activity_label, ctx_a,
//                                                                                            ctx_b, endings, label
//   lambada_openai (lambada), _standard   all words but the last + " {last word}"            text
//   wikitext                              each page of a text file as a whole                (WikiText's raw text)
//
// A file of documents is JSON Lines or one JSON array, in the fields of the data sets on Hugging Face; ARC's original
// files (question {stem, choices}) are read too, and for every multiple-choice task the rendered form query, choices,
// gold, in which `query` is the whole prompt.
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
  multiple_choice,  ///< which of the choices is the most likely
  loglikelihood,    ///< how likely the one target is, and whether greedy decoding gives it
  rolling,          ///< how likely the whole text is
};

struct Document {
  std::string query;                 ///< the prompt; of a rolling task the text that is scored
  std::vector<std::string> choices;  ///< multiple_choice: without the space before them
  std::size_t gold = 0;              ///< index of the right choice
  std::string target;  ///< loglikelihood: with the space before it; rolling: the text as it was, whose words
                       ///< and bytes are counted
  std::string source;  ///< the document as JSON with sorted keys: equal documents have equal ones

  bool operator==(const Document&) const = default;
};

struct Task {
  std::string name;
  TaskKind kind;
  std::filesystem::path file;
  std::vector<Document> documents;
  std::vector<Document> pool;  ///< few-shot examples are drawn from these
  /// Whether an example that equals the document is left out. The harness does so where its task has no test split
  /// (piqa, hellaswag), which then also draws one more; we do too where a task's own documents must serve as its pool.
  bool leave_out_document = false;
};

/// The tasks there are, for messages.
std::string task_names();

/// Reads the documents of `name`. `file` empty: the file of DIR that is named after the task. The pool is the file of
/// the training split beside it (NAME_train.jsonl, or as the original data set calls it), else the documents
/// themselves; of lambada_openai, which has no other split, always these. UsageError for an unknown task or one without
/// a file in DIR, Error naming file, line and field for a document that lacks something.
Task load_task(const std::string& name, const std::filesystem::path& file, const std::filesystem::path& dir);

/// The documents of a JSON Lines file or JSON array.
std::vector<Document> read_documents(const std::string& task, const std::filesystem::path& file);

/// The pages of WikiText's raw text: a line "= Title =" begins one.
std::vector<std::string> wikitext_pages(std::string_view text);
/// Undoes WikiText's tokenization, as the harness does before it scores a page.
std::string wikitext_detokenize(std::string_view page);

/// What stands before the document's continuation: `num_fewshot` examples drawn from the pool, with their answers, and
/// the document's query. Draws must be made for the documents in their order, from one `random` for all.
std::string fewshot_context(const Task& task, const Document& document, std::int64_t num_fewshot, PythonRandom& random);

}  // namespace ssa::eval
