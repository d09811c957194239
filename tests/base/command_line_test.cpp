#include "ssa/base/command_line.h"

#include <optional>

#include "support/catch.h"
#include "support/error_of.h"

using ssa::test::error_of;

namespace {

enum class Color { red, green, blue };

/// One option of each kind, as a main has them.
struct Wanted {
  bool dry_run = false;
  std::string model = "none";
  std::optional<std::string> prompt;
  std::int64_t rows = 8;
  unsigned workers = 0;
  std::optional<std::int64_t> limit;
  double share = 1;
  Color color = Color::green;
  std::vector<std::string> tasks, texts, overrides, paths;
  std::vector<std::int64_t> seeds = {1234};
};

Wanted read(std::vector<std::string> arguments, bool with_paths = true) {
  Wanted w;
  ssa::CommandLine line({.program = "ssa_paint", .usage = "[options]", .summary = "", .footer = ""});
  line.add_flag("--dry-run", w.dry_run, "paint nothing");
  line.add_option("--model", w.model, "what to paint");
  line.may_be_empty(line.add_option_function<std::string>(
      "--prompt", [&w](const std::string& text) { w.prompt = text; }, "a text"));
  line.add_option("--rows", w.rows, "a count")->transform(ssa::integer(1));
  line.add_option("--workers", w.workers, "a bounded count")->transform(ssa::integer(1, 4096));
  line.add_option("--limit", w.limit, "a count that may be missing")->transform(ssa::integer(-5));
  line.add_option("--share", w.share, "a part")->check(ssa::number("a number above 0, at most 1", [](double x) {
    return x > 0 && x <= 1;
  }));
  line.add_choice("--color", w.color, {{"red", Color::red}, {"green", Color::green}, {"blue", Color::blue}}, "a name");
  line.add_list("--tasks", w.tasks, "names");
  line.add_list("--seeds", w.seeds, "numbers", 0, 9999);
  line.add_option("--text", w.texts, "files");
  line.add_option("--set", w.overrides, "one value per use")->allow_extra_args(false);
  if (with_paths) line.add_option("PATH", w.paths, "paths");
  arguments.insert(arguments.begin(), "ssa_paint");
  std::vector<const char*> argv;
  for (const std::string& argument : arguments) argv.push_back(argument.c_str());
  if (!line.read(static_cast<int>(argv.size()), argv.data())) FAIL("help was printed");
  return w;
}

using Texts = std::vector<std::string>;
using Numbers = std::vector<std::int64_t>;

}  // namespace

TEST_CASE("options that are given set their variables and the others keep their values") {
  const Wanted none = read({});
  CHECK(none.model == "none");
  CHECK(none.rows == 8);
  CHECK(none.seeds == Numbers{1234});
  CHECK_FALSE(none.dry_run);
  CHECK_FALSE(none.prompt);
  CHECK_FALSE(none.limit);

  const Wanted all = read({"here", "--model", "m", "--prompt", "", "--rows", "3", "--workers", "4096", "--limit", "-5",
                           "--share", "2.5e-1", "--color", "blue", "--dry-run", "there"});
  CHECK(all.model == "m");
  CHECK(all.prompt == "");
  CHECK(all.rows == 3);
  CHECK(all.workers == 4096);
  CHECK(all.limit == -5);
  CHECK(all.share == 0.25);
  CHECK(all.color == Color::blue);
  CHECK(all.dry_run);
  CHECK(all.paths == Texts{"here", "there"});
}

TEST_CASE("the last value of a repeated option counts, while list values add up and replace the default") {
  CHECK(read({"--model", "a", "--model", "b"}).model == "b");
  CHECK(read({"--tasks", "a,b", "--tasks", "c"}).tasks == Texts{"a", "b", "c"});
  CHECK(read({"--seeds", "1,2", "--seeds", "0"}).seeds == Numbers{1, 2, 0});
  CHECK(read({"--set", "a=1,2", "--set=b=c", "--dry-run"}).overrides == Texts{"a=1,2", "b=c"});
}

TEST_CASE("a file list ends at the next option, and a value may look like an option") {
  const Wanted w = read({"--text", "a", "-", "b", "--dry-run", "c", "--text", "-d", "--model", "--dry-run"});
  CHECK(w.texts == Texts{"a", "-", "b", "-d"});
  CHECK(w.paths == Texts{"c"});
  CHECK(w.dry_run);
  CHECK(w.model == "--dry-run");
}

TEST_CASE("an option may be joined to its value by an equals sign") {
  const Wanted w = read({"--model=m=n", "--rows=3", "--limit=-5", "--seeds=1,2", "--color=red"});
  CHECK(w.model == "m=n");
  CHECK(w.rows == 3);
  CHECK(w.limit == -5);
  CHECK(w.seeds == Numbers{1, 2});
  CHECK(w.color == Color::red);
}

