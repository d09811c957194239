#include "ssa/eval/generation_task.h"

#include <algorithm>
#include <array>

#include "ssa/base/error.h"
#include "ssa/data/json_fields.h"
#include "ssa/eval/answer_scores.h"
#include "ssa/eval/python_text.h"

namespace ssa::eval {
namespace {

using Json = nlohmann::json;
using Names = std::vector<std::string>;

constexpr std::string_view kLongBench = "longbench_";
constexpr std::array kChinese = {"dureader", "lsht", "multifieldqa_zh", "passage_retrieval_zh", "vcsum"};
/// These have no LongBench-E variant.
constexpr std::array kNotInE = {"musique", "narrativeqa", "qmsum"};
constexpr std::array<std::int64_t, 6> kLengths = {4096, 8192, 16384, 32768, 65536, 131072};

struct RulerTask {
  const char* name;
  const char* nvidia;  ///< its name in NVIDIA's generator
  std::int64_t max_new_tokens;
  const char* delimiter = " ";
};
constexpr std::array kRuler = {RulerTask{"niah_single_1", "niah_single_1", 128},
                               RulerTask{"niah_single_2", "niah_single_2", 128},
                               RulerTask{"niah_single_3", "niah_single_3", 128},
                               RulerTask{"niah_multikey_1", "niah_multikey_1", 128},
                               RulerTask{"niah_multikey_2", "niah_multikey_2", 128},
                               RulerTask{"niah_multikey_3", "niah_multikey_3", 128},
                               RulerTask{"niah_multivalue", "niah_multivalue", 128},
                               RulerTask{"niah_multiquery", "niah_multiquery", 128},
                               RulerTask{"ruler_vt", "vt", 30},
                               RulerTask{"ruler_cwe", "cwe", 120, "\n\n"},
                               RulerTask{"ruler_fwe", "fwe", 50},
                               RulerTask{"ruler_qa_squad", "qa_1", 32},
                               RulerTask{"ruler_qa_hotpot", "qa_2", 32}};

struct LongBenchTask {
  const char* name;
  const char* prompt;
  std::int64_t max_new_tokens;
  Names until;
  AnswerScore score;
};

/// Prompts as published, with their errors ("asconcisely").
const std::vector<LongBenchTask>& long_bench() {
  static const std::vector<LongBenchTask> tasks = {
      {"narrativeqa",
       "You are given a story, which can be either a novel or a movie script, and a question. Answer the "
       "question asconcisely as you can, using a single phrase if possible. Do not provide any explanation.\n\n"
       "Story: {context}\n\nNow, answer the question based on the story asconcisely as you can, using a single "
       "phrase if possible. Do not provide any explanation.\n\nQuestion: {question}\n\nAnswer:",
       128,
       {},
       AnswerScore::qa_f1},
      {"qasper",
       "You are given a scientific article and a question. Answer the question as concisely as you can, using a "
       "single phrase or sentence if possible. If the question cannot be answered based on the information in "
       "the article, write \"unanswerable\". If the question is a yes/no question, answer \"yes\", \"no\", or "
       "\"unanswerable\". Do not provide any explanation.\n\nArticle: {context}\n\n Answer the question based "
       "on the above article as concisely as you can, using a single phrase or sentence if possible. If the "
       "question cannot be answered based on the information in the article, write \"unanswerable\". If the "
       "question is a yes/no question, answer \"yes\", \"no\", or \"unanswerable\". Do not provide any "
       "explanation.\n\nQuestion: {question}\n\nAnswer:",
       128,
       {},
       AnswerScore::qa_f1},
      {"multifieldqa_en",
       "Read the following text and answer briefly.\n\n{context}\n\nNow, answer the following question based on "
       "the above text, only give me the answer and do not output any other words.\n\nQuestion: {question}\n"
       "Answer:",
       64,
       {},
       AnswerScore::qa_f1},
      {"hotpotqa",
       "Answer the question based on the given passages. Only give me the answer and do not output any other "
       "words.\n\nThe following are given passages.\n{context}\n\nAnswer the question based on the given "
       "passages. Only give me the answer and do not output any other words.\n\nQuestion: {question}\nAnswer:",
       32,
       {},
       AnswerScore::qa_f1},
      {"2wikimqa",
       "Answer the question based on the given passages. Only give me the answer and do not output any other "
       "words.\n\nThe following are given passages.\n{context}\n\nAnswer the question based on the given "
       "passages. Only give me the answer and do not output any other words.\n\nQuestion: {question}\nAnswer:",
       32,
       {},
       AnswerScore::qa_f1},
      {"musique",
       "Answer the question based on the given passages. Only give me the answer and do not output any other "
       "words.\n\nThe following are given passages.\n{context}\n\nAnswer the question based on the given "
       "passages. Only give me the answer and do not output any other words.\n\nQuestion: {question}\nAnswer:",
       32,
       {},
       AnswerScore::qa_f1},
      {"gov_report",
       "You are given a report by a government agency. Write a one-page summary of the report.\n\nReport:\n"
       "{context}\n\nNow, write a one-page summary of the report.\n\nSummary:",
       512,
       {},
       AnswerScore::rouge},
      {"qmsum",
       "You are given a meeting transcript and a query containing a question or instruction. Answer the query "
       "in one or more sentences.\n\nTranscript:\n{context}\n\nNow, answer the query based on the above meeting "
       "transcript in one or more sentences.\n\nQuery: {question}\nAnswer:",
       512,
       {},
       AnswerScore::rouge},
      {"multi_news",
       "You are given several news passages. Write a one-page summary of all news. \n\nNews:\n{context}\n\nNow, "
       "write a one-page summary of all the news.\n\nSummary:",
       512,
       {},
       AnswerScore::rouge},
      {"trec",
       "Please determine the type of the question below. Here are some examples of questions.\n\n{context}\n"
       "{question}",
       64,
       {"\n"},
       AnswerScore::classification},
      {"triviaqa",
       "Answer the question based on the given passage. Only give me the answer and do not output any other "
       "words. The following are some examples.\n\n{context}\n{question}",
       32,
       {"\n"},
       AnswerScore::qa_f1},
      {"samsum",
       "Summarize the dialogue into a few short sentences. The following are some examples.\n\n{context}\n"
       "{question}",
       128,
       {"\n"},
       AnswerScore::rouge},
      {"passage_count",
       "There are some paragraphs below sourced from Wikipedia. Some of them may be duplicates. Please "
       "carefully read these paragraphs and determine how many unique paragraphs there are after removing "
       "duplicates. In other words, how many non-repeating paragraphs are there in total?\n\n{context}\n\n"
       "Please enter the final count of unique paragraphs after removing duplicates. The output format should "
       "only contain the number, such as 1, 2, 3, and so on.\n\nThe final answer is:",
       32,
       {},
       AnswerScore::count},
      {"passage_retrieval_en",
       "Here are 30 paragraphs from Wikipedia, along with an abstract. Please determine which paragraph the "
       "abstract is from.\n\n{context}\n\nThe following is an abstract.\n\n{question}\n\nPlease enter the "
       "number of the paragraph that the abstract is from. The answer format must be like \"Paragraph 1\", "
       "\"Paragraph 2\", etc.\n\nThe answer is:",
       32,
       {},
       AnswerScore::retrieval},
      {"lcc",
       "Please complete the code given below. \n{context}Next line of code:",
       64,
       {},
       AnswerScore::code_similarity},
      {"repobench-p",
       "Please complete the code given below. \n{context}{question}Next line of code:",
       64,
       {},
       AnswerScore::code_similarity},
  };
  return tasks;
}

std::vector<GenerationRule> make_rules() {
  std::vector<GenerationRule> rules;
  for (const RulerTask& task : kRuler) {
    const std::string nvidia = task.nvidia;
    rules.push_back({task.name,
                     {nvidia + ".jsonl", nvidia + "/validation.jsonl", nvidia + "/test.jsonl"},
                     "",
                     task.delimiter,
                     task.max_new_tokens,
                     {},
                     AnswerScore::string_match});
  }
  for (const char* suffix : {"", "_e"})
    for (const LongBenchTask& task : long_bench()) {
      if (*suffix && std::find(kNotInE.begin(), kNotInE.end(), std::string_view(task.name)) != kNotInE.end()) continue;
      const std::string name = std::string(task.name) + suffix;
      rules.push_back({std::string(kLongBench) + name,
                       {name + ".jsonl", name + "/test.jsonl"},
                       task.prompt,
                       "",
                       task.max_new_tokens,
                       task.until,
                       task.score});
    }
  return rules;
}

/// The length that a document of RULER counts for.
std::int64_t ruler_length(const JsonFields& fields) {
  if (fields.has("max_length")) return fields.count("max_length");
  const std::int64_t length = fields.count("length");
  const auto* const found = std::find_if(kLengths.begin(), kLengths.end(), [length](auto l) { return length <= l; });
  SSA_CHECK(found != kLengths.end(), fields.where(), ": length is ", length, ", expected at most ", kLengths.back(),
            ", or max_length");
  return *found;
}

bool ends_with_space(std::string_view text) { return rstrip(text).size() < text.size(); }
bool starts_with_space(std::string_view text) {
  const std::string_view rest = strip(text);
  return rest.empty() ? !text.empty() : rest.data() != text.data();
}

Document ruler_document(const GenerationRule& rule, const JsonFields& fields) {
  Document document;
  document.query = fields.text("input");
  std::string prefix;
  for (const char* key : {"gen_prefix", "answer_prefix"})
    if (prefix.empty() && fields.has(key)) prefix = fields.text(key);
  const bool touch =
      !document.query.empty() && !prefix.empty() && !ends_with_space(document.query) && !starts_with_space(prefix);
  document.query += (touch ? rule.delimiter : "") + prefix;
  document.answers = fields.texts("outputs");
  document.length = ruler_length(fields);
  return document;
}

/// The template with its fields replaced; the texts are not searched for fields.
std::string rendered(std::string_view prompt, const std::string& context, const std::string& question) {
  std::string out;
  while (!prompt.empty()) {
    if (prompt.starts_with("{context}")) {
      out += context;
      prompt.remove_prefix(std::string_view("{context}").size());
    } else if (prompt.starts_with("{question}")) {
      out += question;
      prompt.remove_prefix(std::string_view("{question}").size());
    } else {
      out += prompt.front();
      prompt.remove_prefix(1);
    }
  }
  return out;
}

Document long_bench_document(const GenerationRule& rule, const JsonFields& fields) {
  Document document;
  const bool asks = rule.prompt.find("{question}") != std::string::npos;
  document.query = rendered(rule.prompt, fields.text("context"),
                            asks ? fields.text(fields.has("question") ? "question" : "input") : "");
  document.answers = fields.texts("answers");
  if (rule.score == AnswerScore::classification) document.classes = fields.texts("all_classes");
  if (rule.score == AnswerScore::retrieval)
    for (const std::string& answer : document.answers)
      SSA_CHECK(!paragraph_number(answer).empty(), fields.where(), ": answers contains \"", answer,
                "\", expected \"Paragraph N\"");
  return document;
}

double score_of(const GenerationRule& rule, const Document& document, std::string_view text,
                const std::string& answer) {
  switch (rule.score) {
    case AnswerScore::qa_f1: return qa_f1(text, answer);
    case AnswerScore::rouge: return rouge_l(text, answer);
    case AnswerScore::classification: return classification_score(text, answer, document.classes);
    case AnswerScore::retrieval: return retrieval_score(text, answer);
    case AnswerScore::count: return count_score(text, answer);
    case AnswerScore::code_similarity: return code_similarity(text, answer);
    case AnswerScore::string_match: break;
  }
  return string_match(text, document.answers);
}

}  // namespace

const std::vector<GenerationRule>& generation_rules() {
  static const std::vector<GenerationRule> rules = make_rules();
  return rules;
}

const GenerationRule* find_generation_rule(const std::string& name) {
  for (const GenerationRule& rule : generation_rules())
    if (rule.name == name) return &rule;
  for (const char* chinese : kChinese)
    if (name == std::string(kLongBench) + chinese)
      fail_usage("task ", name, ": a Chinese task of LongBench, expected one of its English and code tasks");
  return nullptr;
}

std::vector<std::string> tasks_of(const std::string& name) {
  const bool ruler = name == "ruler", extended = name == "longbench_e";
  if (!ruler && !extended && name != "longbench") return {name};
  Names names;
  for (const GenerationRule& rule : generation_rules())
    if (ruler ? rule.prompt.empty() : !rule.prompt.empty() && rule.name.ends_with("_e") == extended)
      names.push_back(rule.name);
  return names;
}

Document generation_document(const GenerationRule& rule, const JsonFields& fields) {
  return rule.prompt.empty() ? ruler_document(rule, fields) : long_bench_document(rule, fields);
}

double answer_score(const GenerationRule& rule, const Document& document, std::string_view text) {
  if (rule.score == AnswerScore::string_match) return string_match(text, document.answers);
  // The first line of code may be indented.
  if (rule.score != AnswerScore::code_similarity) text = strip(text);
  double best = 0;
  for (const std::string& answer : document.answers) best = std::max(best, score_of(rule, document, text, answer));
  return best;
}

std::vector<std::string> metric_names(const GenerationRule& rule, const Document& document) {
  switch (rule.score) {
    case AnswerScore::qa_f1: return {"score", "qa_f1_score"};
    case AnswerScore::rouge: return {"score", "rouge_score"};
    case AnswerScore::classification: return {"score", "classification_score"};
    case AnswerScore::retrieval: return {"score", "retrieval_score"};
    case AnswerScore::count: return {"score", "count_score"};
    case AnswerScore::code_similarity: return {"score", "code_sim_score"};
    case AnswerScore::string_match: break;
  }
  return {std::to_string(document.length)};
}

bool has_standard_error(const GenerationRule& rule, const std::string& metric) {
  return rule.score != AnswerScore::string_match ||
         std::none_of(kLengths.begin(), kLengths.end(), [&](auto length) { return metric == std::to_string(length); });
}

}  // namespace ssa::eval
