// ssa_tokenize: text to a tokenized dataset.
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "data_tools/tokenize_job.h"
#include "ssa/base/command_line.h"
#include "ssa/base/program.h"
#include "ssa/base/signals.h"
#include "ssa/data/dataset.h"
#include "ssa/tokenizer/tokenizer.h"

namespace {

constexpr const char* kHelp =
    R"(Usage: ssa_tokenize --tokenizer T --input FILE... --output DIR [options]
       ssa_tokenize --tokenizer T --decode DIR [--max-documents N]

Turns text into a tokenized dataset, Megatron-LM indexed shards and dataset.json, with the ids of Hugging Face tokenizers
(without tokens around the text) and an end-of-text token behind each document. An interrupted job continues when the
same command is run again.

  --tokenizer T              bytes (the 256 bytes and an end of text), a tokenizer.json, a tiktoken rank file, or a
                             directory with one of them or with vocab.json and merges.txt
  --input FILE...            .txt .jsonl (both also .gz .zst) .parquet, directories, patterns, or - for standard input
  --output DIR               a new or an empty directory, or the one of an interrupted job
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

int decode(const ssa::TokenizeOptions& options, const std::string& directory) {
  const ssa::Tokenizer tokenizer = ssa::load_tokenizer(options.tokenizer, options.tokenizer_options);
  const ssa::Dataset dataset(directory);
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
  std::string decode_directory;
  ssa::CommandLine line("ssa_tokenize", kHelp);
  line.text("--tokenizer", options.tokenizer);
  line.files("--input", inputs);
  line.text("--output", options.output);
  line.text("--decode", decode_directory);
  const auto field = [&](const char* name, ssa::FieldKind kind) {
    line.option(name, [&options, kind](const std::string& value) {
      options.input.field = value;
      options.input.field_kind = kind;
    });
  };
  field("--text-field", ssa::FieldKind::text);
  field("--conversations-field", ssa::FieldKind::conversation);
  line.choice("--split-documents", options.input.split_blank_lines, {{"none", false}, {"blank-line", true}});
  line.choice("--input-format", options.input.stdin_kind,
              {{"jsonl", ssa::InputKind::jsonl}, {"txt", ssa::InputKind::text}});
  line.text("--eos-token", options.tokenizer_options.eos_token);
  line.text("--pre-tokenizer", options.tokenizer_options.pre_tokenizer);
  line.choice("--special-tokens", options.special_as_text, {{"encode", false}, {"text", true}});
  line.real("--validation-fraction", options.validation_fraction, "a number from 0 to below 1",
            [](double f) { return 0 <= f && f < 1; });
  line.whole("--max-documents", options.max_documents, 1);
  line.whole("--shard-tokens", options.shard_tokens, 1);
  line.choice("--on-error", options.on_error,
              {{"fail", ssa::OnError::fail}, {"skip", ssa::OnError::skip}, {"quarantine", ssa::OnError::quarantine}});
  line.whole("--workers", options.workers, 1, 4096);
  line.flag("--quiet", options.quiet);
  if (!line.read(argc, argv)) return ssa::kExitDone;
  if (options.tokenizer.empty()) line.fail("--tokenizer T is missing");
  if (!decode_directory.empty()) return decode(options, decode_directory);
  if (inputs.empty()) line.fail("--input FILE is missing");
  if (options.output.empty()) line.fail("--output DIR is missing");
  options.input.files = ssa::expand_inputs(inputs);

  ssa::catch_signals();
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
