// Any line: a document or an Error.
#include <cstddef>
#include <cstdint>

#include "data_tools/json_line.h"
#include "ssa/base/error.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view line(reinterpret_cast<const char*>(data), size);
  for (const ssa::FieldKind kind : {ssa::FieldKind::text, ssa::FieldKind::conversation}) {
    std::string text;
    try {
      ssa::parse_json_line(line, "text", kind, text);
    } catch (const ssa::Error&) {
    }
  }
  return 0;
}
