// Ranks: how the processes of one run communicate, and how they end together.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "ssa/comm/watchdog.h"
#include "ssa/runtime/stream.h"

namespace ssa {

enum class ReduceOp { sum, max, min };

/// Collectives over all ranks. All ranks make the same calls in the same order, with the same shapes and dtypes.
/// Tensors are in the memory of the stream's device; with a CPU stream every Comm works on host memory. A collective
/// runs after the work already queued on the stream and before the work queued next.
///
/// dtypes: f32, f64, i32 and u8; bf16 too, but for max and min in host memory. Throws Error if shapes or dtypes do not
/// match. Results of reductions are bit-identical on all ranks, and between runs with the same number of ranks. Sums in
/// host memory add the ranks' values in the order of the ranks, bf16 in f32 and rounded once: all_reduce and
/// reduce_scatter give the same bits, however the data is cut into calls. On device memory the order is NCCL's.
class Comm {
 public:
  virtual ~Comm() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual int local_rank() const = 0;  ///< index among the ranks of this machine, and of the GPU to use
  virtual int local_size() const = 0;  ///< ranks of the job on this machine

  /// Whether MPI takes calls from two threads at a time.
  virtual bool takes_threads() const { return true; }

  /// The same ranks, for collectives of a BackgroundQueue on the same kind of device, which may run while this Comm's
  /// do. A collective; owned by this Comm. nullptr if there is none, because MPI takes no calls from two threads.
  virtual Comm* background() { return this; }

  /// The same ranks, for values in host memory that another thread sends and receives at any time. A collective.
  /// nullptr without takes_threads().
  virtual std::unique_ptr<Comm> for_thread() = 0;

  /// The ranks that give the same `group`, in their order here. A collective of all ranks.
  virtual std::unique_ptr<Comm> split(int group) = 0;

  virtual void barrier() = 0;
  /// In place: every rank gets the reduction of the ranks' values.
  virtual void all_reduce(Stream& stream, Tensor tensor, ReduceOp op = ReduceOp::sum) = 0;
  /// `in` has size() equal parts. `out` receives the sum over the ranks of part rank(). `out` may be that part of `in`,
  /// and must not overlap `in` otherwise. `in` is unchanged outside `out`.
  virtual void reduce_scatter(Stream& stream, Tensor in, Tensor out) = 0;
  /// Part r of `out` receives `in` of rank r. `in` may be part rank() of `out`, and must not overlap `out` otherwise.
  virtual void all_gather(Stream& stream, Tensor in, Tensor out) = 0;
  /// Copies the root's values to every rank.
  virtual void broadcast(Stream& stream, Tensor tensor, int root) = 0;

  /// From one rank to another, which receives as many values of the same dtype; in host memory, with any device.
  /// Returns when the values may be changed (send) or are there (receive). Between two ranks the order is the callers'.
  virtual void send(Tensor values, int to) = 0;
  virtual void receive(Tensor values, int from) = 0;
};

/// A single process.
class SingleComm : public Comm {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  int local_rank() const override { return 0; }
  int local_size() const override { return 1; }
  std::unique_ptr<Comm> for_thread() override { return std::make_unique<SingleComm>(); }
  std::unique_ptr<Comm> split(int) override { return std::make_unique<SingleComm>(); }
  void barrier() override {}
  void all_reduce(Stream& stream, Tensor tensor, ReduceOp op) override;
  void reduce_scatter(Stream& stream, Tensor in, Tensor out) override;
  void all_gather(Stream& stream, Tensor in, Tensor out) override;
  void broadcast(Stream& stream, Tensor tensor, int root) override;
  void send(Tensor, int) override { fail("send: there is one rank"); }
  void receive(Tensor, int) override { fail("receive: there is one rank"); }
};

/// The number of ranks that mpirun or srun started, from their environment variables; 1 without a launcher.
int launched_ranks();
/// The number of this process among them, before MPI starts; 0 without a launcher.
int launched_rank();

/// The communicator for tensors on devices of `kind`. If a launcher started several ranks: MPI for host memory and NCCL
/// for device memory, with one rank per GPU. Otherwise SingleComm. May be called several times. Throws Error if MPI
/// does not see all ranks that were started, or if this binary has no communicator for the device. A rank that does not
/// call this within the time-out of the start ends the job. With `watchdog`, the ranks are watched from here on until
/// run_ranks returns (watchdog.h).
std::unique_ptr<Comm> make_comm(DeviceKind kind = DeviceKind::cpu,
                                const std::optional<PhaseTimeouts>& watchdog = std::nullopt);

/// The same for values in host memory.
double all_reduce(Comm& comm, double value, ReduceOp op);
void all_reduce(Comm& comm, std::span<double> values, ReduceOp op);
std::string broadcast(Comm& comm, const std::string& text, int root = 0);

/// Ends all ranks of the run immediately with this exit code.
[[noreturn]] void abort_all(int exit_code);

/// Entry-point wrapper for programs of several ranks: runs `body` and returns its exit code, the same on every rank. An
/// exception is printed as one line on stderr, with the rank if there are several, and ends all ranks with the exit
/// code of the Error, or 1 for another exception. An error that several ranks have at about the same time, such as a
/// misspelled key, is printed once: rank 0 prints immediately and ends the others, which wait, each rank longer than
/// the one before.
int run_ranks(const std::function<int()>& body);

}  // namespace ssa
