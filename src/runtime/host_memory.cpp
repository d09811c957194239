#include "ssa/runtime/host_memory.h"

#include <algorithm>
#include <cstring>
#include <fstream>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>

namespace ssa {
namespace fs = std::filesystem;
namespace {

/// The number after `key` in a file of lines such as "MemTotal: 16384 kB" and "inactive_file 4096"; 0 if there is none.
std::size_t number_of(const fs::path& file, const std::string& key) {
  std::ifstream lines(file);
  std::string word;
  std::size_t value = 0;
  for (std::string rest; lines >> word; std::getline(lines, rest))
    if (word == key) return lines >> value ? value : 0;
  return 0;
}

/// The number that a file holds; nullopt if there is no such file or it holds a word, as memory.max holds "max".
std::optional<std::size_t> number_in(const fs::path& file) {
  std::ifstream stream(file);
  std::size_t value = 0;
  if (stream >> value) return value;
  return std::nullopt;
}

/// The files of one version of control groups.
struct GroupFiles {
  const char *limit, *usage;
  std::initializer_list<const char*> reclaimable;  ///< keys of memory.stat: what the page cache can give back
};
constexpr std::initializer_list<const char*> kReclaimable = {"inactive_file", "active_file", "slab_reclaimable"};
constexpr std::initializer_list<const char*> kReclaimable1 = {"total_inactive_file", "total_active_file"};
constexpr GroupFiles kVersion2 = {"memory.max", "memory.current", kReclaimable};
constexpr GroupFiles kVersion1 = {"memory.limit_in_bytes", "memory.usage_in_bytes", kReclaimable1};

/// Lowers `info` to the limits of the group `path` below `root` and of the groups around it. Inside a container `root`
/// may be the group itself, while `path` is its path on the machine.
void apply_limits(MemoryInfo& info, const fs::path& root, const fs::path& path, const GroupFiles& files) {
  for (fs::path rest = path.relative_path();; rest = rest.parent_path()) {
    const fs::path group = root / rest;
    if (const auto limit = number_in(group / files.limit)) {
      std::size_t used = number_in(group / files.usage).value_or(0);
      for (const char* key : files.reclaimable) used -= std::min(used, number_of(group / "memory.stat", key));
      info.total_bytes = std::min(info.total_bytes, *limit);
      info.free_bytes = std::min(info.free_bytes, *limit - std::min(*limit, used));
    }
    if (rest.empty()) return;
  }
}

/// Whether a list such as "cpu,memory" names the controller of memory.
bool names_memory(std::string_view controllers) {
  while (!controllers.empty()) {
    const std::size_t end = std::min(controllers.find(','), controllers.size());
    if (controllers.substr(0, end) == "memory") return true;
    controllers.remove_prefix(std::min(end + 1, controllers.size()));
  }
  return false;
}

/// work(begin, size) of parts of `bytes` bytes, in parallel.
template <class Work>
void in_parts(std::size_t bytes, Work&& work) {
  constexpr std::size_t kPart = std::size_t{4} << 20;
#pragma omp parallel for
  for (std::size_t begin = 0; begin < bytes; begin += kPart) work(begin, std::min(kPart, bytes - begin));
}

}  // namespace

MemoryInfo host_memory_info(const MemoryFiles& files) {
  constexpr std::size_t kKilobyte = 1024;
  MemoryInfo info{number_of(files.meminfo, "MemAvailable:") * kKilobyte,
                  number_of(files.meminfo, "MemTotal:") * kKilobyte};
  std::ifstream groups(files.own_groups);
  for (std::string line; std::getline(groups, line);) {  // "0::/a/group" of version 2, "9:memory:/a/group" of version 1
    const std::size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == line.npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1), path = line.substr(second + 1);
    if (controllers.empty()) apply_limits(info, files.groups, path, kVersion2);
    if (names_memory(controllers)) apply_limits(info, files.groups / "memory", path, kVersion1);
  }
  return info;
}

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
