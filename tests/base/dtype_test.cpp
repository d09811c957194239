// Which types are elements of tensors.
#include "ssa/base/dtype.h"

#include "support/catch.h"

using namespace ssa;

namespace {

template <class T>
concept Element = requires {
  DTypeOf<T>::value;
};

}  // namespace

TEST_CASE("dtype: a type that is no element has no DType") {
  STATIC_REQUIRE((Element<float> && Element<bfloat16> && Element<double> && Element<int> && Element<unsigned char>));
  STATIC_REQUIRE_FALSE((Element<char> || Element<signed char> || Element<bool> || Element<std::int64_t> ||
                        Element<std::uint16_t> || Element<std::byte>));
  STATIC_REQUIRE(kDTypeOf<bfloat16> == DType::bf16);
}
