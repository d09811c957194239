// ssa_tokenize: text to a tokenized dataset.
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "data_tools/tokenize_job.h"
#include "data_tools/tokenizer/tokenizer.h"
#include "ssa/base/program.h"
#include "ssa/base/signals.h"
#include "ssa/data/dataset.h"

namespace {

constexpr const char* kHelp =
    R"(Usage: ssa_tokenize --tokenizer T --input FILE... --output DIR [options]
       ssa_tokenize --tokenizer T --decode DIR [--max-documents N]

Turns text into a tokenized dataset, Megatron-LM indexed shards and dataset.json, with the ids of Hugging Face tokenizers
(without tokens around the text) and an end-of-text token behind each document. An interrupted job continues when the
same command is run again.

  --tokenizer T              bytes (the 256 bytes and an end of text), a tokenizer.json, a tiktoken rank file, or a
                             folder with one of them or with vocab.json and merges.txt
  --input FILE...            .txt .jsonl (both also .gz .zst) .parquet, folders, patterns, or - for standard input
  --output DIR               a new or an empty folder, or the one of an interrupted job
  --decode DIR               the other way: prints the documents of a dataset as JSONL

  --text-field NAME          the field of a record that holds the text (text)
  --conversations-field NAME the field that holds a list of messages; their "content"s are joined by a blank line
  --split-documents none|blank-line
                             whether blank lines separate the documents of a .txt file (none: a file is a document)
  --input-format jsonl|txt   what standard input holds (jsonl)
  --eos-token TEXT           the end-of-text token (as the tokenizer's files say)
  --pre-tokenizer NAME       for vocab.json and merges.txt: gpt2, smollm2, llama3 or qwen2 (gpt2)
  --special-tokens encode|text
                             what the text of a special token in a document becomes (encode: that token)
  --validation-fraction F    puts about this part of the documents, by the hash of their text, into DIR/validation and
                             the others into DIR/train (0: all into DIR)
  --max-documents N          stops after N documents
  --shard-tokens N           tokens after which a shard ends (1000000000)
  --on-error fail|skip|quarantine
                             what to do about a record without a document and about damaged files; quarantine keeps
                             them in DIR/quarantine.jsonl (fail)
  --workers N                tokenizing threads (one a processor); the output does not depend on it
  --quiet                    no progress on standard error
  --help

Memory: about 32 MiB for each worker and 50 times the largest document, whatever the size of the corpus.

Examples:
  ssa_tokenize --tokenizer bytes --input book.txt notes.jsonl --output data/books
  ssa_tokenize --tokenizer llama3/tokenizer.json --input 'smollm/*.parquet' --output data/smollm --workers 32
)";

std::uint64_t parse_count(const std::string& option, const std::string& value,
                          std::uint64_t most = std::numeric_limits<std::int64_t>::max()) {
  char* end = nullptr;
  const unsigned long long number = std::strtoull(value.c_str(), &end, 10);
  if (value.empty() || value[0] < '0' || value[0] > '9' || *end != '\0' || number == 0 || number > most)
    ssa::fail_usage(option, " ", value, ": expected an integer from 1 to ", most);
  return number;
}

double parse_fraction(const std::string& option, const std::string& value) {
  char* end = nullptr;
  const double number = std::strtod(value.c_str(), &end);
  if (value.empty() || *end != '\0' || !(number >= 0 && number < 1))
    ssa::fail_usage(option, " ", value, ": expected a number from 0 to below 1");
  return number;
}

/// The place of `value` among the names.
int parse_choice(const std::string& option, const std::string& value, const std::vector<std::string>& names) {
  std::string all;
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (value == names[i]) return static_cast<int>(i);
    all += (i == 0 ? "" : i + 1 == names.size() ? " or " : ", ") + names[i];
  }
  ssa::fail_usage(option, " ", value, ": expected ", all);
}

