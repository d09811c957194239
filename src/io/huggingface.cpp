#include "ssa/io/huggingface.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <set>

#include "ssa/base/error.h"
#include "ssa/base/file.h"
#include "ssa/base/json_file.h"

namespace ssa {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr const char* kModelFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";
constexpr const char* kAdapter = "adapter_model.safetensors";
constexpr const char* kLmHead = "lm_head.weight";
constexpr const char* kEmbedding = "model.embed_tokens.weight";

bool is_gate(const std::string& name) { return name.ends_with(".self_attn.g_proj.weight"); }
bool is_value(const std::string& name) { return name.ends_with(".self_attn.v_proj.weight"); }

bool is_ignored(const std::string& name, bool tied) {
  return name.ends_with(".rotary_emb.inv_freq") || (tied && name == kLmHead);
}

/// A file with weights in a format that is not read; empty if there is none.
fs::path foreign_weights(const fs::path& directory) {
  if (fs::exists(directory / kAdapter)) return directory / kAdapter;
  static const std::set<std::string> foreign = {".gguf", ".pth", ".pt", ".h5", ".msgpack", ".onnx"};
  std::set<fs::path> found;
  std::error_code unreadable;
  for (const auto& entry : fs::directory_iterator(directory, unreadable)) {
    const fs::path& path = entry.path();
    if (foreign.contains(path.extension().string()) || path.filename().string().starts_with("pytorch_model"))
      found.insert(path);
  }
  if (!found.empty()) return *found.begin();
  return {};
}

/// The weight_map of an index: the file, in the same directory, of each tensor.
std::map<std::string, std::string> read_index(const fs::path& path) {
  const auto root = read_json_object<ordered_json>(path);
  SSA_CHECK(root.contains("weight_map") && root["weight_map"].is_object(), path.string(),
            ": no weight_map, expected an object with the file of each tensor");
  std::map<std::string, std::string> files;
  for (const auto& [tensor, file] : root["weight_map"].items()) {
    SSA_CHECK(file.is_string(), path.string(), ": weight_map of ", tensor, " is ", file.dump(),
              ", expected a file name");
    const fs::path name = file.get<std::string>();
    SSA_CHECK(!name.empty() && name == name.filename() && name != ".." && name != ".", path.string(),
              ": weight_map of ", tensor, " is ", file.dump(), ", expected a file of the same directory");
    files[tensor] = name.string();
  }
  return files;
}

}  // namespace

TensorSpec spec_of(const Param& param, FileDType dtype) { return {param.name, dims_of(param.shape), dtype}; }

std::vector<TensorSpec> published_parameters(const ModelConfig& model, FileDType dtype) {
  const ParamTable table(model);
  std::vector<TensorSpec> specs;
  for (const Param& param : table.params()) specs.push_back(spec_of(param, dtype));
  return specs;
}

bool has_weights(const fs::path& directory) {
  return is_present(directory / kModelFile) || is_present(directory / kIndexFile) ||
         !foreign_weights(directory).empty();
}

fs::path weights_file(const fs::path& directory) {
  for (const char* name : {kModelFile, kIndexFile})
    if (is_present(directory / name)) return directory / name;
  const fs::path foreign = foreign_weights(directory);
  if (foreign.empty())
    fail(directory.string(), ": neither ", kModelFile, " nor ", kIndexFile, ", expected the weights");
  if (foreign.filename() == kAdapter)
    fail(foreign.string(), ": an adapter, expected ", kModelFile, "; merge it into its model with peft");
  fail(foreign.string(),
       ": not a format that is read, expected model.safetensors; in Python, "
       "transformers' AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(NEW) converts it");
}

HuggingFaceWeights::HuggingFaceWeights(const fs::path& directory) {
  SSA_CHECK(fs::is_directory(directory), directory.string(), ": no such directory");
  source_ = weights_file(directory);
  if (source_.filename() == kModelFile) {
    shards_.emplace_back(source_);
    for (const auto& entry : shards_[0].tensors()) shard_of_[entry.name] = 0;
    return;
  }
  const auto index = read_index(source_);
  std::map<std::string, std::size_t> opened;
  for (const auto& [tensor, file] : index) {
    const auto [it, is_new] = opened.try_emplace(file, shards_.size());
    if (is_new) shards_.emplace_back(directory / file);
    SSA_CHECK(shards_[it->second].find(tensor), (directory / file).string(), ": tensor ", tensor, " is missing, ",
              kIndexFile, " lists it there");
    shard_of_[tensor] = it->second;
  }
  for (const SafetensorsReader& shard : shards_)
    for (const auto& entry : shard.tensors()) {
      const auto it = index.find(entry.name);
      SSA_CHECK(it != index.end() && it->second == shard.path().filename(), shard.path().string(), ": tensor ",
                entry.name, " is not listed for this file in ", kIndexFile);
    }
}

HuggingFaceWeights::HuggingFaceWeights(const fs::path& directory, const ModelConfig& model,
                                       std::optional<AddedGates> gates)
    : HuggingFaceWeights(directory) {
  check(model, gates);
}

void HuggingFaceWeights::check(const ModelConfig& model, std::optional<AddedGates> gates) {
  gates_ = gates;
  std::set<std::string> names;
  for (const TensorSpec& tensor : published_parameters(model)) {
    if (gates && is_gate(tensor.name)) continue;
    const auto it = shard_of_.find(tensor.name);
    SSA_CHECK(it != shard_of_.end(), source_.string(), ": tensor ", tensor.name, " is missing, expected ",
              to_string(tensor.shape));
    shards_[it->second].at(tensor.name, tensor.shape);
    names.insert(tensor.name);
  }
  for (const auto& [name, shard] : shard_of_)
    SSA_CHECK(names.contains(name) || is_ignored(name, model.tie_word_embeddings), shards_[shard].path().string(),
              ": unexpected tensor ", name, " ", to_string(shards_[shard].at(name).shape));
  if (model.tie_word_embeddings) check_tied_head(model);
}

