# The CUDA backend: the kernels, the CUDA half of Stream, and NCCL where it is found.
# By default machine code for the A100 and Hopper, and PTX that the driver compiles for every other GPU from 8.0 on.
set(SSA_CUDA_ARCHITECTURES 80 90a-real CACHE STRING "GPU architectures to compile for, as in CMAKE_CUDA_ARCHITECTURES")
option(SSA_RACECHECK "Kernels whose order compute-sanitizer's racecheck can follow, slower" OFF)
set(CMAKE_CUDA_ARCHITECTURES ${SSA_CUDA_ARCHITECTURES})  # before enable_language, which else picks its own default
if(NOT CMAKE_CUDA_COMPILER)
  find_program(SSA_NVCC nvcc HINTS /usr/local/cuda/bin ENV CUDA_PATH PATH_SUFFIXES bin)
  if(SSA_NVCC)
    set(CMAKE_CUDA_COMPILER ${SSA_NVCC})
  endif()
endif()
set(CMAKE_CUDA_STANDARD_REQUIRED OFF)
enable_language(CUDA)
# FindCUDAToolkit of CMake 3.25 sets a property of this target, whose library CUDA 13 no longer has. Nothing links it.
if(NOT TARGET CUDA::nvToolsExt)
  add_library(CUDA::nvToolsExt INTERFACE IMPORTED)
endif()
find_package(CUDAToolkit 12.4 REQUIRED)

# The smallest compute capability that this build has code for, as major * 10 + minor.
string(REGEX MATCHALL "[0-9]+" SSA_CUDA_CAPABILITIES "${SSA_CUDA_ARCHITECTURES}")
list(SORT SSA_CUDA_CAPABILITIES COMPARE NATURAL)
list(GET SSA_CUDA_CAPABILITIES 0 SSA_CUDA_MIN_CAPABILITY)

find_path(SSA_NCCL_INCLUDE nccl.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
find_library(SSA_NCCL_LIBRARY nccl HINTS ${CUDAToolkit_LIBRARY_DIR})
if(SSA_NCCL_INCLUDE AND SSA_NCCL_LIBRARY)
  set(SSA_WITH_NCCL ON)
else()
  set(SSA_WITH_NCCL OFF)
endif()
message(STATUS "CUDA ${CUDAToolkit_VERSION} for ${SSA_CUDA_ARCHITECTURES}; NCCL: ${SSA_WITH_NCCL}")
target_compile_definitions(ssa_flags INTERFACE SSA_WITH_NCCL=$<BOOL:${SSA_WITH_NCCL}>)

# Adds the CUDA sources of `directory` to the library of its floor. All flags are stated here once.
function(ssa_cuda_sources name directory)
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${directory}/*.cu ${directory}/*_cuda.cpp)
  list(FILTER sources EXCLUDE REGEX _bench\\.cu$)
  target_sources(${name} PRIVATE ${sources} ${ARGN})
  set(kernels ${sources})
  list(FILTER kernels INCLUDE REGEX \\.cu$)  # CMake 3.31 and later unite CUDA sources too
  set_source_files_properties(${kernels} PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
  target_compile_definitions(${name} PRIVATE
    SSA_CUDA_MIN_CAPABILITY=${SSA_CUDA_MIN_CAPABILITY}
    $<$<BOOL:${SSA_RACECHECK}>:SSA_RACECHECK=1>
    SSA_CUDA_SM90A=$<BOOL:$<FILTER:${SSA_CUDA_ARCHITECTURES},INCLUDE,^90a>>)
  target_include_directories(${name} PRIVATE ${CUDAToolkit_INCLUDE_DIRS})
  # Options of ptxas are also stored next to the PTX, for the driver's compiler: --warning-as-error there would refuse a
  # kernel that spills a register on a GPU of another architecture. nvcc's -Werror makes the warnings of the build errors.
  # -std: CMake 3.25 knows no C++20 flag for this nvcc and leaves it out.
  target_compile_options(${name} PRIVATE
    $<$<COMPILE_LANGUAGE:CUDA>:-std=c++20 -lineinfo --expt-relaxed-constexpr -Wno-deprecated-gpu-targets
      -Xcompiler=-Wall,-Wextra,-Wno-unknown-pragmas -Xptxas=--warn-on-spills>
    $<$<AND:$<BOOL:${SSA_WERROR}>,$<COMPILE_LANGUAGE:CUDA>>:-Werror=all-warnings>)
  set_target_properties(${name} PROPERTIES
    CUDA_ARCHITECTURES "${SSA_CUDA_ARCHITECTURES}" CUDA_STANDARD_REQUIRED OFF CUDA_RUNTIME_LIBRARY Static)
  target_link_libraries(${name} PRIVATE CUDA::cudart_static CUDA::cublasLt Threads::Threads)
endfunction()

ssa_cuda_sources(ssa_runtime src/runtime)
ssa_cuda_sources(ssa_ops kernels)
if(SSA_WITH_NCCL)
  file(GLOB SSA_NCCL_SOURCES CONFIGURE_DEPENDS src/comm/*_nccl.cpp)
  ssa_cuda_sources(ssa_comm src/comm ${SSA_NCCL_SOURCES})
  target_link_libraries(ssa_comm PRIVATE ${SSA_NCCL_LIBRARY})
endif()

# ssa_bench: every tests/bench/OP_bench.cpp in one binary.
file(GLOB SSA_BENCH_SOURCES CONFIGURE_DEPENDS tests/bench/*.cpp)
add_executable(ssa_bench ${SSA_BENCH_SOURCES})
target_include_directories(ssa_bench PRIVATE tests)
target_link_libraries(ssa_bench PRIVATE ssa_training)

# ssa_fp8_bench: the scalings that cuBLASLt's FP8 products can have, compared; docs/fp8.md has the results.
if(CUDAToolkit_VERSION VERSION_GREATER_EQUAL 12.9)
  add_executable(ssa_fp8_bench kernels/fp8_matmul/fp8_scalings_bench.cu)
  target_compile_options(ssa_fp8_bench PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:-std=c++17>)
  set_target_properties(ssa_fp8_bench PROPERTIES CUDA_ARCHITECTURES "${SSA_CUDA_ARCHITECTURES}"
                        CUDA_STANDARD_REQUIRED OFF CUDA_RUNTIME_LIBRARY Static)
  target_link_libraries(ssa_fp8_bench PRIVATE CUDA::cudart_static CUDA::cublasLt Threads::Threads)
endif()
