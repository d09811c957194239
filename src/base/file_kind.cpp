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

}  // namespace

std::string not_text_kind(std::string_view bytes) {
  if (bytes.starts_with("version https://git-lfs.github.com/spec"))
    return "a Git LFS pointer, not the file itself (git lfs pull gets it)";
  if (bytes.starts_with("PK\x03\x04"sv)) return "a ZIP archive, as PyTorch's torch.save writes";
  if (bytes.starts_with("\x80\x02"sv) || bytes.starts_with("\x80\x04"sv)) return "a Python pickle";
  if (bytes.starts_with("GGUF") && bytes.size() > 4 && bytes[4] < ' ') return "a GGUF file";
  if (bytes.starts_with("\x89HDF\r\n"sv)) return "an HDF5 file";
  if (bytes.starts_with("\x1F\x8B"sv)) return "a gzip file";
  if (bytes.starts_with("\x28\xB5\x2F\xFD"sv)) return "a zstd file";
  if (bytes.starts_with("BZh") && bytes.size() >= 10 && bytes.substr(4, 6) == "1AY&SY") return "a bzip2 file";
  if (bytes.starts_with("\xFD"
                        "7zXZ"))
    return "an xz file";
  if (bytes.starts_with("PAR1") && bytes.size() > 4 && bytes[4] < ' ') return "a Parquet file";
  if (bytes.starts_with("%PDF-")) return "a PDF file";
  if (bytes.starts_with("\x89PNG") || bytes.starts_with("\xFF\xD8\xFF")) return "a picture";
  if (is_sentencepiece(bytes)) return "a SentencePiece model";
  if (is_utf16(bytes)) return "a text in UTF-16";
  return "";
}

std::string foreign_kind(std::string_view bytes) {
  if (begins_with_tag(bytes, "<!doctype html") || begins_with_tag(bytes, "<html"))
    return "an HTML page, not the file itself (was the download refused?)";
  if (begins_with_tag(bytes, "<?xml")) return "an XML page, not the file itself (was the download refused?)";
  return not_text_kind(bytes);
}

}  // namespace ssa
