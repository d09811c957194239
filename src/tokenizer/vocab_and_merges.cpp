// Reads a directory with vocab.json and merges.txt, the files of GPT-2.
#include <algorithm>
#include <cstddef>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "src/tokenizer/formats.h"
#include "src/tokenizer/pre_tokenizer.h"
#include "src/tokenizer/sha256.h"
#include "src/tokenizer/special_tokens.h"
#include "ssa/base/error.h"
#include "ssa/base/file.h"
#include "ssa/base/json_file.h"

namespace ssa {
namespace fs = std::filesystem;
using nlohmann::json;
namespace {

/// Splits and normalizes as the class that tokenizer_config.json names does, and as GPT-2's without one. The two files
/// do not say how a text is split.
void set_pre_tokenizer_of_class(Tokenizer::Parts& parts, const fs::path& directory) {
  set_pre_tokenizer(parts, "gpt2");
  const fs::path path = directory / "tokenizer_config.json";
  if (!is_present(path)) return;
  const json config = read_json_object(path);
  SSA_CHECK(
      config.value("add_prefix_space", json()) != true, path.string(),
      ": add_prefix_space is true, expected false: a space before the text is supported in a tokenizer.json only");
  const json named = config.value("tokenizer_class", json());
  if (!named.is_string()) return;
  std::string name = named.get<std::string>();
  if (name.ends_with("Fast")) name.resize(name.size() - 4);
  if (name == "Qwen2Tokenizer") return set_pre_tokenizer(parts, "qwen2");
  if (name == "GPTNeoXTokenizer") {
    parts.nfc = true;
    return;
  }
  for (const char* general : {"GPT2Tokenizer", "CodeGenTokenizer", "PreTrainedTokenizer", "TokenizersBackend"})
    if (name == general) return;
  fail_usage(path.string(), ": tokenizer_class is ", named.dump(),
             ", expected GPT2Tokenizer, GPTNeoXTokenizer or Qwen2Tokenizer, or --pre-tokenizer NAME");
}

}  // namespace

Tokenizer::Parts read_vocab_and_merges(const fs::path& directory, const TokenizerOptions& options) {
  const fs::path vocab_path = directory / "vocab.json", merges_path = directory / "merges.txt";
  const std::string vocab_text = read_file(vocab_path), merges_text = read_file(merges_path);
  Tokenizer::Parts parts{.name = name_of(directory), .sha256 = sha256_hex(vocab_text + merges_text)};
  if (options.pre_tokenizer.empty())
    set_pre_tokenizer_of_class(parts, directory);
  else
    set_pre_tokenizer(parts, options.pre_tokenizer);
  TokenTable table(vocab_path);
  table.add_vocab(parse_json_object(vocab_text, vocab_path.string()));
  std::vector<bool> made(1);
  for (std::size_t start = 0, number = 1; start < merges_text.size(); ++number) {
    std::size_t end = merges_text.find('\n', start);
    if (end == merges_text.npos) end = merges_text.size();
    std::string line = merges_text.substr(start, end - start);
    start = end + 1;
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (line.empty() || (number == 1 && line.rfind("#version", 0) == 0)) continue;
    const std::size_t space = line.find(' ');
    SSA_CHECK(space != line.npos, merges_path.string(), ":", number, ": \"", line,
              "\", expected two tokens with a space between");
    table.add_merge(parts.vocabulary, line.substr(0, space), line.substr(space + 1));
    const auto result = static_cast<std::size_t>(parts.vocabulary.merges.back().result);
    if (made.size() <= result) made.resize(result + 1);
    made[result] = true;
  }
  table.fill(parts);
  // The two files do not name the special tokens: they are the entries that are no single byte and that no merge makes.
  std::vector<bool> is_byte(parts.texts.size());
  for (const std::int32_t id : parts.vocabulary.byte_ids)
    if (id >= 0) is_byte[static_cast<std::size_t>(id)] = true;
  made.resize(parts.texts.size());
  std::vector<AddedToken> special;
  for (const auto& [token, id] : table.ids()) {
    const auto index = static_cast<std::size_t>(id);
    if (is_byte[index] || made[index]) continue;
    SSA_CHECK(parts.texts[index] == token, merges_path.string(), ": no merge makes \"", token,
              "\", which vocab.json has, expected one; is the file complete?");
    special.push_back({.content = token, .id = id, .special = true});
  }
  std::sort(special.begin(), special.end(), [](const auto& a, const auto& b) { return a.id < b.id; });
  add_side_tokens(parts, directory, table.ids(), false);
  add_named_tokens(parts, directory, table.ids());
  const std::vector<AddedToken> named = parts.added;
  for (const AddedToken& token : special)
    if (std::none_of(named.begin(), named.end(), [&](const auto& one) { return one.content == token.content; }))
      add_token(parts, token);
  set_special_tokens(parts, directory, options.eos_token);
  return parts;
}

}  // namespace ssa
