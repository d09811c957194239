#include "ssa/data/indexed_dataset.h"

#include <bit>
#include <cerrno>
#include <cstring>

#include "ssa/base/error.h"
#include "ssa/base/fault.h"

namespace ssa {
namespace {

static_assert(std::endian::native == std::endian::little, "the format is little-endian and read in place");

template <class T>
T load(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof(T));
  return value;
}

/// Megatron's names of the element types, by code.
constexpr const char* kElementTypes[] = {"?",     "uint8",   "int8",    "int16", "int32",
                                         "int64", "float64", "float32", "uint16"};

std::filesystem::path with_suffix(std::filesystem::path prefix, const char* suffix) { return prefix += suffix; }

}  // namespace

IndexedDataset::IndexedDataset(const std::filesystem::path& prefix)
    : prefix_(prefix), idx_(with_suffix(prefix, ".idx")), bin_(with_suffix(prefix, ".bin")) {
  const std::string idx = with_suffix(prefix, ".idx").string(), bin = with_suffix(prefix, ".bin").string();
  SSA_CHECK(idx_.size() >= kIdxHeaderBytes, idx, ": ", idx_.size(), " bytes, expected a header of ", kIdxHeaderBytes);
  const std::byte* at = idx_.data();
  SSA_CHECK(std::memcmp(at, kIdxMagic.data(), kIdxMagic.size()) == 0, idx,
            ": does not begin with MMIDIDX, expected a Megatron-LM index");
  at += kIdxMagic.size();
  const auto version = load<std::uint64_t>(at);
  SSA_CHECK(version == kIdxVersion, idx, ": version ", version, ", expected ", kIdxVersion);
  at += 8;
  const auto code = load<std::uint8_t>(at);
  type_ = static_cast<TokenType>(code);
  SSA_CHECK(type_ == TokenType::uint16 || type_ == TokenType::int32 || type_ == TokenType::int64, idx, ": tokens are ",
            code < std::size(kElementTypes) ? kElementTypes[code] : "of an unknown type", " (code ", int{code},
            "), expected uint16 (8), int32 (4) or int64 (5)");
  at += 1;
  const auto sequences = load<std::uint64_t>(at), indices = load<std::uint64_t>(at + 8);
  at += 16;
  // Checked first, so that `expected` cannot overflow.
  const bool bounded = sequences <= idx_.size() && indices <= idx_.size();
  const std::uint64_t expected = bounded ? kIdxHeaderBytes + sequences * 12 + indices * 8 : 0;
  SSA_CHECK(bounded && idx_.size() == expected, idx, ": ", idx_.size(), " bytes, expected ",
            bounded ? std::to_string(expected) : std::string("more"), " for its ", sequences, " sequences and ",
            indices, " document indices");
  SSA_CHECK(sequences > 0, idx, ": holds no documents");
  documents_ = static_cast<std::int64_t>(sequences);
  lengths_ = at;
  offsets_ = at + sequences * 4;

  std::int64_t bytes = 0;
  const auto size = static_cast<std::int64_t>(size_of(type_));
  for (std::int64_t d = 0; d < documents_; ++d) {
    SSA_CHECK(length(d) >= 0, idx, ": document ", d, " has ", length(d), " tokens");
    SSA_CHECK(byte_offset(d) == bytes, idx, ": document ", d, " begins at byte ", byte_offset(d),
              " of the .bin, expected ", bytes, ", where the previous document ends");
    bytes += length(d) * size;
  }
  SSA_CHECK(static_cast<std::int64_t>(bin_.size()) == bytes, bin, ": ", bin_.size(), " bytes, expected ", bytes,
            ", the sum over the documents of ", prefix.filename().string(), ".idx");
  SSA_CHECK(bytes > 0, bin, ": holds no tokens");
  tokens_ = bytes / size;
}

std::int64_t IndexedDataset::length(std::int64_t document) const { return load<std::int32_t>(lengths_ + document * 4); }

std::int64_t IndexedDataset::byte_offset(std::int64_t document) const {
  return load<std::int64_t>(offsets_ + document * 8);
}

void IndexedDataset::read(std::int64_t document, std::int64_t offset, std::span<std::int32_t> out) const {
  SSA_CHECK(0 <= document && document < documents_, prefix_.string(), ": document ", document, " of ", documents_);
  SSA_CHECK(0 <= offset && offset + static_cast<std::int64_t>(out.size()) <= length(document), prefix_.string(),
            ": tokens ", offset, " to ", offset + static_cast<std::int64_t>(out.size()), " of document ", document,
            ", which has ", length(document));
  SSA_CHECK(!fault_hits(FaultOperation::read), with_suffix(prefix_, ".bin").string(),
            ": cannot read: ", std::strerror(EIO));
  const std::byte* at = bin_.data() + byte_offset(document) + offset * static_cast<std::int64_t>(size_of(type_));
  if (type_ == TokenType::int32) {
    if (!out.empty()) std::memcpy(out.data(), at, out.size_bytes());
    return;
  }
  if (type_ == TokenType::int64) {
    for (std::size_t i = 0; i < out.size(); ++i, at += 8) {
      const auto id = load<std::int64_t>(at);
      SSA_CHECK(id == static_cast<std::int32_t>(id), prefix_.string(), ".bin: document ", document, " holds token id ",
                id, " at ", offset + static_cast<std::int64_t>(i), ", expected an int32");
      out[i] = static_cast<std::int32_t>(id);
    }
    return;
  }
  for (std::int32_t& id : out) {
    id = load<std::uint16_t>(at);
    at += 2;
  }
}

}  // namespace ssa
