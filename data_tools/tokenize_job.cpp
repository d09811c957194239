#include "data_tools/tokenize_job.h"

#include <chrono>
#include <cstdio>
#include <fstream>
#include <functional>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string_view>

#include "data_tools/json_line.h"
#include "data_tools/shard_writer.h"
#include "data_tools/tokenizer/tokenizer.h"
#include "data_tools/tokenizer/utf8.h"
#include "ssa/base/error.h"

namespace ssa {
namespace fs = std::filesystem;
namespace {

std::string read_file(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  SSA_CHECK(in, path.string(), ": cannot open");
  std::string text((std::istreambuf_iterator<char>(in)), {});
  SSA_CHECK(!in.bad(), path.string(), ": cannot read");
  return text;
}

/// Calls use(document) for each document of a text file.
template <class Use>
void each_text_document(const fs::path& path, bool split, Use&& use) {
  if (!split) {
    use(read_file(path));
    return;
  }
  std::ifstream in(path, std::ios::binary);
  SSA_CHECK(in, path.string(), ": cannot open");
  std::string line, document;
  while (std::getline(in, line)) {
    if (line.find_first_not_of(" \t\r") != std::string::npos) {
      document += line;
      document += '\n';
    } else if (!document.empty()) {
      use(std::move(document));
      document.clear();
    }
  }
  if (!document.empty()) use(std::move(document));
}

template <class Use>
void each_json_document(const fs::path& path, const std::string& field, Use&& use) {
  std::ifstream in(path, std::ios::binary);
  SSA_CHECK(in, path.string(), ": cannot open");
  std::string line, text;
  for (std::uint64_t number = 1; std::getline(in, line); ++number) {
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    try {
      parse_json_line(line, field, FieldKind::text, text);
    } catch (const Error& error) {
      fail(path.string(), ":", number, ": ", error.what());
    }
    use(std::move(text));
  }
}

}  // namespace

TokenizeReport tokenize(const TokenizeOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  const Tokenizer tokenizer = load_tokenizer(options.tokenizer, {.eos_token = "", .pre_tokenizer = options.pre_tokenizer});
  Encoder encoder(tokenizer);
  const TokenType type = tokenizer.vocab_size() <= 65536 ? TokenType::uint16 : TokenType::int32;
  for (const fs::path& input : options.inputs) {
    if (!fs::is_regular_file(input)) fail_usage("--input ", input.string(), ": no such file");
    if (input.extension() != ".txt" && input.extension() != ".jsonl")
      fail_usage("--input ", input.string(), ": unknown kind, expected .txt or .jsonl");
  }
  if (fs::exists(options.output) && (!fs::is_directory(options.output) || !fs::is_empty(options.output)))
    fail_usage("--output ", options.output.string(), ": exists, expected a new or an empty folder");
  fs::create_directories(options.output);

  TokenizeReport report;
  ShardWriter writer(options.output, type, options.shard_tokens);
  IdBuffer ids;
  const auto add = [&](std::string text) {
    report.replaced += replace_invalid_utf8(text);
    if (text.empty()) {
      ++report.empty;
      return;
    }
    ids.clear();
    encoder.encode(text, ids);
    ids.push_back(tokenizer.eos_token_id());
    writer.add({ids.data(), ids.size()});
    ++report.documents;
    report.text_bytes += text.size();
    report.tokens += ids.size();
  };
  for (std::size_t i = 0; i < options.inputs.size(); ++i) {
    const fs::path& input = options.inputs[i];
    if (input.extension() == ".txt")
      each_text_document(input, options.split_documents, add);
    else
      each_json_document(input, options.text_field, add);
    std::fprintf(stderr, "%zu/%zu %s: %llu documents, %llu tokens so far\n", i + 1, options.inputs.size(),
                 input.c_str(), static_cast<unsigned long long>(report.documents),
                 static_cast<unsigned long long>(report.tokens));
  }
  SSA_CHECK(report.documents > 0, "no document in the inputs, expected at least one that is not empty");

  nlohmann::ordered_json dataset = {{"format", "megatron-indexed"},
                                    {"tokenizer", {{"name", tokenizer.name()}, {"sha256", tokenizer.sha256()}}},
                                    {"vocab_size", tokenizer.vocab_size()},
                                    {"eos_token_id", tokenizer.eos_token_id()},
                                    {"dtype", type == TokenType::uint16 ? "uint16" : "int32"},
                                    {"shards", nlohmann::ordered_json::array()}};
  for (const ShardInfo& shard : writer.finish())
    dataset["shards"].push_back({{"name", shard.name},
                                 {"documents", shard.documents},
                                 {"tokens", shard.tokens},
                                 {"bin_bytes", shard.bin_bytes},
                                 {"idx_bytes", shard.idx_bytes},
                                 {"bin_xxh3", shard.bin_xxh3},
                                 {"idx_xxh3", shard.idx_xxh3}});
  write_file_atomically(options.output / "dataset.json", dataset.dump(2) + "\n");
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return report;
}

}  // namespace ssa
