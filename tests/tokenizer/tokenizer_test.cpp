#include "ssa/tokenizer/tokenizer.h"

#include <algorithm>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "src/tokenizer/formats.h"
#include "ssa/base/error.h"
#include "ssa/tokenizer/hugging_face_tokenizer.h"
#include "ssa/tokenizer/utf8.h"
#include "support/catch.h"
#include "support/error_of.h"
#include "support/paths.h"
#include "support/temp_dir.h"

namespace fs = std::filesystem;
using nlohmann::json;
using ssa::test::check_error;
using ssa::test::error_of;
using ssa::test::TempDir;
using ssa::test::write_file;

namespace {

const fs::path kDirectory = ssa::test::source_dir() / "tests/tokenizer";

fs::path file_of(const std::string& name) { return kDirectory / (name + ".tokenizer.json"); }

ssa::Tokenizer load(const std::string& name) {
  return ssa::load_tokenizer(file_of(name).string(),
                             {.eos_token = name == "llama3" ? "<|end_of_text|>" : "<|endoftext|>"});
}

std::vector<std::int32_t> encode(const ssa::Tokenizer& tokenizer, std::string_view text, bool special_as_text = false) {
  ssa::Encoder encoder(tokenizer);
  ssa::IdBuffer ids;
  encoder.encode(text, ids, special_as_text);
  return ids.to_vector();
}

std::vector<json> vectors(const char* name = "vectors.jsonl") {
  std::vector<json> all;
  std::ifstream file(kDirectory / name);
  for (std::string line; std::getline(file, line);) all.push_back(json::parse(line));
  return all;
}

/// The tokenizer that is read back from the files of an export.
ssa::Tokenizer exported(const std::string& path, const ssa::TokenizerOptions& options = {}) {
  const TempDir directory;
  for (const auto& [name, text] : ssa::hugging_face_tokenizer(path, ssa::read_tokenizer(path, options)).files)
    write_file(directory / name, text);
  return ssa::load_tokenizer(directory.path().string());
}

std::string base64(const std::string& bytes) {
  const char* const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    std::uint32_t bits = 0;
    for (std::size_t j = 0; j < 3; ++j)
      bits = bits << 8 | (i + j < bytes.size() ? static_cast<unsigned char>(bytes[i + j]) : 0u);
    for (int shift = 18; shift >= 0; shift -= 6) out += digits[bits >> shift & 63];
  }
  for (std::size_t i = 0; i < (3 - bytes.size() % 3) % 3; ++i) out[out.size() - 1 - i] = '=';
  return out;
}

/// Naive byte-pair encoding. `ranks`: the bytes of a token to its id, which is its rank.
std::vector<std::int32_t> plain_bpe(const std::map<std::string, std::int32_t>& ranks, const std::string& piece) {
  std::vector<std::size_t> ends;  // of the parts
  for (std::size_t i = 0; i < piece.size(); ++i) ends.push_back(i + 1);
  const auto rank_of = [&](std::size_t first, std::size_t last) {  // the rank of these parts joined
    const std::size_t begin = first == 0 ? 0 : ends[first - 1];
    const auto it = last < ends.size() ? ranks.find(piece.substr(begin, ends[last] - begin)) : ranks.end();
    return it == ranks.end() ? INT32_MAX : it->second;
  };
  std::vector<std::int32_t> pairs;  // the rank of each part joined with the next one
  for (std::size_t i = 0; i < ends.size(); ++i) pairs.push_back(rank_of(i, i + 1));
  while (true) {
    const auto lowest = std::min_element(pairs.begin(), pairs.end());
    if (lowest == pairs.end() || *lowest == INT32_MAX) break;
    const auto i = lowest - pairs.begin();
    ends.erase(ends.begin() + i);
    pairs.erase(lowest);
    for (std::ptrdiff_t j = std::max<std::ptrdiff_t>(i - 1, 0); j <= i; ++j)
      pairs[static_cast<std::size_t>(j)] = rank_of(static_cast<std::size_t>(j), static_cast<std::size_t>(j) + 1);
  }
  std::vector<std::int32_t> ids;
  for (std::size_t i = 0; i < ends.size(); ++i) ids.push_back(rank_of(i, i));
  return ids;
}

}  // namespace

namespace {

/// The error of loading the tokenizer.json `good` with the value at `pointer` replaced.
std::string error_of_changed(const json& good, const TempDir& directory, const char* pointer, const json& value) {
  json file = good;
  file[json::json_pointer(pointer)] = value;
  write_file(directory / "tokenizer.json", file.dump());
  return error_of([&] { ssa::load_tokenizer(directory.path().string()); });
}

}  // namespace

TEST_CASE("tokenizer: ids are those of Hugging Face tokenizers") {
  const std::vector<json> cases = vectors();
  REQUIRE(cases.size() > 150);
  for (const std::string name : {"gpt2", "llama3", "smollm2", "neox", "qwen2", "prefix", "other"}) {
    const ssa::Tokenizer tokenizer = load(name);
    ssa::Encoder encoder(tokenizer);  // one for all texts, so that its cache is used
    ssa::IdBuffer ids;
    int wrong = 0;
    for (int round = 0; round < 2; ++round) {
      for (const json& one : cases) {
        ids.clear();
        encoder.encode(one["text"].get<std::string>(), ids);
        if (ids.to_vector() == one[name].get<std::vector<std::int32_t>>()) continue;
        if (wrong++ == 0) {
          UNSCOPED_INFO(name << ": " << one["text"] << " gives " << json(ids.to_vector()) << ", expected "
                             << one[name]);
        }
      }
    }
    CHECK(wrong == 0);
  }
}

TEST_CASE("tokenizer: SentencePiece BPE with byte fallback has the ids of Hugging Face tokenizers") {
  const std::vector<json> cases = vectors("sentencepiece.jsonl");
  REQUIRE(cases.size() > 150);
  for (const std::string name : {"llama2", "mistral", "always", "gemma"}) {
    const ssa::Tokenizer tokenizer = ssa::load_tokenizer(file_of(name).string());
    ssa::Encoder encoder(tokenizer);
    int wrong = 0, other_texts = 0;
    for (const json& one : cases) {
      const std::string text = one["text"];
      ssa::IdBuffer ids;
      encoder.encode(text, ids);
      if (ids.to_vector() != one[name].get<std::vector<std::int32_t>>() && wrong++ == 0)
        UNSCOPED_INFO(name << ": " << one["text"] << " gives " << json(ids.to_vector()) << ", expected " << one[name]);
      // The sign for a space is decoded to a space, and a space may come before what follows a special token.
      const bool plain = text.find("\u2581") == text.npos && text.find('<') == text.npos &&
                         text.find("plain") == text.npos && !text.starts_with(' ');
      other_texts += plain && tokenizer.decode(ids.to_vector()) != text;
    }
    CHECK(wrong == 0);
    CHECK(other_texts == 0);
  }
}

