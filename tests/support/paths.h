// Paths of the source tree, of the programs and of mpiexec. CMake writes them into one generated source file, so that a
// changed path recompiles nothing else.
#pragma once

#include <filesystem>
#include <string>

namespace ssa::test {

std::filesystem::path source_dir();
std::filesystem::path binary_dir();  ///< the directory of the programs
std::string mpiexec();

}  // namespace ssa::test
