// ssa_tokenize: text to a tokenized dataset.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "data_tools/tokenize_job.h"
#include "ssa/base/command_line.h"
#include "ssa/base/error.h"
#include "ssa/base/program.h"
#include "ssa/base/signals.h"
#include "ssa/data/dataset.h"
#include "ssa/tokenizer/tokenizer.h"

namespace {

constexpr const char* kFooter =
    R"(Memory: about 32 MiB per worker and 50 times the largest document, whatever the
size of the corpus. To continue an interrupted job, run the same command again.

Examples:
  ssa_tokenize --tokenizer bytes --input book.txt more.jsonl --output data/books
  ssa_tokenize --tokenizer llama3/tokenizer.json --input 'smollm/*.parquet' \
    --output data/smollm --workers 32
  ssa_tokenize --tokenizer bytes --decode data/books --max-documents 3

Exit code: 0 done, 1 failed, 2 wrong usage, 75 stopped by a signal)";

int decode(const ssa::TokenizeOptions& options, const std::string& directory) {
  const ssa::Tokenizer tokenizer = ssa::load_tokenizer(options.tokenizer, options.tokenizer_options);
  const ssa::Dataset dataset(directory);
  if (const auto& info = dataset.info(); info && info->tokenizer_sha256 != tokenizer.sha256())
    ssa::fail_usage("--tokenizer ", options.tokenizer, ": ", directory, " was made with tokenizer ",
                    info->tokenizer_name, " (sha256 ", info->tokenizer_sha256,
                    "), expected the same; this one has sha256 ", tokenizer.sha256());
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
  fmt::print(stderr, "{} documents, {} tokens, {:.3f} bytes per token, {:.1f} s\n", documents, tokens,
             tokens > 0 ? static_cast<double>(report.text_bytes) / static_cast<double>(tokens) : 0.0, report.seconds);
  if (report.validation_documents > 0)
    fmt::print(stderr, "of these for validation: {} documents, {} tokens\n", report.validation_documents,
               report.validation_tokens);
  fmt::print(stderr, "omitted: {} empty documents, {} records with errors; {} ill-formed parts of UTF-8 replaced\n",
             report.empty, report.skipped, report.replaced);
  if (report.messages_without_text > 0)
    fmt::print(stderr, "omitted: {} messages without a text\n", report.messages_without_text);
}

