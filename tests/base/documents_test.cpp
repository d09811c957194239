// README and docs name files that exist, and link to pages and headings that exist.
#include <cctype>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "support/catch.h"
#include "support/repository.h"
#include "support/temp_dir.h"

using namespace ssa::test;
namespace fs = std::filesystem;

namespace {

std::vector<std::string> documents() {
  std::vector<std::string> files = repository_files({"docs", "kernels"}, {".md"});
  files.push_back("README.md");
  return files;
}

/// Paths that begin with a directory of the repository's root, without the ones with a placeholder or a pattern.
std::vector<std::string> paths_in(const std::string& text) {
  const auto in_path = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 ||
           (c != '\0' && std::string("_-./*").find(c) != std::string::npos);
  };
  std::vector<std::string> paths;
  for (const char* root :
       {"src/", "include/", "kernels/", "data_tools/", "tests/", "scripts/", "docs/", "configs/", "cmake/"})
    for (std::size_t at = text.find(root); at != std::string::npos; at = text.find(root, at + 1)) {
      if (at > 0 && in_path(text[at - 1])) continue;
      std::size_t end = at;
      while (end < text.size() && in_path(text[end])) ++end;
      std::string path = text.substr(at, end - at);
      while (path.back() == '.') path.pop_back();
      if (path.find('*') == std::string::npos) paths.push_back(path);
    }
  return paths;
}

/// The anchors of a page's headings, as GitHub makes them.
std::set<std::string> anchors_in(const std::string& text) {
  std::set<std::string> anchors;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with("#")) continue;
    std::string anchor;
    for (const char c : line.substr(std::min(line.find(' ') + 1, line.size()))) {
      if (std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '-' || c == '_')
        anchor += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
      else if (c == ' ')
        anchor += '-';
    }
    anchors.insert(anchor);
  }
  return anchors;
}

/// The targets of the links of a Markdown text.
std::vector<std::string> links_in(const std::string& text) {
  std::vector<std::string> links;
  for (std::size_t at = text.find("]("); at != std::string::npos; at = text.find("](", at + 1)) {
    const std::size_t end = text.find(')', at);
    if (end != std::string::npos) links.push_back(text.substr(at + 2, end - at - 2));
  }
  return links;
}

}  // namespace

TEST_CASE("every path that a document names exists") {
  for (const std::string& document : documents())
    for (const std::string& path : paths_in(read_file(source_dir() / document))) {
      INFO(document << ": " << path);
      CHECK(fs::exists(source_dir() / path));
    }
}

TEST_CASE("every link of a document leads to a page and heading that exist") {
  for (const std::string& document : documents())
    for (const std::string& link : links_in(read_file(source_dir() / document))) {
      if (link.starts_with("https://")) continue;
      INFO(document << ": " << link);
      const std::string page = link.substr(0, link.find('#'));
      const fs::path target =
          page.empty() ? source_dir() / document : source_dir() / fs::path(document).parent_path() / page;
      CHECK(fs::exists(target));
      if (const std::size_t hash = link.find('#'); hash != std::string::npos && fs::exists(target))
        CHECK(anchors_in(read_file(target)).count(link.substr(hash + 1)) == 1);
    }
}

TEST_CASE("every program that a document starts is built") {
  const fs::path root = source_dir();
  for (const std::string& document : documents()) {
    const std::string text = read_file(root / document), begin = "build/bin/";
    for (std::size_t at = text.find(begin); at != std::string::npos; at = text.find(begin, at + 1)) {
      std::size_t end = at + begin.size();
      while (end < text.size() && (std::isalnum(static_cast<unsigned char>(text[end])) != 0 || text[end] == '_')) ++end;
      const std::string program = text.substr(at + begin.size(), end - at - begin.size());
      if (program.empty()) continue;  // the directory itself
      INFO(document << ": " << program);
      const std::string source = program + ".cpp";
      CHECK((program == "ssa_bench" || fs::exists(root / "src/apps" / source) ||
             fs::exists(root / "data_tools" / source)));
    }
  }
}

TEST_CASE("the README has at most 200 lines") {
  const std::string text = read_file(source_dir() / "README.md");
  CHECK(std::count(text.begin(), text.end(), '\n') <= 200);
}
