// Reads the tokenizer files of Hugging Face and of tiktoken.
#include <openssl/evp.h>

#include <algorithm>
#include <climits>
#include <iterator>
#include <nlohmann/json.hpp>
#include <unordered_map>
#include <utility>

#include "src/tokenizer/byte_alphabet.h"
#include "src/tokenizer/sha256.h"
#include "ssa/base/error.h"
#include "ssa/base/file.h"
#include "ssa/tokenizer/tokenizer.h"

namespace ssa {
namespace fs = std::filesystem;
using nlohmann::json;
namespace {

constexpr std::int32_t kMaxVocabulary = 1 << 22;  // ids beyond are taken for damage, not for a vocabulary

json parse_json(const fs::path& path, const std::string& text) {
  try {
    return json::parse(text);
  } catch (const json::exception& error) {
    fail(path.string(), ": not valid JSON: ", error.what());
  }
}

std::string name_of(const fs::path& path) {
  const fs::path full = fs::absolute(path).lexically_normal();
  const fs::path directory = full.has_filename() ? full : full.parent_path();
  return directory.filename().string();
}

/// The vocabulary of a byte-level BPE as its files write it.
struct TokenTable {
  explicit TokenTable(fs::path source) : file(std::move(source)) {}

  fs::path file;
  std::unordered_map<std::string, std::int32_t> ids;

  std::int32_t id(const std::string& token) const {
    const auto it = ids.find(token);
    return it == ids.end() ? -1 : it->second;
  }

  void add_vocab(const json& vocab) {
    SSA_CHECK(vocab.is_object(), file.string(), ": the vocabulary is no object of token: id");
    for (const auto& [token, id] : vocab.items()) {
      SSA_CHECK(id.is_number_integer() && id >= 0 && id < kMaxVocabulary, file.string(), ": token \"", token,
                "\" has id ", id.dump(), ", expected 0 to ", kMaxVocabulary - 1);
      ids[token] = id.get<std::int32_t>();
    }
  }

  void add_merge(Bpe::Vocabulary& vocabulary, const std::string& left, const std::string& right) const {
    const BpeMerge merge{id(left), id(right), id(left + right), static_cast<std::uint32_t>(vocabulary.merges.size())};
    SSA_CHECK(merge.left >= 0 && merge.right >= 0 && merge.result >= 0, file.string(), ": merge \"", left, " ", right,
              "\" needs a token that the vocabulary lacks");
    vocabulary.merges.push_back(merge);
  }

