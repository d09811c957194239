#include "ssa/base/command_line.h"

#include <optional>

#include "support/catch.h"
#include "support/error_of.h"

using ssa::test::error_of;

namespace {

enum class Colour { red, green, blue };

/// One option of each kind, as a main has them.
struct Wanted {
  bool dry_run = false;
  std::string model = "none";
  std::optional<std::string> prompt;
  std::int64_t rows = 8;
  unsigned workers = 0;
  std::optional<std::int64_t> limit;
  double share = 1;
  Colour colour = Colour::green;
  std::vector<std::string> tasks, texts, paths;
  std::vector<std::int64_t> seeds = {1234};
};

Wanted read(std::vector<std::string> arguments, bool with_paths = true) {
  Wanted w;
  ssa::CommandLine line("ssa_paint", "the help");
  line.flag("--dry-run", w.dry_run);
  line.text("--model", w.model);
  line.text("--prompt", w.prompt);
  line.whole("--rows", w.rows, 1);
  line.whole("--workers", w.workers, 1, 4096);
  line.whole("--limit", w.limit, -5);
  line.real("--share", w.share, "a number above 0, at most 1", [](double x) { return x > 0 && x <= 1; });
  line.choice("--colour", w.colour, {{"red", Colour::red}, {"green", Colour::green}, {"blue", Colour::blue}});
  line.list("--tasks", w.tasks);
  line.list("--seeds", w.seeds, 0, 9999);
  line.files("--text", w.texts);
  if (with_paths) line.paths(w.paths);
  arguments.insert(arguments.begin(), "ssa_paint");
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  if (!line.read(static_cast<int>(argv.size()), argv.data())) FAIL("help was printed");
  return w;
}

using Texts = std::vector<std::string>;
using Numbers = std::vector<std::int64_t>;

}  // namespace

TEST_CASE("a command line sets what its options are bound to, and leaves the rest") {
  const Wanted none = read({});
  CHECK(none.model == "none");
  CHECK(none.rows == 8);
  CHECK(none.seeds == Numbers{1234});
  CHECK_FALSE(none.dry_run);
  CHECK_FALSE(none.prompt);
  CHECK_FALSE(none.limit);

  const Wanted all = read({"here", "--model", "m", "--prompt", "", "--rows", "3", "--workers", "4096", "--limit", "-5",
                           "--share", "2.5e-1", "--colour", "blue", "--dry-run", "there"});
  CHECK(all.model == "m");
  CHECK(all.prompt == "");
  CHECK(all.rows == 3);
  CHECK(all.workers == 4096);
  CHECK(all.limit == -5);
  CHECK(all.share == 0.25);
  CHECK(all.colour == Colour::blue);
  CHECK(all.dry_run);
  CHECK(all.paths == Texts{"here", "there"});
}

TEST_CASE("of several values of an option the last counts, those of a list add up in place of the default") {
  CHECK(read({"--model", "a", "--model", "b"}).model == "b");
  CHECK(read({"--tasks", "a,b", "--tasks", "c"}).tasks == Texts{"a", "b", "c"});
  CHECK(read({"--seeds", "1,2", "--seeds", "0"}).seeds == Numbers{1, 2, 0});
}

TEST_CASE("files go on to the next option, and a value may look like one") {
  const Wanted w = read({"--text", "a", "-", "b", "--dry-run", "c", "--text", "-d", "--model", "--dry-run"});
  CHECK(w.texts == Texts{"a", "-", "b", "-d"});
  CHECK(w.paths == Texts{"c"});
  CHECK(w.dry_run);
  CHECK(w.model == "--dry-run");
}

TEST_CASE("an error of the command line says what was found and what was expected") {
  const auto error = [](const Texts& arguments, bool with_paths = true) {
    CHECK_THROWS_AS(read(arguments, with_paths), ssa::UsageError);
    return error_of([&] { read(arguments, with_paths); });
  };
  CHECK(error({"--modle", "m"}) == "unknown argument --modle; see ssa_paint --help");
  CHECK(error({"-v"}) == "unknown argument -v; see ssa_paint --help");
  CHECK(error({"here"}, false) == "unknown argument here; see ssa_paint --help");
  CHECK(error({"--dry-run", "--model"}) == "--model needs a value; see ssa_paint --help");
  CHECK(error({"--text"}) == "--text needs a value; see ssa_paint --help");
  for (const std::string rows : {"0", "-1", "3x", "x", "", " 3", "1.5", "9223372036854775808"})
    CHECK(error({"--rows", rows}) == "--rows " + rows + ": expected a whole number from 1");
  CHECK(read({"--rows", "9223372036854775807"}).rows == ssa::CommandLine::kNoLimit);
  CHECK(error({"--workers", "4097"}) == "--workers 4097: expected a whole number from 1 to 4096");
  CHECK(error({"--seeds", "1,"}) == "--seeds : expected a whole number from 0 to 9999");
  CHECK(error({"--seeds", "1,many"}) == "--seeds many: expected a whole number from 0 to 9999");
  for (const std::string share : {"0", "1.5", "half", "0.5x", "", "nan", "inf", "1e999"})
    CHECK(error({"--share", share}) == "--share " + share + ": expected a number above 0, at most 1");
  CHECK(error({"--colour", "pink"}) == "--colour pink: expected red, green or blue");
}

TEST_CASE("a program's own complaint ends as those of its command line do") {
  const ssa::CommandLine line("ssa_paint", "");
  CHECK(error_of([&] { line.fail("--model DIR is missing, of ", 2); }) ==
        "--model DIR is missing, of 2; see ssa_paint --help");
}

TEST_CASE("help ends the reading") {
  for (std::string help : {"--help", "-h"}) {
    const ssa::CommandLine line("ssa_paint", "");
    std::string program = "ssa_paint", unknown = "--unknown";
    char* argv[] = {program.data(), help.data(), unknown.data()};
    CHECK_FALSE(line.read(3, argv));
  }
}
