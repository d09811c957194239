#include "ssa/eval/task.h"

#include <algorithm>
#include <optional>

#include "ssa/base/error.h"
#include "ssa/base/file.h"
#include "ssa/base/json_file.h"
#include "ssa/data/json_fields.h"
#include "ssa/eval/generation_task.h"
#include "ssa/eval/python_text.h"
#include "ssa/tokenizer/utf8.h"

namespace ssa::eval {
namespace fs = std::filesystem;
namespace {

using Json = nlohmann::json;
using Names = std::vector<std::string>;

/// A task as in the harness's configuration.
struct TaskRule {
  std::string name;
  TaskKind kind;
  Names files;       ///< original names of the document file
  Names pool_files;  ///< original names of the pool's file, in the same directory
  bool leave_out_document;
};

const std::vector<TaskRule>& task_rules() {
  constexpr auto choice = TaskKind::multiple_choice;
  static const std::vector<TaskRule> likelihoods = {
      {"arc_easy", choice, {"ARC-Easy-Test.jsonl"}, {"ARC-Easy-Train.jsonl"}, false},
      {"arc_challenge", choice, {"ARC-Challenge-Test.jsonl"}, {"ARC-Challenge-Train.jsonl"}, false},
      {"piqa", choice, {"piqa_valid.jsonl"}, {}, true},
      {"hellaswag", choice, {"hellaswag_val.jsonl"}, {}, true},
      {"lambada_openai",
       TaskKind::loglikelihood,
       {"lambada_test.jsonl", "lambada_test_en.jsonl", "lambada.jsonl"},
       {},
       false},
      {"lambada_standard", TaskKind::loglikelihood, {"lambada_test.jsonl"}, {"lambada_validation.jsonl"}, false},
      {"wikitext", TaskKind::rolling, {"wikitext.txt", "wiki.test.raw", "wiki.test.tokens"}, {}, false},
  };
  static const std::vector<TaskRule> rules = [] {
    std::vector<TaskRule> all = likelihoods;
    for (const GenerationRule& rule : generation_rules())
      all.push_back({rule.name, TaskKind::generation, rule.files, {}, false});
    return all;
  }();
  return rules;
}

const TaskRule& rule_of(const std::string& name) {
  const std::string known = name == "lambada" ? "lambada_openai" : name;
  for (const TaskRule& rule : task_rules())
    if (rule.name == known) return rule;
  find_generation_rule(name);  // says why a Chinese task is not supported
  fail_usage("task ", name, ": no such task, expected one of ", task_names());
}

/// An integer in [0, below), given as a number or as a string.
std::size_t index_of(const JsonFields& fields, const char* key, std::size_t below) {
  const Json& value = fields.member(key);
  std::int64_t number = -1;
  if (value.is_number_integer()) number = value.get<std::int64_t>();
  if (value.is_string()) {
    const std::string digits = value.get<std::string>();
    if (!digits.empty() && digits.size() < 10 && digits.find_first_not_of("0123456789") == std::string::npos)
      number = std::stoll(digits);
  }
  SSA_CHECK(0 <= number && number < static_cast<std::int64_t>(below), fields.where(), ": ", key, " is ", value.dump(),
            ", expected 0 to ", below - 1);
  return static_cast<std::size_t>(number);
}

Document arc_document(const JsonFields& fields) {
  Document document;
  Names labels;
  if (fields.member("question").is_object()) {  // ARC's original files
    const JsonFields question = fields.object("question");
    document.query = question.text("stem");
    for (const JsonFields& choice : question.objects("choices")) {
      document.choices.push_back(choice.text("text"));
      labels.push_back(choice.text("label"));
    }
  } else {
    document.query = fields.text("question");
    const JsonFields choices = fields.object("choices");
    document.choices = choices.texts("text");
    labels = choices.texts("label");
    SSA_CHECK(labels.size() == document.choices.size(), fields.where(), ": ", labels.size(), " labels for ",
              document.choices.size(), " choices");
  }
  document.query = concat("Question: ", document.query, "\nAnswer:");
  const std::string answer = fields.text("answerKey");
  const auto found = std::find(labels.begin(), labels.end(), answer);
  SSA_CHECK(found != labels.end(), fields.where(), ": answerKey is \"", answer, "\", expected one of the ",
            labels.size(), " labels");
  document.gold = static_cast<std::size_t>(found - labels.begin());
  return document;
}

Document piqa_document(const JsonFields& fields) {
  return {.query = concat("Question: ", fields.text("goal"), "\nAnswer:"),
          .choices = {fields.text("sol1"), fields.text("sol2")},
          .gold = index_of(fields, "label", 2),
          .target = {},
          .source = {}};
}

/// re.sub(r"\[.*?\]", "", text)
std::string without_brackets(std::string_view text) {
  std::string out;
  for (std::size_t at = 0; at < text.size(); ++at) {
    if (text[at] == '[')
      if (const std::size_t end = text.find_first_of("]\n", at + 1);
          end != std::string_view::npos && text[end] == ']') {
        at = end;
        continue;
      }
    out += text[at];
  }
  return out;
}

/// The harness's cleaning: texts from WikiHow have markup in brackets.
std::string hellaswag_text(std::string_view text) {
  return replace_all(without_brackets(replace_all(strip(text), " [title]", ". ")), "  ", " ");
}

Document hellaswag_document(const JsonFields& fields) {
  Document document;
  document.query = hellaswag_text(fields.text("activity_label") + ": " + fields.text("ctx_a") + " " +
                                  capitalize(fields.text("ctx_b")));
  for (const std::string& ending : fields.texts("endings")) document.choices.push_back(hellaswag_text(ending));
  document.gold = index_of(fields, "label", document.choices.size());
  return document;
}

Document lambada_document(const JsonFields& fields) {
  const std::string text = fields.text("text");
  const std::size_t space = text.rfind(' ');
  const std::size_t last = space == std::string::npos ? 0 : space + 1;
  return {.query = text.substr(0, space == std::string::npos ? 0 : space),
          .choices = {},
          .gold = 0,
          .target = std::string(" ").append(text, last),
          .source = {}};
}

Document rendered_document(const JsonFields& fields) {
  Document document{
      .query = fields.text("query"), .choices = fields.texts("choices"), .gold = 0, .target = {}, .source = {}};
  document.gold = index_of(fields, "gold", document.choices.size());
  return document;
}

/// A page of a corpus. What is scored is the text as published, in the words and bytes of the original.
Document page_document(const std::string& page) {
  return {.query = wikitext_detokenize(page), .choices = {}, .gold = 0, .target = page, .source = page};
}

/// Whether a corpus file holds a JSON object per page, and not the text itself.
bool holds_json(const fs::path& file, std::string_view text) {
  const fs::path suffix = file.extension();
  return suffix == ".jsonl" || suffix == ".ndjson" || suffix == ".json" ||
         strip(text.substr(0, 64)).starts_with("{\"page\"");
}

Document make_document(const TaskRule& rule, const Json& json, const std::string& where) {
  const JsonFields fields(json, where);
  if (rule.kind == TaskKind::generation) return generation_document(*find_generation_rule(rule.name), fields);
  Document document;
  // Nothing can be predicted of an empty text, and its mean per byte is no number.
  const char* const field = rule.kind == TaskKind::rolling ? "page" : "text";
  if (rule.kind == TaskKind::rolling || rule.kind == TaskKind::loglikelihood)
    SSA_CHECK(!strip(fields.text(field)).empty(), where, ": ", field, " is empty, expected some text");
  if (rule.kind == TaskKind::rolling)
    document = page_document(fields.text("page"));
  else if (rule.kind == TaskKind::loglikelihood)
    document = lambada_document(fields);
  else if (fields.has("query"))
    document = rendered_document(fields);
  else if (rule.name == "piqa")
    document = piqa_document(fields);
  else if (rule.name == "hellaswag")
    document = hellaswag_document(fields);
  else
    document = arc_document(fields);
  for (const std::string& choice : document.choices)
    SSA_CHECK(!choice.empty(), where, ": an empty choice, expected text");
  document.source = json.dump();
  return document;
}

std::string valid_text(const fs::path& file) {
  std::string text = ssa::read_file(file);
  const std::size_t valid = valid_utf8_prefix(text);
  SSA_CHECK(valid == text.size(), file.string(), ": not UTF-8 at byte ", valid);
  return text;
}

/// The first of these files that exists.
std::optional<fs::path> first_of(const fs::path& dir, const Names& names) {
  for (const std::string& name : names)
    if (fs::exists(dir / name)) return dir / name;
  return std::nullopt;
}

/// Removes white space inside a pair of brackets or quotes: re.sub(open \s* ([^close]*?) \s* close, open \1 close).
std::string tighten(std::string_view text, char open, char close) {
  std::string out;
  std::size_t at = 0;
  while (at < text.size()) {
    const std::size_t end = text[at] == open ? text.find(close, at + 1) : std::string_view::npos;
    if (end == std::string_view::npos) {
      out += text[at++];
      continue;
    }
    out += open;
    out += strip(text.substr(at + 1, end - at - 1));
    out += close;
    at = end + 1;
  }
  return out;
}

}  // namespace

std::string task_names() {
  std::string names;
  for (const TaskRule& rule : task_rules())
    if (rule.kind != TaskKind::generation) names += rule.name + ", ";
  return names + "ruler, longbench, longbench_e, or a task of these, which docs/tasks.md lists";
}

std::vector<Document> read_documents(const std::string& task, const fs::path& file) {
  const TaskRule& rule = rule_of(task);
  const std::string text = valid_text(file);
  std::vector<Document> documents;
  const std::size_t first = text.find_first_not_of(" \t\r\n");
  if (first != std::string::npos && text[first] == '[') {
    for (const Json& json : parse_json<Json>(text, file.string(), "JSON", refuse_repeated_keys(file.string())))
      documents.push_back(make_document(rule, json, concat(file.string(), ": document ", documents.size() + 1)));
  } else {
    std::size_t line = 0;
    for (std::size_t begin = 0; begin < text.size();) {
      const std::size_t end = std::min(text.find('\n', begin), text.size());
      const std::string_view one = std::string_view(text).substr(begin, end - begin);
      begin = end + 1;
      ++line;
      if (strip(one).empty()) continue;
      const std::string where = concat(file.string(), ": line ", line);
      documents.push_back(
          make_document(rule, parse_json<Json>(one, where, "JSON", refuse_repeated_keys(where)), where));
    }
  }
  SSA_CHECK(!documents.empty(), file.string(), ": no documents");
  return documents;
}

std::vector<std::string> wikitext_pages(std::string_view text) {
  std::vector<std::string> pages;
  std::string page;
  bool empty = true;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    const std::string line(text.substr(begin, end - begin));
    begin = end + 1;
    const std::string heading(strip(replace_all(replace_all(line, "= = =", "==="), "= =", "==")));
    if (heading.starts_with("= ") && heading.ends_with(" =")) {
      if (!strip(page).empty()) pages.push_back(page);
      page.clear();
      empty = true;
    }
    if (!empty) page += '\n';
    page += line;
    empty = false;
  }
  pages.push_back(page);
  return pages;
}

