#include "data_tools/chat_template.h"

#include <algorithm>
#include <cstdint>

#include "ssa/base/error.h"
#include "ssa/tokenizer/unicode.h"
#include "ssa/tokenizer/utf8.h"

namespace ssa {
namespace {

const ChatTemplate kTemplates[] = {
    {.name = "chatml",
     .begin = "",
     .before = "<|im_start|>",
     .after_role = "\n",
     .after = "<|im_end|>\n",
     .special_tokens = {"<|im_start|>", "<|im_end|>"}},
    {.name = "llama3",
     .begin = "<|begin_of_text|>",
     .before = "<|start_header_id|>",
     .after_role = "<|end_header_id|>\n\n",
     .after = "<|eot_id|>",
     .trims = true,
     .special_tokens = {"<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"}},
    {.name = "gemma",
     .begin = "<bos>",
     .before = "<start_of_turn>",
     .after_role = "\n",
     .after = "<end_of_turn>\n",
     .trims = true,
     .two_roles = true,
     .assistant = "model",
     .special_tokens = {"<bos>", "<start_of_turn>", "<end_of_turn>"}},
};

/// What Python's strip() removes, and so Jinja's trim.
bool is_space(std::uint32_t c) { return (UnicodeTable::get()[c] & kSpace) || (c >= 0x1c && c <= 0x1f); }

/// Invalid UTF-8 ends the trimming.
std::string_view trimmed(std::string_view text) {
  const auto code_point_at = [&](std::size_t at, std::size_t& length) {
    const std::size_t most = std::min<std::size_t>(4, text.size() - at);
    for (length = 1; length <= most; ++length)
      if (valid_utf8_prefix(text.substr(at, length)) == length) {
        const auto* p = reinterpret_cast<const unsigned char*>(text.data()) + at;
        return next_code_point(p);
      }
    return std::uint32_t{0};
  };
  std::size_t length = 0;
  while (!text.empty() && is_space(code_point_at(0, length))) text.remove_prefix(length);
  while (!text.empty()) {
    std::size_t at = text.size() - 1;
    while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xc0) == 0x80) --at;
    if (!is_space(code_point_at(at, length)) || at + length != text.size()) break;
    text.remove_suffix(length);
  }
  return text;
}

}  // namespace

const ChatTemplate* chat_template(std::string_view name) {
  for (const ChatTemplate& one : kTemplates)
    if (one.name == name) return &one;
  return nullptr;
}

std::string ChatTemplate::add(std::size_t number, const std::string& role, std::string_view content,
                              std::string& text) const {
  if (two_roles && role != (number % 2 == 0 ? "user" : "assistant"))
    return concat("has role \"", role, "\", expected user and assistant in turn for chat template ", name);
  if (number == 0) text += begin;
  text += before;
  text += role == "assistant" ? assistant : std::string_view(role);
  text += after_role;
  text += trims ? trimmed(content) : content;
  text += after;
  return "";
}

}  // namespace ssa
