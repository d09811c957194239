#include "ssa/comm/comm.h"

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <cstdlib>
#include <iterator>
#include <system_error>
#include <utility>

#include "check.h"
#include "cores.h"
#include "launcher_number.h"
#include "mpi_comm.h"
#include "start_guard.h"
#if SSA_WITH_NCCL
#include "comm_nccl.h"
#endif

namespace ssa {
namespace {

void copy_unless_same(Stream& stream, Tensor from, Tensor to) {
  if (from.data() != to.data()) stream.copy(to.data(), from.data(), from.bytes());
}

}  // namespace

int launcher_number(const char* variable) {
  constexpr int kMostRanks = 1'000'000;  // more than any launcher starts; products with it fit 64 bits
  const char* value = std::getenv(variable);
  if (!value) return 0;
  const std::string text = value;
  int number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size() || number < 0 || number > kMostRanks)
    fail_usage(variable, ": found \"", text, "\", expected an integer from 0 to ", kMostRanks);
  return number;
}

void SingleComm::all_reduce(Stream&, Tensor, ReduceOp) {}

void SingleComm::reduce_scatter(Stream& stream, Tensor in, Tensor out) {
  check_parts("reduce_scatter", out, in, 1);
  copy_unless_same(stream, in, out);
}

void SingleComm::all_gather(Stream& stream, Tensor in, Tensor out) {
  check_parts("all_gather", in, out, 1);
  copy_unless_same(stream, in, out);
}

void SingleComm::broadcast(Stream&, Tensor, int root) { check_root(root, 1); }

namespace {

/// Variables that a launcher sets.
struct Launcher {
  const char *ranks, *rank;
};

// Open MPI, MPICH and Intel MPI (Hydra), MVAPICH2, srun. Slurm's variables for the job, such as SLURM_NTASKS, are also
// set for a single process started by a batch script; only srun sets those for the step.
constexpr Launcher kLaunchers[] = {{"OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"},
                                   {"PMI_SIZE", "PMI_RANK"},
                                   {"MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK"},
                                   {"SLURM_STEP_NUM_TASKS", "SLURM_PROCID"}};

/// The launcher of this process; nullptr if there is none.
const Launcher* own_launcher() {
  const auto found = std::ranges::find_if(kLaunchers, [](const Launcher& l) { return launcher_number(l.ranks) > 0; });
  return found == std::end(kLaunchers) ? nullptr : found;
}

}  // namespace

int launched_ranks() {
  const Launcher* by = own_launcher();
  return by ? launcher_number(by->ranks) : 1;
}

int launched_rank() {
  const Launcher* by = own_launcher();
  return by ? launcher_number(by->rank) : 0;
}

std::unique_ptr<Comm> make_comm(DeviceKind kind, const std::optional<PhaseTimeouts>& watchdog) {
  check_thread_count();
  const int launched = launched_ranks();
  if (launched <= 1) return std::make_unique<SingleComm>();
  std::unique_ptr<MpiComm> comm;
  {
    const StartGuard guard(watchdog.value_or(PhaseTimeouts()).start);
    comm = std::make_unique<MpiComm>();
    SSA_CHECK(comm->size() == launched, "MPI sees ", comm->size(), " ranks, expected the ", launched,
              " that were started; with srun, choose its MPI plug-in (--mpi=pmix)");
    if (watchdog) start_watchdog(*comm, *watchdog);
  }
#if SSA_WITH_NCCL
  if (kind == DeviceKind::cuda) return make_nccl_comm(std::move(comm));
#endif
  SSA_CHECK(kind == DeviceKind::cpu, "no communicator for ", name_of(kind), " among ", launched,
            " ranks in this binary, expected cpu");
  return comm;
}

double all_reduce(Comm& comm, double value, ReduceOp op) {
  all_reduce(comm, {&value, 1}, op);
  return value;
}

void all_reduce(Comm& comm, std::span<double> values, ReduceOp op) {
  Stream host(DeviceKind::cpu);
  comm.all_reduce(host, Tensor(values.data(), DType::f64, {std::ssize(values)}), op);
}

std::string broadcast(Comm& comm, const std::string& text, int root) {
  Stream host(DeviceKind::cpu);
  auto length = static_cast<double>(text.size());
  comm.broadcast(host, Tensor(&length, DType::f64, {1}), root);
  std::string result = text;
  result.resize(static_cast<std::size_t>(length));
  comm.broadcast(host, Tensor(result.data(), DType::u8, {static_cast<std::int64_t>(result.size())}), root);
  return result;
}

void abort_all(int exit_code) {
  if (mpi_running()) mpi_abort(exit_code);
  std::exit(exit_code);
}

}  // namespace ssa