TEST_CASE("tokenizer: what is no SentencePiece BPE with byte fallback is named") {
  const TempDir directory;
  const json good = json::parse(ssa::read_file(file_of("llama2")));
  const auto error_with = [&](const char* pointer, const json& value) {
    return error_of_changed(good, directory, pointer, value);
  };
  CHECK(error_with("/truncation", nullptr).empty());
  check_error(error_with("/model/type", "Unigram"), "model Unigram is not supported, expected BPE");
  check_error(error_with("/model/type", "WordPiece"), "model WordPiece is not supported, expected BPE");
  check_error(error_with("/model/byte_fallback", false), "pre_tokenizer without ByteLevel", "byte_fallback");
  check_error(error_with("/model/vocab", {{"<unk>", 0}, {"<0x00>", 1}}), "tokenizer.json");
  check_error(error_with("/pre_tokenizer", {{"type", "ByteLevel"}}), "pre_tokenizer ByteLevel with byte_fallback");
  check_error(error_with("/pre_tokenizer", {{"type", "Metaspace"}, {"replacement", "_"}, {"prepend_scheme", "last"}}),
              "prepend_scheme last");
  check_error(error_with("/normalizer", {{"type", "Precompiled"}}), "normalizer Precompiled");
  check_error(error_with("/normalizer", {{"type", "Replace"}, {"pattern", {{"Regex", " "}}}, {"content", "_"}}),
              "normalizer Replace");
  json file = good;
  file["model"]["vocab"].erase("<0x41>");
  write_file(directory / "tokenizer.json", file.dump());
  check_error(error_of([&] { ssa::load_tokenizer(directory.path().string()); }), "without a token <0x41>");
}

TEST_CASE("tokenizer: decoding gives the text back") {
  for (const std::string name : {"gpt2", "llama3", "smollm2"}) {
    const ssa::Tokenizer tokenizer = load(name);
    bool same = true;
    for (const json& one : vectors()) {
      const std::string text = one["text"];
      same = same && tokenizer.decode(encode(tokenizer, text)) == text;
    }
    CHECK(same);
    const std::int32_t beyond[] = {tokenizer.vocab_size()};
    check_error(error_of([&] { tokenizer.decode(beyond); }), "token id");
  }
}

TEST_CASE("tokenizer: with special_as_text a special token is encoded as text") {
  const ssa::Tokenizer tokenizer = load("gpt2");
  const std::string text = "a<|endoftext|>b";
  const auto ids = encode(tokenizer, text);
  CHECK(std::count(ids.begin(), ids.end(), tokenizer.eos_token_id()) == 1);
  const auto as_text = encode(tokenizer, text, true);
  CHECK(std::count(as_text.begin(), as_text.end(), tokenizer.eos_token_id()) == 0);
  CHECK(tokenizer.decode(as_text) == text);
}

TEST_CASE("tokenizer: the bytes tokenizer is exported to Hugging Face files with the same ids") {
  const ssa::Tokenizer tokenizer = exported("bytes");
  CHECK(tokenizer.vocab_size() == 257);
  CHECK(tokenizer.eos_token_id() == 256);
  std::string text;
  std::vector<std::int32_t> ids;
  for (std::uint32_t c = 1; c < 0x2000; c += c < 256 ? 1 : 31) ssa::append_utf8(text, c);
  for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
  CHECK(encode(tokenizer, text) == ids);
  CHECK(tokenizer.decode(ids) == text);
  CHECK(encode(tokenizer, "a<|endoftext|>") == std::vector<std::int32_t>{'a', 256});
}

TEST_CASE("tokenizer: export copies a tokenizer.json and completes tokenizer_config.json") {
  for (const char* name : {"gpt2", "llama3", "qwen2"}) {
    const std::string path = file_of(name).string();
    const auto [files, notes] = ssa::hugging_face_tokenizer(path, ssa::read_tokenizer(path));
    CHECK(notes.empty());
    CHECK(files.at("tokenizer.json") == ssa::read_file(path));
    CHECK(json::parse(files.at("tokenizer_config.json")).at("tokenizer_class") == "PreTrainedTokenizerFast");
    CHECK_FALSE(json::parse(files.at("tokenizer_config.json")).contains("made_from_sha256"));
  }
  // The files next to it are copied too, completed where transformers would fail without.
  const TempDir directory;
  fs::copy(file_of("gpt2"), directory / "tokenizer.json");
  const auto exported_with = [&](const std::string& config) {
    write_file(directory / "tokenizer_config.json", config);
    const std::string path = directory.path().string();
    return ssa::hugging_face_tokenizer(path, ssa::read_tokenizer(path));
  };
  const auto config_of = [&](const std::string& config) {
    return exported_with(config).files.at("tokenizer_config.json");
  };
  const json complete = {{"eos_token", "<|endoftext|>"},
                         {"tokenizer_class", "PreTrainedTokenizerFast"},
                         {"model_input_names", {"input_ids", "attention_mask"}}};
  const std::string whole = "  " + complete.dump();
  CHECK(config_of(whole) == whole);
  for (const char* part : {"{}", R"({"eos_token": "<|endoftext|>"})"}) CHECK(json::parse(config_of(part)) == complete);
  check_error(error_of([&] { config_of("[]"); }), "tokenizer_config.json: JSON array, expected a JSON object");

  // transformers 5 makes the normalizer and the pre-tokenizer of these classes anew. Code that an auto_map names is
  // not in the export.
  for (const char* name : {"GPT2Tokenizer", "LlamaTokenizerFast", "Qwen2Tokenizer", "TokenizersBackend"}) {
    json config = complete;
    config["tokenizer_class"] = name;
    const auto [files, notes] = exported_with(config.dump());
    CHECK(json::parse(files.at("tokenizer_config.json")) == complete);
    REQUIRE(notes.size() == 1);
    check_error(notes[0], (directory / "tokenizer_config.json").string(), name, "PreTrainedTokenizerFast");
  }
  json config = complete;
  config["auto_map"] = {{"AutoTokenizer", {"tokenization_own.OwnTokenizer", nullptr}}};
  const auto without_code = exported_with(config.dump());
  CHECK(json::parse(without_code.files.at("tokenizer_config.json")) == complete);
  REQUIRE(without_code.notes.size() == 1);
  check_error(without_code.notes[0], "tokenizer_config.json: auto_map is left out");

  const std::pair<const char*, std::string> more[] = {{"special_tokens_map.json", R"({"eos_token": "<|endoftext|>"})"},
                                                      {"added_tokens.json", R"({"<|more|>": 641})"},
                                                      {"chat_template.jinja", "{{ messages }}"}};
  for (const auto& [name, text] : more) CHECK(exported_with("{}").files.count(name) == 0);
  for (const auto& [name, text] : more) write_file(directory / name, text);
  const auto all = exported_with("{}").files;
  for (const auto& [name, text] : more) CHECK(all.at(name) == text);
  CHECK_FALSE(json::parse(all.at("tokenizer_config.json")).contains("eos_token"));  // the map has it
  CHECK(encode(exported(directory.path().string()), "a<|more|>") == std::vector<std::int32_t>{64, 641});
}

TEST_CASE("tokenizer: a model directory has the checksums of its tokenizers, and of what an export was made from") {
  const TempDir directory;
  const auto checksums = [&] {
    std::vector<std::pair<std::string, std::string>> found;
    for (const auto& [file, sha256] : ssa::tokenizer_checksums(directory.path()))
      found.emplace_back(file.filename().string(), sha256);
    return found;
  };
  using Found = std::vector<std::pair<std::string, std::string>>;
  CHECK(checksums().empty());
  fs::copy(file_of("gpt2"), directory / "tokenizer.json");
  const std::string gpt2 = ssa::read_tokenizer(file_of("gpt2").string()).sha256;
  CHECK(checksums() == Found{{"tokenizer.json", gpt2}});

  const ssa::Tokenizer::Parts bytes = ssa::read_tokenizer("bytes");
  for (const auto& [name, text] : ssa::hugging_face_tokenizer("bytes", bytes).files) write_file(directory / name, text);
  CHECK(checksums() == Found{{"tokenizer.json", ssa::read_tokenizer((directory / "tokenizer.json").string()).sha256},
                             {"tokenizer_config.json", bytes.sha256}});
  fs::remove(directory / "tokenizer.json");
  write_file(directory / "tokenizer_config.json", "[]");
  check_error(error_of([&] { checksums(); }), "tokenizer_config.json: JSON array, expected a JSON object");
}

