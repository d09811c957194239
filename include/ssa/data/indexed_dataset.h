// Megatron-LM indexed datasets: PREFIX.bin has the tokens of all sequences, concatenated; PREFIX.idx has their
// positions.
//
//   bytes   PREFIX.idx, little-endian (Megatron-LM, core/datasets/indexed_dataset.py)
//   9       magic "MMIDIDX\0\0"
//   8       u64 version, 1
//   1       u8 element type, see TokenType
//   8       u64 number of sequences S
//   8       u64 number of document indices D
//   4 S     i32 tokens of each sequence
//   8 S     i64 byte offset of each sequence in PREFIX.bin
//   8 D     i64 index of the first sequence of each document, then S
//
// ssa_tokenize writes one sequence per document, so D = S + 1. When reading, every sequence counts as a document.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "ssa/base/mapped_file.h"

namespace ssa {

/// The supported element types, with Megatron's codes. ssa_tokenize writes no int64.
enum class TokenType : std::uint8_t { int32 = 4, int64 = 5, uint16 = 8 };

constexpr std::size_t size_of(TokenType type) {
  return type == TokenType::uint16 ? 2 : type == TokenType::int32 ? 4 : 8;
}
constexpr std::string_view name_of(TokenType type) {
  return type == TokenType::uint16 ? "uint16" : type == TokenType::int32 ? "int32" : "int64";
}
/// The type in which ssa_tokenize writes a dataset with this vocabulary.
constexpr TokenType token_type_for(std::int64_t vocab_size) {
  return vocab_size <= 65536 ? TokenType::uint16 : TokenType::int32;
}

inline constexpr std::array<char, 9> kIdxMagic = {'M', 'M', 'I', 'D', 'I', 'D', 'X', '\0', '\0'};
inline constexpr std::uint64_t kIdxVersion = 1;
inline constexpr std::size_t kIdxHeaderBytes = kIdxMagic.size() + 8 + 1 + 8 + 8;

/// A memory-mapped shard. The constructor checks that lengths, offsets and file sizes agree. Reading is thread-safe.
class IndexedDataset {
 public:
  /// `prefix` is the path without .bin and .idx. Throws Error with the file, what was found and what was expected.
  explicit IndexedDataset(const std::filesystem::path& prefix);

  const std::filesystem::path& prefix() const { return prefix_; }
  TokenType type() const { return type_; }
  std::int64_t documents() const { return documents_; }
  std::int64_t tokens() const { return tokens_; }

  std::int64_t length(std::int64_t document) const;
  /// Tokens [offset, offset + out.size()) of a document, which must exist. The ids are not checked.
  /// Throws Error at an int64 id that is no int32.
  void read(std::int64_t document, std::int64_t offset, std::span<std::int32_t> out) const;

  const MappedFile& idx() const { return idx_; }
  const MappedFile& bin() const { return bin_; }

 private:
  std::int64_t byte_offset(std::int64_t document) const;

  std::filesystem::path prefix_;
  MappedFile idx_, bin_;
  TokenType type_ = TokenType::uint16;
  std::int64_t documents_ = 0, tokens_ = 0;
  const std::byte* lengths_ = nullptr;  ///< not aligned: the header has 34 bytes
  const std::byte* offsets_ = nullptr;
};

}  // namespace ssa
