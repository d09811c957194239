#include "ssa/eval/text_encoder.h"

#include <filesystem>
#include <optional>
#include <span>

#include "ssa/base/file.h"
#include "ssa/config/config.h"
#include "ssa/data/dataset.h"
#include "ssa/io/checkpoint.h"
#include "ssa/train/model_tokenizer.h"

namespace ssa::eval {
namespace fs = std::filesystem;
namespace {

constexpr std::int64_t kBytesVocabulary = 257, kBytesEos = 256;

/// Whether the model has exactly the vocabulary of the tokenizer `bytes`.
bool fits_bytes(const ModelConfig& model) {
  return model.vocab_size == kBytesVocabulary && model.eos_token_id == kBytesEos;
}

}  // namespace

std::string expect_training_tokenizer(const ModelSource& source, const Dataset& dataset) {
  if (!dataset.info()) return "";
  const std::string expected = other_tokenizer(source.path(), *dataset.info());
  if (expected.empty()) return "";
  const std::string made_with =
      concat(dataset.directory().string(), " was made with the tokenizer ", tokenizer_of(*dataset.info()));
  if (is_checkpoint(source.path()))
    fail(made_with, ", expected ", expected, ", which the run ", source.path().string(), " was trained with");
  return concat(made_with, ", the model has ", expected);
}

std::string find_tokenizer(const ModelSource& source) {
  const ModelConfig& model = source.config();
  if (const auto data = checkpoint_dataset_info(source.path())) {
    if (data->tokenizer_name == "bytes") return "bytes";
    fail_usage(source.path().string(), ": trained with the tokenizer ", data->tokenizer_name,
               ", whose files are not in the run; expected --tokenizer");
  }
  for (const char* name : {"tokenizer.json", "vocab.json"})
    if (fs::exists(source.path() / name)) return source.path().string();
  if (fits_bytes(model)) return "bytes";
  fail_usage(source.path().string(), ": no tokenizer files, and a vocabulary of ", model.vocab_size,
             "; expected --tokenizer");
}

std::string training_tokenizer(const Config& config) {
  if (config.train.eval_tokenizer) return *config.train.eval_tokenizer;
  const auto data = training_dataset_info(config.data);
  if (data ? data->tokenizer_name == "bytes" : fits_bytes(config.model)) return "bytes";
  fail_usage("train.eval_tokenizer: missing, expected the tokenizer of the model, which train.eval_tasks needs: ",
             data ? concat("the data was made with ", data->tokenizer_name)
                  : concat("a vocabulary of ", config.model.vocab_size, " is not that of bytes"));
}

TextEncoder::TextEncoder(const std::string& tokenizer, const ModelSource& source)
    : TextEncoder(
          tokenizer,
          {.name = source.path().string(), .model = source.config(), .data = checkpoint_dataset_info(source.path())}) {}

TextEncoder::TextEncoder(const std::string& tokenizer, const EncodedModel& encoded)
    : tokenizer_(load_tokenizer(tokenizer)),
      encoder_(tokenizer_),
      prefix_token_(static_cast<std::int32_t>(encoded.model.bos_token_id.value_or(encoded.model.eos_token_id))) {
  const ModelConfig& model = encoded.model;
  const auto refuse = [&](const auto&... why) {
    fail("tokenizer ", tokenizer, " does not fit ", encoded.name, ": ", concat(why...));
  };
  if (tokenizer_.vocab_size() > model.vocab_size)
    refuse("its vocabulary is ", tokenizer_.vocab_size(), ", expected at most the model's ", model.vocab_size);
  if (tokenizer_.eos_token_id() != model.eos_token_id)
    refuse("its end-of-text id is ", tokenizer_.eos_token_id(), ", expected the model's ", model.eos_token_id);
  if (const auto& data = encoded.data; data && data->tokenizer_sha256 != tokenizer_.sha256())
    refuse("sha256 ", tokenizer_.sha256(), ", expected ", data->tokenizer_sha256, " of ", data->tokenizer_name,
           ", which the run was trained with");

  if (tokenizer == "bytes") return;
  if (const auto& bos = tokenizer_.bos_token(); bos && bos->empty()) {
    prefix_token_ = tokenizer_.eos_token_id();
  } else if (bos) {
    const TokenIds ids = encode_plain(*bos);
    SSA_CHECK(ids.size() == 1, "tokenizer ", tokenizer, ": bos_token \"", *bos, "\" is ", ids.size(),
              " tokens, expected one");
    prefix_token_ = ids[0];
  }
  prefix_text_ = tokenizer_.decode(std::span(&prefix_token_, 1));
}

TokenIds TextEncoder::encode_plain(std::string_view text) {
  ids_.clear();
  encoder_.encode(text, ids_);
  return ids_.to_vector();
}

TokenIds TextEncoder::encode(std::string_view text) {
  TokenIds ids = encode_plain(text);
  // A text that starts with the begin-of-text token does not get it a second time.
  if (!prefix_text_.empty() && text.starts_with(prefix_text_)) return ids;
  const Tokenizer::Template& around = tokenizer_.text_template();
  ids.insert(ids.begin(), around.before.begin(), around.before.end());
  ids.insert(ids.end(), around.after.begin(), around.after.end());
  return ids;
}

}  // namespace ssa::eval