  void fill(Tokenizer::Parts& parts) const {
    const ByteAlphabet& alphabet = ByteAlphabet::get();
    std::string bytes;
    for (const auto& [token, id] : ids) {
      const auto index = static_cast<std::size_t>(id);
      if (parts.texts.size() <= index) parts.texts.resize(index + 1);
      parts.texts[index] = alphabet.bytes_of(token, bytes) ? bytes : token;
    }
    for (std::size_t b = 0; b < 256; ++b)
      parts.vocabulary.byte_ids[b] = id(alphabet.token_of(std::string(1, static_cast<char>(b))));
  }
};

/// Special and other added tokens become part of the vocabulary, and are found by their text.
void add_token(Tokenizer::Parts& parts, const AddedToken& token) {
  const auto index = static_cast<std::size_t>(token.id);
  if (parts.texts.size() <= index) parts.texts.resize(index + 1);
  parts.texts[index] = token.content;
  parts.added.push_back(token);
}

std::int32_t added_id(const Tokenizer::Parts& parts, const std::string& content) {
  for (const AddedToken& token : parts.added)
    if (token.content == content) return token.id;
  return -1;
}

std::string text_of(const json& token) {
  if (token.is_string()) return token.get<std::string>();
  if (token.is_object() && token.contains("content") && token["content"].is_string())
    return token["content"].get<std::string>();
  return "";
}

/// The end-of-text token: as the caller says, else as the files beside the tokenizer say, else by its usual names.
void choose_eos(Tokenizer::Parts& parts, const fs::path& directory, const std::string& wanted) {
  std::vector<std::string> names;
  if (!wanted.empty()) {
    names = {wanted};
  } else {
    for (const char* name : {"tokenizer_config.json", "special_tokens_map.json"}) {
      const fs::path path = directory / name;
      if (!fs::is_regular_file(path)) continue;
      const json config = parse_json(path, read_file(path));
      if (config.is_object() && config.contains("eos_token")) names.push_back(text_of(config["eos_token"]));
    }
    for (const char* name : {"<|end_of_text|>", "<|endoftext|>", "</s>"}) names.emplace_back(name);
  }
  for (const std::string& name : names) {
    parts.eos_token_id = added_id(parts, name);
    if (parts.eos_token_id >= 0) return;
  }
  if (!wanted.empty()) fail_usage("--eos-token ", wanted, ": no added token of ", parts.name, " has this text");
  fail_usage(directory.string(), ": no end-of-text token found, expected --eos-token");
}

std::string type_of(const json& component) {
  if (component.is_object() && component.contains("type") && component["type"].is_string())
    return component["type"].get<std::string>();
  return "without a type";
}

bool flag(const json& object, const char* key, bool otherwise) {
  if (!object.contains(key) || object[key].is_null()) return otherwise;
  return object[key].get<bool>();
}

/// Calls use(component) for it, or for each in a Sequence.
template <class Use>
void each_component(const json& component, const char* list, Use&& use) {
  if (component.is_null()) return;
  if (type_of(component) != "Sequence") return use(component);
  for (const json& part : component.at(list)) each_component(part, list, use);
}

void read_normalizer(const json& normalizer, Tokenizer::Parts& parts) {
  each_component(normalizer, "normalizers", [&](const json& component) {
    SSA_CHECK(type_of(component) == "NFC", "normalizer ", type_of(component),
              " is not supported, expected NFC or none");
    parts.nfc = true;
  });
}

void read_pre_tokenizer(const json& pre_tokenizer, Tokenizer::Parts& parts) {
  bool byte_level = false;
  each_component(pre_tokenizer, "pretokenizers", [&](const json& component) {
    const std::string type = type_of(component);
    SSA_CHECK(!byte_level, "pre_tokenizer ", type,
              " behind ByteLevel is not supported, expected ByteLevel as the last");
    if (type == "ByteLevel") {
      byte_level = true;
      if (flag(component, "add_prefix_space", true)) parts.splitter.add_prefix_space();
      if (flag(component, "use_regex", true)) parts.splitter.add_gpt2();
    } else if (type == "Digits") {
      parts.splitter.add_digits(flag(component, "individual_digits", false));
    } else if (type == "Split") {
      const json& pattern = component.at("pattern");
      const bool literal = pattern.contains("String");
      const std::string behavior = component.at("behavior").get<std::string>();
      const bool invert = flag(component, "invert", false);
      SSA_CHECK(behavior == "Isolated" || behavior == "Removed", "pre_tokenizer Split with behavior ", behavior,
                " is not supported, expected Isolated or Removed");
      const bool isolated = behavior == "Isolated";
      parts.splitter.add_pattern(pattern.at(literal ? "String" : "Regex").get<std::string>(), literal,
                                 isolated || invert, isolated || !invert);
    } else {
      fail("pre_tokenizer ", type, " is not supported, expected ByteLevel, Split, Digits or a Sequence of them");
    }
  });
  SSA_CHECK(byte_level, "pre_tokenizer without ByteLevel is not supported, expected a byte-level BPE");
}

void read_model(const json& model, const fs::path& path, Tokenizer::Parts& parts) {
  const std::string type = model.contains("type") ? type_of(model) : "BPE";
  SSA_CHECK(type == "BPE", "model ", type, " is not supported, expected BPE");
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"})
    SSA_CHECK(!model.contains(key) || model[key].is_null() || model[key] == "", "model BPE with ", key,
              " is not supported, expected none");
  SSA_CHECK(!flag(model, "byte_fallback", false),
            "model BPE with byte_fallback is not supported, expected a byte-level BPE");
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
  table.fill(parts);
  if (model.contains("unk_token") && model["unk_token"].is_string()) {
    parts.vocabulary.unknown = table.id(model["unk_token"].get<std::string>());
    parts.vocabulary.fuse_unknown = flag(model, "fuse_unk", false);
  }
  if (flag(model, "ignore_merges", false)) {
    std::string bytes;
    for (const auto& [token, id] : table.ids)
      if (ByteAlphabet::get().bytes_of(token, bytes)) parts.vocabulary.whole.emplace(bytes, id);
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

Tokenizer::Parts read_tokenizer_json(const fs::path& path, const TokenizerOptions& options) {
  const std::string text = read_file(path);
  const json file = parse_json(path, text);
  Tokenizer::Parts parts{.name = name_of(path.has_parent_path() ? path.parent_path() : fs::current_path()),
                         .sha256 = sha256_hex(text)};
  try {
    SSA_CHECK(file.is_object() && file.contains("model") && file["model"].is_object(),
              "no \"model\", expected a tokenizer.json");
    read_normalizer(file.value("normalizer", json()), parts);
    read_pre_tokenizer(file.value("pre_tokenizer", json()), parts);
    read_model(file["model"], path, parts);
    const auto known = file["model"]["vocab"].get<std::unordered_map<std::string, std::int32_t>>();
    read_added_tokens(file.value("added_tokens", json::array()), parts, known);
  } catch (const json::exception& error) {
    fail(path.string(), ": not the layout of a tokenizer.json: ", error.what());
  } catch (const Error& error) {
    const std::string message = error.what();
    if (message.rfind(path.string(), 0) == 0) throw;
    fail(path.string(), ": ", message);
  }
  choose_eos(parts, path.parent_path(), options.eos_token);
  return parts;
}

void set_pre_tokenizer(const std::string& name, Tokenizer::Parts& parts) {
  parts.pre_tokenizer = name;
  if (name == "gpt2") {
    parts.splitter.add_gpt2();
  } else if (name == "smollm2") {
    parts.splitter.add_digits(true);
    parts.splitter.add_gpt2();
  } else if (name == "llama3") {
    parts.splitter.add_cl100k(3);
  } else if (name == "qwen2") {
    parts.splitter.add_cl100k(1);
  } else {
    fail_usage("--pre-tokenizer ", name, ": unknown, expected gpt2, smollm2, llama3 or qwen2");
  }
}

Tokenizer::Parts read_vocab_and_merges(const fs::path& directory, const TokenizerOptions& options) {
  const fs::path vocab_path = directory / "vocab.json", merges_path = directory / "merges.txt";
  const std::string vocab_text = read_file(vocab_path), merges_text = read_file(merges_path);
  Tokenizer::Parts parts{.name = name_of(directory), .sha256 = sha256_hex(vocab_text + merges_text)};
  set_pre_tokenizer(options.pre_tokenizer.empty() ? "gpt2" : options.pre_tokenizer, parts);
  TokenTable table(vocab_path);
  table.add_vocab(parse_json(vocab_path, vocab_text));
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
  // These two files do not name the special tokens. They are the entries that are no byte and that no merge makes.
  std::vector<bool> is_byte(parts.texts.size());
  for (const std::int32_t id : parts.vocabulary.byte_ids)
    if (id >= 0) is_byte[static_cast<std::size_t>(id)] = true;
  made.resize(parts.texts.size());
  std::vector<AddedToken> special;
  for (const auto& [token, id] : table.ids) {
    const auto index = static_cast<std::size_t>(id);
    if (!is_byte[index] && !made[index]) special.push_back({.content = token, .id = id, .special = true});
  }
  std::sort(special.begin(), special.end(), [](const auto& a, const auto& b) { return a.id < b.id; });
  for (const AddedToken& token : special) add_token(parts, token);
  choose_eos(parts, directory, options.eos_token);
  return parts;
}

/// Padding may be missing. Empty for text that is not base64: EVP_DecodeBlock itself accepts '=' anywhere, and spaces.
std::string base64_decode(std::string_view text) {
  std::string digits(text.substr(0, text.find_last_not_of('=') + 1));
  const std::size_t padding = (4 - digits.size() % 4) % 4;
  constexpr const char* kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  if (padding == 3 || digits.size() > INT_MAX - 3u || digits.find_first_not_of(kDigits) != digits.npos) return "";
  digits.append(padding, '=');
  std::string out(digits.size() / 4 * 3, '\0');
  EVP_DecodeBlock(reinterpret_cast<unsigned char*>(out.data()), reinterpret_cast<const unsigned char*>(digits.data()),
                  static_cast<int>(digits.size()));
  out.resize(out.size() - padding);
  return out;
}

/// The special tokens of the published rank files, which the files do not hold; told apart by the number of ranks.
void add_tiktoken_specials(std::size_t ranks, const fs::path& path, Tokenizer::Parts& parts) {
  const auto special = [&](std::string content, std::size_t id) {
    add_token(parts, {.content = std::move(content), .id = static_cast<std::int32_t>(id), .special = true});
  };
  if (ranks == 128000) {  // Llama 3
    set_pre_tokenizer("llama3", parts);
    const std::pair<const char*, int> named[] = {
        {"<|begin_of_text|>", 0},   {"<|end_of_text|>", 1},   {"<|finetune_right_pad_id|>", 4},
        {"<|start_header_id|>", 6}, {"<|end_header_id|>", 7}, {"<|eom_id|>", 8},
        {"<|eot_id|>", 9},          {"<|python_tag|>", 10}};
    int reserved = 0;
    for (int i = 0; i < 256; ++i) {
      const auto* it = std::find_if(std::begin(named), std::end(named), [&](const auto& n) { return n.second == i; });
      special(it != std::end(named) ? it->first : concat("<|reserved_special_token_", reserved++, "|>"),
              ranks + static_cast<std::size_t>(i));
    }
  } else if (ranks == 100256) {          // cl100k_base
    set_pre_tokenizer("llama3", parts);  // the same pattern
    special("<|endoftext|>", 100257);
    special("<|fim_prefix|>", 100258);
    special("<|fim_middle|>", 100259);
    special("<|fim_suffix|>", 100260);
    special("<|endofprompt|>", 100276);
  } else if (ranks == 50256) {  // gpt2, r50k_base
    set_pre_tokenizer("gpt2", parts);
    special("<|endoftext|>", 50256);
  } else {
    fail(path.string(), ": ", ranks,
         " ranks, expected those of Llama 3 (128000), cl100k_base (100256) or gpt2 (50256)");
  }
}

Tokenizer::Parts read_tiktoken(const fs::path& path, const TokenizerOptions& options) {
  const std::string file = read_file(path);
  Tokenizer::Parts parts{.name = name_of(path.has_parent_path() ? path.parent_path() : fs::current_path()),
                         .sha256 = sha256_hex(file)};
  std::unordered_map<std::string, std::int32_t> ids;
  for (std::size_t start = 0, number = 1; start < file.size(); ++number) {
    std::size_t end = file.find('\n', start);
    if (end == file.npos) end = file.size();
    const std::string_view line(file.data() + start, end - start);
    start = end + 1;
    if (line.empty()) continue;
    const std::size_t space = line.find(' ');
    std::string bytes = base64_decode(line.substr(0, space));
    const bool is_rank = space != line.npos && line.size() > space + 1 && line.size() < space + 10 &&
                         line.find_first_not_of("0123456789\r", space + 1) == line.npos;
    SSA_CHECK(!bytes.empty() && is_rank, path.string(), ":", number,
              ": expected a token in base64, a space and its rank");
    const int id = std::stoi(std::string(line.substr(space + 1)));
    SSA_CHECK(id == static_cast<int>(ids.size()) && ids.emplace(bytes, id).second, path.string(), ":", number,
              ": rank ", id, ", expected ranks 0, 1, ... of different tokens");
    parts.texts.push_back(std::move(bytes));
  }
  for (std::size_t b = 0; b < 256; ++b) {
    const auto it = ids.find(std::string(1, static_cast<char>(b)));
    SSA_CHECK(it != ids.end(), path.string(), ": no token for byte ", b, ", expected all 256");
    parts.vocabulary.byte_ids[b] = it->second;
  }
  // tiktoken merges any two neighbours whose bytes together are a token, lowest token first: each split of a token
  // into two others is a merge of its rank.
  for (std::size_t id = 0; id < parts.texts.size(); ++id) {
    const std::string& text = parts.texts[id];
    for (std::size_t cut = 1; cut < text.size(); ++cut) {
      const auto left = ids.find(text.substr(0, cut));
      if (left == ids.end()) continue;
      const auto right = ids.find(text.substr(cut));
      if (right != ids.end())
        parts.vocabulary.merges.push_back(
            {left->second, right->second, static_cast<std::int32_t>(id), static_cast<std::uint32_t>(id)});
    }
  }
  parts.vocabulary.whole = std::move(ids);
  add_tiktoken_specials(parts.texts.size(), path, parts);
  choose_eos(parts, path.parent_path(), options.eos_token);
  return parts;
}

Tokenizer::Parts bytes_parts() {
  Tokenizer::Parts parts{.name = "bytes", .sha256 = sha256_hex("bytes"), .eos_token_id = 256};
  for (std::int32_t b = 0; b < 256; ++b) {
    parts.texts.emplace_back(1, static_cast<char>(b));
    parts.vocabulary.byte_ids[static_cast<std::size_t>(b)] = b;
  }
  parts.texts.emplace_back();  // the end of text stands for nothing
  return parts;
}

}  // namespace

Tokenizer::Parts read_tokenizer(const std::string& path, const TokenizerOptions& options) {
  if (path == "bytes") return bytes_parts();
  const fs::path given(path);
  if (fs::is_directory(given)) {
    if (fs::exists(given / "tokenizer.json")) return read_tokenizer_json(given / "tokenizer.json", options);
    if (fs::exists(given / "vocab.json") && fs::exists(given / "merges.txt"))
      return read_vocab_and_merges(given, options);
    if (fs::exists(given / "tokenizer.model")) return read_tiktoken(given / "tokenizer.model", options);
    fail_usage(path, ": a directory without tokenizer.json, vocab.json and merges.txt, or tokenizer.model");
  }
  if (!fs::is_regular_file(given))
    fail_usage("--tokenizer ", path, ": no such file or directory, expected one of them or \"bytes\"");
  if (given.extension() == ".json") return read_tokenizer_json(given, options);
  return read_tiktoken(given, options);
}

Tokenizer load_tokenizer(const std::string& path, const TokenizerOptions& options) {
  return Tokenizer(read_tokenizer(path, options));
}

}  // namespace ssa
