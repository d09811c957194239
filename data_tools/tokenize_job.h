// The work of ssa_tokenize: documents from the inputs, in order, through the tokenizer, into the shards of a dataset.
//
// While it runs the output directory holds job.json: the settings, and a place in the inputs together with how far every
// output file had come there. A job that was interrupted, at any moment, continues from it and ends with the same bytes
// as one that never stopped. Without --validation-fraction the output directory is the dataset; with it, its directories
// train/ and validation/ are.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "data_tools/document_reader.h"
#include "ssa/tokenizer/tokenizer.h"

namespace ssa {

/// What to do with a record that gives no document: malformed, without the field, in a damaged part of a file.
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
  unsigned workers = 0;          // 0: one for each processor
  bool quiet = false;            // no progress on stderr
};

struct TokenizeReport {
  bool stopped = false;  // by a signal: run again to continue
  std::int64_t documents = 0, validation_documents = 0, tokens = 0, validation_tokens = 0;
  std::uint64_t text_bytes = 0;
  std::uint64_t empty = 0;     // documents without text, left out
  std::uint64_t skipped = 0;   // records that gave no document
  std::uint64_t replaced = 0;  // ill-formed parts of UTF-8 that became U+FFFD
  double seconds = 0;          // of this run
};

/// Throws UsageError if the output directory is neither new nor empty nor holds an interrupted job with these options.
TokenizeReport tokenize(const TokenizeOptions& options);

}  // namespace ssa
