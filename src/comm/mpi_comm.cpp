#include "mpi_comm.h"

#include <mpi.h>
#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

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

MPI_Datatype comparable_datatype_of(DType dtype) {
  SSA_CHECK(dtype != DType::bf16,
            "all_reduce: the largest or smallest of bf16 in host memory, expected f32, f64, i32 or ", "u8");
  return datatype_of(dtype);
}

MPI_Op op_of(ReduceOp op) {
  SSA_CHECK(op == ReduceOp::max || op == ReduceOp::min, "MPI: unknown reduction");
  return op == ReduceOp::max ? MPI_MAX : MPI_MIN;
}

void check_host(Stream& stream, const char* call) {
  SSA_CHECK(stream.kind() == DeviceKind::cpu, call, ": a tensor on ", name_of(stream.kind()),
            ", expected host memory (MPI)");
}

/// Elements of a sum that a rank receives from the others at a time, all ranks together: 4 MiB of f32.
constexpr std::int64_t kReceived = std::int64_t{1} << 20;
/// Sums of at most so many elements take one message per rank.
constexpr std::int64_t kSmall = 1024;

char* element(const Tensor& tensor, std::int64_t index) {
  return static_cast<char*>(tensor.data()) + index * static_cast<std::int64_t>(size_of(tensor.dtype()));
}

/// out[i] = in[0][i] + in[1][i] + ..., from left to right, in Sum. `out` may be one of the inputs.
template <class T, class Sum>
void add_values(const std::vector<const void*>& in, void* out, std::int64_t count) {
  T* result = static_cast<T*>(out);
  for (std::int64_t i = 0; i < count; ++i) {
    Sum sum = static_cast<Sum>(static_cast<const T*>(in[0])[i]);
    for (std::size_t rank = 1; rank < in.size(); ++rank)
      sum = static_cast<Sum>(sum + static_cast<Sum>(static_cast<const T*>(in[rank])[i]));
    result[i] = static_cast<T>(sum);
  }
}

}  // namespace

struct MpiComm::Group {
  MPI_Comm comm = MPI_COMM_WORLD;
  /// Of a background thread. The watchdog follows the calls of the main thread, which waits for this one's.
  bool background = false;

  /// MPI_Waitall. A background thread sleeps between its tests: the main thread needs the core. Where there are cores
  /// enough it spins first, because MPI may move data only during its calls; a message of a few MB takes milliseconds.
  void wait(std::vector<MPI_Request>& requests, const char* call) const {
    const auto count = static_cast<int>(requests.size());
    if (!background) return check(MPI_Waitall(count, requests.data(), MPI_STATUSES_IGNORE), call);
    using Clock = std::chrono::steady_clock;
    constexpr int kEnoughCores = 4;
    constexpr std::chrono::milliseconds kSpin(20);
    constexpr std::chrono::microseconds kFirst(5), kLongest(200);
    const auto spin_until = Clock::now() + (omp_get_num_procs() >= kEnoughCores ? kSpin : kSpin.zero());
    auto pause = kFirst;
    for (int done = 0;;) {
      check(MPI_Testall(count, requests.data(), &done, MPI_STATUSES_IGNORE), call);
      if (done) return;
      if (Clock::now() < spin_until) {
        std::this_thread::yield();
      } else {
        std::this_thread::sleep_for(pause);
        pause = std::min(2 * pause, kLongest);
      }
    }
  }
};

/// A WatchedCall, unless the calls of the group are not followed.
class MpiComm::Watched {
 public:
  Watched(const Group& group, const char* name) {
    if (!group.background) call_.emplace(name);
  }

 private:
  std::optional<WatchedCall> call_;
};

void mpi_start() {
  int initialized = 0;
  MPI_Initialized(&initialized);
  if (initialized) return;
  int provided = 0;
  check(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &provided), "MPI_Init_thread");
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

MpiComm::MpiComm(std::int64_t max_count) : group_(std::make_unique<Group>()), max_count_(max_count) {
  mpi_start();
  check(MPI_Comm_rank(MPI_COMM_WORLD, &rank_), "MPI_Comm_rank");
  check(MPI_Comm_size(MPI_COMM_WORLD, &size_), "MPI_Comm_size");
  MPI_Comm machine = MPI_COMM_NULL;
  check(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &machine),
        "MPI_Comm_split_type");
  check(MPI_Comm_rank(machine, &local_rank_), "MPI_Comm_rank");
  check(MPI_Comm_size(machine, &local_size_), "MPI_Comm_size");
  MPI_Comm_free(&machine);
  take_share_of_cores(local_rank_, local_size_);
}

