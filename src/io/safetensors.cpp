#include "ssa/io/safetensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "ssa/base/error.h"
#include "ssa/base/fault.h"
#include "ssa/base/file_kind.h"

namespace ssa {
namespace {

using nlohmann::json;

constexpr std::size_t kLengthBytes = 8;
constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;  // the limit of the reference implementation
constexpr const char* kMetadataKey = "__metadata__";

constexpr std::array kFileDTypes{FileDType::f64, FileDType::f32, FileDType::f16, FileDType::bf16,
                                 FileDType::i64, FileDType::i32, FileDType::u8};

std::optional<FileDType> parse_dtype(std::string_view name) {
  for (FileDType dtype : kFileDTypes)
    if (name_of(dtype) == name) return dtype;
  return std::nullopt;
}

/// 1 sign, 5 exponent (bias 15) and 10 mantissa bits.
float half_to_float(std::uint16_t half) {
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000u) << 16;
  const std::uint32_t exponent = half >> 10 & 0x1fu, mantissa = half & 0x3ffu;
  if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000u | mantissa << 13);  // infinity, NaN
  if (exponent == 0) {                                                                     // zero, subnormal
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return sign ? -magnitude : magnitude;
  }
  return std::bit_cast<float>(sign | (exponent + (127 - 15)) << 23 | mantissa << 13);
}

/// Elements in a file are not aligned.
template <class T, class Convert>
void convert(const std::byte* from, std::span<float> out, Convert&& to_float) {
  for (std::size_t i = 0; i < out.size(); ++i) {
    T value;
    std::memcpy(&value, from + i * sizeof(T), sizeof(T));
    out[i] = to_float(value);
  }
}

/// Bytes of a tensor of this shape; nullopt if they exceed 63 bits.
std::optional<std::uint64_t> checked_bytes(const Dims& shape, FileDType dtype) {
  std::int64_t bytes = static_cast<std::int64_t>(size_of(dtype));
  for (std::int64_t d : shape)
    if (__builtin_mul_overflow(bytes, d, &bytes)) return std::nullopt;
  return static_cast<std::uint64_t>(bytes);
}

static_assert(std::endian::native == std::endian::little,
              "safetensors files are little endian and read without conversion");

/// Whether a byte is one of an ASCII text.
bool is_text(char c) { return (c >= ' ' && c <= '~') || c == '\n' || c == '\r' || c == '\t'; }

/// Without a branch per value: a checkpoint has billions.
bool all_finite(std::span<const float> values) {
  constexpr std::uint32_t kExponent = 0x7f800000;
  std::uint32_t others = 0;
  for (const float value : values) others |= (std::bit_cast<std::uint32_t>(value) & kExponent) == kExponent ? 1 : 0;
  return others == 0;
}

}  // namespace

std::size_t size_of(FileDType dtype) {
  switch (dtype) {
    case FileDType::f64:
    case FileDType::i64: return 8;
    case FileDType::f32:
    case FileDType::i32: return 4;
    case FileDType::f16:
    case FileDType::bf16: return 2;
    case FileDType::u8: return 1;
  }
  return 0;
}

std::string_view name_of(FileDType dtype) {
  switch (dtype) {
    case FileDType::f64: return "F64";
    case FileDType::f32: return "F32";
    case FileDType::f16: return "F16";
    case FileDType::bf16: return "BF16";
    case FileDType::i64: return "I64";
    case FileDType::i32: return "I32";
    case FileDType::u8: return "U8";
  }
  return "?";
}

std::string to_string(const Dims& dims) { return fmt::format("[{}]", fmt::join(dims, ", ")); }

std::int64_t count_of(const Dims& dims) {
  std::int64_t count = 1;
  for (std::int64_t d : dims) count *= d;
  return count;
}

void check_finite(const std::string& what, std::span<const float> values, std::int64_t first) {
  if (all_finite(values)) return;
  for (std::size_t i = 0; i < values.size(); ++i)
    if (!std::isfinite(values[i]))
      fail(what, ": element ", first + static_cast<std::int64_t>(i), " is ", values[i], ", expected finite values");
}

