#include "src/tokenizer/special_tokens.h"

#include <algorithm>
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

bool truth(const json& fields, const char* key) { return fields.contains(key) && fields[key] == true; }

struct NamedTokens {
  std::optional<std::string> bos;  // as Tokenizer::Parts::bos_token
  std::optional<std::string> eos;  // of the first file that names one
  fs::path eos_file;
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
    if (!is_present(path)) continue;
    const json file = read_json_object(path);
    SSA_CHECK(!truth(file, "split_special_tokens"), path.string(),
              ": split_special_tokens is true, expected false: ", "special tokens in a text are one token each");
    if (!named.bos) named.bos = "";
    if (file.contains("bos_token")) {
      const std::string bos = text_of(file, "bos_token", path);
      if (!bos_found) named.bos = bos;
      bos_found = true;
    }
    if (!file.contains("eos_token")) continue;
    const std::string eos = text_of(file, "eos_token", path);
    if (named.eos || eos.empty()) continue;
    named.eos = eos;
    named.eos_file = path;
  }
  return named;
}

std::int32_t added_id(const Tokenizer::Parts& parts, const std::string& content) {
  for (const AddedToken& token : parts.added)
    if (token.content == content) return token.id;
  return -1;
}

/// Adds a token, or completes the one with this text; with `keep`, that one stays as it is.
void add_side_token(Tokenizer::Parts& parts, const AddedToken& token, const fs::path& path, bool keep) {
  SSA_CHECK(token.id >= 0 && token.id < kMaxVocabulary, path.string(), ": token \"", token.content, "\" has id ",
            token.id, ", expected 0 to ", kMaxVocabulary - 1);
  for (AddedToken& known : parts.added) {
    if (known.content != token.content) continue;
    SSA_CHECK(known.id == token.id, path.string(), ": token \"", token.content, "\" has id ", token.id, ", expected ",
              known.id, " as in the vocabulary");
    if (!keep) known = token;
    return;
  }
  const auto index = static_cast<std::size_t>(token.id);
  if (index < parts.texts.size() && !parts.texts[index].empty())
    SSA_CHECK(parts.texts[index] == token.content, path.string(), ": token \"", token.content, "\" has id ", token.id,
              ", which is \"", parts.texts[index], "\" in the vocabulary");
  add_token(parts, token);
}

}  // namespace

void add_side_tokens(Tokenizer::Parts& parts, const fs::path& directory, bool keep_known) {
  std::vector<std::string> special;
  if (const fs::path map = directory / "special_tokens_map.json"; is_present(map)) {
    const auto add = [&](const json& token) {
      const json& text = token.is_object() && token.contains("content") ? token["content"] : token;
      if (text.is_string()) special.push_back(text.get<std::string>());
    };
    const json names = read_json_object(map);
    for (const auto& [key, value] : names.items())
      if (value.is_array())
        for (const json& token : value) add(token);
      else
        add(value);
  }
  if (const fs::path added = directory / "added_tokens.json"; is_present(added)) {
    const json ids = read_json_object(added);
    for (const auto& [content, id] : ids.items()) {
      AddedToken token{.content = content, .id = checked_id(id, added.string(), ": token \"", content, "\"")};
      token.special = std::find(special.begin(), special.end(), content) != special.end();
      token.normalized = !token.special;
      add_side_token(parts, token, added, keep_known);
    }
  }
  const fs::path path = directory / "tokenizer_config.json";
  if (!is_present(path)) return;
  const json config = read_json_object(path);
  if (!config.contains("added_tokens_decoder")) return;
  const json& decoder = config["added_tokens_decoder"];
  SSA_CHECK(decoder.is_object(), path.string(), ": added_tokens_decoder is ", decoder.type_name(),
            ", expected an object");
  for (const auto& [id, fields] : decoder.items()) {
    SSA_CHECK(!id.empty() && id.size() < 9 && id.find_first_not_of("0123456789") == id.npos && fields.is_object() &&
                  fields.contains("content") && fields["content"].is_string(),
              path.string(), ": added_tokens_decoder: \"", id,
              "\": expected an id and an object with a string content");
    add_side_token(parts,
                   {.content = fields["content"].get<std::string>(),
                    .id = std::stoi(id),
                    .special = truth(fields, "special"),
                    .normalized = truth(fields, "normalized"),
                    .single_word = truth(fields, "single_word"),
                    .lstrip = truth(fields, "lstrip"),
                    .rstrip = truth(fields, "rstrip")},
                   path, false);
  }
}

void add_named_tokens(Tokenizer::Parts& parts, const fs::path& directory,
                      const std::unordered_map<std::string, std::int32_t>& vocabulary) {
  const auto add = [&](const std::string& content) {
    if (added_id(parts, content) >= 0) return true;
    const auto it = vocabulary.find(content);
    if (it == vocabulary.end()) return false;
    add_token(parts, {.content = content, .id = it->second, .special = true});
    return true;
  };
  for (const char* name : {"tokenizer_config.json", "special_tokens_map.json"}) {
    const fs::path path = directory / name;
    if (!is_present(path)) continue;
    const json file = read_json_object(path);
    for (const char* key : {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"})
      if (file.contains(key)) add(text_of(file, key, path));
    for (const char* key : {"additional_special_tokens", "extra_special_tokens"}) {
      if (!file.contains(key)) continue;
      for (const json& token : file[key]) {
        const json& text = token.is_object() && token.contains("content") ? token["content"] : token;
        SSA_CHECK(text.is_string() && add(text), path.string(), ": ", key, ": found ", token.dump(),
                  ", expected a token of tokenizer.json");
      }
    }
  }
}

void set_special_tokens(Tokenizer::Parts& parts, const fs::path& directory, const std::string& wanted_eos) {
  NamedTokens named = read_named_tokens(directory);
  parts.bos_token = std::move(named.bos);
  if (wanted_eos.empty() && named.eos) {
    parts.eos_token_id = added_id(parts, *named.eos);
    if (parts.eos_token_id < 0)
      fail_usage(named.eos_file.string(), ": eos_token is \"", *named.eos, "\", expected one of the added tokens of ",
                 parts.name, ", or --eos-token");
    return;
  }
  std::vector<std::string> names = {"<|end_of_text|>", "<|endoftext|>", "</s>"};
  if (!wanted_eos.empty()) names = {wanted_eos};
  for (const std::string& name : names) {
    parts.eos_token_id = added_id(parts, name);
    if (parts.eos_token_id >= 0) return;
  }
  if (!wanted_eos.empty()) fail_usage("--eos-token ", wanted_eos, ": no added token of ", parts.name, " has this text");
  fail_usage(directory.string(), ": no end-of-text token found, expected --eos-token");
}

}  // namespace ssa
