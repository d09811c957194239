#include "ssa/base/file.h"

#include "ssa/base/mapped_file.h"
#include "support/catch.h"
#include "support/error_of.h"
#include "support/temp_dir.h"

using namespace ssa;
using ssa::test::check_error;
using ssa::test::error_of;
using ssa::test::TempDir;

TEST_CASE("sums are XXH3-64 with seed 0") {
  CHECK(xxh3_hex("", 0) == "2d06800538d394c2");
  CHECK(xxh3_hex("abc", 3) == "78af5f94892f3950");
  Xxh3 running;
  running.update("a", 1);
  running.update("bc", 2);
  CHECK(running.hex() == "78af5f94892f3950");
}

TEST_CASE("a file written in pieces of any size reads back, with its sum") {
  const TempDir dir;
  const auto path = dir.path() / "pieces";
  std::string content;
  FileWriter writer(path);
  for (std::size_t piece : {std::size_t{1}, std::size_t{0}, std::size_t{1000}, (std::size_t{1} << 20) - 1,
                            std::size_t{2}, std::size_t{3} << 20, std::size_t{7}}) {
    std::string text(piece, '\0');
    for (std::size_t i = 0; i < piece; ++i) text[i] = static_cast<char>(content.size() + i * 31);
    writer.write(text);
    content += text;
  }
  const FileChecksum sum = writer.finish();
  CHECK((sum == FileChecksum{content.size(), xxh3_hex(content.data(), content.size())}));
  CHECK(checksum_file(path) == sum);
  CHECK(read_file(path) == content);
  const MappedFile mapped(path);
  CHECK(std::string_view(reinterpret_cast<const char*>(mapped.bytes().data()), mapped.bytes().size()) == content);
}

TEST_CASE("appending keeps what was there, and an empty file maps") {
  const TempDir dir;
  for (const char* line : {"one\n", "two\n"}) {
    FileWriter writer(dir.path() / "log", FileWriter::Mode::append);
    writer.write(line);
    writer.flush();
  }
  CHECK(read_file(dir.path() / "log") == "one\ntwo\n");
  FileWriter(dir.path() / "empty").finish();
  CHECK(MappedFile(dir.path() / "empty").bytes().empty());
}

TEST_CASE("replacing a file leaves nothing beside it") {
  const TempDir dir;
  replace_file(dir.path() / "state", "old");
  replace_file(dir.path() / "state", "new");
  CHECK(read_file(dir.path() / "state") == "new");
  CHECK(std::distance(std::filesystem::directory_iterator(dir.path()), {}) == 1);
}

TEST_CASE("file errors name the path and the cause") {
  const TempDir dir;
  const auto missing = dir.path() / "no" / "such";
  check_error(error_of([&] { read_file(missing); }), missing.string(), "No such file or directory");
  check_error(error_of([&] { FileWriter w(missing); }), missing.string(), "No such file or directory");
  check_error(error_of([&] { read_file(dir.path()); }), dir.path().string(), "Is a directory");
  replace_file(dir.path() / "file", "x");
  check_error(error_of([&] { make_directories(dir.path() / "file" / "below"); }), "file/below", "Not a directory");
  check_error(error_of([&] { rename_path(missing, dir.path() / "x"); }), missing.string(), "No such file or directory");
}

TEST_CASE("a full device is named with what was written") {
  check_error(error_of([] {
                FileWriter writer("/dev/full");
                writer.write("lost");
                writer.flush();
              }),
              "no space left on device: /dev/full, 0 bytes written");
}
