// The console output of a run on a terminal and in a file.
#include "src/train/console.h"

#include <fcntl.h>
#include <spdlog/details/log_msg.h>
#include <unistd.h>

#include <cstdio>
#include <functional>

#include "support/catch.h"
#include "support/temp_dir.h"

using namespace ssa;
using namespace ssa::test;

namespace {

/// The text that `body` writes to stdout.
std::string stdout_of(const std::function<void()>& body) {
  const TempDir directory;
  const std::string file = directory / "stdout";
  std::fflush(stdout);
  const int before = dup(STDOUT_FILENO), to = open(file.c_str(), O_CREAT | O_WRONLY, 0600);
  REQUIRE(before >= 0);
  REQUIRE(to >= 0);
  dup2(to, STDOUT_FILENO);
  body();
  std::fflush(stdout);
  dup2(before, STDOUT_FILENO);
  close(before);
  close(to);
  return read_file(file);
}

void show(Console& console) {
  console.show_step("step 1");
  console.show_step("step 2, which is wider");
  console.log({"", spdlog::level::info, "saved"});
  console.show_step("step 3");
}

}  // namespace

TEST_CASE("console: on a terminal a step replaces the last one, and no line is as wide as the terminal") {
  Console console(12);
  CHECK(stdout_of([&] { show(console); }) == "\r\033[Kstep 1\r\033[Kstep 2, whi\nsaved\n\r\033[Kstep 3");
}

TEST_CASE("console: in a file every step is a line") {
  Console console(0);
  CHECK(stdout_of([&] { show(console); }) == "step 1\nstep 2, which is wider\nsaved\nstep 3\n");
  CHECK(stdout_of([&] { CHECK(terminal_columns() == 0); }).empty());
}