TEST_CASE("tokenizer: the id of the bytes tokenizer is the value of the byte") {
  const ssa::Tokenizer tokenizer = ssa::load_tokenizer("bytes");
  CHECK(tokenizer.vocab_size() == 257);
  CHECK(tokenizer.eos_token_id() == 256);
  CHECK(tokenizer.name() == "bytes");
  CHECK(encode(tokenizer, "A\u00e9") == std::vector<std::int32_t>{65, 0xc3, 0xa9});
  CHECK(tokenizer.decode(std::vector<std::int32_t>{65, 0xc3, 0xa9, 256}) == "A\u00e9");
}

TEST_CASE("tokenizer: in vocab.json and merges.txt the tokens that no merge makes are special") {
  const json file = json::parse(ssa::read_file(file_of("smollm2")));
  TempDir directory;
  json vocab = file["model"]["vocab"];
  for (const json& token : file["added_tokens"]) vocab[token["content"].get<std::string>()] = token["id"];
  std::string merges = "#version: 0.2\n";
  for (const json& merge : file["model"]["merges"])
    merges += merge[0].get<std::string>() + " " + merge[1].get<std::string>() + "\n";
  write_file(directory / "vocab.json", vocab.dump());
  write_file(directory / "merges.txt", merges);
  const ssa::Tokenizer tokenizer =
      ssa::load_tokenizer(directory.path().string(), {.eos_token = "", .pre_tokenizer = "smollm2"});
  const ssa::Tokenizer again = exported(directory.path().string(), {.eos_token = "", .pre_tokenizer = "smollm2"});
  for (const ssa::Tokenizer* one_of : {&tokenizer, &again}) {
    CHECK(one_of->eos_token_id() == load("smollm2").eos_token_id());
    int wrong = 0;
    for (const json& one : vectors())
      wrong += encode(*one_of, one["text"].get<std::string>()) != one["smollm2"].get<std::vector<std::int32_t>>();
    CHECK(wrong == 0);
  }
  check_error(
      error_of([&] { ssa::load_tokenizer(directory.path().string(), {.eos_token = "", .pre_tokenizer = "gpt3"}); }),
      "--pre-tokenizer gpt3", "smollm2");
  const std::string vocab_file = (directory / "vocab.json").string();
  check_error(error_of([&] { ssa::load_tokenizer(vocab_file); }), "vocab.json: no \"model\"", "name the directory");
}

TEST_CASE(
    "tokenizer: vocab.json and merges.txt are split as the class in tokenizer_config.json, and must be complete") {
  const json file = json::parse(ssa::read_file(file_of("qwen2")));
  const TempDir directory;
  json vocab = file["model"]["vocab"];
  vocab["<|endoftext|>"] = vocab.size();
  std::string merges = "#version: 0.2\n";
  for (const json& merge : file["model"]["merges"])
    merges += merge[0].get<std::string>() + " " + merge[1].get<std::string>() + "\n";
  write_file(directory / "vocab.json", vocab.dump());
  write_file(directory / "merges.txt", merges);
  const auto with_config = [&](const json& config) {
    write_file(directory / "tokenizer_config.json", config.dump());
    return error_of([&] { ssa::load_tokenizer(directory.path().string()); });
  };
  const std::string text = "12 e\u0301";
  const auto ids_as = [&](const char* pre_tokenizer) {
    return encode(ssa::load_tokenizer(directory.path().string(), {.eos_token = "", .pre_tokenizer = pre_tokenizer}),
                  text);
  };
  REQUIRE(ids_as("gpt2") != ids_as("qwen2"));
  for (const auto& [name, pre_tokenizer] :
       {std::pair{"GPT2TokenizerFast", "gpt2"}, std::pair{"Qwen2Tokenizer", "qwen2"}}) {
    CHECK(with_config({{"tokenizer_class", name}}).empty());
    CHECK(encode(ssa::load_tokenizer(directory.path().string()), text) == ids_as(pre_tokenizer));
  }
  // GPT-NeoX normalizes in addition.
  const auto as_gpt2 = ssa::load_tokenizer(directory.path().string(), {.eos_token = "", .pre_tokenizer = "gpt2"});
  CHECK(with_config({{"tokenizer_class", "GPTNeoXTokenizer"}}).empty());
  for (const ssa::Tokenizer& tokenizer :
       {ssa::load_tokenizer(directory.path().string()), exported(directory.path().string())}) {
    CHECK(encode(tokenizer, text) == encode(tokenizer, "12 \u00e9"));
    CHECK(encode(tokenizer, "12 \u00e9") == encode(as_gpt2, "12 \u00e9"));
  }
  CHECK(with_config({{"tokenizer_class", "GPT2Tokenizer"}, {"pad_token", "<|endoftext|>"}}).empty());
  check_error(with_config({{"tokenizer_class", "GPT2Tokenizer"}, {"pad_token", "[PAD]"}}),
              "tokenizer_config.json: pad_token: found \"[PAD]\"", "expected a token of the vocabulary");
  CHECK(with_config({{"eos_token", {{"content", "<|endoftext|>"}, {"rstrip", true}}}}).empty());
  CHECK(encode(ssa::load_tokenizer(directory.path().string()), "<|endoftext|>  12") ==
        encode(ssa::load_tokenizer(directory.path().string()), "<|endoftext|>12"));
  // The export keeps the chat template, in either place.
  CHECK(with_config({{"chat_template", "{{ messages }}"}}).empty());
  write_file(directory / "chat_template.jinja", "{{ bos_token }}");
  const auto with_template =
      ssa::hugging_face_tokenizer(directory.path().string(), ssa::read_tokenizer(directory.path().string())).files;
  CHECK(json::parse(with_template.at("tokenizer_config.json")).at("chat_template") == "{{ messages }}");
  CHECK(with_template.at("chat_template.jinja") == "{{ bos_token }}");
  check_error(with_config({{"tokenizer_class", "CLIPTokenizer"}}), "tokenizer_config.json", "CLIPTokenizer",
              "--pre-tokenizer");
  check_error(with_config({{"add_prefix_space", true}}), "tokenizer_config.json", "add_prefix_space is true");
  CHECK(with_config(json::object()).empty());
  for (const std::size_t bytes : {std::size_t{0}, merges.find('\n', merges.size() / 2) + 1}) {
    write_file(directory / "merges.txt", merges.substr(0, bytes));  // a download that was cut
    check_error(error_of([&] { ssa::load_tokenizer(directory.path().string()); }), "merges.txt", "no merge makes",
                "complete");
  }
}