MpiComm::MpiComm(const MpiComm& other, std::unique_ptr<Group> group)
    : group_(std::move(group)),
      max_count_(other.max_count_),
      local_rank_(other.local_rank_),
      local_size_(other.local_size_) {
  check(MPI_Comm_rank(group_->comm, &rank_), "MPI_Comm_rank");
  check(MPI_Comm_size(group_->comm, &size_), "MPI_Comm_size");
}

// MPI_Comm_free would be a collective; communicators last as long as MPI.
MpiComm::~MpiComm() = default;

Comm* MpiComm::background() {
  if (!background_) background_ = duplicate_for_thread();
  return background_.get();
}

bool MpiComm::takes_threads() const {
  int level = MPI_THREAD_SINGLE;
  check(MPI_Query_thread(&level), "MPI_Query_thread");
  return level >= MPI_THREAD_MULTIPLE;
}

std::unique_ptr<MpiComm> MpiComm::duplicate_for_thread() {
  if (!takes_threads()) return nullptr;
  auto group = std::make_unique<Group>();
  group->background = true;
  check(MPI_Comm_dup(group_->comm, &group->comm), "MPI_Comm_dup");
  return std::unique_ptr<MpiComm>(new MpiComm(*this, std::move(group)));
}

std::unique_ptr<MpiComm> MpiComm::split_mpi(int group) {
  auto part = std::make_unique<Group>();
  check(MPI_Comm_split(group_->comm, group, rank_, &part->comm), "MPI_Comm_split");
  return std::unique_ptr<MpiComm>(new MpiComm(*this, std::move(part)));
}

/// Calls call(first, count) for consecutive ranges of at most max_count_ elements.
template <class Call>
void MpiComm::in_chunks(std::int64_t count, Call&& call) const {
  for (std::int64_t first = 0; first < count; first += max_count_)
    call(first, static_cast<int>(std::min(max_count_, count - first)));
}

void MpiComm::barrier() {
  const Watched call(*group_, "barrier");
  check(MPI_Barrier(group_->comm), "barrier");
}

void MpiComm::add_in_order(DType dtype, const std::vector<const void*>& in, void* out, std::int64_t count) const {
  switch (dtype) {
    case DType::f64: return add_values<double, double>(in, out, count);
    case DType::f32: return add_values<float, float>(in, out, count);
    case DType::bf16: return add_values<bfloat16, float>(in, out, count);
    case DType::i32: return add_values<std::int32_t, std::int32_t>(in, out, count);
    case DType::u8: return add_values<std::uint8_t, std::uint8_t>(in, out, count);
  }
  fail("MPI: unknown dtype");
}

/// Every rank receives the values of all and adds them.
void MpiComm::sum_small(Tensor tensor) const {
  std::vector<char> all(tensor.bytes() * static_cast<std::size_t>(size_));
  const auto count = static_cast<int>(tensor.count());
  const MPI_Datatype type = datatype_of(tensor.dtype());
  std::vector<MPI_Request> request(1);
  check(MPI_Iallgather(tensor.data(), count, type, all.data(), count, type, group_->comm, request.data()),
        "all_reduce");
  group_->wait(request, "all_reduce");
  std::vector<const void*> of_rank;
  for (std::size_t rank = 0; rank < static_cast<std::size_t>(size_); ++rank)
    of_rank.push_back(all.data() + rank * tensor.bytes());
  add_in_order(tensor.dtype(), of_rank, tensor.data(), tensor.count());
}

void MpiComm::all_reduce(Stream& stream, Tensor tensor, ReduceOp op) {
  check_host(stream, "all_reduce");
  const Watched call(*group_, "all_reduce");
  if (op != ReduceOp::sum) {
    const MPI_Datatype type = comparable_datatype_of(tensor.dtype());
    in_chunks(tensor.count(), [&](std::int64_t first, int count) {
      std::vector<MPI_Request> request(1);
      check(MPI_Iallreduce(MPI_IN_PLACE, element(tensor, first), count, type, op_of(op), group_->comm, request.data()),
            "all_reduce");
      group_->wait(request, "all_reduce");
    });
    return;
  }
  // The order of MPI_SUM is the library's, and another for another number of elements.
  const Tensor flat = tensor.view({tensor.count()});
  const std::int64_t each = flat.count() > kSmall ? flat.count() / size_ : 0, end = each * size_;
  if (each > 0) {
    const Tensor parts = flat.rows(0, end), own = flat.rows(rank_ * each, (rank_ + 1) * each);
    sum_parts(parts, own);
    gather_parts(own, parts);
  }
  if (end < flat.count()) sum_small(flat.rows(end, flat.count()));
}