Dims dims_of(const Shape& shape) {
  Dims dims;
  for (int i = 0; i < shape.rank(); ++i) dims.push_back(shape[i]);
  return dims;
}

SafetensorsReader::SafetensorsReader(const std::filesystem::path& path) : path_(path), file_(path) {
  const auto bytes = file_.bytes();
  SSA_CHECK(bytes.size() >= kLengthBytes, path.string(), ": ", bytes.size(),
            " bytes, a safetensors file has at least 8");
  if (bytes.size() <= kLengthBytes || bytes[kLengthBytes] != std::byte{'{'}) {
    const std::string kind = foreign_kind({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
    SSA_CHECK(kind.empty(), path.string(), ": ", kind, ", expected a safetensors file");
  }
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data(), kLengthBytes);
  const std::string_view start(reinterpret_cast<const char*>(bytes.data()), kLengthBytes);
  SSA_CHECK(length <= kMaxHeaderBytes || !std::all_of(start.begin(), start.end(), is_text), path.string(),
            ": a text that begins with ", nlohmann::json(start).dump(),
            ", not the file itself (was the download refused?), expected a safetensors file");
  SSA_CHECK(length <= kMaxHeaderBytes, path.string(), ": header of ", length, " bytes, expected at most ",
            kMaxHeaderBytes);
  SSA_CHECK(length <= bytes.size() - kLengthBytes, path.string(), ": header of ", length, " bytes, the file has ",
            bytes.size() - kLengthBytes, " after its first 8");
  data_ = bytes.subspan(kLengthBytes + length);
  parse_header({reinterpret_cast<const char*>(bytes.data()) + kLengthBytes, length});
}

void SafetensorsReader::parse_header(std::string_view header) {
  const std::string file = path().string();
  json root;
  std::set<std::string> seen;
  try {
    root = json::parse(header, [&](int depth, json::parse_event_t event, json& parsed) {
      if (depth == 1 && event == json::parse_event_t::key && !seen.insert(parsed.get<std::string>()).second)
        fail(file, ": tensor ", parsed.get<std::string>(), " twice in the header");
      return true;
    });
  } catch (const json::parse_error& e) {
    fail(file, ": header is not valid JSON at byte ", e.byte);
  } catch (const json::exception&) {
    fail(file, ": header is not valid JSON: a number out of range");
  }
  SSA_CHECK(root.is_object(), file, ": header is a JSON ", root.type_name(), ", expected an object");

  for (const auto& [name, value] : root.items()) {
    if (name == kMetadataKey) {
      if (value.is_null()) continue;
      SSA_CHECK(value.is_object(), file, ": ", kMetadataKey, " is a JSON ", value.type_name(), ", expected an object");
      for (const auto& [key, text] : value.items()) {
        SSA_CHECK(text.is_string(), file, ": ", kMetadataKey, ".", key, " is a JSON ", text.type_name(),
                  ", expected a string");
        metadata_[key] = text.get<std::string>();
      }
      continue;
    }
    const auto field = [&, &tensor = name, &fields = value](const char* key, bool expected(const json&),
                                                            const char* what) -> const json& {
      SSA_CHECK(fields.is_object() && fields.contains(key), file, ": tensor ", tensor, ": no ", key);
      SSA_CHECK(expected(fields[key]), file, ": tensor ", tensor, ": ", key, " ", fields[key].dump(), ", expected ",
                what);
      return fields[key];
    };
    const auto is_dim = [](const json& d) {
      return d.is_number_unsigned() &&
             d.get<std::uint64_t>() <= static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
    };
    const json& dtype = field(
        "dtype", [](const json& v) { return v.is_string() && parse_dtype(v.get<std::string>()).has_value(); },
        "one of F64 F32 F16 BF16 I64 I32 U8");
    const json& shape = field(
        "shape", [](const json& v) { return v.is_array(); }, "a list of sizes");
    const json& offsets = field(
        "data_offsets", [](const json& v) { return v.is_array() && v.size() == 2; }, "[begin, end]");
    for (const json& d : shape)
      SSA_CHECK(is_dim(d), file, ": tensor ", name, ": shape ", shape.dump(), ", expected sizes from 0 up");
    for (const json& d : offsets)
      SSA_CHECK(is_dim(d), file, ": tensor ", name, ": data_offsets ", offsets.dump(), ", expected bytes from 0 up");

    Entry entry;
    entry.name = name;
    entry.dtype = *parse_dtype(dtype.get<std::string>());
    entry.shape = shape.get<Dims>();
    entry.begin = offsets[0].get<std::uint64_t>();
    const auto end = offsets[1].get<std::uint64_t>();
    const auto expected = checked_bytes(entry.shape, entry.dtype);
    SSA_CHECK(expected, file, ": tensor ", name, ": shape ", shape.dump(), " is too large");
    SSA_CHECK(end >= entry.begin && end - entry.begin == *expected, file, ": tensor ", name, ": data_offsets ",
              offsets.dump(), ", expected ", *expected, " bytes for ", name_of(entry.dtype), " ", shape.dump());
    SSA_CHECK(end <= data_.size(), file, ": tensor ", name, ": data_offsets ", offsets.dump(), ", the file has ",
              data_.size(), " bytes of data");
    tensors_.push_back(std::move(entry));
  }

  // An empty tensor shares its first byte with the next one and comes before it.
  std::sort(tensors_.begin(), tensors_.end(), [](const Entry& a, const Entry& b) {
    return std::tuple(a.begin, a.bytes(), std::string_view(a.name)) <
           std::tuple(b.begin, b.bytes(), std::string_view(b.name));
  });
  std::uint64_t end = 0;
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    const Entry& entry = tensors_[i];
    SSA_CHECK(entry.begin >= end, file, ": tensor ", entry.name, " begins at byte ", entry.begin,
              ", inside the previous one, ", i ? tensors_[i - 1].name : "", ", which ends at ", end);
    SSA_CHECK(entry.begin == end, file, ": tensor ", entry.name, " begins at byte ", entry.begin, ", expected ", end,
              ": the bytes between belong to no tensor");
    end = entry.begin + entry.bytes();
    index_[entry.name] = i;
  }
  SSA_CHECK(end == data_.size(), file, ": ", data_.size(), " bytes of data, the tensors take ", end);
}

