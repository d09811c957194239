// The text of one JSONL record. A parser of its own because it runs over every byte of a corpus: it checks the whole
// line against RFC 8259 but keeps only the field that is asked for.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace ssa {

enum class FieldKind {
  text,          // the field is a string: the document
  conversation,  // the field is a list of objects with a string "content": contents joined by a blank line
};

/// Sets `text` to the document in `line`. Bytes that are not UTF-8 pass through (the caller replaces them); an escaped
/// lone surrogate becomes U+FFFD and is counted in the return value. Of duplicate keys the last counts.
/// Throws Error for a malformed line (with its column), and for a field that is missing, null or of another type.
std::size_t parse_json_line(std::string_view line, std::string_view field, FieldKind kind, std::string& text);

}  // namespace ssa
