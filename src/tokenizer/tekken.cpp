#include "src/tokenizer/tekken.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "src/tokenizer/formats.h"
#include "src/tokenizer/pre_tokenizer.h"
#include "src/tokenizer/ranks.h"
#include "src/tokenizer/sha256.h"
#include "src/tokenizer/special_tokens.h"
#include "ssa/base/error.h"

namespace ssa {
namespace fs = std::filesystem;
using nlohmann::json;
namespace {

// Of the versions of mistral-common. They differ in how conversations are written, not in the ids of a text.
constexpr std::array<std::string_view, 2> kVersionsWithOwnSpecials = {"v3", "v7"};
constexpr std::array<std::string_view, 3> kVersions = {"v11", "v13", "v15"};

/// The special tokens of the versions whose files may leave them out, by id.
constexpr std::array kOwnSpecials = {"<unk>",
                                     "<s>",
                                     "</s>",
                                     "[INST]",
                                     "[/INST]",
                                     "[AVAILABLE_TOOLS]",
                                     "[/AVAILABLE_TOOLS]",
                                     "[TOOL_RESULTS]",
                                     "[/TOOL_RESULTS]",
                                     "[TOOL_CALLS]",
                                     "[IMG]",
                                     "<pad>",
                                     "[IMG_BREAK]",
                                     "[IMG_END]",
                                     "[PREFIX]",
                                     "[MIDDLE]",
                                     "[SUFFIX]",
                                     "[SYSTEM_PROMPT]",
                                     "[/SYSTEM_PROMPT]",
                                     "[TOOL_CONTENT]"};

template <class List>
bool contains(const List& list, std::string_view text) {
  return std::find(list.begin(), list.end(), text) != list.end();
}

std::int32_t number_of(const json& object, const char* key) {
  SSA_CHECK(object.contains(key) && object[key].is_number_integer() && object[key] >= 0 && object[key] < kMaxVocabulary,
            key, " is ", object.value(key, json()).dump(), ", expected 0 to ", kMaxVocabulary - 1);
  return object[key].get<std::int32_t>();
}

std::string string_of(const json& object, const char* key) {
  SSA_CHECK(object.contains(key) && object[key].is_string(), key, " is ", object.value(key, json()).dump(),
            ", expected a string");
  return object[key].get<std::string>();
}

/// The texts of the special tokens, by id.
std::vector<std::string> special_tokens(const json& file, const std::string& version, std::int32_t count) {
  std::vector<std::string> texts;
  if (file.contains("special_tokens") && !file["special_tokens"].is_null()) {
    for (const json& token : file["special_tokens"]) {
      const std::int32_t rank = number_of(token, "rank");
      SSA_CHECK(rank == static_cast<std::int32_t>(texts.size()), "special token of rank ", rank,
                ", expected ranks 0, 1, ...");
      texts.push_back(string_of(token, "token_str"));
      SSA_CHECK(std::count(texts.begin(), texts.end(), texts.back()) == 1, "special token ", texts.back(),
                " occurs twice");
    }
  } else {
    SSA_CHECK(contains(kVersionsWithOwnSpecials, version), "version ", version,
              " without special_tokens, expected them in the file");
    texts.assign(kOwnSpecials.begin(), kOwnSpecials.end());
  }
  SSA_CHECK(static_cast<std::int32_t>(texts.size()) <= count, texts.size(),
            " special tokens, expected at most default_num_special_tokens, ", count);
  while (static_cast<std::int32_t>(texts.size()) < count) texts.push_back(concat("<SPECIAL_", texts.size(), ">"));
  return texts;
}

std::unordered_map<std::string, std::int32_t> ranks_of(const json& vocab, std::int32_t count) {
  SSA_CHECK(static_cast<std::size_t>(count) <= vocab.size(), "a vocabulary of ", vocab.size(), " tokens, expected ",
            count, ": default_vocab_size without default_num_special_tokens");
  std::unordered_map<std::string, std::int32_t> ranks;
  for (std::int32_t rank = 0; rank < count; ++rank) {
    const json& token = vocab[static_cast<std::size_t>(rank)];
    const std::string bytes = base64_decode(string_of(token, "token_bytes"));
    SSA_CHECK(number_of(token, "rank") == rank && !bytes.empty() && ranks.emplace(bytes, rank).second, "vocab[", rank,
              "] is ", token.dump(-1, ' ', true),
              ", expected this rank and the base64 of bytes that no other token has");
  }
  return ranks;
}

}  // namespace

bool is_tekken(const json& file) {
  return file.contains("config") && file.contains("vocab") && file["vocab"].is_array() && !file.contains("model");
}

Tokenizer::Parts read_tekken(const json& file, const std::string& text, const fs::path& path,
                             const TokenizerOptions& options) {
  Tokenizer::Parts parts{.name = name_of(directory_of(path)), .sha256 = sha256_hex(text)};
  try {
    const json& config = file["config"];
    const std::string version = string_of(config, "version");
    SSA_CHECK(contains(kVersionsWithOwnSpecials, version) || contains(kVersions, version), "version ", version,
              " is not supported, expected v3, v7, v11, v13 or v15");
    const std::int32_t specials = number_of(config, "default_num_special_tokens");
    const std::vector<std::string> special = special_tokens(file, version, specials);
    set_ranks(parts, ranks_of(file["vocab"], number_of(config, "default_vocab_size") - specials), specials);
    set_pre_tokenizer(parts, "regex:" + string_of(config, "pattern"));
    for (std::size_t id = 0; id < special.size(); ++id)
      add_token(parts, {.content = special[id], .id = static_cast<std::int32_t>(id), .special = true});
  } catch (const json::exception& error) {
    fail(path.string(), ": not the layout of a tekken.json: ", error.what());
  } catch (const Error& error) {
    fail(path.string(), ": ", error.what());
  }
  set_special_tokens(parts, path.parent_path(), options.eos_token);
  return parts;
}

}  // namespace ssa
