#include "ssa/base/error.h"

#include <fmt/format.h>

#include <filesystem>
#include <new>

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
  if (dynamic_cast<const std::bad_alloc*>(&error)) return "out of host memory";
  if (const auto* file = dynamic_cast<const std::filesystem::filesystem_error*>(&error);
      file && !file->path1().empty()) {
    // "filesystem error: OPERATION: REASON [PATH]"
    std::string_view operation = file->what();
    if (constexpr std::string_view kPrefix = "filesystem error: "; operation.starts_with(kPrefix))
      operation.remove_prefix(kPrefix.size());
    operation = operation.substr(0, operation.find(": "));
    return concat(shown(file->path1().string()), ": ", shown(operation), ": ", file->code().message());
  }
  const std::string_view text = error.what();
  return text.starts_with("[json.exception") ? "a JSON text has a value of the wrong type or out of range"
                                             : shown(text);
}

}  // namespace ssa
