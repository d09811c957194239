// Faults on purpose, to rehearse failures: the environment variable SSA_FAULT says which failure hits a run, and where.
//
//   SSA_FAULT="kill@step:7,rank:1"                rank 1 is killed when it begins step 7
//   SSA_FAULT="slow@save:2,seconds:8; nan@step:9" a sync of the second checkpoint takes 8 s more; step 9 has a NaN
//
//   fault   KIND@PLACE[:NUMBER][,KEY:VALUE...]; several are separated by semicolons. Each happens once per process.
//   kinds   kill     the process ends at once (SIGKILL)
//           stop     the process stops and does not answer (SIGSTOP)
//           nan      one gradient becomes NaN after a backward pass
//           slow     a sync takes `seconds` more in a save; elsewhere the place begins later
//           enospc   a write fails as on a full disk
//           read     reading the dataset or a checkpoint fails with an I/O error
//           bitflip  one bit of a checkpoint file changes after it was written
//   places  start; step:N, the step with that number; save:N and eval:N, the N-th of the process, counted from 1
//   keys    rank       the rank that is hit; without it, every rank
//           operation  which operation of the place is hit, counted from 1 on each rank: a write for enospc, a read for
//                      read, a sync for slow, a finished file for bitflip, a backward pass for nan; for kill and stop
//                      any of those and any change of a directory. The default is the first; kill and stop hit the
//                      beginning of the place.
//           seconds    how long slow takes; 8
//           bit        which bit of the file bitflip changes, modulo the file's size; the middle one
//
// ssa_train reads the variable. Without it a hook costs one test of a flag.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace ssa {

enum class FaultKind { kill, stop, nan, slow, enospc, read, bitflip };
enum class FaultPlace { start, step, save, eval };
/// What the program does when a fault hits it.
enum class FaultOperation { gradient, read, write, sync, close, change_directory };

struct Fault {
  FaultKind kind{};
  FaultPlace place{};
  std::int64_t number = 1;
  std::int64_t rank = -1;      ///< -1: every rank
  std::int64_t operation = 0;  ///< 0: not given
  double seconds = 8;
  std::int64_t bit = -1;  ///< -1: the middle of the file
  std::string text;       ///< as it was given
};

/// Throws UsageError that names the part at fault and what is expected.
std::vector<Fault> parse_faults(std::string_view text);

/// Reads SSA_FAULT for this rank; replaces what was armed before. Throws UsageError.
void arm_faults(int rank);
/// The text of each fault in SSA_FAULT, including the faults of other ranks.
std::vector<std::string> armed_faults();

/// True after arm_faults() found any.
extern bool faults_are_armed;

namespace fault_detail {
void enter(FaultPlace place, std::int64_t step);
bool hits(FaultOperation operation);
void closed(const std::filesystem::path& path);
}  // namespace fault_detail

/// From here on this thread is at `place`; `step` is the number of a step. A thread that never enters a place counts as
/// the last save: it writes an asynchronous checkpoint.
inline void enter_fault_place(FaultPlace place, std::int64_t step = 0) {
  if (faults_are_armed) [[unlikely]]
    fault_detail::enter(place, step);
}

/// Called at every operation. True if it must fail: a write with ENOSPC, a read with EIO; or if the gradients must
/// become NaN. kill, stop and slow happen inside.
inline bool fault_hits(FaultOperation operation) { return faults_are_armed && fault_detail::hits(operation); }

/// Called when a file was written and closed: bitflip.
inline void fault_closed(const std::filesystem::path& path) {
  if (faults_are_armed) [[unlikely]]
    fault_detail::closed(path);
}

}  // namespace ssa
