// What a file that was expected to be another one is, by its first bytes, for error messages.
#pragma once

#include <string>
#include <string_view>

namespace ssa {

/// "a Git LFS pointer, ...", "an HTML page, ...", "a SentencePiece model" and so on; empty for bytes that are none of
/// these. Only for bytes that are not of the expected format: a file of another format may begin alike.
std::string foreign_kind(std::string_view bytes);

/// The same for bytes that should be a text: a page of HTML or XML is one.
std::string not_text_kind(std::string_view bytes);

}  // namespace ssa