std::string wikitext_detokenize(std::string_view page) {
  std::string text = replace_all(page, "s '", "s'");
  // The harness's pattern for a quote before a number contains slashes, so it matches only "/' 5/".
  std::string kept;
  for (std::size_t at = 0; at < text.size(); ++at) {
    const std::string_view rest = std::string_view(text).substr(at);
    if (rest.size() >= 5 && rest.starts_with("/' ") && rest[3] >= '0' && rest[3] <= '9' && rest[4] == '/') {
      kept += "/'[0-9]/";
      at += 4;
    } else {
      kept += text[at];
    }
  }
  text = kept;
  using Pair = std::pair<const char*, const char*>;
  for (const auto& [from, to] : {Pair{" @-@ ", "-"},
                                 {" @,@ ", ","},
                                 {" @.@ ", "."},
                                 {" : ", ": "},
                                 {" ; ", "; "},
                                 {" . ", ". "},
                                 {" ! ", "! "},
                                 {" ? ", "? "},
                                 {" , ", ", "}})
    text = replace_all(text, from, to);
  text = tighten(text, '(', ')');
  text = tighten(text, '[', ']');
  text = tighten(text, '{', '}');
  text = tighten(text, '"', '"');
  text = tighten(text, '\'', '\'');
  for (const auto& [from, to] : {Pair{"= = = =", "===="},
                                 {"= = =", "==="},
                                 {"= =", "=="},
                                 {" \xc2\xb0 ", "\xc2\xb0"},
                                 {" \n", "\n"},
                                 {"\n ", "\n"},
                                 {" N ", " 1 "},
                                 {" 's", "'s"}})
    text = replace_all(text, from, to);
  return text;
}

