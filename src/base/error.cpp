#include "ssa/base/error.h"

#include <fmt/format.h>

namespace ssa {

std::string shown(std::string_view text, std::size_t longest) {
  constexpr std::string_view kGap = "...";
  const auto continues = [](char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; };  // within UTF-8
  std::string cut;
  if (text.size() > longest) {
    const std::size_t half = (longest - kGap.size()) / 2;
    std::size_t head = half, tail = text.size() - half;
    while (head > 0 && continues(text[head])) --head;
    while (tail < text.size() && continues(text[tail])) ++tail;
    cut = text.substr(0, head);
    cut += kGap;
    cut += text.substr(tail);
    text = cut;
  }
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f)
      out += fmt::format("\\x{:02x}", byte);
    else
      out += c;
  }
  return out;
}

std::string foreign_message(const std::exception& error) {
  const std::string_view text = error.what();
  return text.starts_with("[json.exception") ? "a JSON text has a value of the wrong type or out of range"
                                             : shown(text);
}

}  // namespace ssa
