#include "model/output_files.hpp"

#include <xxhash.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cstdio>
#include <cstring>
#include <set>
#include <utility>

#include "base/check.hpp"
#include "model/tensor_store.hpp"

namespace troupe::model {
namespace {

namespace json = boost::json;

constexpr uint64_t kAlignment = 64;
/// Who publishes FP8 leaves the head as it was.
constexpr std::string_view kHeadName = "lm_head.weight";

uint64_t bytes_of(std::string_view dtype, const std::vector<uint64_t>& shape) {
  uint64_t bytes = dtype == "F32" || dtype == "I32" ? 4 : dtype == "BF16" ? 2 : 1;
  for (const uint64_t dim : shape) bytes *= dim;
  return bytes;
}

OutputTensor tensor(std::string name, std::string_view dtype, std::vector<uint64_t> shape) {
  OutputTensor out{.name = std::move(name), .dtype = dtype, .shape = std::move(shape)};
  out.bytes = bytes_of(out.dtype, out.shape);
  return out;
}

OutputMatrix in_panels(const std::string& name, uint64_t out, uint64_t in, const Scheme& scheme,
                       DType scale_dtype = DType::kBF16) {
  OutputMatrix matrix{.out = out, .in = in, .scheme = scheme};
  const uint64_t panels = out / kPanelRows;
  matrix.data = scheme.dtype == DType::kI8
                    ? tensor(name + "_i8", "I8", {panels, in / kPanelQuad, kPanelRows, kPanelQuad})
                    : tensor(name + "_i4", "U8",
                             {panels, in / kPanelBlock, kPanelBlock / kPanelQuad / 2, kPanelRows,
                              kPanelQuad});
  const std::vector<uint64_t> scale_shape = {panels, scheme.num_groups(in), kPanelRows};
  matrix.scales = tensor(name + "_scale", to_string(scale_dtype), scale_shape);
  if (scheme.zeros) matrix.zeros = tensor(name + "_zero", "U8", scale_shape);
  return matrix;
}

/// Collects what the layout asks for as units.
class PlanningVisitor final : public TensorVisitor {
 public:
  PlanningVisitor(const TensorSource& source, bool keep, OutputFiles& totals)
      : source_(source), keep_(keep), totals_(totals) {}

  void use(const Scheme& scheme) { scheme_ = scheme; }
  std::vector<OutputUnit> take() { return std::move(units_); }

  Result<void> matrix(const std::string& name, uint64_t out, uint64_t in, WeightView&) override {
    if (keep_) {
      keep(name, out, in);
    } else if (scheme_.dtype == DType::kF8E4M3 && name == kHeadName) {
      add_float(name, {out, in}, source_.kept_type(name));
    } else if (!scheme_.in_panels()) {
      add_float(name, {out, in}, scheme_.dtype);
    } else if (fits_panels(out, in)) {
      ++totals_.quantised;
      add({.source = name, .out = out, .in = in, .matrices = {in_panels(name, out, in, scheme_)}});
    } else {
      ++totals_.kept;
      add_float(name, {out, in}, source_.kept_type(name));
    }
    return {};
  }

  Result<void> table(const std::string& name, uint64_t out, uint64_t in, WeightView&) override {
    add_float(name, {out, in}, source_.kept_type(name));
    return {};
  }

  Result<void> floats(const std::string& name, const std::vector<uint64_t>& shape,
                      std::vector<float>&) override {
    add_float(name, shape, source_.kept_type(name));
    return {};
  }

  Result<void> key_value(const std::string& name, const KeyValueShape& s,
                         AttentionWeights&) override {
    WeightView unused;
    const uint64_t rows = s.heads * (s.nope + s.v);
    const std::string whole = name + ".weight";
    if (keep_) {  // decoded when it is loaded, too
      add_float(whole, {rows, s.latent}, source_.kept_type(whole));
      return {};
    }
    if (!scheme_.in_panels()) {
      return matrix(whole, rows, s.latent, unused);
    }
    if (!fits_panels(s.latent, s.nope) || !fits_panels(s.v, s.latent)) {
      ++totals_.kept;
      add_float(whole, {rows, s.latent}, source_.kept_type(whole));
      return {};
    }
    totals_.quantised += 2;
    add({.source = whole,
         .out = rows,
         .in = s.latent,
         .matrices = {in_panels(name + ".key_t.weight", s.heads * s.latent, s.nope, scheme_),
                      in_panels(name + ".value.weight", s.heads * s.v, s.latent, scheme_)},
         .key_value = s});
    return {};
  }

  Result<void> stacked_matrix(const std::string&, const Slice&, WeightView&) override {
    CHECK(false);  // experts are written one by one
    return {};
  }

 private:
  void add(OutputUnit unit) {
    if (seen_.insert(unit.source).second) units_.push_back(std::move(unit));  // a tied head is one
  }

  void keep(const std::string& name, uint64_t out, uint64_t in) {
    const auto integers = source_.integers(name);
    if (!integers) return add_float(name, {out, in}, source_.kept_type(name));
    ++totals_.quantised;
    OutputMatrix matrix = in_panels(name, out, in, integers->scheme, integers->scale_dtype);
    if (!integers->columns.empty()) matrix.columns = tensor(name + "_columns", "I32", {in});
    add({.source = name, .out = out, .in = in, .matrices = {std::move(matrix)}, .kept = true});
  }

