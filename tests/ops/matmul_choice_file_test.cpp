// The file of matmul's choices (kernels/matmul/choice_file.h), which needs no GPU.
#include "kernels/matmul/choice_file.h"

#include <deque>
#include <optional>

#include "kernels/matmul/choice.h"
#include "support/catch.h"
#include "support/environment.h"
#include "support/forked.h"
#include "support/temp_dir.h"

using namespace ssa;
using namespace ssa::test;

namespace {

const std::string kDevice = "GPU X, compute capability 9.0, 132 SMs, cuBLASLt 130100, workspace of 67108864 bytes";
const MatmulChoices kChoices = {{"1024 512 256 NT f32 add, aligned to 256 256 256", "00ff"}, {"2 3 4 NN", "0a"}};

std::filesystem::path path_in(const TempDir& directory) { return MatmulChoiceFile(directory.path(), kDevice).path(); }

}  // namespace

TEST_CASE("the cache directory comes from SSA_CACHE_DIR, XDG_CACHE_HOME or HOME") {
  using Path = std::filesystem::path;
  const auto directory = [](const char* own, const char* xdg, const char* home) {
    const Environment set{{"SSA_CACHE_DIR", own}, {"XDG_CACHE_HOME", xdg}, {"HOME", home}};
    return cache_directory();
  };
  CHECK(directory("/own", "/xdg", "/home/u") == Path("/own"));
  CHECK(directory("own", "/xdg", "/home/u") == Path("own"));
  CHECK(directory("", "/xdg", "/home/u") == std::nullopt);
  CHECK(directory(nullptr, "/xdg", "/home/u") == Path("/xdg/ssa-train"));
  CHECK(directory(nullptr, "relative", "/home/u") == Path("/home/u/.cache/ssa-train"));
  CHECK(directory(nullptr, nullptr, "/home/u") == Path("/home/u/.cache/ssa-train"));
  CHECK(directory(nullptr, "", "") == std::nullopt);
  CHECK(directory(nullptr, nullptr, nullptr) == std::nullopt);
}

TEST_CASE("choices are read as they were written") {
  CHECK(parse_choices(format_choices(kDevice, kChoices), kDevice) == kChoices);
  CHECK(parse_choices(format_choices(kDevice, {}), kDevice).empty());
}

TEST_CASE("a file of choices that is cut short or changed anywhere is refused") {
  const std::string text = format_choices(kDevice, kChoices);
  for (std::size_t length = 0; length < text.size(); ++length) {
    CAPTURE(length);
    CHECK_THROWS_AS(parse_choices(text.substr(0, length), kDevice), Error);
  }
  for (std::size_t at = 0; at < text.size(); ++at) {
    CAPTURE(at);
    std::string changed = text;
    changed[at] ^= 1;
    CHECK_THROWS_AS(parse_choices(changed, kDevice), Error);
  }
  CHECK_THROWS_WITH(parse_choices(text + "x", kDevice), "found 1 bytes more, expected the end of the file after XXH3 ");
}

TEST_CASE("a file of choices of another device, library or format is refused") {
  const std::string other = "GPU Y" + kDevice.substr(5), text = format_choices(other, kChoices);
  CHECK_THROWS_WITH(parse_choices(text, kDevice), "found \"" + other + "\", expected \"" + kDevice + "\"");
  std::string later = text;
  later.replace(later.find("format 1"), 8, "format 2");
  CHECK_THROWS_WITH(parse_choices(later, other),
                    "found \"ssa_train: algorithms of matrix products, format 2\", expected \"ssa_train: algorithms of "
                    "matrix products, format 1\"");
  const TempDir directory;
  CHECK(MatmulChoiceFile(directory.path(), other).path() != path_in(directory));
}

