// The choices of matmul's autotuning on disk, so that later processes need not time the algorithms again. Text without
// CUDA types: a product and an algorithm are strings here. See README.md.
//
//   ssa_train: algorithms of matrix products, format 1
//   DEVICE
//   PRODUCT: ALGORITHM            one line per product, sorted
//   XXH3 CHECKSUM                 of all lines above
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>

namespace ssa {

/// Where files are kept that only save time: $SSA_CACHE_DIR, else $XDG_CACHE_HOME/ssa-train, else
/// $HOME/.cache/ssa-train. nullopt if SSA_CACHE_DIR is empty, or none of these is an absolute path; SSA_CACHE_DIR may
/// be a relative one.
std::optional<std::filesystem::path> cache_directory();

/// The algorithm of each product.
using MatmulChoices = std::map<std::string, std::string>;

/// The content of a file. Names and values have no line breaks, and a product has no colon.
std::string format_choices(const std::string& device, const MatmulChoices& choices);
/// Throws Error, with what was found and what was expected, for anything but what format_choices() of the same device
/// wrote.
MatmulChoices parse_choices(std::string_view text, const std::string& device);

/// The file of one device. It is read once, and written after each new choice: several processes may do so at once, and
/// a process that ends leaves a complete file. No function throws: without the file, algorithms are timed again.
class MatmulChoiceFile {
 public:
  /// Reads the file in `directory`; nullopt: there is none. `device`: all that the speed of algorithms depends on
  /// besides the product.
  MatmulChoiceFile(const std::optional<std::filesystem::path>& directory, std::string device);

  /// nullptr if it is not known.
  const std::string* find(const std::string& product) const;
  /// Adds or replaces a choice.
  void add(const std::string& product, const std::string& algorithm);

  /// Empty without a directory.
  const std::filesystem::path& path() const { return path_; }
  /// Why a file was ignored, or could not be read or written: the first reason; empty if there is none.
  const std::string& problem() const { return problem_; }

 private:
  MatmulChoices read();
  void write();
  void note(const std::string& problem);

  std::filesystem::path path_;
  std::string device_, problem_;
  MatmulChoices choices_, added_;  ///< all, and those of this process
};

}  // namespace ssa
