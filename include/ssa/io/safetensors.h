// The safetensors format: 8 bytes of header length (little endian), a JSON header with dtype, shape and byte range of
// each tensor, then the data (https://huggingface.co/docs/safetensors). Written here, and not with a library, to check
// files in full and to write tensors in pieces. Failures throw ssa::Error with file and tensor.
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

/// Element types that files may have. The program computes with fewer.
enum class FileDType : std::uint8_t { f64, f32, f16, bf16, i64, i32, u8 };

std::size_t size_of(FileDType dtype);
std::string_view name_of(FileDType dtype);  ///< as in a header: "F32"

using Dims = std::vector<std::int64_t>;

std::string to_string(const Dims& dims);  ///< "[4, 8]"
std::int64_t count_of(const Dims& dims);  ///< product; 1 for a scalar

/// Throws Error unless all values are finite: "WHAT: element N is VALUE, expected finite values". `first` is the index
/// of values[0] in its tensor.
void check_finite(const std::string& what, std::span<const float> values, std::int64_t first = 0);
Dims dims_of(const Shape& shape);

/// Name, shape and element type of a tensor of a file.
struct TensorSpec {
  std::string name;
  Dims shape;
  FileDType dtype = FileDType::f32;

  std::uint64_t bytes() const { return static_cast<std::uint64_t>(count_of(shape)) * size_of(dtype); }
};

/// A memory-mapped file. The constructor checks the whole header: its length, the JSON, each dtype, that the byte range
/// of a tensor has the size of its shape and dtype, and that the ranges cover the data without gap or overlap.
class SafetensorsReader {
 public:
  struct Entry : TensorSpec {
    std::uint64_t begin = 0;  ///< first byte, relative to the start of the data
  };

  explicit SafetensorsReader(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  const std::vector<Entry>& tensors() const { return tensors_; }  ///< in the order of the data
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

  const Entry* find(const std::string& name) const;                   ///< nullptr if there is none
  const Entry& at(const std::string& name) const;                     ///< throws if there is none
  const Entry& at(const std::string& name, const Dims& shape) const;  ///< throws also if the shape differs

  std::span<const std::byte> bytes(const Entry& tensor) const;
  /// Elements [first, first + out.size()) of the tensor, converted to f32: exact for f16 and bf16, rounded for wider
  /// types.
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

/// Writes the header first and then the data as it arrives: the tensors in the order given to the constructor, each in
/// any number of pieces. Only one buffer is kept in memory.
class SafetensorsWriter {
 public:
  SafetensorsWriter(const std::filesystem::path& path, std::vector<TensorSpec> tensors);

  /// Appends the next elements of tensor `name`, the first one that is not complete, converted to its dtype (f32 or
  /// bf16).
  void append(const std::string& name, std::span<const float> values);
  /// The same for elements that have the tensor's dtype already.
  void append_bytes(const std::string& name, std::span<const std::byte> bytes);
  /// Throws unless every tensor is complete; then syncs and closes.
  FileChecksum finish();

  const std::filesystem::path& path() const { return file_.path(); }

 private:
  void skip_empty_tensors();

  FileWriter file_;
  std::vector<TensorSpec> tensors_;
  std::size_t current_ = 0;
  std::uint64_t filled_ = 0;  ///< bytes written of the current tensor
};

}  // namespace ssa
