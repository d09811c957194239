// Autotuning of matmul on CUDA (kernels/matmul/README.md).
#include "kernels/matmul/choice.h"
#include "kernels/matmul/choice_file.h"
#include "ops/matmul_cases.h"
#include "support/catch.h"
#include "support/environment.h"
#include "support/temp_dir.h"

using namespace ssa;
using namespace ssa::test;

#if SSA_WITH_CUDA

namespace {

constexpr MatmulShape kMeasured{1024, 1024, 1024};   ///< 2.1e9 FLOPs: large enough to be measured
constexpr MatmulShape kSustained{4096, 4096, 4096};  ///< 1.4e11 FLOPs: measured in sustained runs too
constexpr MatmulShape kSmall{256, 256, 256};         ///< too small to be measured

/// One product and its tensors. Products of one shape and mode share a plan on one stream.
class Product {
 public:
  Product(OpRunner& run, const MatmulShape& c, const MatmulInputs& in, bool accumulate) : run_(run), before_(in.out) {
    p_ = {.out = run.f32_input(in.out, {c.M, c.N}),
          .a = run.act_input(in.a, {c.M, c.K}),
          .b = run.act_input(in.b, {c.N, c.K}),
          .transpose_b = true,
          .accumulate = accumulate};
  }

  MatmulChoice choice() const { return cuda::matmul_choice(run_.stream(), p_); }

  Values result() {
    matmul(run_.stream(), p_);
    return run_.read(p_.out);
  }

  /// The result of one of the admitted algorithms, from the same `out` before.
  Values result_of(std::size_t index) {
    const std::vector<float> before(before_.begin(), before_.end());
    run_.stream().copy(p_.out.data(), before.data(), p_.out.bytes());
    cuda::matmul_with_admitted(run_.stream(), p_, index);
    return run_.read(p_.out);
  }

 private:
  OpRunner& run_;
  Values before_;  ///< `out` before the first product
  Matmul p_;
};

}  // namespace

TEST_CASE("matmul on CUDA: every admitted algorithm gives the bits of the first") {
  if (skip_without_gpu()) return;
  for (const MatmulShape& c : {kMeasured, kSustained}) {
    const MatmulInputs in(c);
    for (const bool accumulate : {false, true}) {
      CAPTURE(c.M, accumulate);
      OpRunner run(Precision::cuda), untuned(Precision::cuda);
      untuned.stream().time_alternatives(false);
      const Values want = Product(untuned, c, in, accumulate).result();
      Product product(run, c, in, accumulate);
      CHECK((product.result() == want));
      const MatmulChoice choice = product.choice();
      CAPTURE(choice.candidates, choice.admitted, choice.chosen);
      REQUIRE(choice.candidates > 1);  // or nothing is compared
      CHECK(choice.measured);
      CHECK(choice.final);
      CHECK(choice.admitted <= choice.candidates);
      CHECK(choice.chosen < choice.admitted);
      for (std::size_t i = 0; i < choice.admitted; ++i) {
        CAPTURE(i);
        CHECK((product.result_of(i) == want));
      }
      CHECK_THROWS(product.result_of(choice.admitted));
    }
  }
}

TEST_CASE("matmul on CUDA chooses again after a product of zeros") {
  if (skip_without_gpu()) return;
  const MatmulInputs in(kMeasured);
  MatmulInputs zero = in;
  zero.a.assign(zero.a.size(), 0.0);
  for (const bool accumulate : {false, true}) {
    CAPTURE(accumulate);
    OpRunner run(Precision::cuda);
    Product zeros(run, kMeasured, zero, accumulate), product(run, kMeasured, in, accumulate);
    const Values want = accumulate ? zero.out : Values(zero.out.size(), 0.0);
    CHECK(relative_error(zeros.result(), want) < 1e-7);  // `out` is rounded to f32 in between
    REQUIRE(zeros.choice().candidates > 1);
    CHECK_FALSE(zeros.choice().final);
    CHECK_FALSE(zeros.choice().measured);
    product.result();
    CHECK(product.choice().final);
    CHECK(product.choice().measured);
    CHECK(product.choice().tunings == 2);
  }
}

