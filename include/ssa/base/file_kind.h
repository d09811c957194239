// What a file that was expected to be another one is, by its first bytes, for error messages.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace ssa {

/// "a Git LFS pointer, ...", "an HTML page, ...", "a SentencePiece model" and so on; empty for bytes that are none of
/// these. Only for bytes that are not of the expected format: a file of another format may begin alike.
std::string foreign_kind(std::string_view bytes);

/// The same for bytes that should be a text: a page of HTML or XML is one.
std::string not_text_kind(std::string_view bytes);

/// Whether the bytes begin a Zstandard frame, or one that is skipped, with which the files of pzstd begin.
bool is_zstd(std::string_view bytes);

/// Bytes at the start of a file in which texts have no NUL byte, and most other files have one. git looks at as many.
inline constexpr std::size_t kTextBytes = 8000;

/// The index of the first NUL byte among the first kTextBytes, or npos.
std::size_t find_nul(std::string_view bytes);

}  // namespace ssa
