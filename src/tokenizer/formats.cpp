#include "src/tokenizer/formats.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "src/tokenizer/byte_alphabet.h"
#include "ssa/base/error.h"
#include "ssa/tokenizer/utf8.h"

namespace ssa {
namespace fs = std::filesystem;
using nlohmann::json;

std::string name_of(const fs::path& directory) {
  const fs::path full = fs::absolute(directory).lexically_normal();
  return (full.has_filename() ? full : full.parent_path()).filename().string();
}

fs::path directory_of(const fs::path& file) { return file.has_parent_path() ? file.parent_path() : fs::current_path(); }

void add_token(Tokenizer::Parts& parts, const AddedToken& token) {
  const auto index = static_cast<std::size_t>(token.id);
  if (parts.texts.size() <= index) parts.texts.resize(index + 1);
  parts.texts[index] = token.content;
  parts.added.push_back(token);
}

std::string omitted_bytes(const Tokenizer::Parts& parts) {
  constexpr std::size_t kMostNamed = 8;
  if (parts.vocabulary.unknown >= 0) return "";
  std::string named;
  std::size_t count = 0;
  for (unsigned byte = 0; byte < 256; ++byte) {
    const bool in_utf8 = byte != 0xc0 && byte != 0xc1 && byte <= 0xf4;
    const auto is_byte = [&](const AddedToken& token) {
      return token.content == std::string(1, static_cast<char>(byte));
    };
    if (!in_utf8 || parts.vocabulary.byte_ids[byte] >= 0 ||
        std::any_of(parts.added.begin(), parts.added.end(), is_byte))
      continue;
    if (++count <= kMostNamed) named += fmt::format("{}0x{:02x}", count == 1 ? "" : ", ", byte);
  }
  if (count > kMostNamed) named += fmt::format(" and {} more", count - kMostNamed);
  return named;
}

std::int32_t TokenTable::id(const std::string& token) const {
  const auto it = ids_.find(token);
  return it == ids_.end() ? -1 : it->second;
}

void TokenTable::add_vocab(const json& vocab) {
  SSA_CHECK(vocab.is_object(), file_.string(), ": the vocabulary is not an object of token: id");
  std::vector<const std::string*> tokens;  // by id
  for (const auto& [token, value] : vocab.items()) {
    const std::int32_t id = checked_id(value, file_.string(), ": token \"", token, "\"");
    const auto index = static_cast<std::size_t>(id);
    if (tokens.size() <= index) tokens.resize(index + 1);
    SSA_CHECK(!tokens[index], file_.string(), ": token \"", token, "\" has id ", id, ", which is the id of \"",
              *tokens[index], "\", expected different ids");
    tokens[index] = &ids_.emplace(token, id).first->first;
  }
}

void TokenTable::add_merge(Bpe::Vocabulary& vocabulary, const std::string& left, const std::string& right) const {
  const BpeMerge merge{id(left), id(right), id(left + right), static_cast<std::uint32_t>(vocabulary.merges.size())};
  SSA_CHECK(merge.left >= 0 && merge.right >= 0 && merge.result >= 0, file_.string(), ": merge \"", left, " ", right,
            "\" needs a token that the vocabulary lacks");
  vocabulary.merges.push_back(merge);
}

void TokenTable::fill(Tokenizer::Parts& parts) const {
  const ByteAlphabet& alphabet = ByteAlphabet::get();
  std::string bytes;
  for (const auto& [token, id] : ids_) {
    const auto index = static_cast<std::size_t>(id);
    if (parts.texts.size() <= index) parts.texts.resize(index + 1);
    parts.texts[index] = alphabet.bytes_of(token, bytes) ? bytes : token;
  }
  for (std::size_t b = 0; b < 256; ++b)
    parts.vocabulary.byte_ids[b] = id(alphabet.token_of(std::string(1, static_cast<char>(b))));
}

void TokenTable::fill_characters(Tokenizer::Parts& parts) const {
  const std::string mark = kSpaceMark;
  for (const auto& [token, id] : ids_) {
    const auto index = static_cast<std::size_t>(id);
    if (parts.texts.size() <= index) parts.texts.resize(index + 1);
    std::string& text = parts.texts[index];
    for (std::size_t at = 0; at < token.size();) {
      const bool space = token.compare(at, mark.size(), mark) == 0;
      text += space ? ' ' : token[at];
      at += space ? mark.size() : 1;
    }
    if (valid_utf8_prefix(token) != token.size() || token.empty()) continue;
    const auto* p = reinterpret_cast<const unsigned char*>(token.data());
    const auto* const end = p + token.size();
    const std::uint32_t c = next_code_point(p);
    if (p == end) parts.vocabulary.characters[c] = id;
  }
  for (std::size_t b = 0; b < 256; ++b) {
    constexpr const char* kDigits = "0123456789ABCDEF";
    const std::string token = std::string("<0x") + kDigits[b >> 4] + kDigits[b & 15] + ">";
    const std::int32_t found = id(token);
    SSA_CHECK(found >= 0, "byte_fallback without a token ", token, " is not supported, expected all 256");
    parts.vocabulary.byte_ids[b] = found;
    parts.texts[static_cast<std::size_t>(found)] = std::string(1, static_cast<char>(b));
  }
}

}  // namespace ssa
