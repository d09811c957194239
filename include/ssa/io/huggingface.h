// Model directories as Hugging Face keeps them: config.json (ssa/train/config.h reads and writes it), the weights, in
// model.safetensors or in shards that model.safetensors.index.json lists, and the Python files that transformers runs
// them with. Failures throw ssa::Error with file and tensor.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "ssa/io/safetensors.h"
#include "ssa/model/model_config.h"

namespace ssa {

/// The parameters of a published checkpoint of this architecture, in the order of the ParamTable.
std::vector<NamedShape> published_parameters(const ModelConfig& model);

/// The file of a directory that its weights start from, model.safetensors before the index; empty if it has neither.
std::filesystem::path weights_file(const std::filesystem::path& directory);

/// The weights of a directory, memory-mapped, in any dtype that SafetensorsReader reads.
class HuggingFaceWeights {
 public:
  /// Opens every shard and checks that the index and the shards agree.
  explicit HuggingFaceWeights(const std::filesystem::path& directory);
  /// The same, and check(expected, tied).
  HuggingFaceWeights(const std::filesystem::path& directory, const std::vector<NamedShape>& expected, bool tied);

  /// Throws unless the directory holds just these tensors in these shapes. Ignored: rotary inv_freq buffers, which older
  /// writers saved, and with tied embeddings an lm_head.weight.
  void check(const std::vector<NamedShape>& expected, bool tied) const;

  /// Elements [first, first + out.size()) as f32; throws if the shape is another.
  void read(const NamedShape& tensor, std::span<float> out, std::int64_t first = 0) const;

  const std::vector<SafetensorsReader>& shards() const { return shards_; }

 private:
  std::filesystem::path source_;  ///< names the directory's weights in errors
  std::vector<SafetensorsReader> shards_;
  std::map<std::string, std::size_t> shard_of_;
};

/// A file of a directory.
struct TextFile {
  std::string name, text;
};

/// src/train/hf_model/*.py: what config.json's auto_map names.
const std::vector<TextFile>& hugging_face_model_code();

inline constexpr std::uint64_t kMaxShardBytes = 5'000'000'000;

/// Writes a directory. It is complete or not there: everything goes into DIRECTORY.tmp, which finish() renames.
class HuggingFaceWriter {
 public:
  /// `directory` must be new or empty; `files` go beside the weights; `dtype` is f32 or bf16. Above `max_shard_bytes` of
  /// weights they are cut into shards of at most that many (a larger tensor has a shard of its own).
  HuggingFaceWriter(const std::filesystem::path& directory, const std::vector<TextFile>& files,
                    const std::vector<NamedShape>& tensors, FileDType dtype,
                    std::uint64_t max_shard_bytes = kMaxShardBytes);
  ~HuggingFaceWriter();  ///< removes DIRECTORY.tmp unless finish() was reached
  HuggingFaceWriter(const HuggingFaceWriter&) = delete;
  HuggingFaceWriter& operator=(const HuggingFaceWriter&) = delete;

  /// The next elements of a tensor; tensors come in the order given.
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
  std::size_t shard_ = 0;                  ///< being written
  std::uint64_t bytes_left_ = 0;           ///< of it
  std::vector<SafetensorsWriter> writer_;  ///< of it: one or none
};

}  // namespace ssa
