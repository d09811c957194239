// What an error expects: "a, b or c".
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace ssa {

inline std::string or_list(const std::vector<std::string_view>& names) {
  std::string text;
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (i > 0) text += i + 1 == names.size() ? " or " : ", ";
    text += names[i];
  }
  return text;
}

}  // namespace ssa