TEST_CASE("a choice is found by the next process") {
  const TempDir directory;
  const auto cache = directory / "a/b";
  {
    MatmulChoiceFile file(cache, kDevice);
    CHECK(file.find("p") == nullptr);
    file.add("p", "01");
    file.add("q", "02");
    file.add("p", "03");
    CHECK(file.problem().empty());
  }
  const MatmulChoiceFile file(cache, kDevice);
  REQUIRE(file.find("p"));
  CHECK(*file.find("p") == "03");
  REQUIRE(file.find("q"));
  CHECK(*file.find("q") == "02");
  CHECK(file.find("r") == nullptr);
  CHECK(file.problem().empty());
  for (const auto& entry : std::filesystem::directory_iterator(cache)) {  // no temporary file remains
    CAPTURE(entry.path().string());
    CHECK((entry.path() == file.path() || entry.path().filename() == ".lock"));
  }
}

TEST_CASE("a damaged file of choices is ignored with one message and written anew") {
  const TempDir directory;
  const auto path = path_in(directory);
  for (const std::string& text : {std::string(), std::string("something else\n"),
                                  format_choices(kDevice, kChoices).substr(0, 150), std::string(1000, '\0')}) {
    CAPTURE(text);
    write_file(path, text);
    MatmulChoiceFile file(directory.path(), kDevice);
    CHECK(file.find("2 3 4 NN") == nullptr);
    CHECK(file.problem().starts_with(path.string() + ": ignored: found "));
    file.add("p", "01");
    CHECK(read_file(path) == format_choices(kDevice, {{"p", "01"}}));
    CHECK(MatmulChoiceFile(directory.path(), kDevice).problem().empty());
  }
}

TEST_CASE("choices stay in the process where no file can be written") {
  const TempDir directory;
  write_file(directory / "file", "");
  MatmulChoiceFile file(directory / "file/below", kDevice);
  file.add("p", "01");
  REQUIRE(file.find("p"));
  CHECK(file.problem().starts_with(file.path().string() + ": not written: "));

  MatmulChoiceFile nowhere(std::nullopt, kDevice);
  nowhere.add("p", "01");
  CHECK(nowhere.find("p"));
  CHECK(nowhere.path().empty());
  CHECK(nowhere.problem().empty());

  std::filesystem::create_directory(path_in(directory));  // in the place of the file
  MatmulChoiceFile blocked(directory.path(), kDevice);
  CHECK(blocked.problem() == blocked.path().string() + ": ignored: found something else, expected a regular file");
}

TEST_CASE("processes that add choices at once leave all of them, and a reader never finds a damaged file") {
  const TempDir directory;
  constexpr int kProcesses = 3, kEach = 5;
  const auto name = [](int process, int i) { return concat("process ", process, " product ", i); };
  std::deque<Forked> writers;
  for (int process = 0; process < kProcesses; ++process)
    writers.emplace_back([&, process](const auto& send) {
      MatmulChoiceFile file(directory.path(), kDevice);
      for (int i = 0; i < kEach; ++i) file.add(name(process, i), std::string(128, 'a'));
      // Where the others had the lock for a second, the last choices are not written yet.
      while (!MatmulChoiceFile(directory.path(), kDevice).find(name(process, kEach - 1)))
        file.add(name(process, 0), std::string(128, 'a'));
      send("done");
    });
  for (int i = 0; i < 50; ++i) CHECK(MatmulChoiceFile(directory.path(), kDevice).problem().empty());
  for (Forked& writer : writers) CHECK(writer.wait() == "done");
  const MatmulChoiceFile file(directory.path(), kDevice);
  CHECK(file.problem().empty());
  for (int process = 0; process < kProcesses; ++process)
    for (int i = 0; i < kEach; ++i) {
      CAPTURE(process, i);
      CHECK(file.find(name(process, i)));
    }
}

TEST_CASE("the CPU has no choices to report") {
  Stream stream(DeviceKind::cpu);
  const MatmulChoiceReport report = matmul_choice_report(stream);
  CHECK(report.measured + report.from_file == 0);
  CHECK(report.file.empty());
}