TEST_CASE("tokenizer: the files next to vocab.json and merges.txt name special tokens that it lacks") {
  const json file = json::parse(ssa::read_file(file_of("qwen2")));
  const TempDir directory;
  std::string merges = "#version: 0.2\n";
  for (const json& merge : file["model"]["merges"])
    merges += merge[0].get<std::string>() + " " + merge[1].get<std::string>() + "\n";
  write_file(directory / "vocab.json", file["model"]["vocab"].dump());
  write_file(directory / "merges.txt", merges);
  const auto load_directory = [&] {
    return ssa::load_tokenizer(directory.path().string(), {.eos_token = "", .pre_tokenizer = "qwen2"});
  };
  check_error(error_of(load_directory), "no end-of-text token found");
  const json added = {{"<|endoftext|>", 1000}, {"<|im_start|>", 1001}, {"plain", 1002}};
  write_file(directory / "added_tokens.json", added.dump());
  write_file(directory / "special_tokens_map.json",
             R"({"eos_token": {"content": "<|endoftext|>"}, "additional_special_tokens": ["<|im_start|>"]})");
  ssa::Tokenizer tokenizer = load_directory();
  CHECK(tokenizer.eos_token_id() == 1000);
  CHECK(tokenizer.vocab_size() == 1003);
  CHECK(encode(tokenizer, "a<|im_start|>b") == std::vector<std::int32_t>{64, 1001, 65});
  CHECK(encode(tokenizer, "a plain") == std::vector<std::int32_t>{64, 220, 1002});
  CHECK(encode(tokenizer, "a<|im_start|>b", true).size() > 3);
  CHECK(encode(tokenizer, "plain", true) == std::vector<std::int32_t>{1002});  // no special token
  CHECK(encode(tokenizer, "e\u0301") == encode(tokenizer, "\u00e9"));          // Qwen 2 normalizes
  CHECK(encode(exported(directory.path().string(), {.eos_token = "", .pre_tokenizer = "qwen2"}),
               "a<|im_start|>e\u0301") == encode(tokenizer, "a<|im_start|>e\u0301"));

  const auto with_decoder = [&](const json& decoder) {
    write_file(directory / "tokenizer_config.json", json{{"added_tokens_decoder", decoder}}.dump());
    return error_of(load_directory);
  };
  const json all = {{"1000", {{"content", "<|endoftext|>"}, {"special", true}}},
                    {"1001", {{"content", "<|im_start|>"}, {"special", true}, {"rstrip", true}}},
                    {"1002", {{"content", "plain"}}},
                    {"1003", {{"content", "<|new|>"}, {"special", true}}}};
  CHECK(with_decoder(all).empty());
  tokenizer = load_directory();
  CHECK(encode(tokenizer, "<|im_start|>  b<|new|>") == std::vector<std::int32_t>{1001, 65, 1003});
  CHECK(encode(tokenizer, "plain", true) == std::vector<std::int32_t>{1002});
  // With the decoder, transformers ignores added_tokens.json.
  json fewer = all;
  fewer.erase("1002");
  check_error(with_decoder(fewer), "added_tokens.json: token \"plain\"", "added_tokens_decoder");
  json other = all;
  other["1001"]["content"] = "<|other|>";
  check_error(with_decoder(other), "added_tokens.json", "<|im_start|>");
  other = all;
  other.erase("1001");
  other["1004"] = all["1001"];
  check_error(with_decoder(other), "added_tokens.json", "<|im_start|>", "id 1001", "expected 1004");
  check_error(with_decoder({{"7", {{"content", "<|other|>"}}}}), "tokenizer_config.json", "<|other|>", "id 7");
  check_error(with_decoder({{"x", {{"content", "<|other|>"}}}}), "added_tokens_decoder", "\"x\"");
  check_error(with_decoder({{"9", 3}}), "added_tokens_decoder", "\"9\"");
  check_error(with_decoder(3), "added_tokens_decoder is number");
  write_file(directory / "tokenizer_config.json", "{}");
  write_file(directory / "added_tokens.json", R"({"<|endoftext|>": "x"})");
  check_error(error_of(load_directory), "added_tokens.json", "<|endoftext|>", "\"x\"");
  // A download cache has links, whose files may have been removed.
  std::filesystem::remove(directory / "added_tokens.json");
  std::filesystem::create_symlink("blobs/nowhere", directory / "added_tokens.json");
  check_error(error_of(load_directory), "added_tokens.json: cannot open: No such file or directory");
}

TEST_CASE("tokenizer: options that a tokenizer has no use for are errors") {
  const auto load_with = [](const std::string& path, const ssa::TokenizerOptions& options) {
    return error_of([&] { ssa::load_tokenizer(path, options); });
  };
  const ssa::TokenizerOptions splits{.eos_token = "", .pre_tokenizer = "llama3"};
  check_error(load_with(file_of("gpt2").string(), splits), "--pre-tokenizer llama3", "gpt2.tokenizer.json has its own");
  check_error(load_with("bytes", splits), "--pre-tokenizer llama3", "tokenizer bytes has its own");
  check_error(load_with("bytes", {.eos_token = "<e>", .pre_tokenizer = ""}), "--eos-token <e>",
              "tokenizer bytes has the end-of-text token 256");
}

TEST_CASE("tokenizer: a rank file of any size with a stated pattern") {
  const TempDir directory;
  std::string file;
  for (int b = 0; b < 256; ++b) file += base64(std::string(1, static_cast<char>(b))) + " " + std::to_string(b) + "\n";
  file += base64("ab") + " 256\n" + base64("aB") + " 257\n";
  const std::string path = (directory / "own.tiktoken").string();
  write_file(path, file);
  check_error(error_of([&] { ssa::load_tokenizer(path); }), "own.tiktoken: 258 ranks", "o200k_base (199998)",
              "--pre-tokenizer", "regex:PATTERN");
  const auto own = [&](const std::string& pattern) {
    return ssa::load_tokenizer(path, {.eos_token = "<|end|>", .pre_tokenizer = pattern});
  };
  CHECK(own("o200k").eos_token_id() == 258);
  CHECK(encode(own("o200k"), "abaB<|end|>") == std::vector<std::int32_t>{256, 'a', 'B', 258});
  CHECK(encode(own("llama3"), "abaB") == std::vector<std::int32_t>{256, 257});
  CHECK(encode(own("regex:[A-Z]|[a-z]+"), "aBab") == std::vector<std::int32_t>{'a', 'B', 256});
  CHECK(encode(exported(path, {.eos_token = "<|end|>", .pre_tokenizer = "regex:[A-Z]|[a-z]+"}), "aBab<|end|>") ==
        std::vector<std::int32_t>{'a', 'B', 256, 258});
  check_error(error_of([&] { own("regex:(a"); }), "tokenizer pattern (a: column", "unclosed");
  check_error(error_of([&] { own("regex:"); }), "--pre-tokenizer regex:");
  check_error(error_of([&] { ssa::load_tokenizer(path, {.eos_token = "", .pre_tokenizer = "o200k"}); }),
              "no end-of-text token", "--eos-token");
  write_file(directory / "tokenizer_config.json",
             R"({"eos_token": "<e>", "added_tokens_decoder": {"300": {"content": "<e>", "special": true}}})");
  CHECK(ssa::load_tokenizer(path, {.eos_token = "", .pre_tokenizer = "o200k"}).eos_token_id() == 300);
}

