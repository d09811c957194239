// The safetensors format: 8 bytes of header length (little endian), a JSON header with name -> dtype, shape and byte
// range, then the data (https://huggingface.co/docs/safetensors). Failures throw ssa::Error with file and tensor.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "ssa/base/file.h"
#include "ssa/base/mapped_file.h"
#include "ssa/runtime/tensor.h"

namespace ssa {

/// Element types of files; more than the program computes with.
enum class FileDType : std::uint8_t { f64, f32, f16, bf16, i64, i32, u8 };

std::size_t size_of(FileDType dtype);
std::string_view name_of(FileDType dtype);  ///< "F32", as the header spells it

using Dims = std::vector<std::int64_t>;

std::string to_string(const Dims& dims);  ///< "[4, 8]"
std::int64_t count_of(const Dims& dims);  ///< product; 1 for a scalar
Dims dims_of(const Shape& shape);

/// A parameter as the trainer knows it.
struct NamedShape {
  std::string name;
  Dims shape;
};

/// A tensor as a file holds it.
struct TensorSpec {
  std::string name;
  FileDType dtype = FileDType::f32;
  Dims shape;

  std::uint64_t bytes() const { return static_cast<std::uint64_t>(count_of(shape)) * size_of(dtype); }
};

/// A memory-mapped file. The constructor checks everything the header says: its length, the JSON, each dtype, that
/// shape and dtype give the byte range, and that the ranges fill the data without overlap or hole.
class SafetensorsReader {
 public:
  struct Entry : TensorSpec {
    std::uint64_t begin = 0;  ///< first byte, counted from the start of the data
  };

  explicit SafetensorsReader(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  const std::vector<Entry>& tensors() const { return tensors_; }  ///< in the order of the data
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

  const Entry* find(const std::string& name) const;                   ///< null if there is none
  const Entry& at(const std::string& name) const;                     ///< an error if there is none
  const Entry& at(const std::string& name, const Dims& shape) const;  ///< the same for another shape

  std::span<const std::byte> bytes(const Entry& tensor) const;
  /// Elements [first, first + out.size()) of the tensor, converted to f32 (exact for f16 and bf16, else rounded).
  void read(const Entry& tensor, std::span<float> out, std::int64_t first = 0) const;

 private:
  void parse_header(std::string_view header);

  std::filesystem::path path_;
  MappedFile file_;
  std::span<const std::byte> data_;
  std::vector<Entry> tensors_;
  std::unordered_map<std::string, std::size_t> index_;
  std::map<std::string, std::string> metadata_;
};

/// Writes the header at once and then the data as it comes: the tensors in the order given to the constructor, each in
/// as many pieces as the caller likes. Nothing but one buffer is held in memory.
class SafetensorsWriter {
 public:
  SafetensorsWriter(const std::filesystem::path& path, std::vector<TensorSpec> tensors);

  /// The next elements of the tensor, which must be the current one; converted to its dtype (f32 or bf16).
  void append(const std::string& name, std::span<const float> values);
  /// The same for bytes that already have the tensor's dtype.
  void append_bytes(const std::string& name, std::span<const std::byte> bytes);
  /// Checks that every tensor is complete; syncs and closes.
  FileChecksum finish();

  const std::filesystem::path& path() const { return file_.path(); }

 private:
  void skip_empty_tensors();

  FileWriter file_;
  std::vector<TensorSpec> tensors_;
  std::size_t current_ = 0;
  std::uint64_t filled_ = 0;  ///< bytes of the current tensor so far
};

}  // namespace ssa
