// The CUDA half of Stream, free of CUDA types. stream_cuda.cpp implements it; in a build without CUDA a CUDA stream
// cannot be made.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "ssa/runtime/stream.h"

namespace ssa::cuda {

#if SSA_WITH_CUDA
std::shared_ptr<CudaContext> make_context(int ordinal);
std::shared_ptr<CudaContext> make_context_beside(const CudaContext& other);
std::string device_name(CudaContext& context);
MemoryInfo memory_info(CudaContext& context);
void* allocate(CudaContext& context, std::size_t bytes);
void free(CudaContext& context, void* memory) noexcept;
void* allocate_host(CudaContext& context, std::size_t bytes);
void free_host(CudaContext& context, void* memory) noexcept;
void copy(CudaContext& context, void* to, const void* from, std::size_t bytes);
void zero(CudaContext& context, void* memory, std::size_t bytes);
void synchronize(CudaContext& context);
std::shared_ptr<void> record(CudaContext& context);
void host_wait(CudaContext& context, void* event);
void wait(CudaContext& context, void* event);
double elapsed_ms(CudaContext& context, void* begin, void* end);
/// Null with SSA_CUDA_DEBUG, which synchronizes after each launch.
std::shared_ptr<void> record_graph(CudaContext& context, const std::function<void()>& work);
void launch_graph(CudaContext& context, void* graph);
#else
[[noreturn]] inline void missing() { fail("this binary was built without CUDA; build with -DSSA_CUDA=ON"); }
inline std::shared_ptr<CudaContext> make_context(int) { missing(); }
inline std::shared_ptr<CudaContext> make_context_beside(const CudaContext&) { missing(); }
inline std::string device_name(CudaContext&) { missing(); }
inline MemoryInfo memory_info(CudaContext&) { missing(); }
inline void* allocate(CudaContext&, std::size_t) { missing(); }
inline void free(CudaContext&, void*) noexcept {}
inline void* allocate_host(CudaContext&, std::size_t) { missing(); }
inline void free_host(CudaContext&, void*) noexcept {}
inline void copy(CudaContext&, void*, const void*, std::size_t) { missing(); }
inline void zero(CudaContext&, void*, std::size_t) { missing(); }
inline void synchronize(CudaContext&) { missing(); }
inline std::shared_ptr<void> record(CudaContext&) { missing(); }
inline void host_wait(CudaContext&, void*) { missing(); }
inline void wait(CudaContext&, void*) { missing(); }
inline double elapsed_ms(CudaContext&, void*, void*) { missing(); }
inline std::shared_ptr<void> record_graph(CudaContext&, const std::function<void()>&) { missing(); }
inline void launch_graph(CudaContext&, void*) { missing(); }
#endif

}  // namespace ssa::cuda