TEST_CASE("tokenizer: ranks may have gaps and any order, as for tiktoken") {
  const TempDir directory;
  std::string file = base64("ab") + " 300\n" + base64("abc") + " 260\n";
  for (int b = 255; b >= 0; --b) file += base64(std::string(1, static_cast<char>(b))) + " " + std::to_string(b) + "\n";
  const std::string path = (directory / "own.tiktoken").string();
  const auto load_with = [&](const std::string& more) {
    write_file(path, file + more);
    return ssa::load_tokenizer(path, {.eos_token = "<|end|>", .pre_tokenizer = "gpt2"});
  };
  const ssa::Tokenizer tokenizer = load_with("");
  CHECK(tokenizer.eos_token_id() == 301);
  // The pair of "abc" has a lower rank than the pair of "ab", which it needs.
  CHECK(encode(tokenizer, "ab abc xabc<|end|>") == std::vector<std::int32_t>{300, ' ', 260, ' ', 'x', 260, 301});
  CHECK(encode(exported(path, {.eos_token = "<|end|>", .pre_tokenizer = "gpt2"}), "ab xabc<|end|>") ==
        std::vector<std::int32_t>{300, ' ', 'x', 260, 301});
  check_error(error_of([&] { load_with(base64("q") + " 400\n"); }), "own.tiktoken:259: the token of rank 400",
              "also has rank 113", "expected different tokens");
  check_error(error_of([&] { load_with(base64("qq") + " 300\n"); }), "own.tiktoken:259: rank 300", "line 1",
              "expected different ranks");
  check_error(error_of([&] { load_with(base64("qq") + " 4194304\n"); }), "own.tiktoken:259: rank 4194304",
              "expected at most 4194303");
  write_file(path, base64("ab") + " 300\n");
  check_error(error_of([&] { ssa::load_tokenizer(path); }), "own.tiktoken: no token for byte 0");
}

TEST_CASE("tokenizer: a line of a rank file may end with a carriage return, and holds no other one") {
  const TempDir directory;
  std::string file;
  for (int b = 0; b < 256; ++b) file += base64(std::string(1, static_cast<char>(b))) + " " + std::to_string(b) + "\r\n";
  const std::string path = (directory / "own.tiktoken").string();
  const auto load_with = [&](const std::string& more) {
    write_file(path, file + more);
    return ssa::load_tokenizer(path, {.eos_token = "<|end|>", .pre_tokenizer = "gpt2"});
  };
  CHECK(encode(load_with(base64("ab") + " 256\r\n\r\n" + base64("abc") + " 257\r"), "abc ab") ==
        std::vector<std::int32_t>{257, ' ', 256});
  for (const char* rank : {" \r\n", " 1\r2\n", " \r256\n", " 256\r\r\n", " +256\n", " -1\n", "  256\n", " 256 \n",
                           " \n", "\n", " 0x100\n", " 99999999999999999999\n"}) {
    INFO(json(rank));
    check_error(error_of([&] { load_with(base64("ab") + rank); }), "own.tiktoken:257: expected a token in base64");
  }
}

TEST_CASE("tokenizer: Mistral's tekken.json") {
  const TempDir directory;
  const fs::path path = directory / "tekken.json";
  json vocab = json::array();
  const auto add = [&](const std::string& bytes) {
    vocab.push_back({{"rank", vocab.size()}, {"token_bytes", base64(bytes)}, {"token_str", nullptr}});
  };
  for (int b = 0; b < 256; ++b) add(std::string(1, static_cast<char>(b)));
  for (const char* token : {"ab", "abc", "aB", "beyond the vocabulary"}) add(token);
  const json file = {{"config",
                      {{"pattern", "[A-Z]|[a-z]+|\\s"},
                       {"num_vocab_tokens", 260},
                       {"default_vocab_size", 284},
                       {"default_num_special_tokens", 25},
                       {"version", "v3"}}},
                     {"vocab", vocab}};
  const auto load_file = [&](const json& content) {
    write_file(path, content.dump());
    return ssa::load_tokenizer(directory.path().string());
  };
  const ssa::Tokenizer tokenizer = load_file(file);
  CHECK(tokenizer.vocab_size() == 284);
  CHECK(tokenizer.eos_token_id() == 2);
  const std::vector<std::int32_t> ids = {3, 282, 25 + ' ', 25 + 'a', 25 + 'B', 281, 4, 24, 2};
  CHECK(encode(tokenizer, "[INST]abc aBab[/INST]<SPECIAL_24></s>") == ids);
  CHECK(tokenizer.decode(ids) == "[INST]abc aBab[/INST]<SPECIAL_24></s>");
  CHECK(encode(exported(directory.path().string()), "[INST]abc aBab[/INST]<SPECIAL_24></s>") == ids);

  json changed = file;
  changed["config"]["version"] = "v99";
  check_error(error_of([&] { load_file(changed); }), "tekken.json: version v99", "expected v3, v7, v11, v13 or v15");
  changed["config"]["version"] = "v13";
  check_error(error_of([&] { load_file(changed); }), "version v13 without special_tokens");
  changed["special_tokens"] = {{{"rank", 0}, {"token_str", "<s>"}, {"is_control", true}},
                               {{"rank", 1}, {"token_str", "</s>"}, {"is_control", true}}};
  CHECK(load_file(changed).eos_token_id() == 1);
  changed["special_tokens"][1]["rank"] = 7;
  check_error(error_of([&] { load_file(changed); }), "special token of rank 7");
  changed["special_tokens"][1] = {{"rank", 1}, {"token_str", "<s>"}};
  check_error(error_of([&] { load_file(changed); }), "special token <s> occurs twice");
  changed = file;
  changed["config"]["default_vocab_size"] = 300;
  check_error(error_of([&] { load_file(changed); }), "a vocabulary of 260 tokens, expected 275");
  changed = file;
  changed["vocab"][3]["rank"] = 4;
  check_error(error_of([&] { load_file(changed); }), "vocab[3]", "expected this rank");
  changed = file;
  changed["config"].erase("pattern");
  check_error(error_of([&] { load_file(changed); }), "tekken.json: pattern is null, expected a string");
  changed = file;
  changed["config"]["default_num_special_tokens"] = 3;
  check_error(error_of([&] { load_file(changed); }), "20 special tokens, expected at most");
  changed = file;
  changed["config"]["pattern"] = "(a";
  check_error(error_of([&] { load_file(changed); }), "tekken.json: tokenizer pattern (a");
}