int decode(const ssa::TokenizeOptions& options, const std::string& folder) {
  const ssa::Tokenizer tokenizer = ssa::load_tokenizer(options.tokenizer, options.tokenizer_options);
  const ssa::Dataset dataset(folder);
  std::uint64_t count = 0;
  std::vector<std::int32_t> ids;
  for (const ssa::IndexedDataset& shard : dataset.shards()) {
    for (std::int64_t document = 0; document < shard.documents(); ++document) {
      if (options.max_documents > 0 && count++ == options.max_documents) return ssa::kExitDone;
      ids.resize(static_cast<std::size_t>(shard.length(document)));
      shard.read(document, 0, ids);
      if (!ids.empty() && ids.back() == tokenizer.eos_token_id()) ids.pop_back();
      const nlohmann::json line = {{"text", tokenizer.decode(ids)}};
      std::puts(line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
    }
  }
  return ssa::kExitDone;
}

void print_report(const ssa::TokenizeReport& report) {
  const std::int64_t documents = report.documents + report.validation_documents;
  const std::int64_t tokens = report.tokens + report.validation_tokens;
  std::fprintf(stderr, "%lld documents, %lld tokens, %.3f bytes per token, %.1f s\n", static_cast<long long>(documents),
               static_cast<long long>(tokens),
               tokens > 0 ? static_cast<double>(report.text_bytes) / static_cast<double>(tokens) : 0.0, report.seconds);
  if (report.validation_documents > 0)
    std::fprintf(stderr, "of these for validation: %lld documents, %lld tokens\n",
                 static_cast<long long>(report.validation_documents), static_cast<long long>(report.validation_tokens));
  std::fprintf(stderr,
               "left out: %llu empty documents, %llu records with errors; %llu ill-formed parts of UTF-8 replaced\n",
               static_cast<unsigned long long>(report.empty), static_cast<unsigned long long>(report.skipped),
               static_cast<unsigned long long>(report.replaced));
}

int run(int argc, char** argv) {
  ssa::TokenizeOptions options;
  std::vector<std::string> inputs;
  std::string decode_folder;
  for (int i = 1; i < argc; ++i) {
    const std::string option = argv[i];
    if (option == "--help" || option == "-h") {
      std::fputs(kHelp, stdout);
      return ssa::kExitDone;
    }
    if (option == "--quiet") {
      options.quiet = true;
      continue;
    }
    const auto value = [&]() -> std::string {
      if (i + 1 >= argc) ssa::fail_usage(option, ": expected a value");
      return argv[++i];
    };
    if (option == "--tokenizer") {
      options.tokenizer = value();
    } else if (option == "--input") {
      inputs.push_back(value());
      while (i + 1 < argc && !std::string_view(argv[i + 1]).starts_with("--")) inputs.emplace_back(argv[++i]);
    } else if (option == "--output") {
      options.output = value();
    } else if (option == "--decode") {
      decode_folder = value();
    } else if (option == "--text-field") {
      options.input.field = value();
      options.input.field_kind = ssa::FieldKind::text;
    } else if (option == "--conversations-field") {
      options.input.field = value();
      options.input.field_kind = ssa::FieldKind::conversation;
    } else if (option == "--split-documents") {
      options.input.split_blank_lines = parse_choice(option, value(), {"none", "blank-line"}) == 1;
    } else if (option == "--input-format") {
      options.input.stdin_kind =
          parse_choice(option, value(), {"jsonl", "txt"}) == 0 ? ssa::InputKind::jsonl : ssa::InputKind::text;
    } else if (option == "--eos-token") {
      options.tokenizer_options.eos_token = value();
    } else if (option == "--pre-tokenizer") {
      options.tokenizer_options.pre_tokenizer = value();
    } else if (option == "--special-tokens") {
      options.special_as_text = parse_choice(option, value(), {"encode", "text"}) == 1;
    } else if (option == "--validation-fraction") {
      options.validation_fraction = parse_fraction(option, value());
    } else if (option == "--max-documents") {
      options.max_documents = parse_count(option, value());
    } else if (option == "--shard-tokens") {
      options.shard_tokens = static_cast<std::int64_t>(parse_count(option, value()));
    } else if (option == "--on-error") {
      constexpr ssa::OnError kChoices[] = {ssa::OnError::fail, ssa::OnError::skip, ssa::OnError::quarantine};
      options.on_error = kChoices[parse_choice(option, value(), {"fail", "skip", "quarantine"})];
    } else if (option == "--workers") {
      options.workers = static_cast<unsigned>(parse_count(option, value(), 4096));
    } else {
      ssa::fail_usage(option, ": unknown option, see ssa_tokenize --help");
    }
  }
  if (options.tokenizer.empty()) ssa::fail_usage("--tokenizer: missing, see ssa_tokenize --help");
  if (!decode_folder.empty()) return decode(options, decode_folder);
  if (inputs.empty()) ssa::fail_usage("--input: missing, see ssa_tokenize --help");
  if (options.output.empty()) ssa::fail_usage("--output: missing, see ssa_tokenize --help");
  options.input.files = ssa::expand_inputs(inputs);

  ssa::catch_stop_signals();
  const ssa::TokenizeReport report = ssa::tokenize(options);
  if (report.stopped) {
    std::fprintf(stderr, "stopped by a signal behind document %lld; the same command continues\n",
                 static_cast<long long>(report.documents + report.validation_documents));
    return ssa::kExitStopped;
  }
  print_report(report);
  return ssa::kExitDone;
}

}  // namespace

int main(int argc, char** argv) {
  return ssa::run_program("ssa_tokenize", [&] { return run(argc, argv); });
}
