#include "mpi_comm.h"

#include <mpi.h>

#include <algorithm>
#include <cstdio>

#include "check.h"
#include "cores.h"
#include "ssa/comm/watchdog.h"

namespace ssa {
namespace {

void check(int status, const char* call) {
  if (status == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING];
  int length = 0;
  MPI_Error_string(status, text, &length);
  fail("MPI: ", call, " on rank ", mpi_rank(), ": ", std::string(text, static_cast<std::size_t>(length)));
}

/// For calls that copy elements and do not add them.
MPI_Datatype datatype_of(DType dtype) {
  switch (dtype) {
    case DType::f64: return MPI_DOUBLE;
    case DType::f32: return MPI_FLOAT;
    case DType::i32: return MPI_INT32_T;
    case DType::u8: return MPI_UINT8_T;
    case DType::bf16: return MPI_UINT16_T;
  }
  fail("MPI: unknown dtype");
}

MPI_Datatype reducible_datatype_of(DType dtype, const char* call) {
  SSA_CHECK(dtype != DType::bf16, call, ": a bf16 tensor in host memory, expected f32, f64, i32 or u8");
  return datatype_of(dtype);
}

MPI_Op op_of(ReduceOp op) {
  switch (op) {
    case ReduceOp::sum: return MPI_SUM;
    case ReduceOp::max: return MPI_MAX;
    case ReduceOp::min: return MPI_MIN;
  }
  fail("MPI: unknown reduction");
}

void check_host(Stream& stream, const char* call) {
  SSA_CHECK(stream.kind() == DeviceKind::cpu, call, ": a tensor on ", name_of(stream.kind()),
            ", expected host memory (MPI)");
}

char* element(const Tensor& tensor, std::int64_t index) {
  return static_cast<char*>(tensor.data()) + index * static_cast<std::int64_t>(size_of(tensor.dtype()));
}

}  // namespace

void mpi_start() {
  int initialized = 0;
  MPI_Initialized(&initialized);
  if (initialized) return;
  int provided = 0;
  check(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &provided), "MPI_Init_thread");
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
}

bool mpi_running() {
  int initialized = 0, finalized = 0;
  MPI_Initialized(&initialized);
  MPI_Finalized(&finalized);
  return initialized && !finalized;
}

void mpi_finish() {
  enter_phase(Phase::end, 0);
  check(MPI_Finalize(), "MPI_Finalize");
}

int mpi_rank() {
  int rank = 0;
  if (mpi_running()) MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  return rank;
}

void mpi_abort(int exit_code) {
  std::fflush(nullptr);
  MPI_Abort(MPI_COMM_WORLD, exit_code);
  std::_Exit(exit_code);
}

MpiComm::MpiComm(std::int64_t max_count) : max_count_(max_count) {
  mpi_start();
  check(MPI_Comm_rank(MPI_COMM_WORLD, &rank_), "MPI_Comm_rank");
  check(MPI_Comm_size(MPI_COMM_WORLD, &size_), "MPI_Comm_size");
  MPI_Comm machine = MPI_COMM_NULL;
  check(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &machine),
        "MPI_Comm_split_type");
  int local_size = 1;
  check(MPI_Comm_rank(machine, &local_rank_), "MPI_Comm_rank");
  check(MPI_Comm_size(machine, &local_size), "MPI_Comm_size");
  MPI_Comm_free(&machine);
  if (local_size > 1) take_share_of_cores(local_rank_, local_size);
}

/// Calls call(first, count) for consecutive ranges of at most max_count_ elements.
template <class Call>
void MpiComm::in_chunks(std::int64_t count, Call&& call) const {
  for (std::int64_t first = 0; first < count; first += max_count_)
    call(first, static_cast<int>(std::min(max_count_, count - first)));
}

void MpiComm::barrier() {
  const WatchedCall call("barrier");
  check(MPI_Barrier(MPI_COMM_WORLD), "barrier");
}

void MpiComm::all_reduce(Stream& stream, Tensor tensor, ReduceOp op) {
  check_host(stream, "all_reduce");
  const WatchedCall call("all_reduce");
  const MPI_Datatype type = reducible_datatype_of(tensor.dtype(), "all_reduce");
  in_chunks(tensor.count(), [&](std::int64_t first, int count) {
    check(MPI_Allreduce(MPI_IN_PLACE, element(tensor, first), count, type, op_of(op), MPI_COMM_WORLD), "all_reduce");
  });
}

// reduce_scatter and all_gather reduce to, or broadcast from, one rank after the other. That moves as many bytes as
// MPI_Reduce_scatter and MPI_Allgather, and each part can be split into chunks in place.

void MpiComm::reduce_scatter(Stream& stream, Tensor in, Tensor out) {
  check_host(stream, "reduce_scatter");
  const WatchedCall call("reduce_scatter");
  check_parts("reduce_scatter", out, in, size_);
  const MPI_Datatype type = reducible_datatype_of(in.dtype(), "reduce_scatter");
  const bool in_place = out.data() == element(in, rank_ * out.count());
  for (int root = 0; root < size_; ++root)
    in_chunks(out.count(), [&](std::int64_t first, int count) {
      const void* from = root == rank_ && in_place ? MPI_IN_PLACE : element(in, root * out.count() + first);
      void* to = root == rank_ ? element(out, first) : nullptr;
      check(MPI_Reduce(from, to, count, type, MPI_SUM, root, MPI_COMM_WORLD), "reduce_scatter");
    });
}

void MpiComm::all_gather(Stream& stream, Tensor in, Tensor out) {
  check_host(stream, "all_gather");
  const WatchedCall call("all_gather");
  check_parts("all_gather", in, out, size_);
  if (char* own = element(out, rank_ * in.count()); own != in.data()) stream.copy(own, in.data(), in.bytes());
  for (int root = 0; root < size_; ++root)
    in_chunks(in.count(), [&](std::int64_t first, int count) {
      check(MPI_Bcast(element(out, root * in.count() + first), count, datatype_of(in.dtype()), root, MPI_COMM_WORLD),
            "all_gather");
    });
}

void MpiComm::broadcast(Stream& stream, Tensor tensor, int root) {
  check_host(stream, "broadcast");
  const WatchedCall call("broadcast");
  check_root(root, size_);
  in_chunks(tensor.count(), [&](std::int64_t first, int count) {
    check(MPI_Bcast(element(tensor, first), count, datatype_of(tensor.dtype()), root, MPI_COMM_WORLD), "broadcast");
  });
}

}  // namespace ssa
