#include "data_tools/tokenize_job.h"
#include "ssa/base/directory_lock.h"
#include "support/catch.h"
#include "support/run_program.h"
#include "support/temp_dir.h"

using namespace ssa::test;

TEST_CASE("tokenize: an output that another process writes is refused with its name, and taken once it is free") {
  const TempDir dir;
  write_file(dir.path() / "text.txt", "one two\n");
  const Arguments command = {"ssa_tokenize", "--quiet",  "--tokenizer", "bytes",
                             "--input",      "text.txt", "--output",    "out"};
  std::filesystem::create_directory(dir.path() / "out");
  {
    const ssa::DirectoryLock other(dir.path() / "out");
    check_fails(run_program(command, {.directory = dir.path()}), 2, {"out: in use by host ", ", process "});
  }
  CHECK(run_program(command, {.directory = dir.path()}).exit_code == 0);
}
