// Where the tests find the source tree, the programs and mpiexec. CMake writes the values into one generated file, so
// that no other object depends on them.
#pragma once

#include <filesystem>
#include <string>

namespace ssa::test {

std::filesystem::path source_dir();
std::filesystem::path binary_dir();  ///< where the programs are
std::string mpiexec();

}  // namespace ssa::test