TEST_CASE("integers are decimal, leading zeros included") {
  CHECK(read({"--rows", "010"}).rows == 10);
  CHECK(read({"--rows", "9223372036854775807"}).rows == ssa::kNoLimit);
}

TEST_CASE("a command line error states what was found and what was expected") {
  const auto error = [](const Texts& arguments, bool with_paths = true) {
    CHECK_THROWS_AS(read(arguments, with_paths), ssa::UsageError);
    return error_of([&] { read(arguments, with_paths); });
  };
  CHECK(error({"--modle", "m"}) == "unknown option --modle; see ssa_paint --help");
  CHECK(error({"-v"}) == "unknown option -v; see ssa_paint --help");
  CHECK(error({"here"}, false) == "unexpected argument here; see ssa_paint --help");
  CHECK(error({"--dry-run", "--model"}) == "--model needs a value; see ssa_paint --help");
  CHECK(error({"--text"}) == "--text needs a value; see ssa_paint --help");
  for (const std::string rows : {"0", "-1", "3x", "x", " 3", "1.5", "0x10", "9223372036854775808"})
    CHECK(error({"--rows", rows}) == "--rows " + rows + ": expected an integer of at least 1");
  CHECK(error({"--rows", ""}) == "--rows \"\": expected an integer of at least 1");
  CHECK(error({"--workers", "4097"}) == "--workers 4097: expected an integer from 1 to 4096");
  CHECK(error({"--seeds", "1,"}) == "--seeds \"\": expected an integer from 0 to 9999");
  CHECK(error({"--seeds", "1,many"}) == "--seeds many: expected an integer from 0 to 9999");
  for (const std::string share : {"0", "1.5", "half", "0.5x", "nan", "inf", "1e999"})
    CHECK(error({"--share", share}) == "--share " + share + ": expected a number above 0, at most 1");
  CHECK(error({"--model", ""}) == "--model \"\": expected a value; see ssa_paint --help");
  CHECK(error({"--model="}) == "--model needs a value; see ssa_paint --help");
  CHECK(error({"--text", "a", ""}) == "--text \"\": expected a value; see ssa_paint --help");
  CHECK(error({""}) == "PATH \"\": expected a value; see ssa_paint --help");
  CHECK(error({"--color", "pink"}) == "--color pink: expected red, green or blue");
}

TEST_CASE("a missing option is reported by name, a misspelled one first") {
  const auto error = [](const Texts& arguments) {
    std::string model, path;
    ssa::CommandLine line({.program = "ssa_paint", .usage = "", .summary = "", .footer = ""});
    line.add_option("--model", model, "")->option_text("DIR")->required();
    line.add_option("PATH", path, "")->required();
    std::vector<const char*> argv = {"ssa_paint"};
    for (const std::string& argument : arguments) argv.push_back(argument.c_str());
    return error_of([&] { line.read(static_cast<int>(argv.size()), argv.data()); });
  };
  CHECK(error({"here"}) == "--model DIR is missing; see ssa_paint --help");
  CHECK(error({"--model", "m"}) == "PATH is missing; see ssa_paint --help");
  CHECK(error({"--modle", "m"}) == "unknown option --modle; see ssa_paint --help");
}

TEST_CASE("a program's own usage error names its --help") {
  const ssa::CommandLine line({.program = "ssa_paint", .usage = "", .summary = "", .footer = ""});
  CHECK(error_of([&] { line.fail("--model DIR is missing, of ", 2); }) ==
        "--model DIR is missing, of 2; see ssa_paint --help");
}

TEST_CASE("command line: --help takes precedence over unknown and missing options, and its lines fit 80 columns") {
  for (const char* help : {"--help", "-h"}) {
    std::string model;
    std::int64_t rows = 8;
    ssa::CommandLine line({.program = "ssa_paint",
                           .usage = "--model DIR [options]",
                           .summary = "Paints.",
                           .footer = "Example:\n  ssa_paint --model m"});
    line.add_option("--model", model,
                    "what to paint, described at a length that no terminal of 80 columns has room for")
        ->option_text("DIR")
        ->required();
    line.add_option("--rows-of-the-picture", rows, "a count")->option_text("N")->capture_default_str();
    const char* argv[] = {"ssa_paint", help, "--unknown"};
    CHECK_FALSE(line.read(3, argv));
    CHECK(line.help() ==
          "Paints.\n"
          "\n"
          "Usage: ssa_paint --model DIR [options]\n"
          "\n"
          "Options:\n"
          "  -h,--help               print this help\n"
          "  --model DIR             what to paint, described at a length that no terminal\n"
          "                          of 80 columns has room for\n"
          "  --rows-of-the-picture N\n"
          "                          a count (default: 8)\n"
          "\n"
          "Example:\n"
          "  ssa_paint --model m\n");
  }
}
