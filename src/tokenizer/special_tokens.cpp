#include "src/tokenizer/special_tokens.h"

#include <algorithm>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "src/tokenizer/formats.h"
#include "ssa/base/error.h"
#include "ssa/base/file.h"
#include "ssa/base/json_file.h"

namespace ssa {
namespace fs = std::filesystem;
using nlohmann::json;
namespace {

constexpr const char* kDecoder = "added_tokens_decoder";
constexpr const char* kLists[] = {"additional_special_tokens", "extra_special_tokens"};
constexpr const char* kStandardTokens[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                           "pad_token", "cls_token", "mask_token"};

bool truth(const json& fields, const char* key) { return fields.contains(key) && fields[key] == true; }

/// The token with the flags of an object of the side files; `fields` is anything else for a token without flags.
AddedToken token_of(const json& fields, std::string content, std::int32_t id, bool special, bool normalized) {
  AddedToken token{.content = std::move(content), .id = id, .special = special, .normalized = normalized};
  if (!fields.is_object()) return token;
  if (fields.contains("normalized")) token.normalized = truth(fields, "normalized");
  token.single_word = truth(fields, "single_word");
  token.lstrip = truth(fields, "lstrip");
  token.rstrip = truth(fields, "rstrip");
  return token;
}

struct NamedTokens {
  std::optional<std::string> bos;  // as Tokenizer::Parts::bos_token
  std::optional<std::string> eos;  // of the first file that names one
  fs::path eos_file;
  std::optional<std::string> other_eos;  // of the second file, if it differs and transformers prefers it
};

/// The text of a token, written as a string or as an object with "content"; empty for null.
std::string text_of(const json& token, const std::string& key, const fs::path& path) {
  if (token.is_null()) return "";
  const json& text = token.is_object() && token.contains("content") ? token["content"] : token;
  SSA_CHECK(text.is_string(), path.string(), ": ", key, " is ", token.dump(),
            ", expected a string, an object with a string \"content\", or null");
  return text.get<std::string>();
}

NamedTokens read_named_tokens(const fs::path& directory) {
  NamedTokens named;
  bool bos_found = false, has_decoder = false;
  for (const char* name : {"tokenizer_config.json", "special_tokens_map.json"}) {
    const fs::path path = directory / name;
    if (!is_present(path)) continue;
    const json file = read_json_object(path);
    SSA_CHECK(!truth(file, "split_special_tokens"), path.string(),
              ": split_special_tokens is true, expected false: ", "special tokens in a text are one token each");
    has_decoder = has_decoder || file.contains(kDecoder);
    if (!named.bos) named.bos = "";
    if (file.contains("bos_token")) {
      const std::string bos = text_of(file["bos_token"], "bos_token", path);
      if (!bos_found) named.bos = bos;
      bos_found = true;
    }
    if (!file.contains("eos_token")) continue;
    const std::string eos = text_of(file["eos_token"], "eos_token", path);
    if (named.eos && eos != *named.eos && !has_decoder) named.other_eos = eos;
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

/// A special token that one of the files names.
struct NamedToken {
  std::string key, content;
  json fields;  // an object with flags, or the content
  fs::path path;
};

/// tokenizer_config.json and special_tokens_map.json, as transformers combines them.
struct SideFiles {
  fs::path config_path, map_path;
  json config = json::object(), map = json::object();

  explicit SideFiles(const fs::path& directory)
      : config_path(directory / "tokenizer_config.json"), map_path(directory / "special_tokens_map.json") {
    if (is_present(config_path)) config = read_json_object(config_path);
    if (is_present(map_path)) map = read_json_object(map_path);
  }

  /// The tokens that are special if added_tokens.json has them.
  std::set<std::string> special_in_added_tokens() const {
    std::set<std::string> special;
    const auto add = [&](const json& token, bool object_too) {
      const json& text = object_too && token.is_object() && token.contains("content") ? token["content"] : token;
      if (text.is_string()) special.insert(text.get<std::string>());
    };
    for (const json* file : {&config, &map}) {
      for (const char* key : kStandardTokens)
        if (file->contains(key)) add((*file)[key], file == &map);
      for (const char* key : kLists)
        if (file->contains(key))
          for (const json& token : (*file)[key]) add(token, true);
    }
    return special;
  }

  /// `pad_token` is the one of tokenizer.json's padding, or null.
  std::vector<NamedToken> named(const json& pad_token) const {
    std::vector<NamedToken> tokens;
    const bool with_map = !config.contains(kDecoder);
    const auto add = [&](const std::string& key, const json& token, const fs::path& path) {
      tokens.push_back({key, text_of(token, key, path), token, path});
    };
    const auto add_file = [&](const json& file, const fs::path& path) {
      for (const auto& [key, value] : file.items()) {
        const bool standard =
            std::find(std::begin(kStandardTokens), std::end(kStandardTokens), key) != std::end(kStandardTokens);
        const bool overridden = &file == &config && with_map && map.contains(key);
        if (standard ? !overridden : is_own_name(key, value, &file == &map)) add(key, value, path);
      }
      for (const char* key : {kLists[0], kLists[1], "model_specific_special_tokens"})
        if (file.contains(key))
          for (const json& token : file[key]) add(key, token, path);
    };
    add_file(config, config_path);
    if (with_map) add_file(map, map_path);
    if (!pad_token.is_null() && !config.contains("pad_token") && !(with_map && map.contains("pad_token")))
      add("padding", pad_token, config_path.parent_path() / "tokenizer.json");
    return tokens;
  }

 private:
  /// Whether transformers takes a key that it does not know for a special token, as in image_token.
  static bool is_own_name(const std::string& key, const json& value, bool in_map) {
    if (!key.ends_with("_token")) return false;
    return value.is_string() || (value.is_object() && (in_map || value.value("__type", "") == "AddedToken"));
  }
};

/// Adds a token, or completes the one with this text; with `keep`, that one stays as it is.
void add_side_token(Tokenizer::Parts& parts, const AddedToken& token, const fs::path& path, const VocabularyIds& ids,
                    bool keep) {
  SSA_CHECK(token.id >= 0 && token.id < kMaxVocabulary, path.string(), ": token \"", token.content, "\" has id ",
            token.id, ", expected 0 to ", kMaxVocabulary - 1);
  const auto expect_id = [&](std::int32_t id) {
    SSA_CHECK(id == token.id, path.string(), ": token \"", token.content, "\" has id ", token.id, ", expected ", id,
              " as in the vocabulary");
  };
  for (AddedToken& known : parts.added) {
    if (known.content != token.content) continue;
    expect_id(known.id);
    if (!keep) known = token;
    return;
  }
  if (const auto it = ids.find(token.content); it != ids.end()) expect_id(it->second);
  const auto index = static_cast<std::size_t>(token.id);
  if (index < parts.texts.size() && !parts.texts[index].empty() && !ids.contains(token.content))
    SSA_CHECK(parts.texts[index] == token.content, path.string(), ": token \"", token.content, "\" has id ", token.id,
              ", which is \"", parts.texts[index], "\" in the vocabulary");
  add_token(parts, token);
}

/// The tokens of added_tokens_decoder.
void add_decoder_tokens(Tokenizer::Parts& parts, const json& decoder, const fs::path& path, const VocabularyIds& ids) {
  SSA_CHECK(decoder.is_object(), path.string(), ": added_tokens_decoder is ", decoder.type_name(),
            ", expected an object");
  for (const auto& [id, fields] : decoder.items()) {
    SSA_CHECK(!id.empty() && id.size() < 9 && id.find_first_not_of("0123456789") == id.npos && fields.is_object() &&
                  fields.contains("content") && fields["content"].is_string(),
              path.string(), ": added_tokens_decoder: \"", id,
              "\": expected an id and an object with a string content");
    const bool special = truth(fields, "special");
    add_side_token(parts, token_of(fields, fields["content"].get<std::string>(), std::stoi(id), special, !special),
                   path, ids, false);
  }
}

}  // namespace

void add_side_tokens(Tokenizer::Parts& parts, const fs::path& directory, const VocabularyIds& ids, bool keep_known) {
  const SideFiles files(directory);
  const bool has_decoder = files.config.contains(kDecoder);
  if (has_decoder) add_decoder_tokens(parts, files.config[kDecoder], files.config_path, ids);
  const fs::path added = directory / "added_tokens.json";
  if (!is_present(added)) return;
  const std::set<std::string> special = files.special_in_added_tokens();
  const json tokens = read_json_object(added);
  for (const auto& [content, value] : tokens.items()) {
    AddedToken token{.content = content, .id = checked_id(value, added.string(), ": token \"", content, "\"")};
    token.special = special.contains(content);
    token.normalized = !token.special;
    // With added_tokens_decoder, transformers does not read this file.
    SSA_CHECK(!has_decoder || added_id(parts, content) >= 0 || ids.contains(content), added.string(), ": token \"",
              content, "\" is not in ", kDecoder, " of ", files.config_path.filename().string(),
              ", expected it there too");
    if (!has_decoder || added_id(parts, content) >= 0)
      add_side_token(parts, token, added, ids, keep_known || has_decoder);
  }
}

void add_named_tokens(Tokenizer::Parts& parts, const fs::path& directory, const VocabularyIds& ids,
                      const json& pad_token) {
  for (const NamedToken& named : SideFiles(directory).named(pad_token)) {
    if (named.content.empty()) continue;
    const auto known = std::find_if(parts.added.begin(), parts.added.end(),
                                    [&](const AddedToken& token) { return token.content == named.content; });
    if (known != parts.added.end()) {
      known->special = true;
      continue;
    }
    const auto it = ids.find(named.content);
    SSA_CHECK(it != ids.end(), named.path.string(), ": ", named.key, ": found \"", named.content,
              "\", expected a token of the vocabulary; transformers adds this one to it");
    add_token(parts, token_of(named.fields, named.content, it->second, true, false));
  }
}

void set_special_tokens(Tokenizer::Parts& parts, const fs::path& directory, const std::string& wanted_eos) {
  NamedTokens named = read_named_tokens(directory);
  parts.bos_token = std::move(named.bos);
  if (wanted_eos.empty() && named.other_eos)
    fail_usage((directory / "special_tokens_map.json").string(), ": eos_token is \"", *named.other_eos,
               "\", expected \"", *named.eos, "\" as in ", named.eos_file.filename().string(), ", or --eos-token");
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