const SafetensorsReader::Entry* SafetensorsReader::find(const std::string& name) const {
  const auto it = index_.find(name);
  return it == index_.end() ? nullptr : &tensors_[it->second];
}

const SafetensorsReader::Entry& SafetensorsReader::at(const std::string& name) const {
  const Entry* entry = find(name);
  SSA_CHECK(entry, path().string(), ": tensor ", name, " is missing");
  return *entry;
}

const SafetensorsReader::Entry& SafetensorsReader::at(const std::string& name, const Dims& shape) const {
  const Entry& entry = at(name);
  SSA_CHECK(entry.shape == shape, path().string(), ": tensor ", name, " is ", to_string(entry.shape), ", expected ",
            to_string(shape));
  return entry;
}

std::span<const std::byte> SafetensorsReader::bytes(const Entry& tensor) const {
  return data_.subspan(tensor.begin, tensor.bytes());
}

void SafetensorsReader::read(const Entry& tensor, std::span<float> out, std::int64_t first) const {
  const std::int64_t count = count_of(tensor.shape);
  SSA_CHECK(first >= 0 && first <= count && static_cast<std::int64_t>(out.size()) <= count - first, path().string(),
            ": tensor ", tensor.name, ": elements ", first, " to ", first + static_cast<std::int64_t>(out.size()),
            " requested, it has ", count);
  SSA_CHECK(!fault_hits(FaultOperation::read), path().string(), ": cannot read: ", std::strerror(EIO));
  const std::byte* from = bytes(tensor).data() + static_cast<std::size_t>(first) * size_of(tensor.dtype);
  const auto cast = [](auto value) { return static_cast<float>(value); };
  switch (tensor.dtype) {
    case FileDType::f64: return convert<double>(from, out, cast);
    case FileDType::f32:
      if (!out.empty()) std::memcpy(out.data(), from, out.size_bytes());
      return;
    case FileDType::f16: return convert<std::uint16_t>(from, out, half_to_float);
    case FileDType::bf16: return convert<bfloat16>(from, out, cast);
    case FileDType::i64: return convert<std::int64_t>(from, out, cast);
    case FileDType::i32: return convert<std::int32_t>(from, out, cast);
    case FileDType::u8: return convert<std::uint8_t>(from, out, cast);
  }
}

