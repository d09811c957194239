#include "ssa/eval/text_encoder.h"

#include <nlohmann/json.hpp>
#include <optional>

#include "ssa/base/file.h"
#include "ssa/config/config.h"
#include "ssa/data/dataset.h"

namespace ssa::eval {
namespace fs = std::filesystem;
namespace {

using Json = nlohmann::json;

constexpr std::int64_t kBytesVocabulary = 257, kBytesEos = 256;

Json read_json(const fs::path& file) {
  Json json = Json::parse(ssa::read_file(file), nullptr, false);
  SSA_CHECK(!json.is_discarded(), file.string(), ": not JSON");
  return json;
}

/// dataset.json of the data that a checkpoint's run learned from, while it is where it was.
std::optional<DatasetInfo> training_data(const ModelSource& source) {
  if (!fs::exists(source.path() / "manifest.json")) return std::nullopt;
  const fs::path config_file = source.path() / "config.json";
  const Config config = parse_config(ssa::read_file(config_file), config_file.string());
  const fs::path info = fs::path(config.data.path) / "dataset.json";
  if (!fs::exists(info)) return std::nullopt;
  return read_dataset_info(info);
}

/// The directory that a tokenizer's files stand in; empty for one that has none.
fs::path directory_of(const std::string& tokenizer) {
  if (fs::is_directory(tokenizer)) return tokenizer;
  return fs::exists(tokenizer) ? fs::path(tokenizer).parent_path() : fs::path();
}

/// The text of a special token, which stands as text or as an object with "content".
std::string token_text(const Json& token) {
  if (token.is_string()) return token.get<std::string>();
  return token.is_object() ? token.value("content", "") : "";
}

/// The text of the begin-of-text token that a tokenizer's files name; empty when they say that there is none; nothing
/// when there are no such files.
std::optional<std::string> bos_text(const fs::path& directory) {
  std::optional<std::string> found;
  for (const char* name : {"tokenizer_config.json", "special_tokens_map.json"}) {
    if (!fs::exists(directory / name)) continue;
    const Json json = read_json(directory / name);
    if (json.is_object() && json.contains("bos_token")) return token_text(json["bos_token"]);
    found = "";
  }
  return found;
}

}  // namespace

std::string find_tokenizer(const ModelSource& source) {
  const ModelConfig& model = source.config();
  if (const auto data = training_data(source)) {
    if (data->tokenizer_name == "bytes") return "bytes";
    fail_usage(source.path().string(), ": learned with the tokenizer ", data->tokenizer_name,
               ", whose file the run does not hold; expected --tokenizer");
  }
  for (const char* name : {"tokenizer.json", "vocab.json"})
    if (fs::exists(source.path() / name)) return source.path().string();
  if (model.vocab_size == kBytesVocabulary && model.eos_token_id == kBytesEos) return "bytes";
  fail_usage(source.path().string(), ": no tokenizer in it, and a vocabulary of ", model.vocab_size,
             "; expected --tokenizer");
}

TextEncoder::TextEncoder(const std::string& tokenizer, const ModelSource& source)
    : tokenizer_(load_tokenizer(tokenizer)),
      encoder_(tokenizer_),
      prefix_token_(static_cast<std::int32_t>(source.config().bos_token_id)) {
  const ModelConfig& model = source.config();
  const auto refuse = [&](const auto&... why) {
    fail("tokenizer ", tokenizer, " is not that of ", source.path().string(), ": ", concat(why...));
  };
  if (tokenizer_.vocab_size() > model.vocab_size)
    refuse("its vocabulary is ", tokenizer_.vocab_size(), ", expected at most the model's ", model.vocab_size);
  if (tokenizer_.eos_token_id() != model.eos_token_id)
    refuse("its end-of-text id is ", tokenizer_.eos_token_id(), ", expected the model's ", model.eos_token_id);
  if (const auto data = training_data(source); data && data->tokenizer_sha256 != tokenizer_.sha256())
    refuse("sha256 ", tokenizer_.sha256(), ", expected ", data->tokenizer_sha256, " of ", data->tokenizer_name,
           ", which the run learned with");

  const fs::path directory = directory_of(tokenizer);
  if (directory.empty()) return;
  const fs::path file = fs::is_directory(tokenizer) ? directory / "tokenizer.json" : fs::path(tokenizer);
  if (file.extension() == ".json" && fs::exists(file)) read_template(file);
  if (const auto bos = bos_text(directory); bos && bos->empty()) {
    prefix_token_ = tokenizer_.eos_token_id();
  } else if (bos) {
    const TokenIds ids = encode_plain(*bos);
    SSA_CHECK(ids.size() == 1, directory.string(), ": bos_token \"", *bos, "\" is ", ids.size(),
              " tokens, expected one");
    prefix_token_ = ids[0];
  }
  prefix_text_ = tokenizer_.decode(std::span(&prefix_token_, 1));
}

void TextEncoder::read_template(const fs::path& file) {
  const Json json = read_json(file);
  std::vector<Json> processors;
  if (const auto found = json.find("post_processor"); found != json.end() && found->is_object()) {
    if (found->value("type", "") == "Sequence")
      processors = found->at("processors").get<std::vector<Json>>();
    else
      processors = {*found};
  }
  for (const Json& processor : processors) {
    if (processor.value("type", "") != "TemplateProcessing") continue;
    bool behind = false;
    for (const Json& piece : processor.at("single")) {
      if (piece.contains("Sequence")) {
        behind = true;
        continue;
      }
      const std::string name = piece.at("SpecialToken").at("id");
      for (const std::int32_t id : processor.at("special_tokens").at(name).at("ids").get<TokenIds>())
        (behind ? after_ : before_).push_back(id);
    }
  }
}

TokenIds TextEncoder::encode_plain(std::string_view text) {
  ids_.clear();
  encoder_.encode(text, ids_);
  return ids_.to_vector();
}

TokenIds TextEncoder::encode(std::string_view text) {
  TokenIds ids = encode_plain(text);
  // A text that has the token already does not get it a second time.
  if (!prefix_text_.empty() && text.starts_with(prefix_text_)) return ids;
  ids.insert(ids.begin(), before_.begin(), before_.end());
  ids.insert(ids.end(), after_.begin(), after_.end());
  return ids;
}

}  // namespace ssa::eval
