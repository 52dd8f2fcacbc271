#include "cluster/yaml_tree.hpp"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/mark.h>
#include <yaml-cpp/parser.h>

#include <optional>
#include <sstream>
#include <utility>

namespace troupe::cluster {
namespace {

/// Builds the tree; after the first error it only waits for the end.
class TreeBuilder : public YAML::EventHandler {
 public:
  YamlNode root;
  std::optional<std::pair<uint32_t, std::string>> error;  // line, message

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnAnchor(const YAML::Mark& mark, const std::string&) override { no_anchors(mark); }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override { no_anchors(mark); }
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    leaf(mark, "?", anchor, {.kind = YamlNode::Kind::kNothing});
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    leaf(mark, tag, anchor, {.kind = YamlNode::Kind::kText, .quoted = tag == "!", .text = value});
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    open(mark, tag, anchor, YamlNode::Kind::kList);
  }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    open(mark, tag, anchor, YamlNode::Kind::kMap);
  }
  void OnSequenceEnd() override { close(); }
  void OnMapEnd() override { close(); }

 private:
  struct Open {
    YamlNode node;
    std::optional<std::pair<std::string, uint32_t>> key;  // of a map, waiting for its value
  };

  void fail(uint32_t line, std::string message) {
    if (!error) error = {line, std::move(message)};
  }
  void no_anchors(const YAML::Mark& mark) {
    fail(static_cast<uint32_t>(mark.line) + 1,
         "anchors and aliases are not supported; write the value out");
  }
  /// Whether the node may be added.
  bool admit(YamlNode& node, const YAML::Mark& mark, const std::string& tag,
             YAML::anchor_t anchor) {
    node.line = static_cast<uint32_t>(mark.line) + 1;
    if (anchor != YAML::NullAnchor) no_anchors(mark);
    if (!tag.empty() && tag != "?" && tag != "!") {
      fail(node.line, "tags such as " + tag.substr(0, 40) + " are not supported; remove it");
    }
    if (++num_nodes_ > kMaxYamlNodes) {
      fail(node.line, "more than " + std::to_string(kMaxYamlNodes) + " values");
    }
    return !error;
  }
  void leaf(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor, YamlNode node) {
    if (admit(node, mark, tag, anchor)) add(std::move(node));
  }
  void open(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
            YamlNode::Kind kind) {
    YamlNode node{.kind = kind};
    if (!admit(node, mark, tag, anchor)) return;
    if (open_.size() == kMaxYamlDepth) {
      return fail(node.line, "nested deeper than " + std::to_string(kMaxYamlDepth) + " levels");
    }
    open_.push_back({std::move(node), std::nullopt});
  }
  void close() {
    if (error) return;
    YamlNode node = std::move(open_.back().node);
    open_.pop_back();
    add(std::move(node));
  }
  void add(YamlNode node) {
    if (open_.empty()) {
      root = std::move(node);
      return;
    }
    auto& [parent, key] = open_.back();
    if (parent.kind == YamlNode::Kind::kList) {
      parent.items.push_back(std::move(node));
    } else if (key) {
      parent.entries.push_back({std::move(key->first), std::move(node)});
      key.reset();
    } else if (node.kind != YamlNode::Kind::kText) {
      fail(node.line, "a key must be a plain word");
    } else if (const YamlNode* first = parent.find(node.text)) {
      fail(node.line, "key '" + node.text.substr(0, 64) + "' is there already in line " +
                          std::to_string(first->line));
    } else {
      key = {std::move(node.text), node.line};
    }
  }

  std::vector<Open> open_;
  size_t num_nodes_ = 0;
};

Error wrong(const std::string& origin, uint32_t line, const std::string& message) {
  return {Code::kInvalidArgument, origin + ":" + std::to_string(line) + ": " + message};
}

}  // namespace

const YamlNode* YamlNode::find(std::string_view key) const {
  for (const auto& [name, node] : entries) {
    if (name == key) return &node;
  }
  return nullptr;
}

Result<YamlNode> parse_yaml(std::string_view yaml, const std::string& origin) {
  if (yaml.size() > kMaxYamlBytes) {
    return Error{Code::kInvalidArgument, origin + ": larger than 1 MiB; this is no configuration"};
  }
  TreeBuilder tree;
  try {
    std::istringstream stream{std::string(yaml)};
    YAML::Parser parser(stream);
    if (!parser.HandleNextDocument(tree)) {
      return Error{Code::kInvalidArgument, origin + ": is empty"};
    }
    if (tree.error) return wrong(origin, tree.error->first, tree.error->second);
    TreeBuilder second;
    if (parser.HandleNextDocument(second)) {
      return Error{Code::kInvalidArgument,
                   origin + ": has more than one document; remove all from the second '---' on"};
    }
  } catch (const YAML::Exception& e) {
    if (tree.error) return wrong(origin, tree.error->first, tree.error->second);
    if (e.mark.is_null()) return Error{Code::kInvalidArgument, origin + ": not YAML: " + e.msg};
    return wrong(origin, static_cast<uint32_t>(e.mark.line) + 1, "not YAML: " + e.msg);
  } catch (const std::exception& e) {
    return Error{Code::kInvalidArgument, origin + ": not YAML: " + e.what()};
  }
  return std::move(tree.root);
}

}  // namespace troupe::cluster