TEST_CASE("tokenizer: a tiktoken rank file gives the ids of naive byte-pair encoding") {
  // As many ranks as GPT-2 has: the bytes, then strings of a's and b's, then others that fill the file.
  std::vector<std::string> tokens;
  for (int b = 0; b < 256; ++b) tokens.emplace_back(1, static_cast<char>(b));
  std::mt19937 random(5);
  std::map<std::string, std::int32_t> ranks;
  for (int length = 2; length <= 9; ++length)
    for (int i = 0; i < 14; ++i) {
      std::string token;
      for (int j = 0; j < length; ++j) token += static_cast<char>('a' + random() % 2);
      if (std::find(tokens.begin(), tokens.end(), token) == tokens.end()) tokens.push_back(token);
    }
  for (int i = 0; tokens.size() < 50256; ++i) tokens.push_back(ssa::concat("#", i));
  std::string file;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    file += base64(tokens[i]) + " " + std::to_string(i) + "\n";
    ranks[tokens[i]] = static_cast<std::int32_t>(i);
  }
  TempDir directory;
  write_file(directory / "ranks.tiktoken", file);
  const ssa::Tokenizer tokenizer = ssa::load_tokenizer((directory / "ranks.tiktoken").string());
  CHECK(tokenizer.vocab_size() == 50257);
  CHECK(tokenizer.eos_token_id() == 50256);
  // The exported tokenizer has a rank per pair, not per token, so it may merge another pair of the same rank first, as
  // after Hugging Face's conversion. A text that is a token as a whole is that token in both.
  const ssa::Tokenizer converted = exported((directory / "ranks.tiktoken").string());
  CHECK(converted.vocab_size() == 50257);
  CHECK(converted.eos_token_id() == 50256);
  for (const char* text : {"abab", "#12 #49000, a ab<|endoftext|>"})
    CHECK(encode(converted, text) == encode(tokenizer, text));
  // Lengths below, around and above those where the algorithm changes.
  ssa::Encoder encoder(tokenizer);
  int wrong = 0;
  for (int round = 0; round < 400; ++round) {
    const std::size_t length = round < 300 ? 1 + static_cast<std::size_t>(round) % 80 : 100 + random() % 400;
    std::string piece;
    const bool one_letter = round % 7 == 0;
    for (std::size_t i = 0; i < length; ++i) piece += static_cast<char>('a' + (one_letter ? 0 : random() % 2));
    ssa::IdBuffer ids;
    encoder.encode(piece, ids);
    wrong +=
        ids.to_vector() != (ranks.count(piece) ? std::vector<std::int32_t>{ranks[piece]} : plain_bpe(ranks, piece));
  }
  CHECK(wrong == 0);

  write_file(directory / "short.tiktoken", file.substr(0, file.rfind('\n', file.size() - 2) + 1));
  check_error(error_of([&] { ssa::load_tokenizer((directory / "short.tiktoken").string()); }), "short.tiktoken",
              "50255 ranks");
  write_file(directory / "bad.tiktoken", "IQ== 0\nIg= x\n");
  check_error(error_of([&] { ssa::load_tokenizer((directory / "bad.tiktoken").string()); }), "bad.tiktoken:2",
              "base64");
}

TEST_CASE("tokenizer: a file that is no tokenizer is named for what it is") {
  const TempDir dir;
  const auto fails = [&](const char* name, const std::string& bytes, const std::string& kind) {
    write_file(dir.path() / name, bytes);
    check_error(error_of([&] { ssa::load_tokenizer((dir.path() / name).string()); }), name, kind);
  };
  // The first pieces of a SentencePiece model: field 1 is a message of text, score and type.
  std::string pieces;
  for (const char* text : {"<unk>", "<s>", "</s>"}) {
    const std::string piece(text);
    pieces += std::string("\x0A") + static_cast<char>(piece.size() + 9) + "\x0A" + static_cast<char>(piece.size()) +
              piece + std::string("\x15\0\0\0\0\x18\x02", 7);
  }
  fails("tokenizer.model", pieces, "a SentencePiece model, expected tiktoken ranks");
  fails("tokenizer.model", "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n", "a Git LFS pointer");
  fails("tokenizer.json", "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n", "a Git LFS pointer");
  fails("tokenizer.json", "<!DOCTYPE html>\n<html>", "an HTML page");
}

TEST_CASE("tokenizer: a pre-token of one megabyte decodes to the same text") {
  const ssa::Tokenizer tokenizer = load("llama3");
  const std::string text(1 << 20, 'a');
  CHECK(tokenizer.decode(encode(tokenizer, text)) == text);
}

TEST_CASE("tokenizer: an unsupported component is an error that names it") {
  const json good = json::parse(ssa::read_file(file_of("gpt2")));
  TempDir directory;
  const auto error_with = [&](const char* pointer, const json& value) {
    return error_of_changed(good, directory, pointer, value);
  };
  CHECK(error_with("/truncation", nullptr).empty());
  const std::string path = (directory / "tokenizer.json").string();
  check_error(error_with("/normalizer", {{"type", "Lowercase"}}), path, "normalizer Lowercase");
  check_error(error_with("/normalizer", {{"type", "Sequence"}, {"normalizers", {{{"type", "NFKC"}}}}}),
              "normalizer NFKC");
  check_error(error_with("/pre_tokenizer", {{"type", "Metaspace"}}), path, "pre_tokenizer Metaspace");
  check_error(error_with("/pre_tokenizer", nullptr), "pre_tokenizer without ByteLevel");
  const json byte_level = {{"type", "ByteLevel"}, {"add_prefix_space", false}};
  check_error(
      error_with("/pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", {byte_level, {{"type", "Digits"}}}}}),
      "pre_tokenizer Digits after ByteLevel");
  const json merged = {{"type", "Split"}, {"pattern", {{"String", " "}}}, {"behavior", "Merged"}, {"invert", false}};
  check_error(error_with("/pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", {merged, byte_level}}}),
              "behavior Merged ", "MergedWithNext");
  check_error(error_with("/model/type", "Unigram"), path, "model Unigram");
  check_error(error_with("/model/byte_fallback", true), "byte_fallback");
  check_error(error_with("/model/end_of_word_suffix", "</w>"), "end_of_word_suffix");
  check_error(error_with("/model/dropout", 0.1), "dropout");
  check_error(error_with("/model/merges/0", "x"), path, "merge \"x\"");
  check_error(error_with("/model/merges/0", "qqq zzz"), path, "qqq zzz");
  check_error(error_with("/model/vocab/!", -3), path, "id -3");
  check_error(error_with("/model/vocab", 3), path, "vocabulary");
  check_error(error_with("/model/vocab/%", 0), path, "token \"%\" has id 0", "the id of \"!\"",
              "expected different ids");
  check_error(error_with("/added_tokens/0/id", "x"), path, "<|endoftext|>");
  check_error(error_with("/added_tokens", json::array()), "end-of-text", "--eos-token");
  check_error(error_with("/model", nullptr), path, "model");
  check_error(error_of([&] { ssa::load_tokenizer(file_of("gpt2").string(), {.eos_token = "<none>"}); }),
              "--eos-token <none>");
  write_file(directory / "tokenizer.json", "{\"model\": ");
  check_error(error_of([&] { ssa::load_tokenizer(directory.path().string()); }), path, "not valid JSON");
  check_error(error_of([&] { ssa::load_tokenizer((directory / "none").string()); }), "no such file");
}

TEST_CASE("tokenizer: the bytes that a byte-level tokenizer omits from texts are named") {
  const json good = json::parse(ssa::read_file(file_of("gpt2")));
  const TempDir directory;
  const auto warning = [&](const json& file) {
    write_file(directory / "tokenizer.json", file.dump());
    return ssa::omitted_bytes(ssa::read_tokenizer(directory.path().string()));
  };
  CHECK(warning(good).empty());
  json file = good;
  auto& vocab = file["model"]["vocab"];
  file["model"]["merges"] = json::array();
  // U+010A stands for the byte 0x0A. The byte 0xFF does not occur in UTF-8.
  const auto rename = [&](const std::string& token) {
    vocab["no " + token] = vocab.at(token);
    vocab.erase(token);
  };
  for (const char* token : {"\u010a", "\u00ff"}) rename(token);
  CHECK(warning(file) == "0x0a");
  const ssa::Tokenizer tokenizer = ssa::load_tokenizer(directory.path().string());
  CHECK(encode(tokenizer, "\n").empty());
  json added = file;
  added["added_tokens"].push_back({{"id", 641}, {"content", "\n"}});
  CHECK(warning(added).empty());
  json unknown = file;
  unknown["model"]["unk_token"] = "!";
  CHECK(warning(unknown).empty());
  for (const char* token : {"a", "b", "c", "d", "e", "f", "g", "h"}) rename(token);
  CHECK(warning(file) == "0x0a, 0x61, 0x62, 0x63, 0x64, 0x65, 0x66, 0x67 and 1 more");
}

