// Creates a NcclComm, so that comm.cpp needs no NCCL or CUDA header.
#pragma once

#include <memory>

#include "mpi_comm.h"

namespace ssa {

/// NCCL for device memory, MPI for host memory; one rank per GPU. NCCL is initialized by the first collective on device
/// memory, on the GPU of its stream; MPI broadcasts NCCL's unique id.
std::unique_ptr<Comm> make_nccl_comm(std::unique_ptr<MpiComm> mpi);

}  // namespace ssa
