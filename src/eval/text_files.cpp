#include "ssa/eval/text_files.h"

#include <algorithm>

#include "ssa/base/error.h"
#include "ssa/base/file.h"
#include "ssa/base/file_kind.h"
#include "ssa/base/json_file.h"
#include "ssa/data/json_fields.h"
#include "ssa/eval/python_text.h"
#include "ssa/tokenizer/utf8.h"

namespace ssa::eval {
namespace fs = std::filesystem;
namespace {

using Json = nlohmann::json;

bool is_json_lines(const fs::path& file) { return file.extension() == ".jsonl" || file.extension() == ".ndjson"; }

Document text_document(const std::string& text, const std::string& where) {
  SSA_CHECK(!text.empty(), where, ": empty, expected some text");
  return {.query = text, .choices = {}, .gold = 0, .target = text, .source = where};
}

std::vector<fs::path> text_files(const fs::path& directory) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(directory)) {
    const fs::path& file = entry.path();
    std::error_code error;
    const fs::file_type type = entry.status(error).type();
    if ((file.extension() != ".txt" && !is_json_lines(file)) || type == fs::file_type::directory) continue;
    if (entry.is_symlink() && error)
      fail(file.string(), ": a link to ", fs::read_symlink(file).string(),
           " that cannot be followed: ", error.message(), ", expected a link to a file");
    check_input_file(file);
    files.push_back(file);
  }
  SSA_CHECK(!files.empty(), directory.string(), ": no .txt and no .jsonl file");
  std::sort(files.begin(), files.end());
  return files;
}

std::vector<Document> documents_of_file(const fs::path& file) {
  std::string text = ssa::read_file(file);
  const bool lines = is_json_lines(file) || file.extension() == ".json";
  const std::string kind = lines ? foreign_kind(text) : not_text_kind(text);
  SSA_CHECK(kind.empty(), file.string(), ": ", kind, ", expected ", lines ? "JSON lines" : "text in UTF-8");
  const std::size_t nul = lines ? text.npos : find_nul(text);
  SSA_CHECK(nul == text.npos, file.string(), ": byte ", nul + 1,
            " is NUL, as in files that are no text, expected text in UTF-8");
  const std::size_t valid = valid_utf8_prefix(text);
  SSA_CHECK(valid == text.size(), file.string(), ": not UTF-8 at byte ", valid);
  if (text.starts_with("\xEF\xBB\xBF")) text.erase(0, 3);  // a byte-order mark
  if (!lines) return {text_document(text, file.string())};
  std::vector<Document> documents;
  std::size_t line = 0;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view one = std::string_view(text).substr(begin, end - begin);
    begin = end + 1;
    const std::string where = concat(file.string(), ": line ", ++line);
    if (strip(one).empty()) continue;
    const Json json = parse_json<Json>(one, where, "JSON", refuse_repeated_keys(where));
    documents.push_back(text_document(JsonFields(json, where).text("text"), where));
  }
  SSA_CHECK(!documents.empty(), file.string(), ": no documents");
  return documents;
}

}  // namespace

std::vector<Document> text_documents(const fs::path& path) {
  if (!fs::is_directory(path)) return documents_of_file(path);
  std::vector<Document> documents;
  for (const fs::path& file : text_files(path))
    for (Document& document : documents_of_file(file)) documents.push_back(std::move(document));
  return documents;
}

}  // namespace ssa::eval
