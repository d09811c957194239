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

std::string tokenizer_config_json(const Tokenizer::Parts& parts) {
  std::string eos;
  for (const AddedToken& token : added_tokens(parts))
    if (token.id == parts.eos_token_id) eos = token.content;
  const ordered_json file = {
      {"eos_token", eos}, {"pad_token", eos}, {"padding_side", "left"}, {"clean_up_tokenization_spaces", false}};
  return file.dump(2) + "\n";
}

}  // namespace

std::map<std::string, std::string> hugging_face_tokenizer(const std::string& path, const Tokenizer::Parts& parts) {
  std::map<std::string, std::string> files;
  std::string made_from;
  fs::path source(path);
  if (path != "bytes" && is_present(source / "tokenizer.json")) source /= "tokenizer.json";
  if (source.extension() == ".json" && parts.pre_tokenizer.empty()) {
    files["tokenizer.json"] = read_file(source);
    for (const char* name : {"tokenizer_config.json", "special_tokens_map.json"})
      if (const fs::path side_file = source.parent_path() / name; is_present(side_file))
        files[name] = read_file(side_file);
  } else {
    files["tokenizer.json"] = tokenizer_json(parts);
    made_from = parts.sha256;
  }
  std::string& config = files["tokenizer_config.json"];
  if (config.empty()) config = tokenizer_config_json(parts);
  // Without tokenizer_class, transformers 4 looks into config.json and asks for trust_remote_code (5 always does).
  // Without model_input_names its general class makes token_type_ids, which generate() rejects.
  auto object = parse_json_object<ordered_json>(config, (source.parent_path() / "tokenizer_config.json").string());
  const std::size_t keys = object.size();
  object.emplace("tokenizer_class", kTokenizerClass);
  if (object["tokenizer_class"] == kTokenizerClass) object.emplace("model_input_names", kInputNames);
  if (!made_from.empty()) object[kMadeFrom] = made_from;
  if (object.size() > keys) config = object.dump(2) + "\n";
  return files;
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
