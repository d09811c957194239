// The work of ssa_tokenize: tokenizes the documents of the inputs, in order, into the shards of a dataset.
//
// While a job runs, the output directory holds job.json: the settings, a place in the inputs, and the length of every
// output file at that place. A job that was interrupted at any moment continues from there and ends with the same bytes
// as one that never stopped. Without --validation-fraction the output directory is the dataset; with it, train/ and
// validation/ in it are.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "data_tools/document_reader.h"
#include "ssa/tokenizer/tokenizer.h"

namespace ssa {

/// What to do with a record that gives no document: malformed, without the field, or in a damaged part of a file.
enum class OnError {
  fail,
  skip,
  quarantine,  // skip, and keep the record with its file, row and reason in quarantine.jsonl
};

struct TokenizeOptions {
  std::string tokenizer;
  TokenizerOptions tokenizer_options;
  InputOptions input;
  std::filesystem::path output;
  std::int64_t shard_tokens = 1'000'000'000;
  double validation_fraction = 0;   // of the documents, chosen by the hash of their text
  std::uint64_t max_documents = 0;  // 0: all
  OnError on_error = OnError::fail;
  bool special_as_text = false;  // special tokens in the text are text
  unsigned workers = 0;          // 0: one per processor
  bool quiet = false;            // no progress on stderr
};

struct TokenizeReport {
  bool stopped = false;  // by a signal: run again to continue
  std::int64_t documents = 0, validation_documents = 0, tokens = 0, validation_tokens = 0;
  std::uint64_t text_bytes = 0;
  std::uint64_t empty = 0;                  // documents without text, omitted
  std::uint64_t skipped = 0;                // records that gave no document
  std::uint64_t messages_without_text = 0;  // of conversations, omitted
  std::uint64_t replaced = 0;               // ill-formed parts of UTF-8 that became U+FFFD
  std::uint64_t file_bytes = 0;             // of the inputs that are done, on disk
  double seconds = 0;                       // of this run
};

/// Throws UsageError if the output directory is neither new nor empty nor holds an interrupted job with these options.
TokenizeReport tokenize(const TokenizeOptions& options);

}  // namespace ssa
