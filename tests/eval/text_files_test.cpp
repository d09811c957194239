#include "ssa/eval/text_files.h"

#include "support/catch.h"
#include "support/error_of.h"
#include "support/temp_dir.h"

using namespace ssa;
using namespace ssa::eval;
using namespace ssa::test;

namespace {

std::vector<std::string> texts(const std::filesystem::path& path) {
  std::vector<std::string> all;
  for (const Document& document : text_documents(path)) {
    CHECK(document.query == document.target);
    all.push_back(document.query);
  }
  return all;
}

}  // namespace

TEST_CASE("text files: --text reads text files, JSON Lines and directories of both") {
  const TempDir dir;
  std::filesystem::create_directories(dir / "books/more");
  ssa::test::write_file(dir / "books/b.txt", "{\"text\": \"as it is\"}\n");
  ssa::test::write_file(dir / "books/a.jsonl", "{\"text\": \"one\\n\", \"title\": 1}\n\n{\"text\": \"two\"}\n");
  ssa::test::write_file(dir / "books/c.md", "not read");
  ssa::test::write_file(dir / "books/more/d.txt", "not read");
  CHECK(texts(dir / "books/b.txt") == std::vector<std::string>{"{\"text\": \"as it is\"}\n"});
  CHECK(texts(dir / "books/c.md") == std::vector<std::string>{"not read"});
  for (const char* name : {"lines.ndjson", "lines.json"}) {
    ssa::test::write_file(dir / name, "{\"text\": \"one\"}\n{\"text\": \"two\"}\n");
    CHECK(texts(dir / name) == std::vector<std::string>{"one", "two"});
  }
  ssa::test::write_file(dir / "mark.txt", "\xEF\xBB\xBFtext");
  CHECK(texts(dir / "mark.txt") == std::vector<std::string>{"text"});
  CHECK(texts(dir / "books") == std::vector<std::string>{"one\n", "two", "{\"text\": \"as it is\"}\n"});
  CHECK(text_documents(dir / "books").at(1).source == (dir / "books/a.jsonl").string() + ": line 3");
}

TEST_CASE("text files: malformed files are errors that name file and line") {
  const TempDir dir;
  const auto complaint = [&](const char* file, const std::string& content) {
    ssa::test::write_file(dir / file, content);
    return error_of([&] { text_documents(dir / file); });
  };
  check_error(complaint("a.jsonl", "{\"text\": \"x\"}\n{\"body\": \"x\"}\n"), "a.jsonl: line 2", "no key text");
  check_error(complaint("b.jsonl", "{\"text\": \"\"}\n"), "b.jsonl: line 1", "empty");
  check_error(complaint("c.jsonl", "{\"text\""), "c.jsonl: line 1", "not valid JSON");
  check_error(complaint("c.jsonl", R"({"text": "a", "text": "b"})"), "c.jsonl: line 1: text: given twice",
              "expected once");
  check_error(complaint("d.jsonl", "\n"), "d.jsonl", "no documents");
  check_error(complaint("e.txt", "a\xff"), "e.txt", "not UTF-8 at byte 1");
  check_error(complaint("f.txt", ""), "f.txt", "empty");
  check_error(complaint("g.txt", "version https://git-lfs.github.com/spec/v1\n"), "g.txt", "a Git LFS pointer");
  check_error(complaint("h.jsonl.gz", "\x1F\x8B"), "h.jsonl.gz", "a gzip file", "expected text");
  check_error(complaint("i.txt", std::string("h\0i\0", 4)), "i.txt", "UTF-16");
  check_error(complaint("j.txt", std::string("hi\0", 3)), "j.txt: byte 3 is NUL", "expected text in UTF-8");
  std::filesystem::create_directories(dir / "linked/directory.txt");
  ssa::test::write_file(dir / "linked/a.txt", "a");
  std::filesystem::create_symlink("a.txt", dir / "linked/b.txt");
  CHECK(texts(dir / "linked") == std::vector<std::string>{"a", "a"});
  for (const char* target : {"gone.txt", "c.txt"}) {
    std::filesystem::create_symlink(target, dir / "linked/c.txt");
    check_error(error_of([&] { text_documents(dir / "linked"); }), "linked/c.txt: a link to ", target,
                "expected a link to a file");
    std::filesystem::remove(dir / "linked/c.txt");
  }
  std::filesystem::create_directories(dir / "none");
  check_error(error_of([&] { text_documents(dir / "none"); }), "none", "no .txt and no .jsonl");
}
