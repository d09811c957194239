// Whether this build has the sanitizers, in which a test may be shorter where only its numbers need the full length.
#pragma once

namespace ssa::test {

#if defined(SSA_SANITIZE)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif

}  // namespace ssa::test
