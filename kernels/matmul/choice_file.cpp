#include "kernels/matmul/choice_file.h"

#include <cstdlib>
#include <utility>

#include "ssa/base/checksum.h"
#include "ssa/base/directory_lock.h"
#include "ssa/base/error.h"
#include "ssa/base/file.h"

namespace ssa {
namespace {

constexpr std::string_view kFirstLine = "ssa_train: algorithms of matrix products, format 1";
constexpr std::string_view kLastLine = "XXH3 ";

/// A file of this program has a line of less than 300 bytes per product.
constexpr std::uint64_t kLargestFile = std::uint64_t{16} << 20;

/// Removes the first line of `text` and returns it. Without a line break there is none: the text ends in the middle.
std::string_view take_line(std::string_view& text) {
  const std::size_t end = text.find('\n');
  SSA_CHECK(end != std::string_view::npos, "found the end of the file, expected a line break");
  const std::string_view line = text.substr(0, end);
  text.remove_prefix(end + 1);
  return line;
}

void expect_line(std::string_view& text, std::string_view expected) {
  const std::string_view found = take_line(text);
  SSA_CHECK(found == expected, "found \"", found, "\", expected \"", expected, "\"");
}

}  // namespace

std::optional<std::filesystem::path> cache_directory() {
  if (const char* own = std::getenv("SSA_CACHE_DIR")) {
    if (*own == '\0') return std::nullopt;
    return std::filesystem::path(own);
  }
  for (const auto& [variable, below] : {std::pair{"XDG_CACHE_HOME", "ssa-train"}, {"HOME", ".cache/ssa-train"}}) {
    const char* value = std::getenv(variable);
    if (value && std::filesystem::path(value).is_absolute()) return std::filesystem::path(value) / below;
  }
  return std::nullopt;
}

std::string format_choices(const std::string& device, const MatmulChoices& choices) {
  std::string text = concat(kFirstLine, "\n", device, "\n");
  for (const auto& [product, algorithm] : choices) text += concat(product, ": ", algorithm, "\n");
  return text + concat(kLastLine, xxh3_hex(text.data(), text.size()), "\n");
}

MatmulChoices parse_choices(std::string_view text, const std::string& device) {
  const std::string_view whole = text;
  expect_line(text, kFirstLine);
  expect_line(text, device);
  MatmulChoices choices;
  for (;;) {
    const auto read = static_cast<std::size_t>(text.data() - whole.data());
    const std::string_view line = take_line(text);
    if (line.starts_with(kLastLine)) {
      const std::string expected = concat(kLastLine, xxh3_hex(whole.data(), read));
      SSA_CHECK(line == expected, "found ", line, ", expected ", expected);
      SSA_CHECK(text.empty(), "found ", text.size(), " bytes more, expected the end of the file after ", kLastLine);
      return choices;
    }
    const std::size_t colon = line.find(": ");
    SSA_CHECK(colon != std::string_view::npos, "found \"", line, "\", expected PRODUCT: ALGORITHM");
    choices.emplace(line.substr(0, colon), line.substr(colon + 2));
  }
}

MatmulChoiceFile::MatmulChoiceFile(const std::optional<std::filesystem::path>& directory, std::string device)
    : device_(std::move(device)) {
  if (!directory) return;
  path_ = *directory / concat("matmul-", xxh3_hex(device_.data(), device_.size()), ".txt");
  choices_ = read();
}

const std::string* MatmulChoiceFile::find(const std::string& product) const {
  const auto found = choices_.find(product);
  return found == choices_.end() ? nullptr : &found->second;
}

void MatmulChoiceFile::add(const std::string& product, const std::string& algorithm) {
  choices_[product] = added_[product] = algorithm;
  if (!path_.empty()) write();
}

MatmulChoices MatmulChoiceFile::read() {
  std::error_code error;
  if (std::filesystem::status(path_, error).type() == std::filesystem::file_type::not_found) return {};
  try {
    SSA_CHECK(std::filesystem::is_regular_file(path_), "found something else, expected a regular file");
    const std::uint64_t bytes = size_of_file(path_);
    SSA_CHECK(bytes <= kLargestFile, "found ", bytes, " bytes, expected at most ", kLargestFile);
    return parse_choices(read_file(path_), device_);
  } catch (const std::exception& reason) {
    note(concat(path_.string(), ": ignored: ", reason.what()));
    return {};
  }
}

/// Other processes may have added choices since this one read the file, so it is read again, under a lock.
void MatmulChoiceFile::write() {
  try {
    make_directories(path_.parent_path());
    const DirectoryLock lock(path_.parent_path());
    MatmulChoices all = read();
    for (const auto& [product, algorithm] : added_) all[product] = algorithm;
    replace_file(path_, format_choices(device_, all));
  } catch (const std::exception& reason) {
    note(concat(path_.string(), ": not written: ", reason.what()));
  }
}

void MatmulChoiceFile::note(const std::string& problem) {
  if (problem_.empty()) problem_ = problem;
}

}  // namespace ssa
