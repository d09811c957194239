#include "start_guard.h"

#include <fmt/format.h>
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <initializer_list>
#include <optional>
#include <sstream>
#include <utility>

#include "end_process.h"
#include "heartbeat.h"
#include "launcher_number.h"
#include "ssa/base/checksum.h"
#include "ssa/base/error.h"
#include "ssa/base/file.h"
#include "ssa/base/signals.h"

namespace ssa {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kSignalPoll(50), kAnswerTime(1000), kAnswerTimeAfterSignal(200), kOtherHostsTime(2000);

const char* variable_of(std::initializer_list<const char*> names) {
  for (const char* name : names)
    if (const char* text = std::getenv(name)) return text;
  return nullptr;
}

int number_of(std::initializer_list<const char*> names) {
  for (const char* name : names)
    if (std::getenv(name)) return launcher_number(name);
  return 0;
}

/// Seconds since this process started; 0 if unknown.
double process_age() {
  try {
    // /proc/self/stat: the 22nd field is the start in clock ticks after boot; the second, in parentheses, may have
    // spaces.
    const std::string stat = read_file("/proc/self/stat");
    std::istringstream fields(stat.substr(stat.rfind(')') + 1));
    std::string field;
    for (int i = 3; i <= 22; ++i) fields >> field;
    return std::stod(read_file("/proc/uptime")) - std::stod(field) / static_cast<double>(::sysconf(_SC_CLK_TCK));
  } catch (const std::exception&) {
    return 0;
  }
}

/// Receives a datagram; nullopt if there is none. Bytes received: 0 if it came from a process of another user, who
/// could otherwise end the job.
std::optional<ssize_t> receive(int socket, void* data, std::size_t bytes, sockaddr_un& from, socklen_t& from_size) {
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(ucred))];
  iovec piece{.iov_base = data, .iov_len = bytes};
  msghdr message{};
  message.msg_name = &from;
  message.msg_namelen = sizeof from;
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  const ssize_t got = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  if (got < 0) return std::nullopt;
  from_size = message.msg_namelen;
  const cmsghdr* header = CMSG_FIRSTHDR(&message);
  if (!header || header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_CREDENTIALS) return 0;
  ucred sender{};
  std::memcpy(&sender, CMSG_DATA(header), sizeof sender);
  return sender.uid == ::getuid() ? got : 0;
}

/// What the ranks send each other.
struct Message {
  enum Kind : std::int32_t { question, answer, end, silence } kind;
  std::int32_t rank;
};

}  // namespace

// Open MPI, Hydra (MPICH, Intel MPI), srun.
LocalRank launched_on_machine() {
  return {.rank = number_of({"OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID"}),
          .ranks = number_of({"OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS"})};
}

