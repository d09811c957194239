#include "comm_nccl.h"

#include <fmt/core.h>
#include <nccl.h>

#include <cstdio>
#include <exception>
#include <utility>

#include "check.h"
#include "end_process.h"
#include "src/runtime/cuda_context.h"
#include "ssa/comm/watchdog.h"

namespace ssa {
namespace {

void check(ncclResult_t status, const char* call) {
  if (status == ncclSuccess) return;
  // The last error has the details: a GPU used by two ranks, a peer that cannot be reached.
  const char* detail = ncclGetLastError(nullptr);
  fail("NCCL: ", call, " on rank ", mpi_rank(), ": ", ncclGetErrorString(status), detail && *detail ? ": " : "",
       detail ? detail : "");
}

ncclDataType_t datatype_of(DType dtype) {
  switch (dtype) {
    case DType::f64: return ncclFloat64;
    case DType::f32: return ncclFloat32;
    case DType::bf16: return ncclBfloat16;
    case DType::i32: return ncclInt32;
    case DType::u8: return ncclUint8;
  }
  fail("NCCL: unknown dtype");
}

ncclRedOp_t op_of(ReduceOp op) {
  switch (op) {
    case ReduceOp::sum: return ncclSum;
    case ReduceOp::max: return ncclMax;
    case ReduceOp::min: return ncclMin;
  }
  fail("NCCL: unknown reduction");
}

std::size_t count_of(const Tensor& tensor) { return static_cast<std::size_t>(tensor.count()); }

class NcclComm : public Comm {
 public:
  explicit NcclComm(std::unique_ptr<MpiComm> mpi) : mpi_(std::move(mpi)) {}
  ~NcclComm() override {
    if (!nccl_) return;
    set_abort_action(this, {});
    // After an exception, the other ranks may never call a collective that this rank has queued.
    const ncclResult_t status = std::uncaught_exceptions() > 0 ? ncclCommAbort(nccl_) : ncclCommDestroy(nccl_);
    if (status != ncclSuccess)
      fmt::print(stderr, "warning: NCCL: ending the communicator of rank {}: {}\n", mpi_->rank(),
                 ncclGetErrorString(status));
  }

  int rank() const override { return mpi_->rank(); }
  int size() const override { return mpi_->size(); }
  int local_rank() const override { return mpi_->local_rank(); }
  int local_size() const override { return mpi_->local_size(); }
  bool takes_threads() const override { return mpi_->takes_threads(); }
  std::unique_ptr<Comm> for_thread() override { return mpi_->for_thread(); }
  void barrier() override { mpi_->barrier(); }
  void send(Tensor values, int to) override { mpi_->send(values, to); }
  void receive(Tensor values, int from) override { mpi_->receive(values, from); }
  std::unique_ptr<Comm> split(int group) override { return std::make_unique<NcclComm>(mpi_->split_mpi(group)); }

  void all_reduce(Stream& stream, Tensor tensor, ReduceOp op) override {
    if (stream.kind() == DeviceKind::cpu) return mpi_->all_reduce(stream, tensor, op);
    const WatchedCall call("all_reduce");
    if (tensor.count() == 0) return;
    check(ncclAllReduce(tensor.data(), tensor.data(), count_of(tensor), datatype_of(tensor.dtype()), op_of(op),
                        communicator(stream), queue(stream)),
          "all_reduce");
    finish(stream, "all_reduce");
  }

  void reduce_scatter(Stream& stream, Tensor in, Tensor out) override {
    if (stream.kind() == DeviceKind::cpu) return mpi_->reduce_scatter(stream, in, out);
    const WatchedCall call("reduce_scatter");
    check_parts("reduce_scatter", out, in, size());
    if (out.count() == 0) return;
    check(ncclReduceScatter(in.data(), out.data(), count_of(out), datatype_of(in.dtype()), ncclSum,
                            communicator(stream), queue(stream)),
          "reduce_scatter");
    finish(stream, "reduce_scatter");
  }

  void all_gather(Stream& stream, Tensor in, Tensor out) override {
    if (stream.kind() == DeviceKind::cpu) return mpi_->all_gather(stream, in, out);
    const WatchedCall call("all_gather");
    check_parts("all_gather", in, out, size());
    if (in.count() == 0) return;
    check(ncclAllGather(in.data(), out.data(), count_of(in), datatype_of(in.dtype()), communicator(stream),
                        queue(stream)),
          "all_gather");
    finish(stream, "all_gather");
  }

  void broadcast(Stream& stream, Tensor tensor, int root) override {
    if (stream.kind() == DeviceKind::cpu) return mpi_->broadcast(stream, tensor, root);
    const WatchedCall call("broadcast");
    check_root(root, size());
    if (tensor.count() == 0) return;
    check(ncclBroadcast(tensor.data(), tensor.data(), count_of(tensor), datatype_of(tensor.dtype()), root,
                        communicator(stream), queue(stream)),
          "broadcast");
    finish(stream, "broadcast");
  }

 private:
  static cudaStream_t queue(Stream& stream) { return stream.cuda().stream; }

  static void finish(Stream& stream, const char* call) {
    if (stream.cuda().debug) cuda::check(cudaStreamSynchronize(queue(stream)), call);
  }

  /// Initializes NCCL on the GPU of the stream at the first call, which every rank makes in its first collective.
  ncclComm_t communicator(Stream& stream) {
    const int device = stream.cuda().device;
    if (nccl_) {
      SSA_CHECK(device == device_, "NCCL: a tensor on GPU ", device, " of rank ", rank(), ", expected GPU ", device_,
                ", on which the rank started");
      return nccl_;
    }
    ncclUniqueId id{};
    if (rank() == 0) check(ncclGetUniqueId(&id), "ncclGetUniqueId");
    Stream host(DeviceKind::cpu);
    mpi_->broadcast(host, Tensor(id.internal, DType::u8, {static_cast<std::int64_t>(sizeof(id.internal))}), 0);
    cuda::check(cudaSetDevice(device), "cudaSetDevice");
    check(ncclCommInitRank(&nccl_, size(), id, rank()), "ncclCommInitRank");
    set_abort_action(this, [nccl = nccl_] { ncclCommAbort(nccl); });
    device_ = device;
    return nccl_;
  }

  std::unique_ptr<MpiComm> mpi_;
  ncclComm_t nccl_ = nullptr;
  int device_ = -1;
};

}  // namespace

std::unique_ptr<Comm> make_nccl_comm(std::unique_ptr<MpiComm> mpi) {
  return std::make_unique<NcclComm>(std::move(mpi));
}

}  // namespace ssa