TEST_CASE("tokenizer: an added token has the id that Hugging Face tokenizers gives it, whatever the file says") {
  const json good = json::parse(ssa::read_file(file_of("gpt2")));
  const TempDir directory;
  const auto with = [&](const std::vector<json>& tokens) {
    json file = good;
    for (const json& token : tokens) file["added_tokens"].push_back(token);
    write_file(directory / "tokenizer.json", file.dump());
    return error_of([&] { ssa::load_tokenizer(directory.path().string()); });
  };
  const json word = {{"id", 641}, {"content", "word"}};
  CHECK(with({word}).empty());
  CHECK(encode(ssa::load_tokenizer(directory.path().string()), "wordy") == std::vector<std::int32_t>{641, 88});
  check_error(with({{{"id", 5000}, {"content", "word"}}}), "tokenizer.json", "\"word\" has id 5000", "expected 641");
  check_error(with({word, {{"id", 642}, {"content", "word"}}}), "\"word\" has id 642", "641 as in its first entry");
  CHECK(with({word, {{"id", 641}, {"content", "word"}, {"rstrip", true}}}).empty());
  CHECK(encode(ssa::load_tokenizer(directory.path().string()), "word y") == std::vector<std::int32_t>{641, 88});
  CHECK(with({{{"id", 641}, {"content", ""}}, word}).empty());  // an empty one takes no id
  check_error(error_of_changed(good, directory, "/version", "2.0"), "version is \"2.0\"");
}

TEST_CASE("tokenizer: the files next to a tokenizer.json add tokens, as in transformers, or contradict it") {
  const TempDir directory;
  write_file(directory / "tokenizer.json", ssa::read_file(file_of("gpt2")));
  const auto loads = [&] { return ssa::load_tokenizer(directory.path().string()); };
  const auto with = [&](const char* name, const json& content) {
    write_file(directory / name, content.dump());
    const std::string error = error_of(loads);
    write_file(directory / name, "{}");
    return error;
  };
  write_file(directory / "added_tokens.json", R"({"word": 641, "<|endoftext|>": 640, "plain": 642})");
  CHECK(encode(loads(), "word<|endoftext|>plain") == std::vector<std::int32_t>{641, 640, 642});
  CHECK(loads().is_special(640));
  check_error(with("added_tokens.json", {{"word", 5000}}), "tokenizer.json", "\"word\"", "id 5000", "expected 641");
  check_error(with("added_tokens.json", {{"<|endoftext|>", 3}}), "added_tokens.json", "id 3, expected 640");
  for (const json& id :
       {json(std::int64_t{1} << 32 | 641), json(INT64_MIN), json(UINT64_MAX), json(1 << 22), json(641.0)})
    check_error(with("added_tokens.json", {{"word", id}}), "added_tokens.json: token \"word\" has id " + id.dump(),
                "expected 0 to 4194303");
  const json strips = {{"content", "<|endoftext|>"}, {"special", true}, {"rstrip", true}};
  write_file(directory / "tokenizer_config.json", json{{"added_tokens_decoder", {{"640", strips}}}}.dump());
  CHECK(encode(loads(), "<|endoftext|>  a") == std::vector<std::int32_t>{640, 64});
  for (const char* name : {"tokenizer_config.json", "special_tokens_map.json"})
    check_error(with(name, {{"additional_special_tokens", {"<|endoftext|>", "<|im_start|>"}}}), name,
                "additional_special_tokens", "<|im_start|>");
  for (const char* key : {"extra_special_tokens", "model_specific_special_tokens"})
    check_error(with("tokenizer_config.json", {{key, {{"image", "<image>"}}}}), key, "<image>");
  // transformers adds a token to the vocabulary that tokenizer.json lacks.
  const json pad = {{"__type", "AddedToken"}, {"content", "[PAD]"}};
  for (const char* name : {"tokenizer_config.json", "special_tokens_map.json"})
    for (const char* key : {"bos_token", "eos_token", "unk_token", "pad_token", "image_token"})
      for (const json& token : {json("[PAD]"), pad})
        check_error(with(name, {{key, token}}), std::string(name) + ": " + key + ": found \"[PAD]\"",
                    "expected a token of the vocabulary");
  for (const json& other : {json(true), json(nullptr)})
    CHECK(with("tokenizer_config.json", {{"add_bos_token", other}}).empty());
  json padded = json::parse(ssa::read_file(file_of("gpt2")));
  padded["padding"] = {{"pad_token", "[PAD]"}};
  check_error(with("tokenizer.json", padded), "tokenizer.json: padding: found \"[PAD]\"");
  write_file(directory / "tokenizer.json", padded.dump());
  CHECK(with("tokenizer_config.json", {{"pad_token", "<|endoftext|>"}}).empty());
  write_file(directory / "tokenizer.json", ssa::read_file(file_of("gpt2")));
  // With added_tokens_decoder, it ignores the other two files.
  write_file(directory / "added_tokens.json", "{}");
  write_file(directory / "tokenizer_config.json", json{{"added_tokens_decoder", {{"640", strips}}}}.dump());
  CHECK(with("special_tokens_map.json", {{"pad_token", "[PAD]"}}).empty());
  check_error(with("added_tokens.json", {{"word", 641}}), "added_tokens.json: token \"word\"", "added_tokens_decoder");
  write_file(directory / "tokenizer_config.json", "{}");
  check_error(with("tokenizer_config.json", {{"add_prefix_space", true}}), "tokenizer_config.json",
              "add_prefix_space is true", "expected false");
  // A token of the vocabulary keeps its id, and is not cut into others.
  const auto known = json::parse(ssa::read_file(file_of("gpt2")))["model"]["vocab"]["ould"].get<std::int32_t>();
  REQUIRE(encode(loads(), "xould").back() == known);
  const auto ids_with = [&](const char* name, const json& content) {
    write_file(directory / name, content.dump());
    const auto ids = encode(loads(), "ouldould");
    write_file(directory / name, "{}");
    return ids;
  };
  const std::vector<std::int32_t> twice = {known, known};
  const auto unstripped = encode(loads(), "<|endoftext|>  a");
  // The flags of a token of the vocabulary come from the file that names it, those of another from tokenizer.json.
  for (const char* name : {"tokenizer_config.json", "special_tokens_map.json"}) {
    for (const char* key : {"pad_token", "image_token"}) {
      const auto strip = [&](const char* token) {
        return json{{key, {{"__type", "AddedToken"}, {"content", token}, {"rstrip", true}}}};
      };
      write_file(directory / name, strip("ould").dump());
      CHECK(encode(loads(), "ould  ould") == twice);
      CHECK(loads().is_special(known));
      write_file(directory / name, strip("<|endoftext|>").dump());
      CHECK(encode(loads(), "<|endoftext|>  a") == unstripped);
      write_file(directory / name, "{}");
    }
  }
  CHECK(ids_with("added_tokens.json", {{"ould", known}}) == twice);
  CHECK(ids_with("tokenizer_config.json",
                 {{"added_tokens_decoder", {{std::to_string(known), {{"content", "ould"}}}}}}) == twice);
  CHECK(ids_with("special_tokens_map.json", {{"additional_special_tokens", {"ould"}}}) == twice);
  CHECK(ids_with("tokenizer_config.json", {{"eos_token", "ould"}}) == twice);
  check_error(with("added_tokens.json", {{"ould", known + 1}}), "\"ould\"", "has id");
  check_error(with("tokenizer_config.json", {{"split_special_tokens", true}}), "tokenizer_config.json",
              "split_special_tokens is true, expected false");
  CHECK(with("tokenizer_config.json", {{"split_special_tokens", false}}).empty());
  CHECK(with("tokenizer_config.json", {{"add_prefix_space", false}, {"eos_token", "<|endoftext|>"}}).empty());
  write_file(directory / "tokenizer.json", ssa::read_file(file_of("llama2")));
  check_error(with("tokenizer_config.json", {{"add_prefix_space", false}}), "add_prefix_space is false");
}