void HuggingFaceWeights::check_tied_head(const ModelConfig& model) const {
  if (!shard_of_.contains(kLmHead)) return;
  constexpr std::int64_t kPiece = std::int64_t{1} << 20;
  const std::int64_t count = model.vocab_size * model.hidden_size;
  std::vector<float> head, embedding;
  for (std::int64_t first = 0; first < count; first += kPiece) {
    head.resize(static_cast<std::size_t>(std::min(kPiece, count - first)));
    embedding.resize(head.size());
    read({kLmHead, {model.vocab_size, model.hidden_size}}, head, first);
    read({kEmbedding, {model.vocab_size, model.hidden_size}}, embedding, first);
    SSA_CHECK(
        std::memcmp(head.data(), embedding.data(), head.size() * sizeof(float)) == 0, source_.string(),
        ": lm_head.weight differs from model.embed_tokens.weight, and tie_word_embeddings is true; expected equal "
        "weights, or tie_word_embeddings false in config.json");
  }
}

void HuggingFaceWeights::read(const TensorSpec& tensor, std::span<float> out, std::int64_t first) const {
  if (gates_ && is_gate(tensor.name)) {
    std::fill(out.begin(), out.end(), 0.0f);
    return;
  }
  const auto it = shard_of_.find(tensor.name);
  SSA_CHECK(it != shard_of_.end(), source_.string(), ": tensor ", tensor.name, " is missing");
  const SafetensorsReader& shard = shards_[it->second];
  shard.read(shard.at(tensor.name, tensor.shape), out, first);
  if (gates_ && is_value(tensor.name))
    for (float& value : out) value = static_cast<float>(value * gates_->value_scale());
}

HuggingFaceWriter::HuggingFaceWriter(const fs::path& directory, const std::vector<TextFile>& files,
                                     const std::vector<TensorSpec>& tensors, std::uint64_t max_shard_bytes)
    : directory_(fs::absolute(directory).lexically_normal()) {
  if (!directory_.has_filename()) directory_ = directory_.parent_path();  // "dir/"
  if (fs::exists(directory_) && (!fs::is_directory(directory_) || !fs::is_empty(directory_)))
    fail_usage(directory.string(), ": exists, expected a new or an empty directory");

  std::uint64_t shard_bytes = 0;
  for (const TensorSpec& spec : tensors) {
    if (shards_.empty() || (shard_bytes > 0 && shard_bytes + spec.bytes() > max_shard_bytes)) {
      shards_.emplace_back();
      shard_bytes = 0;
    }
    shard_bytes += spec.bytes();
    shards_.back().tensors.push_back(spec);
  }
  SSA_CHECK(!shards_.empty(), directory.string(), ": no tensors to write");
  shards_[0].file = kModelFile;
  if (shards_.size() > 1)
    for (std::size_t i = 0; i < shards_.size(); ++i)
      shards_[i].file = fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards_.size());

  make_directories(directory_.parent_path());
  temporary_ = directory_.parent_path() / (directory_.filename().string() + ".tmp");
  if (!fs::create_directory(temporary_)) {
    const fs::path taken = std::exchange(temporary_, {});
    fail_usage(taken.string(), ": exists; is another export running? If not, remove it");
  }
  try {
    for (const TextFile& file : files) write_whole_file(temporary_ / file.name, file.text);
    open_shard();
  } catch (...) {
    std::error_code ignored;
    fs::remove_all(temporary_, ignored);
    throw;
  }
}

HuggingFaceWriter::~HuggingFaceWriter() {
  if (temporary_.empty()) return;
  writer_.clear();
  std::error_code error;
  fs::remove_all(temporary_, error);
  if (error) spdlog::warn("{}: cannot remove: {}", temporary_.string(), error.message());
}

void HuggingFaceWriter::open_shard() {
  const Shard& shard = shards_[shard_];
  writer_.clear();
  writer_.emplace_back(temporary_ / shard.file, shard.tensors);
  bytes_left_ = 0;
  for (const TensorSpec& spec : shard.tensors) bytes_left_ += spec.bytes();
}

void HuggingFaceWriter::close_shard() {
  writer_.back().finish();
  writer_.clear();
}

void HuggingFaceWriter::append(const std::string& name, std::span<const float> values) {
  if (bytes_left_ == 0 && !values.empty() && shard_ + 1 < shards_.size()) {
    close_shard();
    ++shard_;
    open_shard();
  }
  writer_.back().append(name, values);
  bytes_left_ -= values.size() * size_of(shards_[shard_].tensors[0].dtype);
}

void HuggingFaceWriter::finish() {
  SSA_CHECK(shard_ + 1 == shards_.size(), (temporary_ / shards_[shard_].file).string(), ": ", shard_ + 1, " of ",
            shards_.size(), " shards written");
  close_shard();
  if (shards_.size() > 1) {
    std::uint64_t total = 0;
    ordered_json weight_map = ordered_json::object();
    for (const Shard& shard : shards_)
      for (const TensorSpec& spec : shard.tensors) {
        total += spec.bytes();
        weight_map[spec.name] = shard.file;
      }
    write_whole_file(temporary_ / kIndexFile,
                     ordered_json{{"metadata", {{"total_size", total}}}, {"weight_map", weight_map}}.dump(2) + "\n");
  }
  sync_directory(temporary_);
  rename_path(temporary_, directory_);  // replaces an empty directory
  temporary_.clear();
  sync_directory(directory_.parent_path());
}

}  // namespace ssa