Task load_task(const std::string& name, const fs::path& file, const fs::path& dir) {
  const TaskRule& rule = rule_of(name);
  Task task{.name = rule.name, .kind = rule.kind, .file = file, .documents = {}, .pool = {}};
  if (file.empty()) {
    Names names = {rule.name + ".jsonl", rule.name + "_test.jsonl", rule.name + "_validation.jsonl",
                   rule.name + ".json"};
    names.insert(names.end(), rule.files.begin(), rule.files.end());
    const auto found = first_of(dir, names);
    if (!fs::is_directory(dir))
      fail_usage(dir.string(), ": no such directory, expected one with the file of the task ", rule.name);
    if (!found)
      fail_usage(dir.string(), ": no file of the task ", rule.name, ", expected ", names[0], " or ", names[1]);
    task.file = *found;
  }
  SSA_CHECK(fs::exists(task.file), task.file.string(), ": no such file, expected the documents of ", rule.name);
  if (rule.kind == TaskKind::rolling) {
    const std::string text = valid_text(task.file);
    if (holds_json(task.file, text))
      task.documents = read_documents(rule.name, task.file);
    else
      for (const std::string& page : wikitext_pages(text)) task.documents.push_back(page_document(page));
    return task;
  }
  task.documents = read_documents(rule.name, task.file);
  if (rule.kind == TaskKind::generation) return task;
  Names pools = {rule.name + "_train.jsonl"};
  pools.insert(pools.end(), rule.pool_files.begin(), rule.pool_files.end());
  const auto pool = rule.name == "lambada_openai" ? std::nullopt : first_of(task.file.parent_path(), pools);
  task.leave_out_document = rule.leave_out_document || (!pool && rule.name != "lambada_openai");
  task.pool = pool ? read_documents(rule.name, *pool) : task.documents;
  return task;
}

