// Chooses the reader of a tokenizer by the files that are there.
#include <cstdio>
#include <filesystem>
#include <string>
#include <utility>

#include "src/tokenizer/formats.h"
#include "src/tokenizer/sha256.h"
#include "ssa/base/error.h"
#include "ssa/base/file.h"

namespace ssa {
namespace fs = std::filesystem;
namespace {

Tokenizer::Parts bytes_parts() {
  Tokenizer::Parts parts{.name = "bytes", .sha256 = sha256_hex("bytes"), .eos_token_id = 256};
  for (std::int32_t b = 0; b < 256; ++b) {
    parts.texts.emplace_back(1, static_cast<char>(b));
    parts.vocabulary.byte_ids[static_cast<std::size_t>(b)] = b;
  }
  parts.texts.emplace_back();  // the end of text has no bytes
  return parts;
}

/// For a tokenizer that says itself how it splits a text.
void expect_own_pre_tokenizer(const std::string& path, const TokenizerOptions& options) {
  if (!options.pre_tokenizer.empty())
    fail_usage("--pre-tokenizer ", options.pre_tokenizer, ": tokenizer ", path,
               " has its own, expected the option only for vocab.json and merges.txt, and rank files");
}

Tokenizer::Parts read_json(const fs::path& file, const TokenizerOptions& options) {
  expect_own_pre_tokenizer(file.string(), options);
  return read_tokenizer_json(file, options);
}

}  // namespace

Tokenizer::Parts read_tokenizer(const std::string& path, const TokenizerOptions& options) {
  if (path == "bytes") {
    if (!options.eos_token.empty())
      fail_usage("--eos-token ", options.eos_token,
                 ": tokenizer bytes has the end-of-text token 256, expected no other");
    expect_own_pre_tokenizer(path, options);
    return bytes_parts();
  }
  const fs::path given(path);
  if (fs::is_directory(given)) {
    if (is_present(given / "tokenizer.json")) return read_json(given / "tokenizer.json", options);
    if (is_present(given / "vocab.json") && is_present(given / "merges.txt"))
      return read_vocab_and_merges(given, options);
    if (is_present(given / "tekken.json")) return read_json(given / "tekken.json", options);
    if (is_present(given / "tokenizer.model")) return read_rank_file(given / "tokenizer.model", options);
    fail_usage(path,
               ": a directory without tokenizer.json, vocab.json and merges.txt, tekken.json, or tokenizer.model");
  }
  if (!fs::is_regular_file(given))
    fail_usage("tokenizer ", path, ": no such file or directory, expected one of them or \"bytes\"");
  if (given.extension() == ".json") return read_json(given, options);
  return read_rank_file(given, options);
}

Tokenizer load_tokenizer(const std::string& path, const TokenizerOptions& options) {
  Tokenizer::Parts parts = read_tokenizer(path, options);
  if (const std::string bytes = omitted_bytes(parts); !bytes.empty())
    std::fprintf(stderr,
                 "warning: tokenizer %s has no token for byte(s) %s, and no unk_token: texts lose them, as in Hugging "
                 "Face tokenizers\n",
                 path.c_str(), bytes.c_str());
  return Tokenizer(std::move(parts));
}

}  // namespace ssa
