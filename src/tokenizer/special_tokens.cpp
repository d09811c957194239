#include "src/tokenizer/special_tokens.h"

#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "src/tokenizer/formats.h"
#include "ssa/base/error.h"
#include "ssa/base/file.h"
#include "ssa/base/json_file.h"

namespace ssa {
namespace fs = std::filesystem;
using nlohmann::json;
namespace {

struct NamedTokens {
  std::optional<std::string> bos;  // as Tokenizer::Parts::bos_token
  std::vector<std::string> eos;    // in the order of the files
};

/// The text of the token `key` of `file`, written as a string or as an object with "content"; empty for null.
std::string text_of(const json& file, const char* key, const fs::path& path) {
  const json& token = file[key];
  if (token.is_null()) return "";
  const json& text = token.is_object() && token.contains("content") ? token["content"] : token;
  SSA_CHECK(text.is_string(), path.string(), ": ", key, " is ", token.dump(),
            ", expected a string, an object with a string \"content\", or null");
  return text.get<std::string>();
}

NamedTokens read_named_tokens(const fs::path& directory) {
  NamedTokens named;
  bool bos_found = false;
  for (const char* name : {"tokenizer_config.json", "special_tokens_map.json"}) {
    const fs::path path = directory / name;
    if (!fs::is_regular_file(path)) continue;
    const json file = read_json_object(path);
    if (!named.bos) named.bos = "";
    if (file.contains("bos_token")) {
      const std::string bos = text_of(file, "bos_token", path);
      if (!bos_found) named.bos = bos;
      bos_found = true;
    }
    if (file.contains("eos_token")) named.eos.push_back(text_of(file, "eos_token", path));
  }
  return named;
}

std::int32_t added_id(const Tokenizer::Parts& parts, const std::string& content) {
  for (const AddedToken& token : parts.added)
    if (token.content == content) return token.id;
  return -1;
}

}  // namespace

void set_special_tokens(Tokenizer::Parts& parts, const fs::path& directory, const std::string& wanted_eos) {
  NamedTokens named = read_named_tokens(directory);
  parts.bos_token = std::move(named.bos);
  if (!wanted_eos.empty())
    named.eos = {wanted_eos};
  else
    named.eos.insert(named.eos.end(), {"<|end_of_text|>", "<|endoftext|>", "</s>"});
  for (const std::string& name : named.eos) {
    parts.eos_token_id = added_id(parts, name);
    if (parts.eos_token_id >= 0) return;
  }
  if (!wanted_eos.empty()) fail_usage("--eos-token ", wanted_eos, ": no added token of ", parts.name, " has this text");
  fail_usage(directory.string(), ": no end-of-text token found, expected --eos-token");
}

}  // namespace ssa
