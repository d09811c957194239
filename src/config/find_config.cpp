#include <system_error>

#include "ssa/config/config.h"

namespace ssa {
namespace fs = std::filesystem;

fs::path find_config(const fs::path& file) {
  std::error_code unknown;  // reading the file will report why it cannot be accessed
  if (fs::exists(file, unknown) || file.is_absolute()) return file;
  const fs::path program = fs::read_symlink("/proc/self/exe", unknown);
  const fs::path installed = program.parent_path().parent_path() / "share" / "ssa-train";
  for (const fs::path& candidate : {installed / file, installed / "configs" / file})
    if (fs::is_regular_file(candidate, unknown)) return candidate;
  return file;
}

}  // namespace ssa
