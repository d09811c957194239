// Reads a Hugging Face tokenizer.json, or a tekken.json.
#include <algorithm>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <unordered_map>
#include <vector>

#include "src/tokenizer/byte_alphabet.h"
#include "src/tokenizer/formats.h"
#include "src/tokenizer/json_component.h"
#include "src/tokenizer/pre_tokenizer.h"
#include "src/tokenizer/sha256.h"
#include "src/tokenizer/special_tokens.h"
#include "src/tokenizer/tekken.h"
#include "ssa/base/error.h"
#include "ssa/base/file.h"
#include "ssa/base/json_file.h"

namespace ssa {
namespace fs = std::filesystem;
using nlohmann::json;
namespace {

void read_normalizer(const json& normalizer, Tokenizer::Parts& parts) {
  each_component(normalizer, "normalizers", [&](const json& component) {
    const std::string type = type_of(component);
    if (type == "NFC" && parts.prepend.empty() && parts.replace.empty()) {
      parts.nfc = true;
    } else if (type == "Prepend" && parts.replace.empty()) {
      parts.prepend = component.at("prepend").get<std::string>() + parts.prepend;
    } else if (type == "Replace" && component.at("pattern").contains("String")) {
      const std::string from = component["pattern"]["String"].get<std::string>();
      SSA_CHECK(!from.empty(), "normalizer Replace of an empty text is not supported");
      parts.replace.emplace_back(from, component.at("content").get<std::string>());
    } else {
      fail("normalizer ", type, " is not supported here, expected NFC, Prepend and Replace of a String in this order");
    }
  });
}

/// Whether a decoded text loses its first space: whether the decoder strips it, as it was put there when encoding.
bool drops_first_space(const json& decoder) {
  bool drops = false;
  each_component(decoder, "decoders", [&](const json& component) {
    const std::string type = type_of(component);
    if (type == "Strip") drops = component.value("content", "") == " " && component.value("start", 0) > 0;
    if (type == "Metaspace")
      drops = component.value("prepend_scheme", "always") != "never" && flag(component, "add_prefix_space", true);
  });
  return drops;
}

/// Lets the pieces of a SentencePiece BPE end before a space, if its merges do not cross such a place: the ids are those
/// of the whole text, and the pieces are short.
void cut_at_spaces(Tokenizer::Parts& parts) {
  const auto crosses = [&](const BpeMerge& merge) {
    const std::string& text = parts.texts[static_cast<std::size_t>(merge.result)];
    for (std::size_t i = 1; i < text.size(); ++i)
      if (text[i] == ' ' && text[i - 1] != ' ') return true;
    return false;
  };
  const auto& merges = parts.vocabulary.merges;
  if (parts.vocabulary.whole.empty() && std::none_of(merges.begin(), merges.end(), crosses))
    parts.splitter.add_cuts_before(kSpaceMark);
}

void check_model_type(const json& model) {
  const std::string type = model.contains("type") ? type_of(model) : "BPE";
  SSA_CHECK(type == "BPE", "model ", type, " is not supported, expected BPE");
}

void read_model(const json& model, const fs::path& path, Tokenizer::Parts& parts) {
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"})
    SSA_CHECK(!model.contains(key) || model[key].is_null() || model[key] == "", "model BPE with ", key,
              " is not supported, expected none");
  SSA_CHECK(!model.contains("dropout") || model["dropout"].is_null() || model["dropout"] == 0,
            "model BPE with dropout ", model["dropout"].dump(), " is not supported, expected none");

  TokenTable table(path);
  table.add_vocab(model.at("vocab"));
  for (const json& merge : model.at("merges")) {
    if (merge.is_string()) {
      const std::string text = merge.get<std::string>();
      const std::size_t space = text.find(' ');
      SSA_CHECK(space != text.npos, "merge \"", text, "\", expected two tokens with a space between");
      table.add_merge(parts.vocabulary, text.substr(0, space), text.substr(space + 1));
    } else {
      SSA_CHECK(merge.is_array() && merge.size() == 2, "merge ", merge.dump(), ", expected two tokens");
      table.add_merge(parts.vocabulary, merge[0].get<std::string>(), merge[1].get<std::string>());
    }
  }
  const bool byte_fallback = flag(model, "byte_fallback", false);
  if (byte_fallback)
    table.fill_characters(parts);
  else
    table.fill(parts);
  if (model.contains("unk_token") && model["unk_token"].is_string()) {
    parts.vocabulary.unknown = table.id(model["unk_token"].get<std::string>());
    parts.vocabulary.fuse_unknown = flag(model, "fuse_unk", false);
  }
  if (flag(model, "ignore_merges", false)) {
    std::string bytes;
    for (const auto& [token, id] : table.ids())
      if (byte_fallback)
        parts.vocabulary.whole.emplace(token, id);
      else if (ByteAlphabet::get().bytes_of(token, bytes))
        parts.vocabulary.whole.emplace(bytes, id);
  }
}

void read_added_tokens(const json& tokens, Tokenizer::Parts& parts,
                       const std::unordered_map<std::string, std::int32_t>& known) {
  for (const json& entry : tokens) {
    AddedToken token{.content = entry.at("content").get<std::string>(), .special = flag(entry, "special", false)};
    const auto it = known.find(token.content);
    const json& id = entry.at("id");
    SSA_CHECK(id.is_number_integer() && id >= 0 && id < kMaxVocabulary, "added token \"", token.content, "\" has id ",
              id.dump(), ", expected 0 to ", kMaxVocabulary - 1);
    token.id = it != known.end() ? it->second : id.get<std::int32_t>();
    token.normalized = flag(entry, "normalized", !token.special);
    token.single_word = flag(entry, "single_word", false);
    token.lstrip = flag(entry, "lstrip", false);
    token.rstrip = flag(entry, "rstrip", false);
    add_token(parts, token);
  }
}

/// The tokens that the template puts around a text. Other post-processors are ignored.
void read_post_processor(const json& post_processor, Tokenizer::Parts& parts) {
  each_component(post_processor, "processors", [&](const json& component) {
    if (type_of(component) != "TemplateProcessing") return;
    bool after = false;
    for (const json& piece : component.at("single")) {
      if (piece.contains("Sequence")) {
        after = true;
        continue;
      }
      const std::string name = piece.at("SpecialToken").at("id");
      for (const std::int32_t id : component.at("special_tokens").at(name).at("ids").get<std::vector<std::int32_t>>())
        (after ? parts.text_template.after : parts.text_template.before).push_back(id);
    }
  });
}

}  // namespace

Tokenizer::Parts read_tokenizer_json(const fs::path& path, const TokenizerOptions& options) {
  const std::string text = read_file(path);
  const json file = parse_json_object(text, path.string());
  if (is_tekken(file)) return read_tekken(file, text, path, options);
  Tokenizer::Parts parts{.name = name_of(directory_of(path)), .sha256 = sha256_hex(text)};
  try {
    SSA_CHECK(file.contains("model") && file["model"].is_object(), "no \"model\", expected a tokenizer.json",
              path.filename() == "vocab.json" ? "; of vocab.json and merges.txt, name the directory" : "");
    const json& model = file["model"];
    check_model_type(model);
    const bool byte_fallback = flag(model, "byte_fallback", false);
    read_normalizer(file.value("normalizer", json()), parts);
    parts.splitter = splitter_of(file.value("pre_tokenizer", json()), byte_fallback);
    read_model(model, path, parts);
    if (byte_fallback) {
      cut_at_spaces(parts);
      parts.drop_first_space = drops_first_space(file.value("decoder", json()));
    }
    const auto known = file["model"]["vocab"].get<std::unordered_map<std::string, std::int32_t>>();
    read_added_tokens(file.value("added_tokens", json::array()), parts, known);
    read_post_processor(file.value("post_processor", json()), parts);
  } catch (const json::exception& error) {
    fail(path.string(), ": not the layout of a tokenizer.json: ", error.what());
  } catch (const Error& error) {
    const std::string message = error.what();
    if (message.rfind(path.string(), 0) == 0) throw;
    fail(path.string(), ": ", message);
  }
  set_special_tokens(parts, path.parent_path(), options.eos_token);
  return parts;
}

}  // namespace ssa
