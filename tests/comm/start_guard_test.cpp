// How the ranks of a machine find each other before MPI has started.
#include "src/comm/start_guard.h"

#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "ssa/comm/comm.h"
#include "support/catch.h"
#include "support/environment.h"
#include "support/error_of.h"
#include "support/forked.h"
#include "support/paths.h"
#include "support/run_program.h"

using namespace ssa;
using namespace ssa::test;

namespace {

/// Local rank `rank` of `ranks`, started by Open MPI as a job of this name. It ends when MPI has not started after
/// `seconds`.
Arguments waiting_rank(const std::string& job, int rank, int ranks, int seconds) {
  return {"/usr/bin/env",
          "PMIX_NAMESPACE=" + job,
          "OMPI_COMM_WORLD_LOCAL_RANK=" + std::to_string(rank),
          "OMPI_COMM_WORLD_LOCAL_SIZE=" + std::to_string(ranks),
          (binary_dir() / "comm_ranks").string(),
          "waits-to-start",
          std::to_string(seconds)};
}

std::size_t count_of(const std::string& part, const std::string& text) {
  std::size_t count = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

/// The name, in the abstract namespace, of the socket that a guard of this process has.
std::string name_of_own_socket() {
  for (int file = 0; file < 1024; ++file) {
    sockaddr_un own{};
    socklen_t size = sizeof own;
    if (::getsockname(file, reinterpret_cast<sockaddr*>(&own), &size) != 0 || own.sun_family != AF_UNIX) continue;
    constexpr std::size_t kBegin = offsetof(sockaddr_un, sun_path) + 1;
    const std::string name(own.sun_path + 1, size > kBegin ? size - kBegin : 0);
    if (name.starts_with("ssa-start.")) return name;
  }
  return "";
}

/// Sends "end" to the socket of this name.
void send_end(const std::string& name) {
  const int file = ::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  sockaddr_un to{};
  to.sun_family = AF_UNIX;
  std::memcpy(to.sun_path + 1, name.data(), name.size());
  const std::int32_t end[] = {2, 0};  // Message::end from rank 0
  SSA_CHECK(::sendto(file, end, sizeof end, 0, reinterpret_cast<const sockaddr*>(&to),
                     static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size())) == sizeof end,
            "sendto: ", std::strerror(errno));
  ::close(file);
}

}  // namespace

TEST_CASE("start guard: ranks find each other, however long the launcher's name of the job is") {
  // Rank 2 is missing. All jobs wait at the same time.
  std::vector<std::unique_ptr<RunningProgram>> programs;
  for (const std::size_t length : {5u, 90u, 1000u})
    for (const int rank : {0, 1}) {
      const std::string job = std::string(length, 'j') + "-" + std::to_string(::getpid());
      programs.push_back(std::make_unique<RunningProgram>(waiting_rank(job, rank, 3, 2)));
    }
  std::string err;
  for (const auto& program : programs) {
    CHECK(program->wait(60).exit_code == kExitFailed);
    err += program->err();
  }
  INFO(err);
  CHECK(count_of("error: ", err) == 3);
  CHECK(count_of(", local rank 2 is missing", err) == 3);
}

TEST_CASE("start guard: a second process of a rank says that it cannot name missing ranks") {
  const std::string job = "twice-" + std::to_string(::getpid());
  RunningProgram first(waiting_rank(job, 0, 2, 1)), second(waiting_rank(job, 0, 2, 1));
  CHECK(first.wait(60).exit_code == kExitFailed);
  CHECK(second.wait(60).exit_code == kExitFailed);
  const std::string err = first.err() + second.err();
  INFO(err);
  CHECK(count_of("warning: start of the ranks: another process has the socket of local rank 0 (Address already in use)",
                 err) == 1);
}

TEST_CASE("start guard: the order to end is taken from the same user only") {
  if (::getuid() != 0) {
    std::puts("skipped: no right to run as another user on this machine");
    return;
  }
  // A guard of rank 1 in this process shows the name of rank 0's socket.
  const std::string job = "users-" + std::to_string(::getpid());
  std::string name;
  {
    const Environment environment{
        {"PMIX_NAMESPACE", job.c_str()}, {"OMPI_COMM_WORLD_LOCAL_RANK", "1"}, {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"}};
    const StartGuard guard(100);
    name = name_of_own_socket();
  }
  REQUIRE(name.ends_with("1"));
  name.back() = '0';
  RunningProgram rank(waiting_rank(job, 0, 2, 90));
  const auto send_as = [&](uid_t user) {
    std::string error = "not sent";
    for (int i = 0; i < 100 && !error.empty(); ++i) {  // until the program has its socket
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
      error = Forked([&](const auto&) {
                SSA_CHECK(::setuid(user) == 0, "setuid: ", std::strerror(errno));
                send_end(name);
              }).wait();
    }
    return error;
  };
  constexpr uid_t kNobody = 65534;
  CHECK(send_as(kNobody) == "");
  CHECK_FALSE(rank.ends_within(0.5));
  CHECK(send_as(0) == "");
  CHECK(rank.ends_within(30));
}

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
