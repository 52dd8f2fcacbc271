#include "loadgen/svg_plot.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace troupe::loadgen {
namespace {

constexpr double kWidth = 480, kHeight = 270;
constexpr double kLeft = 58, kRight = 456, kTop = 12, kBottom = 226;
constexpr size_t kNumColours = 8;

std::string fixed(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f", value);
  return text;
}

/// Round numbers (1, 2 or 5 times a power of ten) from 0 to at least `most`.
std::vector<double> linear_ticks(double most) {
  const double raw = most / 5;
  const double power = std::pow(10, std::floor(std::log10(raw)));
  const double step = power * (raw / power <= 1   ? 1
                               : raw / power <= 2 ? 2
                               : raw / power <= 5 ? 5
                                                  : 10);
  std::vector<double> ticks;
  for (int i = 0; ticks.empty() || ticks.back() < most * (1 - 1e-9); ++i) ticks.push_back(step * i);
  return ticks;
}

/// Powers of ten, with 2 and 5 times them where the range is short.
std::vector<double> log_ticks(double least, double most) {
  const bool is_short = most / least < 200;
  std::vector<double> ticks;
  const int first = static_cast<int>(std::floor(std::log10(least)));
  const int last = static_cast<int>(std::floor(std::log10(most)));
  for (int power = first; power <= last; ++power) {
    for (const double digit : {1, 2, 5}) {
      const double tick = digit * std::pow(10, power);
      if ((digit == 1 || is_short) && tick >= least && tick <= most) ticks.push_back(tick);
    }
  }
  return ticks;
}

struct Axes {
  double x_least = 0, x_most = 1, y_most = 1;
  bool log_x = false;
  std::vector<double> x_ticks, y_ticks;

  [[nodiscard]] double x(double value) const {
    const double part = log_x
                            ? std::log(std::max(value / x_least, 1.0)) / std::log(x_most / x_least)
                            : (value - x_least) / (x_most - x_least);
    return kLeft + part * (kRight - kLeft);
  }
  [[nodiscard]] double y(double value) const {
    return kBottom - std::min(value / y_most, 1.0) * (kBottom - kTop);
  }
};

Axes axes_of(const Plot& plot) {
  Axes axes;
  double most = 0, y_most = plot.y_max;
  for (const Series& series : plot.series) {
    for (const auto& [x, y] : series.points) {
      most = std::max(most, x);
      if (plot.y_max == 0) y_most = std::max(y_most, y);
    }
  }
  axes.log_x = plot.log_x_from > 0;
  if (axes.log_x) {
    axes.x_least = plot.log_x_from;
    axes.x_most = most * 1.05;
    axes.x_ticks = log_ticks(axes.x_least, axes.x_most);
  } else {
    axes.x_most = most > 0 ? most * 1.02 : 1;
    axes.x_ticks = linear_ticks(axes.x_most);
    std::erase_if(axes.x_ticks, [&](double tick) { return tick > axes.x_most; });
  }
  axes.y_ticks = linear_ticks(y_most > 0 ? y_most : 1);
  axes.y_most = plot.y_max > 0 ? plot.y_max : axes.y_ticks.back();
  return axes;
}

std::string line(const char* kind, double x1, double y1, double x2, double y2) {
  return std::string("<line class=\"") + kind + "\" x1=\"" + fixed(x1) + "\" y1=\"" + fixed(y1) +
         "\" x2=\"" + fixed(x2) + "\" y2=\"" + fixed(y2) + "\"/>";
}

/// @param anchor "end" or "middle": what of the text lies at x
std::string text(const char* kind, const char* anchor, double x, double y,
                 const std::string& words) {
  return std::string("<text class=\"") + kind + "\" text-anchor=\"" + anchor + "\" x=\"" +
         fixed(x) + "\" y=\"" + fixed(y) + "\">" + escaped(words) + "</text>";
}

std::string frame(const Plot& plot, const Axes& axes) {
  std::string out;
  for (const double tick : axes.y_ticks) {
    if (tick > axes.y_most * (1 + 1e-9)) continue;
    out += line("grid", kLeft, axes.y(tick), kRight, axes.y(tick));
    out += text("tick", "end", kLeft - 7, axes.y(tick) + 4, readable(tick));
  }
  for (const double tick : axes.x_ticks) {
    out += line("grid", axes.x(tick), kBottom, axes.x(tick), kBottom + 4);
    out += text("tick", "middle", axes.x(tick), kBottom + 17, readable(tick));
  }
  out += line("axis", kLeft, kBottom, kRight, kBottom);
  out += text("label", "end", kRight, kHeight - 9, plot.x_label);
  return out;
}

std::string point(double x, double y) { return fixed(x) + "," + fixed(y) + " "; }

/// @param title shown when the pointer rests on it; "": nothing
std::string dot(double x, double y, double radius, const std::string& title) {
  const std::string inside = title.empty() ? "" : "<title>" + escaped(title) + "</title>";
  return "<circle class=\"dot\" r=\"" + fixed(radius) + "\" cx=\"" + fixed(x) + "\" cy=\"" +
         fixed(y) + "\">" + inside + "</circle>";
}

std::string value_title(const Series& series, double x, double y, const std::string& x_label) {
  return series.name + ": " + readable(y) + " at " + readable(x) + " " + x_label;
}

std::string marks(const Series& series, const Axes& axes, const std::string& x_label) {
  std::string out;
  if (series.mark != Series::Mark::kDots) {
    out += "<polyline class=\"line\" points=\"";
    for (const auto& [x, y] : series.points) out += point(axes.x(x), axes.y(y));
    out += "\"/>";
  }
  for (const auto& [x, y] : series.points) {
    if (series.mark == Series::Mark::kDots) out += dot(axes.x(x), axes.y(y), 1.8, "");
    if (series.mark == Series::Mark::kLineAndDots) {
      out += dot(axes.x(x), axes.y(y), 3.5, value_title(series, x, y, x_label));
    }
  }
  return out;
}

/// "--c: ..." of series `index` of so many.
std::string colour(const Plot& plot, size_t index) {
  if (!plot.is_ordered || plot.series.size() < 2) {
    return "--c:var(--s" + std::to_string(index % kNumColours) + ")";
  }
  const double part = static_cast<double>(index) / static_cast<double>(plot.series.size() - 1);
  return "--c:color-mix(in oklab, var(--ramp-from), var(--ramp-to) " + fixed(100 * part) + "%)";
}

}  // namespace

