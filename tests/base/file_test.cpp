#include "ssa/base/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>

#include "ssa/base/file_kind.h"
#include "ssa/base/json_file.h"
#include "ssa/base/mapped_file.h"
#include "ssa/base/signals.h"
#include "support/catch.h"
#include "support/error_of.h"
#include "support/forked.h"
#include "support/temp_dir.h"

using namespace ssa;
using ssa::test::check_error;
using ssa::test::error_of;
using ssa::test::TempDir;

TEST_CASE("checksums are XXH3-64 with seed 0") {
  CHECK(xxh3_hex("", 0) == "2d06800538d394c2");
  CHECK(xxh3_hex("abc", 3) == "78af5f94892f3950");
  Xxh3 running;
  running.update("a", 1);
  running.update("bc", 2);
  CHECK(running.hex() == "78af5f94892f3950");
}

TEST_CASE("a file written in pieces of any size reads back and has the checksum of its content") {
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
  const FileChecksum checksum = writer.finish();
  CHECK((checksum == FileChecksum{content.size(), xxh3_hex(content.data(), content.size())}));
  CHECK(checksum_file(path) == checksum);
  CHECK(read_file(path) == content);
  const MappedFile mapped(path);
  CHECK(std::string_view(reinterpret_cast<const char*>(mapped.bytes().data()), mapped.bytes().size()) == content);
}