  void add_float(const std::string& name, const std::vector<uint64_t>& shape, DType dtype) {
    const uint64_t in = shape.back();
    const uint64_t out = shape.size() == 2 ? shape.front() : 1;
    OutputMatrix matrix{.out = out, .in = in, .scheme = {.dtype = dtype}};
    matrix.data = tensor(name, to_string(dtype), shape);
    if (dtype == DType::kF8E4M3) {
      matrix.scales = tensor(name + "_scale_inv", "F32",
                             {WeightView::num_scale_blocks(out), WeightView::num_scale_blocks(in)});
    }
    add({.source = name, .out = out, .in = in, .matrices = {std::move(matrix)}});
  }

  const TensorSource& source_;
  const bool keep_;
  OutputFiles& totals_;
  Scheme scheme_;
  std::vector<OutputUnit> units_;
  std::set<std::string> seen_;
};

template <class Visit>
void for_each_tensor(std::vector<OutputUnit>& units, const Visit& visit) {
  for (OutputUnit& unit : units) {
    for (OutputMatrix& matrix : unit.matrices) {
      for (OutputTensor* part : {&matrix.data, &matrix.scales, &matrix.zeros, &matrix.columns}) {
        if (part->bytes > 0) visit(*part);
      }
    }
  }
}

uint64_t bytes_of(const OutputUnit& unit) {
  uint64_t bytes = 0;
  for (const OutputMatrix& m : unit.matrices) {
    bytes += m.data.bytes + m.scales.bytes + m.zeros.bytes + m.columns.bytes;
  }
  return bytes;
}

/// Gives every tensor of the file its place and writes the header. The format allows no gaps, so
/// those whose sizes would push the next off its alignment come last, the odd ones at the very end.
void lay_out(OutputFile& file, const json::object& metadata) {
  std::vector<OutputTensor*> order;
  for_each_tensor(file.units, [&](OutputTensor& part) { order.push_back(&part); });
  const auto alignment = [](const OutputTensor* t) {
    return std::min(kAlignment, t->bytes & (~t->bytes + 1));
  };
  std::stable_sort(order.begin(), order.end(), [&](const OutputTensor* a, const OutputTensor* b) {
    return alignment(a) > alignment(b);
  });
  json::object entries;
  entries["__metadata__"] = metadata;
  uint64_t offset = 0;
  for (OutputTensor* t : order) {
    t->begin = offset;
    offset += t->bytes;
    json::object& entry = entries[t->name].emplace_object();
    entry["dtype"] = t->dtype;
    entry["shape"] = json::array(t->shape.begin(), t->shape.end());
    entry["data_offsets"] = json::array{t->begin, offset};
  }
  std::string text = json::serialize(entries);
  uint64_t size = text.size();
  text.append((kAlignment - (size + sizeof size) % kAlignment) % kAlignment, ' ');
  size = text.size();
  file.header.assign(sizeof size, '\0');
  std::memcpy(file.header.data(), &size, sizeof size);
  file.header += text;
  for (OutputTensor* t : order) t->begin += file.header.size();
  file.size = file.header.size() + offset;
}

/// Names the run by all that what it writes follows from, so that files of another one are known by
/// their headers: 16 hexadecimal digits.
std::string run_of(const SavePlan& plan) {
  const auto text_of = [](const Scheme& s) {
    return json::array{to_string(s.dtype), s.group, s.zeros};
  };
  const std::string settings =
      json::serialize(json::array{plan.identity, plan.config_json, text_of(plan.experts),
                                  text_of(plan.rest), plan.keep, plan.shard_bytes});
  char id[17];
  std::snprintf(id, sizeof id, "%016llx",
                static_cast<unsigned long long>(XXH3_64bits(settings.data(), settings.size())));
  return id;
}

std::string file_name(size_t index, size_t count) {
  if (count == 1) return "model.safetensors";
  char name[64];
  std::snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", index + 1, count);
  return name;
}

}  // namespace

Result<OutputFiles> plan_output(const ModelConfig& config, const TensorSource& source,
                                const SavePlan& plan) {
  OutputFiles out;
  PlanningVisitor planner(source, plan.keep, out);
  RouterWeights unused_router;
  FfnWeights unused_ffn;
  planner.use(plan.rest);
  TRY(visit_router(config, planner, unused_router));
  planner.use(plan.experts);
  for (LayerIdx layer = 0; layer < config.num_layers; ++layer) {
    if (!config.is_moe_layer(layer)) continue;
    for (ExpertIdx expert = 0; expert < config.num_routed_experts; ++expert) {
      TRY(visit_expert(config, ExpertLayout::kPerExpert, layer, expert, planner, unused_ffn));
    }
  }
  if (out.quantised == 0 && (plan.experts.in_panels() || plan.rest.in_panels())) {
    return Error{Code::kInvalidArgument,
                 "no matrix of this model fits panels of integers, which take multiples of 16 rows "
                 "of multiples of 32"};
  }
  for (OutputUnit& unit : planner.take()) {
    const uint64_t bytes = bytes_of(unit);
    if (out.files.empty() ||
        (out.files.back().size > 0 && out.files.back().size + bytes > plan.shard_bytes)) {
      out.files.emplace_back();
    }
    out.files.back().size += bytes;
    out.files.back().units.push_back(std::move(unit));
    out.bytes += bytes;
  }
  const json::object metadata{
      {"format", "pt"}, {kRunKey, run_of(plan)}, {kMadeByKey, plan.identity}};
  json::object weight_map;
  for (size_t i = 0; i < out.files.size(); ++i) {
    OutputFile& file = out.files[i];
    file.name = file_name(i, out.files.size());
    lay_out(file, metadata);
    for_each_tensor(file.units, [&](OutputTensor& t) { weight_map[t.name] = file.name; });
  }
  if (out.files.size() > 1) {
    out.index_json = json::serialize(json::object{
        {"metadata", json::object{{"total_size", out.bytes}}}, {"weight_map", weight_map}});
  }
  return out;
}

}  // namespace troupe::model
