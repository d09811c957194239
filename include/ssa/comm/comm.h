// Ranks: how the processes of one run talk, and how they end together.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "ssa/comm/watchdog.h"
#include "ssa/runtime/stream.h"

namespace ssa {

enum class ReduceOp { sum, max, min };

/// Collectives over all ranks: every rank calls them in the same order with the same shapes and dtypes. Tensors are
/// memory of the stream's device; with a CPU stream every Comm works on host memory. Work is ordered after what the
/// stream holds, and is done before what is queued on it next.
///
/// dtypes: f32, f64, i32 and u8 everywhere; bf16 in host memory only where nothing is added (all_gather, broadcast).
/// Throws Error when shapes or dtypes do not fit. Sums are the same to the bit on all ranks, and from run to run with
/// the same number of ranks.
class Comm {
 public:
  virtual ~Comm() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual int local_rank() const = 0;  ///< among the ranks of this machine: which GPU to take

  virtual void barrier() = 0;
  /// In place, on each rank.
  virtual void all_reduce(Stream& stream, Tensor tensor, ReduceOp op = ReduceOp::sum) = 0;
  /// `in` has size() equal parts; `out` is the sum over the ranks of part rank(). `out` may be that part of `in`; else
  /// they do not overlap. `in` is unchanged outside `out`.
  virtual void reduce_scatter(Stream& stream, Tensor in, Tensor out) = 0;
  /// Part r of `out` is the `in` of rank r. `in` may be part rank() of `out`; else they do not overlap.
  virtual void all_gather(Stream& stream, Tensor in, Tensor out) = 0;
  /// The root's values on every rank.
  virtual void broadcast(Stream& stream, Tensor tensor, int root) = 0;
};

/// One process alone.
class SingleComm : public Comm {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  int local_rank() const override { return 0; }
  void barrier() override {}
  void all_reduce(Stream& stream, Tensor tensor, ReduceOp op) override;
  void reduce_scatter(Stream& stream, Tensor in, Tensor out) override;
  void all_gather(Stream& stream, Tensor in, Tensor out) override;
  void broadcast(Stream& stream, Tensor tensor, int root) override;
};

/// How many ranks mpirun or srun started, by their environment variables; 1 when neither did.
int launched_ranks();

/// The communicator for tensors of `kind`: when mpirun or srun started several ranks, MPI, with NCCL for device memory
/// (one rank a GPU, GPU local_rank()); else SingleComm. MPI itself is started once; any number of communicators may be
/// made. Throws Error when MPI cannot see the ranks that were started, or when there is no communicator for the device.
/// A rank that does not come here within the time-out of the start ends the job. With `watchdog`, the ranks are watched
/// from here on until run_ranks returns (watchdog.h).
std::unique_ptr<Comm> make_comm(DeviceKind kind = DeviceKind::cpu,
                                const std::optional<PhaseTimeouts>& watchdog = std::nullopt);

/// Host values over all ranks.
double all_reduce(Comm& comm, double value, ReduceOp op);
std::string broadcast(Comm& comm, const std::string& text, int root = 0);

/// Ends every rank of the run at once with this exit code.
[[noreturn]] void abort_all(int exit_code);

/// What main returns: runs `body`, which gives the exit code, the same on every rank. An exception that leaves `body`
/// is printed as one line on stderr, with the rank when there are several, and ends all ranks with its exit code
/// (Error) or 1. An error that several ranks meet at about the same time, such as a misspelt key, is printed once: rank
/// 0 prints at once, the others wait for it, each a little longer than the one before.
int run_ranks(const std::function<int()>& body);

}  // namespace ssa