SafetensorsWriter::SafetensorsWriter(const std::filesystem::path& path, std::vector<TensorSpec> tensors)
    : file_(path), tensors_(std::move(tensors)) {
  // Text, because a JSON object of the library would sort the names. The header lists tensors in the order of the data.
  // Transformers refuses a file whose metadata does not say "pt".
  std::string header = R"({"__metadata__":{"format":"pt"})";
  std::uint64_t begin = 0;
  std::set<std::string_view> seen;
  for (const TensorSpec& tensor : tensors_) {
    SSA_CHECK(seen.insert(tensor.name).second, path.string(), ": tensor ", tensor.name, " given twice");
    const std::uint64_t end = begin + tensor.bytes();
    header += fmt::format(R"(,{}:{{"dtype":"{}","shape":{},"data_offsets":[{},{}]}})", json(tensor.name).dump(),
                          name_of(tensor.dtype), json(tensor.shape).dump(), begin, end);
    begin = end;
  }
  header += "}";
  header.append((8 - header.size() % 8) % 8, ' ');  // aligns the data
  const std::uint64_t length = header.size();
  SSA_CHECK(length <= kMaxHeaderBytes, path.string(), ": header of ", length, " bytes, expected at most ",
            kMaxHeaderBytes);
  file_.write(&length, kLengthBytes);
  file_.write(header);
  skip_empty_tensors();
}

void SafetensorsWriter::skip_empty_tensors() {
  while (current_ < tensors_.size() && filled_ == tensors_[current_].bytes()) {
    ++current_;
    filled_ = 0;
  }
}

void SafetensorsWriter::append_bytes(const std::string& name, std::span<const std::byte> bytes) {
  if (bytes.empty()) return;
  SSA_CHECK(current_ < tensors_.size(), path().string(), ": tensor ", name, " appended after the last one");
  const TensorSpec& tensor = tensors_[current_];
  SSA_CHECK(tensor.name == name, path().string(), ": tensor ", name, " appended, expected ", tensor.name,
            ", which has ", filled_, " of ", tensor.bytes(), " bytes");
  SSA_CHECK(bytes.size() <= tensor.bytes() - filled_, path().string(), ": tensor ", name, " ", to_string(tensor.shape),
            " gets ", filled_ + bytes.size(), " bytes, expected ", tensor.bytes());
  file_.write(bytes.data(), bytes.size());
  filled_ += bytes.size();
  skip_empty_tensors();
}

void SafetensorsWriter::append(const std::string& name, std::span<const float> values) {
  if (values.empty()) return;
  SSA_CHECK(current_ < tensors_.size(), path().string(), ": tensor ", name, " appended after the last one");
  const FileDType dtype = tensors_[current_].dtype;
  if (dtype == FileDType::f32) return append_bytes(name, std::as_bytes(values));
  SSA_CHECK(dtype == FileDType::bf16, path().string(), ": tensor ", name, " is ", name_of(dtype),
            ", floats are written as F32 or BF16");
  constexpr std::size_t kPiece = 4096;
  std::array<bfloat16, kPiece> piece;
  for (std::size_t begin = 0; begin < values.size(); begin += kPiece) {
    const auto part = values.subspan(begin, std::min(kPiece, values.size() - begin));
    std::transform(part.begin(), part.end(), piece.begin(), [](float value) { return bfloat16(value); });
    append_bytes(name, std::as_bytes(std::span(piece).first(part.size())));
  }
}

FileChecksum SafetensorsWriter::finish() {
  SSA_CHECK(current_ == tensors_.size(), path().string(), ": tensor ", tensors_[current_].name, " has ", filled_,
            " of ", tensors_[current_].bytes(), " bytes");
  return file_.finish();
}

}  // namespace ssa
