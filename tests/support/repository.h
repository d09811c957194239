// The text files of the repository, for tests of their contents.
#pragma once

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "support/paths.h"

namespace ssa::test {

/// Paths relative to the root of the repository: the files below `directories` whose names end in one of `endings`.
inline std::vector<std::string> repository_files(const std::vector<std::string>& directories,
                                                 const std::vector<std::string>& endings) {
  namespace fs = std::filesystem;
  std::vector<std::string> files;
  for (const std::string& directory : directories)
    for (const auto& entry : fs::recursive_directory_iterator(source_dir() / directory)) {
      const std::string path = fs::relative(entry.path(), source_dir()).generic_string();
      const bool wanted = std::any_of(endings.begin(), endings.end(), [&](const auto& e) { return path.ends_with(e); });
      if (entry.is_regular_file() && wanted) files.push_back(path);
    }
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace ssa::test