std::string svg(const Plot& plot) {
  std::string out = "<figure><figcaption>" + escaped(plot.title) + " <span class=\"unit\">" +
                    escaped(plot.y_label) + "</span></figcaption>";
  const bool is_empty =
      std::ranges::all_of(plot.series, [](const Series& s) { return s.points.empty(); });
  if (is_empty) return out + "<p class=\"unit\">no values</p></figure>\n";
  if (plot.series.size() > 1) {
    out += "<div class=\"legend\">";
    for (size_t i = 0; i < plot.series.size(); ++i) {
      out += "<span style=\"" + colour(plot, i) + "\"><i></i>" + escaped(plot.series[i].name) +
             "</span>";
    }
    out += "</div>";
  }
  const Axes axes = axes_of(plot);
  out += "<svg viewBox=\"0 0 " + fixed(kWidth) + " " + fixed(kHeight) +
         "\" role=\"img\" aria-label=\"" + escaped(plot.title) + "\">" + frame(plot, axes);
  for (size_t i = 0; i < plot.series.size(); ++i) {
    out += "<g style=\"" + colour(plot, i) + "\">" + marks(plot.series[i], axes, plot.x_label) +
           "</g>";
  }
  return out + "</svg></figure>\n";
}

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '"': out += "&quot;"; break;
      default: out += c;
    }
  }
  return out;
}

std::string readable(double value) {
  char text[64];
  if (std::abs(value) < 999.5) {  // from there %.3g would be "1e+03"
    std::snprintf(text, sizeof text, "%.3g", value);
    return text;
  }
  std::snprintf(text, sizeof text, "%.0f", value);
  std::string digits = text;
  const size_t first = digits.front() == '-' ? 1 : 0;
  for (size_t at = digits.size(); at > first + 3; at -= 3) digits.insert(at - 3, ",");
  return digits;
}

}  // namespace troupe::loadgen
