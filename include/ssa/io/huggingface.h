// Hugging Face model directories: config.json (ssa/config/config.h reads it, hugging_face_config.h writes it), the
// weights in model.safetensors or in shards listed by model.safetensors.index.json, and the Python files with which
// transformers runs the model. Failures throw ssa::Error with file and tensor.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "ssa/io/safetensors.h"
#include "ssa/model/model_config.h"
#include "ssa/model/param_table.h"

namespace ssa {

/// The parameter as a tensor of a file.
TensorSpec spec_of(const Param& param, FileDType dtype = FileDType::f32);

/// spec_of() all parameters of a model, in the order of the ParamTable: the content of a published checkpoint.
std::vector<TensorSpec> published_parameters(const ModelConfig& model, FileDType dtype = FileDType::f32);

/// The file through which a directory's weights are read: model.safetensors, else the index. Throws if it has neither,
/// and says how to convert what it has instead.
std::filesystem::path weights_file(const std::filesystem::path& directory);

/// Whether the directory has weights, in a format that is read or not.
bool has_weights(const std::filesystem::path& directory);

/// How a dense LLaMA, which has no gates, becomes a model of this program: g_proj is 0, so that every gate is
/// sigmoid(0) = 1/2, and v_proj is multiplied by 2 / gated_outputs. With one gated output, attention computes what the
/// dense layer does, bit for bit: multiplying by 2 and by 1/2 is exact. nsa adds several gated outputs; this makes it
/// their mean.
struct AddedGates {
  int gated_outputs = 1;
  double value_scale() const { return 2.0 / gated_outputs; }
};

/// The weights of a directory, memory-mapped, of any dtype that SafetensorsReader supports.
class HuggingFaceWeights {
 public:
  /// Opens all shards and checks that they agree with the index.
  explicit HuggingFaceWeights(const std::filesystem::path& directory);
  /// The same, then check(model, gates).
  HuggingFaceWeights(const std::filesystem::path& directory, const ModelConfig& model,
                     std::optional<AddedGates> gates = {});

  /// Throws unless the directory has exactly the tensors of `model`, without g_proj if gates are added, with these
  /// shapes and any dtype. Ignored are the rotary inv_freq buffers of older versions, and an lm_head.weight equal to
  /// the embedding if the model ties them. From now on read() adds the gates.
  void check(const ModelConfig& model, std::optional<AddedGates> gates = {});

  /// Elements [first, first + out.size()) as f32. Throws if the tensor's shape differs.
  void read(const TensorSpec& tensor, std::span<float> out, std::int64_t first = 0) const;

  const std::vector<SafetensorsReader>& shards() const { return shards_; }

 private:
  /// Throws unless lm_head.weight, if there is one, equals the embedding.
  void check_tied_head(const ModelConfig& model) const;

  std::filesystem::path source_;  ///< name of the weights in errors
  std::vector<SafetensorsReader> shards_;
  std::map<std::string, std::size_t> shard_of_;
  std::optional<AddedGates> gates_;
};

/// A text file of a directory.
struct TextFile {
  std::string name, text;
};

/// The Python files that auto_map in config.json names: src/io/hf_model/*.py.
const std::vector<TextFile>& hugging_face_model_code();

inline constexpr std::uint64_t kMaxShardBytes = 5'000'000'000;

/// Writes a directory that appears only when it is complete: all files go to DIR.tmp, which finish() renames.
class HuggingFaceWriter {
 public:
  /// `directory` must be new or empty. `files` are written next to the weights. The tensors are f32 or bf16, all the
  /// same. Weights of more than `max_shard_bytes` are split into shards of at most that size, except for larger
  /// tensors, which get a shard each.
  HuggingFaceWriter(const std::filesystem::path& directory, const std::vector<TextFile>& files,
                    const std::vector<TensorSpec>& tensors, std::uint64_t max_shard_bytes = kMaxShardBytes);
  ~HuggingFaceWriter();  ///< removes DIR.tmp unless finish() succeeded
  HuggingFaceWriter(const HuggingFaceWriter&) = delete;
  HuggingFaceWriter& operator=(const HuggingFaceWriter&) = delete;

  /// Appends the next elements of a tensor. Tensors come in the order given to the constructor.
  void append(const std::string& name, std::span<const float> values);
  void finish();

 private:
  struct Shard {
    std::string file;
    std::vector<TensorSpec> tensors;
  };
  void open_shard();
  void close_shard();

  std::filesystem::path directory_, temporary_;
  std::vector<Shard> shards_;
  std::size_t shard_ = 0;                  ///< index of the shard being written
  std::uint64_t bytes_left_ = 0;           ///< of that shard
  std::vector<SafetensorsWriter> writer_;  ///< of that shard: one or none
};

}  // namespace ssa