StartGuard::StartGuard(double seconds, std::string instead, int exit_code)
    : seconds_(seconds),
      instead_(std::move(instead)),
      exit_code_(exit_code),
      rank_(launched_on_machine().rank),
      ranks_(launched_on_machine().ranks),
      answered_(static_cast<std::size_t>(ranks_)) {
  const char* step = variable_of({"SLURM_STEP_ID"});
  const char* job = variable_of({"PMIX_NAMESPACE", "PMI_JOBID", "SLURM_JOB_ID"});
  // A hash, because a launcher's name of a job may be longer than an address.
  const std::string id = fmt::format("{}.{}", job ? job : std::to_string(::getppid()), step ? step : "0");
  job_ = fmt::format("ssa-start.{}.{}.", ::getuid(), xxh3_hex(id.data(), id.size()));
  socklen_t size = 0;
  const sockaddr_un own = address(std::to_string(rank_), size);
  socket_ = ::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  wake_ = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  SSA_CHECK(socket_ >= 0 && wake_ >= 0, "start of the ranks: no socket: ", std::strerror(errno));
  const int on = 1;
  SSA_CHECK(::setsockopt(socket_, SOL_SOCKET, SO_PASSCRED, &on, sizeof on) == 0,
            "start of the ranks: no SO_PASSCRED: ", std::strerror(errno));
  bound_ = ::bind(socket_, reinterpret_cast<const sockaddr*>(&own), size) == 0;
  if (!bound_) {
    const std::string line = fmt::format(
        "warning: start of the ranks: another process has the socket of local rank {} ({}): missing ranks of "
        "this machine cannot be named\n",
        rank_, std::strerror(errno));
    static_cast<void>(!::write(STDERR_FILENO, line.data(), line.size()));
  }
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  thread_ = std::thread([this] { run(); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

StartGuard::~StartGuard() {
  stop_ = true;
  ::eventfd_write(wake_, 1);
  thread_.join();
  ::close(socket_);
  ::close(wake_);
}

sockaddr_un StartGuard::address(const std::string& name, socklen_t& size) const {
  sockaddr_un result{};
  result.sun_family = AF_UNIX;  // sun_path[0] stays 0: the abstract namespace
  const std::string full = job_ + name;
  SSA_CHECK(full.size() < sizeof result.sun_path, "start of the ranks: socket name ", full, " is too long");
  std::memcpy(result.sun_path + 1, full.data(), full.size());
  size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + full.size());
  return result;
}

void StartGuard::answer() {
  Message message{};
  sockaddr_un from{};
  socklen_t size = 0;
  while (const std::optional<ssize_t> bytes = receive(socket_, &message, sizeof message, from, size)) {
    if (*bytes != static_cast<ssize_t>(sizeof message)) continue;
    if (message.kind == Message::end) end_process(exit_code_);
    if (message.kind == Message::silence) silent_ = true;
    if (message.kind == Message::answer && message.rank >= 0 && message.rank < ranks_)
      answered_[static_cast<std::size_t>(message.rank)] = true;
    const Message reply{Message::answer, rank_};
    if (message.kind == Message::question)
      ::sendto(socket_, &reply, sizeof reply, 0, reinterpret_cast<const sockaddr*>(&from), size);
  }
}

void StartGuard::answer_until(Clock::time_point time) {
  do {
    answer();
    pollfd files[] = {{socket_, POLLIN, 0}, {wake_, POLLIN, 0}};
    const auto left = std::chrono::ceil<milliseconds>(time - Clock::now());
    ::poll(files, std::size(files), static_cast<int>(std::max(left, milliseconds(0)).count()));
  } while (!stop_ && Clock::now() < time);
}

void StartGuard::send_all(std::int32_t kind) const {
  const Message message{static_cast<Message::Kind>(kind), rank_};
  for (int rank = 0; rank < ranks_; ++rank) {
    socklen_t size = 0;
    const sockaddr_un to = address(std::to_string(rank), size);
    if (rank != rank_) ::sendto(socket_, &message, sizeof message, 0, reinterpret_cast<const sockaddr*>(&to), size);
  }
}

void StartGuard::silence_others() const { send_all(Message::silence); }

std::vector<int> StartGuard::missing_ranks(milliseconds wait) {
  if (!bound_) return {};  // no answer would arrive
  std::fill(answered_.begin(), answered_.end(), false);
  send_all(Message::question);
  // The others may be asking too: they get their answers meanwhile.
  answer_until(Clock::now() + wait);
  std::vector<int> missing;
  for (int rank = 0; rank < ranks_; ++rank)
    if (rank != rank_ && !answered_[static_cast<std::size_t>(rank)]) missing.push_back(rank);
  return missing;
}

void StartGuard::run() {
  const auto end_time = Clock::now() + std::chrono::ceil<milliseconds>(std::chrono::duration<double>(seconds_));
  bool asked = false;
  while (Clock::now() < end_time) {
    answer_until(std::min(end_time, Clock::now() + kSignalPoll));
    if (stop_) return;
    const int signal = stop_signal();
    if (asked || (signal != SIGTERM && signal != SIGINT)) continue;
    // The user stops the job, or the launcher ends it because a rank has ended; Open MPI then sends SIGKILL a second
    // later. If every rank answers, MPI will start, and the run stops in its first step.
    asked = true;
    // This rank was suspended before this point: the others have named it and ended.
    if (process_age() > seconds_) end_process(exit_code_);
    const std::vector<int> missing = missing_ranks(kAnswerTimeAfterSignal);
    if (!stop_ && !silent_ && !missing.empty()) end(missing, fmt::format("before signal {}", signal));
  }
  const std::vector<int> missing = missing_ranks(kAnswerTime);
  // If no rank of this machine is missing, a machine with a missing rank prints first.
  if (missing.empty()) answer_until(Clock::now() + kOtherHostsTime);
  if (!stop_) end(missing, fmt::format("within {:g} s", seconds_));
}

void StartGuard::end(const std::vector<int>& missing, const std::string& when) {
  // The rank that binds this name prints, tells the others to end, and keeps the name until it ends. A rank that binds
  // it later has already received the order to end.
  const int name = ::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  socklen_t size = 0;
  const sockaddr_un speaker = address("speaker", size);
  while (::bind(name, reinterpret_cast<const sockaddr*>(&speaker), size) != 0 && errno == EADDRINUSE)
    answer_until(Clock::now() + kSignalPoll);
  answer();
  if (silent_) end_process(exit_code_);
  std::string who;
  for (const int rank : missing) who += fmt::format("{}local rank {}", who.empty() ? "" : ", ", rank);
  if (!who.empty())
    who += missing.size() > 1 ? " are missing" : " is missing";
  else
    who = bound_ && ranks_ > 0 ? "no rank is missing" : "it is not known which rank is missing";
  print_error(!instead_.empty() ? instead_
                                : fmt::format("the job ends: MPI did not start on all ranks {}; on {}, {}; "
                                              "distributed.start_timeout_seconds is {:g}",
                                              when, host_name(), who, seconds_));
  send_all(Message::end);
  end_process(exit_code_);
}

}  // namespace ssa
