#include "ssa/tokenizer/hugging_face_tokenizer.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string_view>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "src/tokenizer/byte_alphabet.h"
#include "src/tokenizer/pre_tokenizer.h"
#include "src/tokenizer/sha256.h"
#include "ssa/base/error.h"
#include "ssa/base/file.h"
#include "ssa/base/json_file.h"

namespace ssa {
namespace fs = std::filesystem;
using nlohmann::ordered_json;
namespace {

constexpr const char* kTokenizerClass = "PreTrainedTokenizerFast";
constexpr const char* kMadeFrom = "made_from_sha256";  // a key of ours; transformers keeps keys that it does not know
constexpr std::array kInputNames = {"input_ids", "attention_mask"};

std::vector<AddedToken> added_tokens(const Tokenizer::Parts& parts) {
  std::vector<AddedToken> added = parts.added;
  if (std::none_of(added.begin(), added.end(), [&](const AddedToken& t) { return t.id == parts.eos_token_id; }))
    added.push_back({.content = "<|endoftext|>", .id = parts.eos_token_id, .special = true});
  return added;
}

std::string tokenizer_json(const Tokenizer::Parts& parts) {
  std::vector<std::string> tokens;
  for (const std::string& text : parts.texts) tokens.push_back(ByteAlphabet::get().token_of(text));
  ordered_json added = ordered_json::array();
  for (const AddedToken& token : added_tokens(parts)) {
    tokens[static_cast<std::size_t>(token.id)] = token.content;
    added.push_back({{"id", token.id},
                     {"content", token.content},
                     {"single_word", token.single_word},
                     {"lstrip", token.lstrip},
                     {"rstrip", token.rstrip},
                     {"normalized", token.normalized},
                     {"special", token.special}});
  }
  // The added tokens too: transformers ignores "id" and gives those that are not in the vocabulary new ids after it.
  // An ordered_json searches all its keys for one that it is given, so the entries are appended.
  std::unordered_map<std::string_view, std::size_t> ids;
  for (std::size_t id = 0; id < tokens.size(); ++id) ids[tokens[id]] = id;
  ordered_json vocab = ordered_json::object();
  auto& entries = vocab.get_ref<ordered_json::object_t&>();
  for (std::size_t id = 0; id < tokens.size(); ++id)
    if (!tokens[id].empty() && ids[tokens[id]] == id) entries.emplace_back(tokens[id], id);

  // Several pairs may share a tiktoken rank, which is the id of the merged token; in this list every pair has its own.
  std::vector<BpeMerge> order = parts.vocabulary.merges;
  std::sort(order.begin(), order.end(), [](const BpeMerge& a, const BpeMerge& b) {
    return std::tie(a.rank, a.left, a.right) < std::tie(b.rank, b.left, b.right);
  });
  ordered_json merges = ordered_json::array();
  for (const BpeMerge& merge : order)
    merges.push_back(tokens[static_cast<std::size_t>(merge.left)] + " " +
                     tokens[static_cast<std::size_t>(merge.right)]);

  const ordered_json file = {{"version", "1.0"},
                             {"truncation", nullptr},
                             {"padding", nullptr},
                             {"added_tokens", added},
                             {"normalizer", parts.nfc ? ordered_json{{"type", "NFC"}} : ordered_json(nullptr)},
                             {"pre_tokenizer", pre_tokenizer_entry(parts.pre_tokenizer)},
                             {"post_processor", nullptr},
                             {"decoder", pre_tokenizer_entry("")},
                             {"model",
                              {{"type", "BPE"},
                               {"dropout", nullptr},
                               {"unk_token", nullptr},
                               {"continuing_subword_prefix", nullptr},
                               {"end_of_word_suffix", nullptr},
                               {"fuse_unk", false},
                               {"byte_fallback", false},
                               {"ignore_merges", !parts.vocabulary.whole.empty()},
                               {"vocab", vocab},
                               {"merges", merges}}}};
  return file.dump(1) + "\n";
}

std::string eos_text(const Tokenizer::Parts& parts) {
  for (const AddedToken& token : added_tokens(parts))
    if (token.id == parts.eos_token_id) return token.content;
  return "";
}

std::string tokenizer_config_json(const Tokenizer::Parts& parts) {
  const std::string eos = eos_text(parts);
  const ordered_json file = {
      {"eos_token", eos}, {"pad_token", eos}, {"padding_side", "left"}, {"clean_up_tokenization_spaces", false}};
  return file.dump(2) + "\n";
}

}  // namespace

TokenizerFiles hugging_face_tokenizer(const std::string& path, const Tokenizer::Parts& parts) {
  TokenizerFiles result;
  auto& files = result.files;
  std::string made_from;
  fs::path source(path);
  if (path != "bytes" && is_present(source / "tokenizer.json")) source /= "tokenizer.json";
  const fs::path directory = fs::is_directory(source) ? source : source.parent_path();
  const auto copy = [&](const char* name) {
    if (const fs::path side_file = directory / name; path != "bytes" && is_present(side_file))
      files[name] = read_file(side_file);
  };
  if (source.extension() == ".json" && parts.pre_tokenizer.empty()) {
    files["tokenizer.json"] = read_file(source);
    for (const char* name : {"tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"}) copy(name);
  } else {
    files["tokenizer.json"] = tokenizer_json(parts);
    made_from = parts.sha256;
  }
  copy("chat_template.jinja");
  std::string& config = files["tokenizer_config.json"];
  if (config.empty()) config = tokenizer_config_json(parts);
  const fs::path config_path = directory / "tokenizer_config.json";
  const auto before = parse_json_object<ordered_json>(config, config_path.string());
  auto object = before;
  if (!made_from.empty()) {
    object[kMadeFrom] = made_from;
    if (path != "bytes" && is_present(config_path))
      if (const auto own = read_json_object(config_path); own.contains("chat_template"))
        object["chat_template"] = own["chat_template"];
  }
  // The class of a model makes a normalizer and a pre-tokenizer of its own in transformers 5, whatever tokenizer.json
  // says. Without any class, transformers 4 looks into config.json and asks for trust_remote_code (5 always does).
  if (const auto named = object.find("tokenizer_class"); named != object.end() && *named != kTokenizerClass)
    result.notes.push_back(concat(config_path.string(), ": tokenizer_class ", named->dump(), " is written as ",
                                  kTokenizerClass, ", so that transformers takes everything from tokenizer.json"));
  object["tokenizer_class"] = kTokenizerClass;
  // Without model_input_names this class makes token_type_ids, which generate() rejects.
  object.emplace("model_input_names", kInputNames);
  if (object.erase("auto_map") > 0)
    result.notes.push_back(config_path.string() +
                           ": auto_map is left out, because the code that it names is not exported");
  // The replaced class may have had an end-of-text token of its own.
  const auto map = files.find("special_tokens_map.json");
  if (map == files.end() || !parse_json_object<ordered_json>(map->second, map->first).contains("eos_token"))
    object.emplace("eos_token", eos_text(parts));
  if (object != before) config = object.dump(2) + "\n";
  return result;
}

std::vector<TokenizerChecksum> tokenizer_checksums(const fs::path& directory) {
  std::vector<TokenizerChecksum> found;
  const auto add = [&](std::initializer_list<const char*> names) {
    std::string text;
    for (const char* name : names) {
      if (!fs::is_regular_file(directory / name)) return;
      text += read_file(directory / name);
      if (!foreign_kind(text).empty()) return;
    }
    found.push_back({directory / *names.begin(), sha256_hex(text)});
  };
  add({"tokenizer.json"});
  add({"vocab.json", "merges.txt"});
  add({"tekken.json"});
  add({"tokenizer.model"});
  const fs::path file = directory / "tokenizer_config.json";
  if (!fs::is_regular_file(file)) return found;
  const auto config = read_json_object(file);
  if (const auto made = config.find(kMadeFrom); made != config.end() && made->is_string())
    found.push_back({file, made->get<std::string>()});
  return found;
}

}  // namespace ssa
