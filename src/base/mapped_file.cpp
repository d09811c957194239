#include "ssa/base/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <utility>
#include <vector>

#include "ssa/base/error.h"

namespace ssa {
namespace {

/// The mappings of this process. A signal handler reads the table, so entries are written in an order that it can rely
/// on: the size, which makes an entry count, last. The table grows by whole pages, which are never freed.
struct Mapping {
  std::atomic<std::uintptr_t> begin{0};
  std::atomic<std::size_t> size{0};
  std::atomic<const char*> path{nullptr};
};
constexpr int kPageEntries = 1024, kMaxPages = 1024;
std::atomic<Mapping*> mapping_pages[kMaxPages] = {};
std::mutex mapping_mutex;
std::vector<int>& free_slots() {
  static auto* slots = new std::vector<int>;  // outlives every static MappedFile
  return *slots;
}
int used_slots = 0;

Mapping& mapping(int slot) { return mapping_pages[slot / kPageEntries].load()[slot % kPageEntries]; }

int add_mapping(const std::byte* data, std::size_t size, const std::filesystem::path& path) {
  const std::lock_guard lock(mapping_mutex);
  int slot;
  if (!free_slots().empty()) {
    slot = free_slots().back();
    free_slots().pop_back();
  } else {
    if (used_slots == kPageEntries * kMaxPages) return -1;
    slot = used_slots++;
    auto& page = mapping_pages[slot / kPageEntries];
    if (!page.load()) page.store(new Mapping[kPageEntries]);
  }
  mapping(slot).path.store(::strdup(path.c_str()));
  mapping(slot).begin.store(reinterpret_cast<std::uintptr_t>(data));
  mapping(slot).size.store(size);
  return slot;
}

void remove_mapping(int slot) {
  if (slot < 0) return;
  const std::lock_guard lock(mapping_mutex);
  mapping(slot).size.store(0);
  std::free(const_cast<char*>(mapping(slot).path.exchange(nullptr)));
  free_slots().push_back(slot);
}

}  // namespace

MappedFile::MappedFile(const std::filesystem::path& path) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // a FIFO must not wait
  SSA_CHECK(file >= 0, path.string(), ": ", std::strerror(errno));
  struct stat status {};
  const char* problem = nullptr;
  if (::fstat(file, &status) != 0) {
    problem = std::strerror(errno);
  } else if (!S_ISREG(status.st_mode)) {
    problem = "not a file";
  } else if (status.st_size > 0) {  // mmap refuses a length of 0
    size_ = static_cast<std::size_t>(status.st_size);
    void* memory = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, file, 0);
    if (memory == MAP_FAILED)
      problem = std::strerror(errno);
    else
      data_ = static_cast<const std::byte*>(memory);
  }
  ::close(file);  // the mapping keeps the file open
  SSA_CHECK(!problem, path.string(), ": ", problem);
  if (data_) slot_ = add_mapping(data_, size_, path);
}

MappedFile::~MappedFile() {
  if (!data_) return;
  remove_mapping(slot_);
  ::munmap(const_cast<std::byte*>(data_), size_);
}

const char* MappedFile::path_at(const void* address) noexcept {
  const auto at = reinterpret_cast<std::uintptr_t>(address);
  for (auto& page : mapping_pages) {
    Mapping* entries = page.load();
    if (!entries) return nullptr;
    for (int i = 0; i < kPageEntries; ++i) {
      const std::uintptr_t begin = entries[i].begin.load();
      // A mapping ends with a whole page of memory, also where the file does not.
      constexpr std::size_t kMemoryPage = 4096;
      const std::size_t size = (entries[i].size.load() + kMemoryPage - 1) / kMemoryPage * kMemoryPage;
      if (begin <= at && at < begin + size) return entries[i].path.load();
    }
  }
  return nullptr;
}

MappedFile::MappedFile(MappedFile&& other) noexcept { *this = std::move(other); }

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(slot_, other.slot_);
  return *this;
}

}  // namespace ssa
