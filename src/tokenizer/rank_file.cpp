// Reads a tiktoken rank file: a line per token, its bytes in base64 and its rank.
#include <algorithm>
#include <charconv>
#include <cstdint>
#include <iterator>
#include <string>
#include <string_view>
#include <system_error>
#include <unordered_map>
#include <utility>
#include <vector>

#include "src/tokenizer/formats.h"
#include "src/tokenizer/pre_tokenizer.h"
#include "src/tokenizer/ranks.h"
#include "src/tokenizer/sha256.h"
#include "src/tokenizer/special_tokens.h"
#include "ssa/base/error.h"
#include "ssa/base/file.h"
#include "ssa/base/file_kind.h"

namespace ssa {
namespace fs = std::filesystem;
namespace {

void add_special(Tokenizer::Parts& parts, std::string content, std::size_t id) {
  SSA_CHECK(id >= parts.texts.size() || parts.texts[id].empty(), "rank ", id, " is a token of the file, expected ",
            content, " to have this id");
  add_token(parts, {.content = std::move(content), .id = static_cast<std::int32_t>(id), .special = true});
}

void add_llama3_specials(Tokenizer::Parts& parts) {
  const std::size_t ranks = parts.texts.size();
  const std::pair<const char*, int> named[] = {
      {"<|begin_of_text|>", 0},   {"<|end_of_text|>", 1},   {"<|finetune_right_pad_id|>", 4},
      {"<|start_header_id|>", 6}, {"<|end_header_id|>", 7}, {"<|eom_id|>", 8},
      {"<|eot_id|>", 9},          {"<|python_tag|>", 10}};
  int reserved = 0;
  for (int i = 0; i < 256; ++i) {
    const auto* it = std::find_if(std::begin(named), std::end(named), [&](const auto& n) { return n.second == i; });
    add_special(parts, it != std::end(named) ? it->first : concat("<|reserved_special_token_", reserved++, "|>"),
                ranks + static_cast<std::size_t>(i));
  }
}

void add_qwen_specials(Tokenizer::Parts& parts) {
  const std::size_t ranks = parts.texts.size();
  add_special(parts, "<|endoftext|>", ranks);
  add_special(parts, "<|im_start|>", ranks + 1);
  add_special(parts, "<|im_end|>", ranks + 2);
  for (std::size_t i = 0; i < 205; ++i) add_special(parts, concat("<|extra_", i, "|>"), ranks + 3 + i);
}

/// A published rank file. Such files hold neither special tokens nor a pattern; the number of ranks tells which one it
/// is. Its special tokens are the pairs of text and id in `special` and those that `add_specials` adds.
struct Published {
  const char* name;
  std::size_t ranks;
  const char* pre_tokenizer;
  std::vector<std::pair<const char*, std::size_t>> special;
  void (*add_specials)(Tokenizer::Parts& parts) = nullptr;
};
const Published kPublished[] = {
    {"Llama 3", 128000, "llama3", {}, add_llama3_specials},
    {"cl100k_base",
     100256,
     "llama3",  // the same pattern
     {{"<|endoftext|>", 100257},
      {"<|fim_prefix|>", 100258},
      {"<|fim_middle|>", 100259},
      {"<|fim_suffix|>", 100260},
      {"<|endofprompt|>", 100276}}},
    {"o200k_base", 199998, "o200k", {{"<|endoftext|>", 199999}, {"<|endofprompt|>", 200018}}},
    {"Qwen", 151643, "qwen2", {}, add_qwen_specials},
    {"gpt2", 50256, "gpt2", {{"<|endoftext|>", 50256}}},
    {"p50k_base", 50280, "gpt2", {{"<|endoftext|>", 50256}}},  // the rank that its file leaves out
};

/// Adds the pre-tokenizer and the special tokens that do not stand in the files.
void complete(const fs::path& path, std::size_t ranks, const TokenizerOptions& options, Tokenizer::Parts& parts) {
  std::string known;
  for (const Published& one : kPublished) {
    known += concat(known.empty() ? "" : ", ", one.name, " (", one.ranks, ")");
    if (one.ranks != ranks || (!options.pre_tokenizer.empty() && options.pre_tokenizer != one.pre_tokenizer)) continue;
    set_pre_tokenizer(parts, one.pre_tokenizer);
    for (const auto& [content, id] : one.special) add_special(parts, content, id);
    if (one.add_specials) one.add_specials(parts);
    return;
  }
  if (options.pre_tokenizer.empty())
    fail_usage(path.string(), ": ", ranks, " ranks, expected ", known,
               ", or --pre-tokenizer for ranks of your own: ", kPreTokenizerNames, ", or regex:PATTERN");
  set_pre_tokenizer(parts, options.pre_tokenizer);
  add_side_tokens(parts, path.parent_path(), {}, false);
  // An end of text that no file names is the token after the ranks.
  const auto is_eos = [&](const AddedToken& token) { return token.content == options.eos_token; };
  if (!options.eos_token.empty() && std::none_of(parts.added.begin(), parts.added.end(), is_eos))
    add_special(parts, options.eos_token, parts.texts.size());
}

}  // namespace

Tokenizer::Parts read_rank_file(const fs::path& path, const TokenizerOptions& options) {
  const std::string file = read_file(path);
  const std::string kind = foreign_kind(file);
  SSA_CHECK(kind.empty(), path.string(), ": ", kind,
            ", expected tiktoken ranks; a tokenizer.json of the same tokenizer may be supported");
  Tokenizer::Parts parts{.name = name_of(directory_of(path)), .sha256 = sha256_hex(file)};
  std::unordered_map<std::string, std::int32_t> ranks;
  std::unordered_map<std::int32_t, std::size_t> lines;  // of each rank
  for (std::size_t start = 0, number = 1; start < file.size(); ++number) {
    std::size_t end = file.find('\n', start);
    if (end == file.npos) end = file.size();
    std::string_view line(file.data() + start, end - start);
    start = end + 1;
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty()) continue;
    const std::size_t space = line.find(' ');
    const std::string bytes = base64_decode(line.substr(0, space));
    const std::string_view digits = line.substr(space == line.npos ? line.size() : space + 1);
    const char* const digits_end = digits.data() + digits.size();
    std::int32_t rank = -1;
    const auto read = std::from_chars(digits.data(), digits_end, rank);
    SSA_CHECK(!bytes.empty() && read.ec == std::errc() && read.ptr == digits_end && rank >= 0, path.string(), ":",
              number, ": expected a token in base64, a space and its rank");
    SSA_CHECK(rank < kMaxVocabulary, path.string(), ":", number, ": rank ", rank, ", expected at most ",
              kMaxVocabulary - 1);
    const auto [it, is_new] = lines.emplace(rank, number);
    SSA_CHECK(is_new, path.string(), ":", number, ": rank ", rank, " is also in line ", it->second,
              ", expected different ranks");
    const auto [token, first] = ranks.emplace(bytes, rank);
    SSA_CHECK(first, path.string(), ":", number, ": the token of rank ", rank, " also has rank ", token->second,
              ", expected different tokens");
  }
  try {
    set_ranks(parts, ranks);
    complete(path, ranks.size(), options, parts);
  } catch (const UsageError&) {
    throw;
  } catch (const Error& error) {
    const std::string message = error.what();
    if (message.rfind(path.parent_path().string(), 0) == 0) throw;  // it names the file, or one next to it
    fail(path.string(), ": ", message);
  }
  set_special_tokens(parts, path.parent_path(), options.eos_token);
  return parts;
}

}  // namespace ssa
