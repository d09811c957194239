// XXH3-64 as the text that dataset.json and the manifests hold: 16 lower-case hexadecimal digits.
#pragma once

#include <cstddef>
#include <string>

namespace ssa {

std::string xxh3_hex(const void* data, std::size_t bytes);

}  // namespace ssa
