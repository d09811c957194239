// MpiComm, and the start and end of MPI. Without MPI's types, so that tests can include it.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "ssa/comm/comm.h"

namespace ssa {

/// Largest number of elements in one MPI call, whose counts are int.
inline constexpr std::int64_t kMpiMaxCount = std::int64_t{1} << 30;

/// Collectives over MPI, for host memory.
class MpiComm : public Comm {
 public:
  /// Starts MPI if needed. Tests use a smaller `max_count`.
  explicit MpiComm(std::int64_t max_count = kMpiMaxCount);
  ~MpiComm() override;

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  int local_rank() const override { return local_rank_; }
  int local_size() const override { return local_size_; }
  bool takes_threads() const override;
  Comm* background() override;
  std::unique_ptr<Comm> for_thread() override { return duplicate_for_thread(); }
  std::unique_ptr<Comm> split(int group) override { return split_mpi(group); }
  std::unique_ptr<MpiComm> split_mpi(int group);
  void barrier() override;
  void all_reduce(Stream& stream, Tensor tensor, ReduceOp op) override;
  void reduce_scatter(Stream& stream, Tensor in, Tensor out) override;
  void all_gather(Stream& stream, Tensor in, Tensor out) override;
  void broadcast(Stream& stream, Tensor tensor, int root) override;
  void send(Tensor values, int to) override;
  void receive(Tensor values, int from) override;

 private:
  struct Group;
  class Watched;
  /// The same settings over another communicator.
  MpiComm(const MpiComm& other, std::unique_ptr<Group> group);
  std::unique_ptr<MpiComm> duplicate_for_thread();

  template <class Call>
  void in_chunks(std::int64_t count, Call&& call) const;
  template <class Start>
  void transfer(const Tensor& values, const char* name, Start&& start);

  /// out = the sum over the ranks of `count` elements each, in the order of the ranks; in[r] is rank r's.
  void add_in_order(DType dtype, const std::vector<const void*>& in, void* out, std::int64_t count) const;
  void sum_small(Tensor tensor) const;
  void sum_parts(Tensor in, Tensor out) const;
  void gather_parts(Tensor in, Tensor out) const;
  void send_to_all(Tensor tensor, int root, const char* call) const;

  std::unique_ptr<Group> group_;
  std::unique_ptr<MpiComm> background_;
  std::int64_t max_count_;
  int rank_ = 0, size_ = 1, local_rank_ = 0, local_size_ = 1;
};

void mpi_start();    ///< does nothing if MPI is started already; returns when every rank of the job has called it
bool mpi_running();  ///< started and not finished yet
void mpi_finish();   ///< waits for all ranks
int mpi_rank();      ///< 0 if MPI is not running
[[noreturn]] void mpi_abort(int exit_code);

}  // namespace ssa
