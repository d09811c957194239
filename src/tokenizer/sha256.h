// SHA-256 through OpenSSL: tells which tokenizer wrote a dataset.
#pragma once

#include <string>
#include <string_view>

namespace ssa {

/// 64 lowercase hexadecimal digits.
std::string sha256_hex(std::string_view bytes);

}  // namespace ssa