std::string fewshot_context(const Task& task, const Document& document, std::int64_t num_fewshot,
                            PythonRandom& random) {
  const auto wanted = static_cast<std::size_t>(num_fewshot);
  std::vector<const Document*> pool, examples;
  for (const Document& one : task.pool) pool.push_back(&one);
  const auto draw = [&](std::size_t count) {
    SSA_CHECK(count <= pool.size(), task.name, ": ", num_fewshot, " few-shot examples, expected at most ",
              pool.size() - (task.leave_out_document ? 1 : 0), " of the ", pool.size(), " documents to draw from");
    for (const std::size_t index : random.sample(pool.size(), count)) examples.push_back(pool[index]);
  };
  if (wanted > 0) {
    draw(wanted + (task.leave_out_document ? 1 : 0));
    const auto is_document = [&](const Document* one) { return one->source == document.source; };
    if (task.leave_out_document) std::erase_if(examples, is_document);
    if (examples.size() < wanted) {  // the pool has copies of the document, and they were drawn
      examples.clear();
      std::erase_if(pool, is_document);
      draw(wanted);
    }
    examples.resize(wanted);
  }
  std::string context;
  for (const Document* example : examples) {
    const std::string& answer = example->choices.empty() ? example->target : example->choices[example->gold];
    context += example->query + " " + answer + "\n\n";
  }
  return context + document.query;
}

}  // namespace ssa::eval
