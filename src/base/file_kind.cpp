#include "ssa/base/file_kind.h"

#include <algorithm>
#include <cctype>

namespace ssa {
namespace {

using std::string_view_literals::operator""sv;

/// Whether the text begins with `start`, in any case and after white space.
bool begins_with_tag(std::string_view bytes, std::string_view start) {
  bytes.remove_prefix(std::min(bytes.size(), bytes.find_first_not_of(" \t\r\n")));
  if (bytes.starts_with("\xEF\xBB\xBF")) bytes.remove_prefix(3);
  return bytes.size() >= start.size() && std::equal(start.begin(), start.end(), bytes.begin(), [](char a, char b) {
           return a == static_cast<char>(std::tolower(static_cast<unsigned char>(b)));
         });
}

/// A SentencePiece model is a protobuf message: field 1 is a piece, a message whose field 1 is its text. The first
/// piece of the models that trainers write is <unk>, <pad> or <s>.
bool is_sentencepiece(std::string_view bytes) {
  if (bytes.size() < 8 || bytes[0] != '\x0A' || bytes[2] != '\x0A') return false;
  const auto piece = static_cast<unsigned char>(bytes[1]), text = static_cast<unsigned char>(bytes[3]);
  return text >= 3 && text + 2 <= piece && piece < 128 && bytes[4] == '<';
}

/// The first characters of a text in UTF-16 are hardly ever all beyond U+00FF.
bool is_utf16(std::string_view bytes) {
  if (bytes.size() < 4) return false;
  const bool zero[] = {bytes[0] == '\0', bytes[1] == '\0', bytes[2] == '\0', bytes[3] == '\0'};
  return zero[0] != zero[1] && zero[0] == zero[2] && zero[1] == zero[3];
}

struct Magic {
  std::string_view bytes;
  const char* kind;
};

/// First bytes with which no text in UTF-8 begins, or that no text has by chance.
constexpr Magic kMagics[] = {
    {"version https://git-lfs.github.com/spec"sv, "a Git LFS pointer, not the file itself (git lfs pull gets it)"},
    {"PK\x03\x04"sv, "a ZIP archive, as PyTorch's torch.save writes"},
    {"\x80\x02"sv, "a Python pickle"},
    {"\x80\x03"sv, "a Python pickle"},
    {"\x80\x04"sv, "a Python pickle"},
    {"\x80\x05"sv, "a Python pickle"},
    {"\x89HDF\r\n"sv, "an HDF5 file"},
    {"\x93NUMPY"sv, "a NumPy array"},
    {"ARROW1\0\0"sv, "an Arrow (Feather) file"},
    {"FEA1\0\0\0\0"sv, "a Feather file"},
    {"Obj\x01"sv, "an Avro file"},
    {"SQLite format 3\0"sv, "an SQLite database"},
    {"MMIDIDX\0\0"sv, "the .idx of a Megatron-LM dataset"},
    {"\x1F\x8B"sv, "a gzip file"},
    {"\x1F\x9D"sv, "a file of compress"},
    {"\x04\x22\x4D\x18"sv, "an lz4 file"},
    {"\x02\x21\x4C\x18"sv, "an lz4 file"},
    {"\x78\x01"sv, "a zlib stream"},
    {"\x78\x9C"sv, "a zlib stream"},
    {"\xFD\x37zXZ"sv, "an xz file"},
    {"LZIP\x01"sv, "an lzip file"},
    {"7z\xBC\xAF\x27\x1C"sv, "a 7z archive"},
    {"Rar!\x1A\x07"sv, "a RAR archive"},
    {"%PDF-"sv, "a PDF file"},
    {"\xD0\xCF\x11\xE0\xA1\xB1\x1A\xE1"sv, "a document of an old Microsoft Office"},
    {"\x89PNG"sv, "a picture"},
    {"\xFF\xD8\xFF"sv, "a picture"},
    {"\x7F\x45LF"sv, "an ELF program or library"},
};

/// The best compression of zlib begins with x and a byte that is a letter's first in UTF-8.
bool is_best_zlib(std::string_view bytes) {
  return bytes.starts_with("\x78\xDA"sv) && bytes.size() > 2 && (bytes[2] & 0xC0) != 0x80;
}

/// A mark, and the length of the schema in 4 bytes.
bool is_arrow_stream(std::string_view bytes) {
  return bytes.size() >= 8 && bytes.starts_with("\xFF\xFF\xFF\xFF"sv) && bytes[7] == '\0';
}

/// The length of the header in 8 bytes, below 2^40, and a JSON object.
bool is_safetensors(std::string_view bytes) { return bytes.size() >= 10 && bytes.substr(5, 5) == "\0\0\0{\""sv; }

/// The mark at byte 257; a text has no NUL byte before it.
bool is_tar(std::string_view bytes) {
  return bytes.size() >= 262 && bytes.substr(257, 5) == "ustar" && bytes.substr(0, 257).find('\0') != bytes.npos;
}

}  // namespace

std::string not_text_kind(std::string_view bytes) {
  for (const Magic& magic : kMagics)
    if (bytes.starts_with(magic.bytes)) return magic.kind;
  if (is_zstd(bytes)) return "a zstd file";
  if (is_best_zlib(bytes)) return "a zlib stream";
  if (is_arrow_stream(bytes)) return "an Arrow stream";
  if (is_safetensors(bytes)) return "a safetensors file";
  if (is_tar(bytes)) return "a tar archive";
  if (bytes.starts_with("GGUF") && bytes.size() > 4 && bytes[4] < ' ') return "a GGUF file";
  if (bytes.starts_with("BZh") && bytes.size() >= 10 && bytes.substr(4, 6) == "1AY&SY") return "a bzip2 file";
  if (bytes.starts_with("PAR1") && bytes.size() > 4 && bytes[4] < ' ') return "a Parquet file";
  if (is_sentencepiece(bytes)) return "a SentencePiece model";
  if (is_utf16(bytes)) return "a text in UTF-16";
  return "";
}

bool is_zstd(std::string_view bytes) {
  return bytes.starts_with("\x28\xB5\x2F\xFD"sv) ||
         (bytes.size() >= 4 && (bytes[0] & 0xF0) == 0x50 && bytes.substr(1, 3) == "\x2A\x4D\x18"sv);
}

std::size_t find_nul(std::string_view bytes) { return bytes.substr(0, kTextBytes).find('\0'); }

std::string foreign_kind(std::string_view bytes) {
  if (begins_with_tag(bytes, "<!doctype html") || begins_with_tag(bytes, "<html"))
    return "an HTML page, not the file itself (was the download refused?)";
  if (begins_with_tag(bytes, "<?xml")) return "an XML page, not the file itself (was the download refused?)";
  return not_text_kind(bytes);
}

}  // namespace ssa
