#pragma once

// Line and dot plots as inline SVG, for reports that need nothing but a browser. Colours are CSS
// variables of the page (--s0 to --s7, or --ramp in steps for ordered series), so that one plot
// fits light and dark pages.

#include <string>
#include <utility>
#include <vector>

namespace troupe::loadgen {

struct Series {
  enum class Mark { kLine, kLineAndDots, kDots };
  std::string name;
  std::vector<std::pair<double, double>> points;  ///< finite
  Mark mark = Mark::kLine;
};

struct Plot {
  std::string title;
  std::string x_label;
  std::string y_label;
  std::vector<Series> series;
  double log_x_from = 0;    ///< above 0: a logarithmic axis from there; smaller x lie at its edge
  bool is_ordered = false;  ///< series are steps of one quantity: shades of one colour
  double y_max = 0;         ///< 0: from the points. y always begins at 0
};

/// One <figure>. A plot without points says so.
std::string svg(const Plot& plot);

/// Text for HTML: & < > " escaped.
std::string escaped(const std::string& text);

/// "12,345", "0.25": three significant digits below 1000.
std::string readable(double value);

}  // namespace troupe::loadgen
