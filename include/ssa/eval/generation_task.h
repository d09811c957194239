// The tasks whose answers are generated: RULER and LongBench, with the prompts, lengths and scores of
// lm-evaluation-harness 0.4.13.
//
// RULER: the fields input, outputs, and max_length or length; the prompt is the input, then gen_prefix (the harness's
// generator) or answer_prefix (NVIDIA's) if there is one. The score has the name of the document's length, so that each
// length of a file is a metric of its own. A document without max_length counts for the smallest of 4096, 8192, ...
// 131072 that is at least its length.
//
// LongBench: the fields context, input (data.zip) or question (the harness's data set), answers, and all_classes for
// trec. The metrics are `score` and the task's own name for it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "ssa/eval/task.h"

namespace ssa {
class JsonFields;
}

namespace ssa::eval {

enum class AnswerScore { string_match, qa_f1, rouge, classification, retrieval, count, code_similarity };

/// A task as in the harness's configuration.
struct GenerationRule {
  std::string name;
  std::vector<std::string> files;  ///< names of its file in the published layouts, relative to the task directory
  /// LongBench: the prompt, with {context} and {question}. RULER: empty.
  std::string prompt;
  /// RULER: put between the input and the start of the answer unless one of them has white space there.
  std::string delimiter;
  std::int64_t max_new_tokens;
  std::vector<std::string> until;  ///< texts that end an answer and are not part of it, besides the end-of-text token
  AnswerScore score;
};

/// The 13 tasks of RULER, then the 16 English and code tasks of LongBench, then the 13 of these that LongBench-E has.
const std::vector<GenerationRule>& generation_rules();
/// nullptr for another name. UsageError for a Chinese task of LongBench.
const GenerationRule* find_generation_rule(const std::string& name);

/// The tasks of the groups ruler, longbench and longbench_e; {name} for any other name.
std::vector<std::string> tasks_of(const std::string& name);

/// Error naming the line and the field for a malformed document.
Document generation_document(const GenerationRule& rule, const JsonFields& fields);

/// The score of a generated text, 0 to 1: the largest over the document's answers; RULER: over all of them.
double answer_score(const GenerationRule& rule, const Document& document, std::string_view text);

/// The names of the metrics that a document's score counts for.
std::vector<std::string> metric_names(const GenerationRule& rule, const Document& document);

/// Whether the harness reports a standard error of this metric: not for the lengths 4096, 8192 ... 131072 of RULER.
bool has_standard_error(const GenerationRule& rule, const std::string& metric);

}  // namespace ssa::eval
