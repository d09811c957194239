// Reads a Hugging Face tokenizer.json, or a tekken.json.
#include <algorithm>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
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

/// Lets the pieces of a SentencePiece BPE end before a space, if its merges do not cross such a place: the ids are
/// those of the whole text, and the pieces are short.
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

/// Returns the next free id. Hugging Face tokenizers ignores "id": it gives this id to a token that is not in the
/// vocabulary. A file that says something else is an error, as other programs may follow the file.
std::int32_t read_added_tokens(const json& tokens, Tokenizer::Parts& parts, const VocabularyIds& known) {
  auto next = static_cast<std::int32_t>(known.size());
  for (const json& entry : tokens) {
    AddedToken token{.content = entry.at("content").get<std::string>(), .special = flag(entry, "special", false)};
    const auto it = known.find(token.content);
    const std::int32_t id = checked_id(entry.at("id"), "added token \"", token.content, "\"");
    if (token.content.empty()) continue;
    const auto earlier = std::find_if(parts.added.begin(), parts.added.end(),
                                      [&](const AddedToken& added) { return added.content == token.content; });
    const bool again = earlier != parts.added.end();
    token.id = it != known.end() ? it->second : again ? earlier->id : next;
    SSA_CHECK(it != known.end() || id == token.id, "added token \"", token.content, "\" has id ", id, ", expected ",
              token.id, again ? " as in its first entry" : ", the next free id");
    next = std::max(next, token.id + 1);
    token.normalized = flag(entry, "normalized", !token.special);
    token.single_word = flag(entry, "single_word", false);
    token.lstrip = flag(entry, "lstrip", false);
    token.rstrip = flag(entry, "rstrip", false);
    if (again)
      *earlier = token;
    else
      add_token(parts, token);
  }
  return next;
}

/// The tokens that only the files next to `path` name. Those of the vocabulary, `known`, keep their ids. transformers
/// gives the others the next ids, in the order of the ids in these files.
void read_side_tokens(const fs::path& path, Tokenizer::Parts& parts, std::int32_t next, const VocabularyIds& known,
                      const json& file) {
  const std::size_t own = parts.added.size();
  add_side_tokens(parts, path.parent_path(), known, true);
  std::vector<AddedToken> more(parts.added.begin() + static_cast<std::ptrdiff_t>(own), parts.added.end());
  std::sort(more.begin(), more.end(), [](const AddedToken& a, const AddedToken& b) { return a.id < b.id; });
  for (const AddedToken& token : more) {
    if (const auto it = known.find(token.content); it != known.end() && it->second == token.id) {
      next = std::max(next, token.id + 1);
      continue;
    }
    SSA_CHECK(token.id == next++, path.string(), ": token \"", token.content, "\" of the files next to it has id ",
              token.id, ", expected ", next - 1, ", the next free id");
  }
  const json padding = file.value("padding", json());
  add_named_tokens(parts, path.parent_path(), known, padding.is_object() ? padding.value("pad_token", json()) : json());
}

/// Whether a space is put before a text.
bool puts_space_first(const json& file) {
  bool puts = false;
  each_component(file.value("normalizer", json()), "normalizers",
                 [&](const json& component) { puts = puts || type_of(component) == "Prepend"; });
  each_component(file.value("pre_tokenizer", json()), "pretokenizers", [&](const json& component) {
    const std::string type = type_of(component);
    if (type == "ByteLevel") puts = puts || flag(component, "add_prefix_space", true);
    if (type == "Metaspace")
      puts = puts || (component.contains("prepend_scheme") ? component["prepend_scheme"] != "never"
                                                           : flag(component, "add_prefix_space", true));
  });
  return puts;
}

/// tokenizer_config.json may contradict tokenizer.json about a space before the text. Versions and classes of
/// transformers differ in which of them they follow.
void check_prefix_space(const fs::path& directory, const json& file) {
  const fs::path path = directory / "tokenizer_config.json";
  if (!is_present(path)) return;
  const json config = read_json_object(path);
  if (!config.contains("add_prefix_space") || !config["add_prefix_space"].is_boolean()) return;
  const bool puts = puts_space_first(file);
  SSA_CHECK(config["add_prefix_space"] == puts, path.string(), ": add_prefix_space is ",
            config["add_prefix_space"].dump(), ", expected ", puts ? "true" : "false", " as in tokenizer.json");
}

/// The tokens that the post-processor puts around a text.
void read_post_processor(const json& post_processor, Tokenizer::Parts& parts) {
  std::string found;
  each_component(post_processor, "processors", [&](const json& component) {
    const std::string type = type_of(component);
    if (type == "ByteLevel") return;  // it changes offsets only
    SSA_CHECK(type == "TemplateProcessing" || type == "BertProcessing" || type == "RobertaProcessing",
              "post_processor ", type,
              " is not supported, expected TemplateProcessing, BertProcessing, RobertaProcessing or ByteLevel");
    // The second one would put its tokens around each token of the first one.
    SSA_CHECK(found.empty(), "post_processor ", type, " after ", found, " is not supported, expected one of them");
    found = type;
    Tokenizer::Template& around = parts.text_template;
    if (type != "TemplateProcessing") {
      for (const auto& [key, ids] : {std::pair{"cls", &around.before}, {"sep", &around.after}})
        ids->push_back(checked_id(component.at(key).at(1), key, " of the post_processor"));
      return;
    }
    bool after = false;
    for (const json& piece : component.at("single")) {
      if (piece.contains("Sequence")) {
        after = true;
        continue;
      }
      const std::string name = piece.at("SpecialToken").at("id");
      for (const json& id : component.at("special_tokens").at(name).at("ids").get_ref<const json::array_t&>())
        (after ? around.after : around.before).push_back(checked_id(id, "token \"", name, "\" of the post_processor"));
    }
  });
}

}  // namespace

Tokenizer::Parts read_tokenizer_json(const fs::path& path, const TokenizerOptions& options) {
  const std::string text = read_file(path);
  const json file = parse_json_object(text, path.string());
  if (is_tekken(file)) return read_tekken(file, text, path, options);
  Tokenizer::Parts parts{.name = name_of(directory_of(path)), .sha256 = sha256_hex(text)};
  std::int32_t next = 0;
  VocabularyIds known;
  try {
    SSA_CHECK(file.contains("model") && file["model"].is_object(), "no \"model\", expected a tokenizer.json",
              path.filename() == "vocab.json" ? "; of vocab.json and merges.txt, name the directory" : "");
    SSA_CHECK(!file.contains("version") || file["version"] == "1.0", "version is ", file["version"].dump(),
              ", expected \"1.0\"");
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
    known = file["model"]["vocab"].get<VocabularyIds>();
    next = read_added_tokens(file.value("added_tokens", json::array()), parts, known);
    read_post_processor(file.value("post_processor", json()), parts);
  } catch (const json::exception& error) {
    fail(path.string(), ": not the layout of a tokenizer.json: ", error.what());
  } catch (const Error& error) {
    const std::string message = error.what();
    if (message.rfind(path.string(), 0) == 0) throw;
    fail(path.string(), ": ", message);
  }
  read_side_tokens(path, parts, next, known, file);
  check_prefix_space(path.parent_path(), file);
  set_special_tokens(parts, path.parent_path(), options.eos_token);
  return parts;
}

}  // namespace ssa
