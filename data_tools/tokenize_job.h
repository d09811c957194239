// The work of ssa_tokenize: documents from the inputs, in order, through the tokenizer, into the shards of a dataset.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace ssa {

struct TokenizeOptions {
  std::string tokenizer;                      // "bytes"
  std::vector<std::filesystem::path> inputs;  // .txt or .jsonl
  std::filesystem::path output;
  std::string text_field = "text", pre_tokenizer;
  bool split_documents = false;  // .txt: blank lines separate documents, instead of one document a file
  std::uint64_t shard_tokens = 1'000'000'000;
};

struct TokenizeReport {
  std::uint64_t documents = 0, empty = 0, text_bytes = 0, tokens = 0, replaced = 0;
  double seconds = 0;
};

TokenizeReport tokenize(const TokenizeOptions& options);

}  // namespace ssa