/// Every rank sends each other rank its part, and adds what it receives.
void MpiComm::sum_parts(Tensor in, Tensor out) const {
  const MPI_Datatype type = datatype_of(in.dtype());
  const std::size_t width = size_of(in.dtype());
  const std::int64_t most = std::min(max_count_, std::max(kReceived / size_, kSmall));
  std::vector<char> received(static_cast<std::size_t>(size_ * std::min(most, out.count())) * width);
  std::vector<const void*> of_rank(static_cast<std::size_t>(size_));
  std::vector<MPI_Request> requests;
  for (std::int64_t first = 0; first < out.count(); first += most) {
    const std::int64_t count = std::min(most, out.count() - first);
    requests.clear();
    for (int other = 0; other < size_; ++other) {
      void* from = received.data() + static_cast<std::size_t>(other * count) * width;
      of_rank[static_cast<std::size_t>(other)] = other == rank_ ? element(in, rank_ * out.count() + first) : from;
      if (other == rank_) continue;
      check(MPI_Irecv(from, static_cast<int>(count), type, other, 0, group_->comm, &requests.emplace_back()),
            "reduce_scatter");
    }
    for (int i = 1; i < size_; ++i) {
      const int other = (rank_ + i) % size_;  // not all to the same rank at a time
      check(MPI_Isend(element(in, other * out.count() + first), static_cast<int>(count), type, other, 0, group_->comm,
                      &requests.emplace_back()),
            "reduce_scatter");
    }
    group_->wait(requests, "reduce_scatter");
    add_in_order(in.dtype(), of_rank, element(out, first), count);
  }
}

void MpiComm::reduce_scatter(Stream& stream, Tensor in, Tensor out) {
  check_host(stream, "reduce_scatter");
  const Watched call(*group_, "reduce_scatter");
  check_parts("reduce_scatter", out, in, size_);
  sum_parts(in, out);
}

/// Broadcasts from one rank after the other. That moves as many bytes as MPI_Allgather, and each part can be split into
/// chunks in place.
void MpiComm::gather_parts(Tensor in, Tensor out) const {
  const Tensor flat = out.view({out.count()});
  for (int root = 0; root < size_; ++root)
    send_to_all(flat.rows(root * in.count(), (root + 1) * in.count()), root, "all_gather");
}

void MpiComm::send_to_all(Tensor tensor, int root, const char* call) const {
  in_chunks(tensor.count(), [&](std::int64_t first, int count) {
    std::vector<MPI_Request> request(1);
    check(MPI_Ibcast(element(tensor, first), count, datatype_of(tensor.dtype()), root, group_->comm, request.data()),
          call);
    group_->wait(request, call);
  });
}

void MpiComm::all_gather(Stream& stream, Tensor in, Tensor out) {
  check_host(stream, "all_gather");
  const Watched call(*group_, "all_gather");
  check_parts("all_gather", in, out, size_);
  if (char* own = element(out, rank_ * in.count()); own != in.data()) stream.copy(own, in.data(), in.bytes());
  gather_parts(in, out);
}

void MpiComm::broadcast(Stream& stream, Tensor tensor, int root) {
  check_host(stream, "broadcast");
  const Watched call(*group_, "broadcast");
  check_root(root, size_);
  send_to_all(tensor, root, "broadcast");
}

template <class Start>
void MpiComm::transfer(const Tensor& values, const char* name, Start&& start) {
  const Watched call(*group_, name);
  in_chunks(values.count(), [&](std::int64_t first, int count) {
    std::vector<MPI_Request> request(1);
    check(start(element(values, first), count, datatype_of(values.dtype()), request.data()), name);
    group_->wait(request, name);
  });
}

void MpiComm::send(Tensor values, int to) {
  transfer(values, "send", [&](const void* data, int count, MPI_Datatype type, MPI_Request* request) {
    return MPI_Isend(data, count, type, to, 0, group_->comm, request);
  });
}

void MpiComm::receive(Tensor values, int from) {
  transfer(values, "receive", [&](void* data, int count, MPI_Datatype type, MPI_Request* request) {
    return MPI_Irecv(data, count, type, from, 0, group_->comm, request);
  });
}

}  // namespace ssa
