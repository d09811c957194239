// The text of one JSONL record. Own code because it runs over every byte of a corpus: it checks the whole line against
// RFC 8259 but stores only one field. simdjson rejects invalid UTF-8, which is repaired here.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "data_tools/chat_template.h"

namespace ssa {

enum class FieldKind {
  text,  // the field is a string: the document
  // The field is a list of messages, whose texts are joined by a blank line. A message is an object with a "content",
  // an object with "from" and "value" (ShareGPT), or a string. Messages without a text, or with null, are omitted. The
  // field may also be a string, or null for an empty document. As the published preprocessing does (caching_hf.py).
  conversation,
};

struct LineReport {
  std::size_t replaced = 0;               // lone surrogates that became U+FFFD
  std::size_t messages_without_text = 0;  // of a conversation; they were omitted
};

/// Sets `text` to the document in `line`. `field` may name a member of nested objects, "meta.text"; a field whose whole
/// name is that takes precedence. Bytes that are not UTF-8 are copied (the caller replaces them). An escaped lone
/// surrogate becomes U+FFFD. NaN, Infinity and -Infinity are read as numbers. `chat`: renders a conversation instead of
/// joining its texts; each message must have a role ("role" or "from", where human means user and gpt means assistant)
/// and a text. Throws Error for a malformed line (with the column), for a field that is missing or of another type, and
/// for one that is given twice, or a part of its path or a key of a message that is read: pyarrow refuses these too.
LineReport parse_json_line(std::string_view line, std::string_view field, FieldKind kind, std::string& text,
                           const ChatTemplate* chat = nullptr);

}  // namespace ssa