TEST_CASE("appending keeps the content, and an empty file can be mapped") {
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

TEST_CASE("a continued file keeps a prefix, which its checksum includes") {
  const TempDir dir;
  const auto path = dir.path() / "grown";
  const std::string old(std::size_t{3} << 20, 'a');
  FileWriter(path).finish();
  CHECK(FileWriter::continue_at(path, 0).finish().bytes == 0);
  replace_file(path, old + "what an interrupted program wrote after its last checkpoint");
  {
    FileWriter writer = FileWriter::continue_at(path, old.size());
    writer.write("b");
    writer.sync();
    CHECK(read_file(path) == old + "b");
    CHECK(writer.checksum() == checksum_file(path));
  }
  FileWriter again = FileWriter::continue_at(path, old.size() + 1);
  again.write("c");
  const FileChecksum finished = again.finish();
  CHECK(finished == checksum_file(path));
  CHECK(read_file(path) == old + "bc");
  check_error(error_of([&] { FileWriter::continue_at(path, old.size() + 3); }), path.string(),
              "expected at least " + std::to_string(old.size() + 3));
  CHECK(FileWriter::continue_at(dir.path() / "new", 0).finish().bytes == 0);
}

TEST_CASE("replacing a file leaves no other file in the directory") {
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

TEST_CASE("the error on a full device states the file and the bytes written") {
  check_error(error_of([] {
                FileWriter writer("/dev/full");
                writer.write("lost");
                writer.flush();
              }),
              "no space left on device: /dev/full, 0 bytes written");
}

TEST_CASE("file: a FIFO in the place of a file of the project is an error, not a wait") {
  const TempDir dir;
  REQUIRE(::mkfifo((dir / "fifo").c_str(), 0600) == 0);
  check_error(error_of([&] { FileWriter(dir / "fifo"); }), "fifo: cannot write: is a FIFO, expected a regular file");
  check_error(error_of([&] { replace_file(dir / "fifo", "x"); }), "is a FIFO");
  check_error(error_of([&] { MappedFile mapped(dir / "fifo"); }), "not a file");
  check_error(error_of([&] { read_own_json_object(dir / "fifo"); }),
              "fifo: cannot read: is a FIFO, expected a regular file");
}

TEST_CASE("file: a FIFO is read to the end of its writer, and a signal ends the wait for one") {
  const TempDir dir;
  const std::filesystem::path fifo = dir / "fifo";
  REQUIRE(::mkfifo(fifo.c_str(), 0600) == 0);
  const auto read = [&](const auto& send) {
    ::alarm(20);  // ends a child that waits for good
    send(read_file(fifo));
  };
  const auto write = [&](const char* command) { return std::system((command + (" >" + fifo.string())).c_str()); };
  test::Forked reader(read);
  REQUIRE(write("(echo one; sleep 0.2; echo two)") == 0);
  CHECK(reader.wait() == "one\ntwo\n");

  const auto stopped = [&](const auto& send) {
    catch_stop_signals();
    ::raise(SIGTERM);
    read(send);
  };
  CHECK(test::Forked(stopped).wait() == "stopped by signal 15 while waiting for input");
  const int writer = ::open(fifo.c_str(), O_RDWR);
  REQUIRE(writer >= 0);
  REQUIRE(::write(writer, "x", 1) == 1);
  CHECK(test::Forked(stopped).wait() == "stopped by signal 15 while waiting for input");
  ::close(writer);
}

TEST_CASE("file: a device is written to, not replaced by a file") {
  // A terminal: no file can be made in its directory, so a test that fails leaves the machine's devices as they are.
  const int terminal = ::posix_openpt(O_RDWR | O_NOCTTY);
  REQUIRE(terminal >= 0);
  REQUIRE((::grantpt(terminal) == 0 && ::unlockpt(terminal) == 0));
  const std::string name = ::ptsname(terminal);
  check_replaceable(name);
  replace_file(name, "results");
  char text[7];
  CHECK(::read(terminal, text, sizeof text) == static_cast<ssize_t>(sizeof text));
  CHECK(std::string_view(text, sizeof text) == "results");
  ::close(terminal);
}

TEST_CASE("file: an output that cannot be written is an error before it is computed, and nothing changes") {
  const TempDir dir;
  std::filesystem::create_directory(dir / "taken");
  check_error(error_of([&] { check_replaceable(dir / "taken"); }), "taken: a directory, expected a file");
  check_error(error_of([&] { check_replaceable(dir / "no" / "such"); }), "cannot create: No such file or directory");
  replace_file(dir / "file", "old");
  check_replaceable(dir / "file");
  check_replaceable(dir / "new");
  CHECK(ssa::read_file(dir / "file") == "old");
  CHECK(std::distance(std::filesystem::directory_iterator(dir.path()), {}) == 2);
}

TEST_CASE("file: a symbolic link stays when the file that it names is replaced") {
  const TempDir dir;
  std::filesystem::create_directory(dir / "elsewhere");
  std::filesystem::create_symlink("elsewhere/file", dir / "link");
  for (const char* content : {"first", "second"}) {
    replace_file(dir / "link", content);
    CHECK(std::filesystem::is_symlink(dir / "link"));
    CHECK(ssa::read_file(dir / "elsewhere" / "file") == content);
  }
}

TEST_CASE("file_kind: files of other formats are recognized by their first bytes") {
  CHECK(foreign_kind("version https://git-lfs.github.com/spec/v1\n").starts_with("a Git LFS pointer"));
  CHECK(foreign_kind("\xEF\xBB\xBF<!DOCTYPE HTML><html>").starts_with("an HTML page"));
  CHECK(foreign_kind("  \n<html>").starts_with("an HTML page"));
  CHECK(foreign_kind("<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code></Error>").starts_with("an XML page"));
  CHECK(foreign_kind("GGUF\x03").starts_with("a GGUF file"));
  CHECK(foreign_kind(std::string("\x80\x02}q\0", 5)).starts_with("a Python pickle"));
  for (const char* text : {"", "<", "<h1>", "IQ== 0\n", "{}", "\n\n", "version 5", "GGUF is", "PAR15", "BZh", "BZh9"})
    CHECK(foreign_kind(text) == "");
  CHECK(not_text_kind("version https://git-lfs.github.com/spec/v1\n").starts_with("a Git LFS pointer"));
  CHECK(not_text_kind("%PDF-1.7\n") == "a PDF file");
  CHECK(not_text_kind("BZh91AY&SY") == "a bzip2 file");
  using namespace std::string_view_literals;
  const std::string header(257, '\0');
  for (const auto& [bytes, kind] :
       {std::pair{"\x04\x22\x4D\x18\x64"sv, "an lz4 file"}, std::pair{"x\x9C\xCB"sv, "a zlib stream"},
        std::pair{"x\x01\x01"sv, "a zlib stream"}, std::pair{"x\xDA\xCB"sv, "a zlib stream"},
        std::pair{"\x50*M\x18\4\0\0\0"sv, "a zstd file"}, std::pair{"\x5F*M\x18\4\0\0\0"sv, "a zstd file"},
        std::pair{"SQLite format 3\0\x10"sv, "an SQLite database"},
        std::pair{"ARROW1\0\0\xFF"sv, "an Arrow (Feather) file"}, std::pair{"FEA1\0\0\0\0"sv, "a Feather file"},
        std::pair{"\xFF\xFF\xFF\xFF\x10\1\0\0"sv, "an Arrow stream"}, std::pair{"\x93NUMPY\1\0"sv, "a NumPy array"},
        std::pair{"Obj\1"sv, "an Avro file"}, std::pair{"MMIDIDX\0\0\1"sv, "the .idx of a Megatron-LM dataset"},
        std::pair{"\x10\0\0\0\0\0\0\0{\"a\""sv, "a safetensors file"}, std::pair{"\x80\5\x95"sv, "a Python pickle"},
        std::pair{"\x7F\x45LF\2"sv, "an ELF program or library"}}) {
    INFO(kind);
    CHECK(not_text_kind(bytes) == kind);
    CHECK(foreign_kind(bytes) == kind);
    CHECK(not_text_kind(bytes.substr(0, 1)) == "");
  }
  CHECK(not_text_kind("a.txt" + header.substr(5) + "ustar\000") == "a tar archive");
  CHECK(not_text_kind(std::string(257, 'a') + "ustar is a word") == "");
  for (const char* text : {"x^2", "x\xDA\x85", "SQLite format 3 is", "ARROW1", "FEA1", "Object", "Obj", "P*M", "PK",
                           "Rar!", "7z", "LZIP", "MMIDIDX", "\x1F"})
    CHECK(not_text_kind(text) == "");
  CHECK(find_nul(std::string("a\0b\0", 4)) == 1);
  CHECK(find_nul("text") == std::string::npos);
  CHECK(find_nul(std::string(ssa::kTextBytes, 'a') + '\0') == std::string::npos);
  CHECK(not_text_kind(std::string("h\0i\0", 4)) == "a text in UTF-16");
  CHECK(not_text_kind(std::string("\0h\0i", 4)) == "a text in UTF-16");
  for (const std::string& text :
       {std::string("a\0bc", 4), std::string("<html>"), std::string("<?xml"), std::string("h\0", 2)})
    CHECK(not_text_kind(text) == "");
}
