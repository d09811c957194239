// The text of one JSONL record. Own code because it runs over every byte of a corpus: it checks the whole line against
// RFC 8259 but stores only one field. simdjson rejects invalid UTF-8, which is repaired here.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace ssa {

enum class FieldKind {
  text,          // the field is a string: the document
  conversation,  // the field is a list of objects with a string "content": contents joined by a blank line
};

/// Sets `text` to the document in `line`. Bytes that are not UTF-8 are copied (the caller replaces them). An escaped
/// lone surrogate becomes U+FFFD; the return value counts them. If a key occurs several times, the last one counts.
/// Throws Error for a malformed line (with the column), and for a field that is missing, null or of another type.
std::size_t parse_json_line(std::string_view line, std::string_view field, FieldKind kind, std::string& text);

}  // namespace ssa