int run(int argc, char** argv) {
  ssa::TokenizeOptions options;
  std::vector<std::string> inputs;
  std::string output, decode_directory;
  ssa::CommandLine line({.program = "ssa_tokenize",
                         .usage = "--tokenizer T --input FILE... --output DIR [options]\n"
                                  "       ssa_tokenize --tokenizer T --decode DIR [--max-documents N]",
                         .summary = "Turns text into a dataset of tokens: Megatron-LM indexed shards and dataset.json\n"
                                    "with the token ids of Hugging Face tokenizers and an end-of-text token after\n"
                                    "each document.",
                         .footer = kFooter});
  line.add_option("--tokenizer", options.tokenizer,
                  "bytes (the 256 bytes and an end of text), a tokenizer.json, a tekken.json, a tiktoken rank file, or "
                  "a directory "
                  "with one of them or with vocab.json and merges.txt")
      ->option_text("T")
      ->required();
  line.add_option("--input", inputs,
                  ".txt or JSON lines (.jsonl, .ndjson, .json), all also .gz or .zst, .parquet, directories, patterns, "
                  "or - for "
                  "standard input")
      ->option_text("FILE...");
  line.add_option("--output", output, "a new or empty directory, or the output of an interrupted job")
      ->option_text("DIR");
  line.add_option("--decode", decode_directory, "print the documents of this dataset as JSONL instead")
      ->option_text("DIR");

  const auto field = [&](const char* name, ssa::FieldKind kind, const char* help) {
    const auto set = [&options, kind](const std::string& value) {
      options.input.field = value;
      options.input.field_kind = kind;
    };
    return line.add_option_function<std::string>(name, set, help)->option_text("NAME");
  };
  CLI::Option* text_field = field("--text-field", ssa::FieldKind::text,
                                  "the field of a record that holds the text; a.b is field b of the object a");
  text_field->default_str(options.input.field);
  CLI::Option* conversations_field = field(
      "--conversations-field", ssa::FieldKind::conversation,
      "the field that holds a list of messages, whose texts (\"content\", or \"value\" next to \"from\") are joined by "
      "a blank line");
  conversations_field->excludes(text_field);
  const auto set_chat = [&options](const std::string& value) {
    options.input.chat = ssa::chat_template(value);
    if (options.input.chat) return;
    if (!std::filesystem::exists(value))
      ssa::fail_usage("--chat-template ", value, ": unknown, expected ", ssa::chat_template_names(),
                      ", a chat_template.jinja or a tokenizer_config.json");
    options.input.chat = &ssa::read_chat_template(value);
  };
  line.add_option_function<std::string>(
          "--chat-template", set_chat,
          ssa::concat(
              "render each conversation with a published template instead: the one in this chat_template.jinja, "
              "tokenizer_config.json or directory, or ",
              ssa::chat_template_names()))
      ->option_text("T")
      ->needs(conversations_field);
  line.add_choice("--split-documents", options.input.split_blank_lines, {{"none", false}, {"blank-line", true}},
                  "whether a blank line ends a document of a .txt file; with none, a file is a document");
  const CLI::Option* input_format =
      line.add_choice("--input-format", options.input.stdin_kind,
                      {{"jsonl", ssa::InputKind::jsonl}, {"txt", ssa::InputKind::text}}, "what standard input holds");
  line.add_option("--eos-token", options.tokenizer_options.eos_token,
                  "the end-of-text token (default: what the tokenizer's files say)")
      ->option_text("TEXT");
  line.add_option(
          "--pre-tokenizer", options.tokenizer_options.pre_tokenizer,
          "for vocab.json and merges.txt (default: as tokenizer_config.json's class, or gpt2), and for rank files of "
          "your own: gpt2, smollm2, llama3, qwen2, o200k, tekken, deepseek, or regex:PATTERN")
      ->option_text("NAME");
  line.add_choice("--special-tokens", options.special_as_text, {{"encode", false}, {"text", true}},
                  "whether the text of a special token in a document becomes that token or ordinary text");
  line.add_option("--validation-fraction", options.validation_fraction,
                  "put about this fraction of the documents, chosen by the hash of their text, into DIR/validation and "
                  "the others into DIR/train (default: all into DIR)")
      ->option_text("F")
      ->check(ssa::number("a number from 0 to below 1", [](double f) { return 0 <= f && f < 1; }));
  line.add_option("--max-documents", options.max_documents, "stop after N documents (default: no limit)")
      ->option_text("N")
      ->transform(ssa::integer(1));
  line.add_option("--shard-tokens", options.shard_tokens, "tokens after which a shard ends")
      ->option_text("N")
      ->capture_default_str()
      ->transform(ssa::integer(1));
  line.add_choice(
      "--on-error", options.on_error,
      {{"fail", ssa::OnError::fail}, {"skip", ssa::OnError::skip}, {"quarantine", ssa::OnError::quarantine}},
      "what to do about damaged files and records without a document; quarantine keeps them in "
      "DIR/quarantine.jsonl");
  line.add_option("--workers", options.workers,
                  "tokenizing threads (default: one per processor); the output does not depend on it")
      ->option_text("N")
      ->transform(ssa::integer(1, 4096));
  line.add_flag("--quiet", options.quiet, "print no progress on standard error");
  if (!line.read(argc, argv)) return ssa::kExitDone;
  if (!decode_directory.empty()) {
    const std::set<std::string> used = {"--decode",        "--tokenizer",     "--eos-token",
                                        "--pre-tokenizer", "--max-documents", "--quiet"};
    for (const CLI::Option* option : line.get_options())
      if (option->count() > 0 && !used.contains(option->get_name()))
        line.fail("--decode excludes ", option->get_name());
    return decode(options, decode_directory);
  }
  if (inputs.empty()) line.fail("--input FILE is missing");
  if (output.empty()) line.fail("--output DIR is missing");
  options.output = output;
  options.input.files = ssa::expand_inputs(inputs, options.input.field, options.output);
  // An option without an effect is a mistake of the user's.
  const auto any_input = [&](auto&& fits) {
    return std::any_of(options.input.files.begin(), options.input.files.end(), fits);
  };
  const auto is_text = [&](const auto& file) { return kind_of(file, options.input) == ssa::InputKind::text; };
  if (input_format->count() > 0 && !any_input([](const auto& file) { return file == "-"; }))
    line.fail("--input-format needs --input -");
  if (options.input.split_blank_lines && !any_input(is_text))
    line.fail("--split-documents blank-line needs an --input of text (.txt)");
  for (const CLI::Option* option : {text_field, conversations_field})
    if (option->count() > 0 && !any_input(std::not_fn(is_text)))
      line.fail(option->get_name(), " needs an --input of records (.jsonl, .ndjson, .json, .parquet)");

  ssa::catch_stop_signals();
  ssa::handle_io_signals();
  const ssa::TokenizeReport report = ssa::tokenize(options);
  if (report.stopped) {
    fmt::print(stderr, "stopped by a signal after document {}; run the same command again to continue\n",
               report.documents + report.validation_documents);
    return ssa::kExitStopped;
  }
  print_report(report);
  return ssa::kExitDone;
}

}  // namespace

int main(int argc, char** argv) {
  return ssa::run_program("ssa_tokenize", [&] { return run(argc, argv); });
}
