// The page of run_report() without the run's data.
#pragma once

#include <string_view>

namespace ssa {

/// HTML with the placeholder /*RUN*/ where the run's JSON belongs.
std::string_view run_report_page();

}  // namespace ssa
