// NcclComm behind a function, so that comm.cpp needs no NCCL or CUDA header.
#pragma once

#include <memory>

#include "mpi_comm.h"

namespace ssa {

/// Collectives of device memory over NCCL, of host memory over MPI. One rank a GPU. NCCL starts with the first tensor
/// in device memory, on that tensor's stream; MPI carries its address to the ranks.
std::unique_ptr<Comm> make_nccl_comm(std::unique_ptr<MpiComm> mpi);

}  // namespace ssa
