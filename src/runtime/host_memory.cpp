#include "ssa/runtime/host_memory.h"

#include <algorithm>
#include <cstring>
#include <fstream>
#include <string>

namespace ssa {
namespace {

/// An entry of /proc/meminfo in bytes. MemAvailable includes what the page cache can give back.
std::size_t meminfo(const std::string& key) {
  std::ifstream info("/proc/meminfo");
  for (std::string line; std::getline(info, line);)
    if (line.starts_with(key)) return std::stoull(line.substr(key.size())) * 1024;
  return 0;
}

/// work(begin, size) of parts of `bytes` bytes, in parallel.
template <class Work>
void in_parts(std::size_t bytes, Work&& work) {
  constexpr std::size_t kPart = std::size_t{4} << 20;
#pragma omp parallel for
  for (std::size_t begin = 0; begin < bytes; begin += kPart) work(begin, std::min(kPart, bytes - begin));
}

}  // namespace

MemoryInfo host_memory_info() { return {meminfo("MemAvailable:"), meminfo("MemTotal:")}; }

void zero_on_host(void* memory, std::size_t bytes) {
  in_parts(bytes,
           [&](std::size_t begin, std::size_t size) { std::memset(static_cast<char*>(memory) + begin, 0, size); });
}

void copy_on_host(void* to, const void* from, std::size_t bytes) {
  in_parts(bytes, [&](std::size_t begin, std::size_t size) {
    std::memcpy(static_cast<char*>(to) + begin, static_cast<const char*>(from) + begin, size);
  });
}

}  // namespace ssa
