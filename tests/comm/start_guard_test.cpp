// How the ranks of a machine find each other before MPI has started.
#include "src/comm/start_guard.h"

#include <string>

#include "ssa/comm/comm.h"
#include "support/catch.h"
#include "support/environment.h"
#include "support/error_of.h"
#include "support/paths.h"
#include "support/run_program.h"

using namespace ssa;
using namespace ssa::test;

TEST_CASE("start guard: a launcher's number that is none is refused, by name") {
  const auto refused = [](const char* variable, const char* text, const std::string& shown) {
    const Environment environment{{"OMPI_COMM_WORLD_SIZE", "2"}, {"OMPI_COMM_WORLD_RANK", "0"}, {variable, text}};
    check_error(error_of([] { static_cast<void>(launched_ranks() + launched_rank()); }),
                std::string(variable) + ": found " + shown + ", expected an integer from 0 to 1000000");
  };
  for (const char* variable : {"OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"}) {
    refused(variable, "4x", "\"4x\"");
    refused(variable, "", "\"\"");
    refused(variable, "-1", "\"-1\"");
    refused(variable, "1000001", "\"1000001\"");
    refused(variable, "two\x1b[31m", "\"two\\x1b[31m\"");
  }
  for (const std::string variable : {"OMPI_COMM_WORLD_LOCAL_RANK=", "MPI_LOCALNRANKS="}) {
    const ProgramResult result = run_program({"/usr/bin/env", "OMPI_COMM_WORLD_SIZE=2", variable + "1x",
                                              (binary_dir() / "comm_ranks").string(), "collectives", "2"});
    check_fails(result, kExitUsage, {variable.substr(0, variable.size() - 1) + ": found \"1x\""});
  }
}