TEST_CASE("matmul on CUDA chooses once per kind of product") {
  if (skip_without_gpu()) return;
  const MatmulInputs in(kMeasured);
  OpRunner run(Precision::cuda);
  Product first(run, kMeasured, in, false), second(run, kMeasured, in, false), other(run, kMeasured, in, true);
  first.result();
  const std::size_t chosen = first.choice().chosen;
  CHECK_THROWS_WITH(other.choice(), "matmul: no product like [1024, 1024] @ [1024, 1024] was computed on this stream");
  second.result();
  first.result();
  CHECK(second.choice().tunings == 1);
  CHECK(second.choice().chosen == chosen);
}

TEST_CASE("matmul on CUDA takes the first algorithm when autotuning is off or the product is small") {
  if (skip_without_gpu()) return;
  OpRunner off(Precision::cuda), on(Precision::cuda);
  off.stream().time_alternatives(false);
  Product untuned(off, kMeasured, MatmulInputs(kMeasured), false), small(on, kSmall, MatmulInputs(kSmall), false);
  untuned.result();
  small.result();
  for (const MatmulChoice& choice : {untuned.choice(), small.choice()}) {
    CHECK_FALSE(choice.measured);
    CHECK(choice.final);
    CHECK(choice.admitted == 1);
    CHECK(choice.chosen == 0);
  }
  off.stream().time_alternatives(true);  // too late: the plan has its algorithm
  untuned.result();
  CHECK(untuned.choice().tunings == 1);
}

TEST_CASE("matmul on CUDA takes the algorithm that an earlier process measured, if it gives the bits of the first") {
  if (skip_without_gpu()) return;
  const TempDir cache;
  const Environment set{{"SSA_CACHE_DIR", cache.path().c_str()}};
  const MatmulInputs in(kMeasured);
  OpRunner first(Precision::cuda);
  Product measured(first, kMeasured, in, true);
  const Values want = measured.result();
  REQUIRE(measured.choice().measured);
  const MatmulChoiceReport report = matmul_choice_report(first.stream());
  CHECK(report.measured == 1);
  CHECK(report.from_file == 0);
  CHECK(report.seconds > 0);
  CHECK(report.problem.empty());

  OpRunner second(Precision::cuda);
  Product saved(second, kMeasured, in, true);
  CHECK((saved.result() == want));
  CHECK(saved.choice().from_file);
  CHECK_FALSE(saved.choice().measured);
  CHECK(saved.choice().final);
  CHECK(matmul_choice_report(second.stream()).from_file == 1);

  // After a product of zeros the saved algorithm is compared again, unless it is the first one.
  MatmulInputs zero = in;
  zero.a.assign(zero.a.size(), 0.0);
  OpRunner third(Precision::cuda);
  Product zeros(third, kMeasured, zero, true), after(third, kMeasured, in, true);
  zeros.result();
  CHECK((after.result() == want));
  CHECK(after.choice().from_file);
  CHECK(after.choice().final);

  // An algorithm that cuBLASLt does not propose is measured anew, and replaced in the file.
  const std::string text = read_file(report.file), device = text.substr(text.find('\n') + 1);
  MatmulChoices choices = parse_choices(text, device.substr(0, device.find('\n')));
  REQUIRE(choices.size() == 1);
  const std::string known = choices.begin()->second;
  choices.begin()->second = std::string(known.size(), 'f');
  write_file(report.file, format_choices(device.substr(0, device.find('\n')), choices));
  OpRunner fourth(Precision::cuda);
  Product anew(fourth, kMeasured, in, true);
  CHECK((anew.result() == want));
  CHECK(anew.choice().measured);
  CHECK_FALSE(anew.choice().from_file);
  CHECK(read_file(report.file).find(std::string(known.size(), 'f')) == std::string::npos);
}

#else

TEST_CASE("matmul on CUDA: autotuning") {
  if (skip_without_gpu()) return;
  FAIL("a build without CUDA reports a GPU");
}

#endif