TEST_CASE("tokenizer: begin and end of text are the tokens that the files next to it name") {
  TempDir directory;
  write_file(directory / "tokenizer.json", ssa::read_file(file_of("llama3")));
  CHECK(ssa::load_tokenizer(directory.path().string()).bos_token() == std::nullopt);
  write_file(directory / "special_tokens_map.json", R"({"bos_token": "<|begin_of_text|>"})");
  write_file(directory / "tokenizer_config.json", R"({"eos_token": {"content": "<|begin_of_text|>"}})");
  ssa::Tokenizer tokenizer = ssa::load_tokenizer(directory.path().string());
  CHECK(tokenizer.eos_token_id() == 640);
  CHECK(tokenizer.bos_token() == "<|begin_of_text|>");
  write_file(directory / "tokenizer_config.json", R"({"eos_token": "<|end_of_text|>", "bos_token": null})");
  tokenizer = ssa::load_tokenizer(directory.path().string());
  CHECK(tokenizer.eos_token_id() == 641);
  CHECK(tokenizer.bos_token() == "");
  // transformers takes the token of the second file, unless the first one has an added_tokens_decoder.
  write_file(directory / "special_tokens_map.json", R"({"eos_token": "<|begin_of_text|>"})");
  check_error(error_of([&] { ssa::load_tokenizer(directory.path().string()); }),
              "special_tokens_map.json: eos_token is \"<|begin_of_text|>\", expected \"<|end_of_text|>\"",
              "--eos-token");
  CHECK(ssa::load_tokenizer(directory.path().string(), {.eos_token = "<|end_of_text|>"}).eos_token_id() == 641);
  write_file(directory / "tokenizer_config.json", R"({"eos_token": "<|end_of_text|>", "added_tokens_decoder": {}})");
  CHECK(ssa::load_tokenizer(directory.path().string()).eos_token_id() == 641);
  write_file(directory / "special_tokens_map.json", "{");
  check_error(error_of([&] { ssa::load_tokenizer(directory.path().string()); }),
              (directory / "special_tokens_map.json").string(), "not valid JSON");
}

TEST_CASE("tokenizer: a special token of the wrong JSON type is an error that names file and key") {
  TempDir directory;
  write_file(directory / "tokenizer.json", ssa::read_file(file_of("llama3")));
  const auto fails = [&](const char* file, const char* text, const char* key) {
    write_file(directory / file, text);
    INFO(file << ": " << text);
    check_error(error_of([&] { ssa::load_tokenizer(directory.path().string()); }), (directory / file).string(), key,
                "expected a string, an object with a string \"content\", or null");
    write_file(directory / file, "{}");
  };
  fails("special_tokens_map.json", R"({"eos_token": 5})", "eos_token is 5");
  fails("special_tokens_map.json", R"({"bos_token": ["<|begin_of_text|>"]})", "bos_token is [");
  fails("tokenizer_config.json", R"({"eos_token": {"text": "<|end_of_text|>"}})", "eos_token is {");
  fails("tokenizer_config.json", R"({"eos_token": {"content": 5}})", "eos_token is {");
  // bos_token of the second file is ignored if the first file has one, but must be well-formed.
  write_file(directory / "tokenizer_config.json", R"({"bos_token": "<|begin_of_text|>"})");
  fails("special_tokens_map.json", R"({"bos_token": true})", "bos_token is true");
}

TEST_CASE("tokenizer: a post-processor's template is read, and not applied by encode") {
  TempDir directory;
  json file = json::parse(ssa::read_file(file_of("llama3")));
  file["post_processor"] = {
      {"type", "TemplateProcessing"},
      {"single",
       {{{"SpecialToken", {{"id", "<|begin_of_text|>"}}}},
        {{"Sequence", {{"id", "A"}}}},
        {{"SpecialToken", {{"id", "<|end_of_text|>"}}}}}},
      {"special_tokens", {{"<|begin_of_text|>", {{"ids", {640}}}}, {"<|end_of_text|>", {{"ids", {641}}}}}}};
  write_file(directory / "tokenizer.json", file.dump());
  const ssa::Tokenizer tokenizer = ssa::load_tokenizer(directory.path().string());
  CHECK(tokenizer.text_template().before == std::vector<std::int32_t>{640});
  CHECK(tokenizer.text_template().after == std::vector<std::int32_t>{641});
  CHECK(encode(tokenizer, "The end") == encode(load("llama3"), "The end"));
  for (const json& id : {json((std::int64_t{1} << 32) + 640), json(-1), json(0.5)}) {
    file["post_processor"]["special_tokens"]["<|begin_of_text|>"]["ids"] = json::array({id});
    write_file(directory / "tokenizer.json", file.dump());
    check_error(error_of([&] { ssa::load_tokenizer(directory.path().string()); }),
                (directory / "tokenizer.json").string() +
                    ": token \"<|begin_of_text|>\" of the post_processor has id " + id.dump(),
                "expected 0 to 4194303");
  }
  for (const char* type : {"BertProcessing", "RobertaProcessing"}) {
    const json around = {{"type", type}, {"sep", {"<|end_of_text|>", 641}}, {"cls", {"<|begin_of_text|>", 640}}};
    const json byte_level = {{"type", "ByteLevel"}, {"add_prefix_space", true}};
    for (const json& processors : {json::array({around}), json::array({byte_level, around})}) {
      CHECK(error_of_changed(file, directory, "/post_processor", {{"type", "Sequence"}, {"processors", processors}})
                .empty());
      const ssa::Tokenizer same = ssa::load_tokenizer(directory.path().string());
      CHECK(same.text_template().before == std::vector<std::int32_t>{640});
      CHECK(same.text_template().after == std::vector<std::int32_t>{641});
    }
    check_error(
        error_of_changed(file, directory, "/post_processor", {{"type", "Sequence"}, {"processors", {around, around}}}),
        "tokenizer.json: post_processor " + std::string(type) + " after " + type, "expected one");
    json damaged = around;
    damaged["sep"] = {"<|end_of_text|>", -1};
    check_error(error_of_changed(file, directory, "/post_processor", damaged), "sep of the post_processor has id -1");
    damaged["sep"] = "<|end_of_text|>";
    check_error(error_of_changed(file, directory, "/post_processor", damaged), "tokenizer.json: not the layout");
  }
  check_error(error_of_changed(file, directory, "/post_processor", {{"type", "Own"}}), "post_processor Own",
              "TemplateProcessing");
  file["post_processor"].erase("special_tokens");
  write_file(directory / "tokenizer.json", file.dump());
  check_error(error_of([&] { ssa::load_tokenizer(directory.path().string()); }),
              (directory / "tokenizer.json").string(), "special_tokens");
}
