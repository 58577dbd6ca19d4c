#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <iterator>
#include <limits>
#include <map>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "lamppp/autograd/draw_graph.hpp"
#include "tensor/text.hpp"

/// Note [Graph layout]
/// The layers of Sugiyama, Tagawa and Toda, "Methods for Visual Understanding of Hierarchical
/// System Structures", 1981. A node's rank is the longest path from a result. All edges to one node
/// that are longer than a rank run together through one row of bends, one in each rank on the way:
/// a weight that every step of a loop uses has one line and not a fan. Sweeps up and down sort each
/// rank by the mean place of the neighbours; the order with the fewest crossings stays. Then items
/// are joined to upright blocks, as in Brandes and Koepf, "Fast and Simple Horizontal Coordinate
/// Assignment", 2001, and blocks move towards their neighbours as far as there is room. Nothing
/// recurses and, but for sorting, everything takes time in proportion to nodes and edges.
namespace lmp::autograd {

namespace {

using tensor::detail::clean_text;
using tensor::detail::readable_bytes;
using tensor::detail::readable_count;

constexpr double kGapX = 26, kGapY = 38, kMargin = 24;
constexpr double kTitleHeight = 19, kLineHeight = 14.5, kPadding = 9;
constexpr std::size_t kMostShown = 48;  // characters of a title
constexpr std::size_t kNone = std::numeric_limits<std::size_t>::max();

struct Segment {
  std::size_t upper;
  std::size_t lower;
};

// For each item the numbers of some segments, all in one block.
class Incidence {
 public:
  Incidence(std::size_t items, const std::vector<Segment>& segments, std::size_t Segment::*end)
      : first_(items + 1, 0), numbers_(segments.size()) {
    for (const Segment& s : segments) ++first_[s.*end + 1];
    std::partial_sum(first_.begin(), first_.end(), first_.begin());
    std::vector<std::size_t> next(first_.begin(), first_.end() - 1);
    for (std::size_t i = 0; i < segments.size(); ++i) numbers_[next[segments[i].*end]++] = i;
  }
  std::size_t* begin(std::size_t item) { return numbers_.data() + first_[item]; }
  std::size_t* end(std::size_t item) { return numbers_.data() + first_[item + 1]; }
  std::size_t count(std::size_t item) const { return first_[item + 1] - first_[item]; }

 private:
  std::vector<std::size_t> first_, numbers_;
};

std::string title_of(const GraphNode& node) {
  if (node.name.empty()) return node.op;
  return node.leaf ? node.name : node.name + " = " + node.op;
}

// The first characters of a clean text.
std::string shortened(const std::string& text) {
  if (tensor::detail::count_characters(text) <= kMostShown) return text;
  std::size_t end = 0;
  for (std::size_t n = 0; end < text.size(); ++end)
    if ((static_cast<unsigned>(text[end]) & 0xC0U) != 0x80U && ++n == kMostShown) break;
  return text.substr(0, end) + "\u2026";
}

// How wide a text is likely to be: characters of East Asia, of three bytes, are twice as wide.
double width_of(const std::string& text, double size) {
  double units = 0;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    units += byte < 0x80 ? 0.6 : byte >= 0xE0 ? 1.05 : byte >= 0xC0 ? 0.65 : 0;
  }
  return units * size;
}

std::string xml_text(const std::string& text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '&':
        out += "&amp;";
        break;
      case '"':
        out += "&quot;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

// A coordinate to a tenth, without a locale.
void put(std::string& out, double value) {
  auto tenths = static_cast<std::int64_t>(std::llround(value * 10));
  if (tenths < 0) out += '-';
  tenths = std::abs(tenths);
  out += std::to_string(tenths / 10);
  if (tenths % 10 != 0) {
    out += '.';
    out += static_cast<char>('0' + tenths % 10);
  }
}

void put(std::string& out, const char* before, double x, double y) {
  out += before;
  put(out, x);
  out += ' ';
  put(out, y);
}

class Layout {
 public:
  explicit Layout(const std::vector<GraphNode>& nodes) : nodes_(nodes) {
    measure();
    find_ranks();
    connect();
    order();
    place();
  }

  const std::vector<std::string>& lines(std::size_t node) const { return lines_[node]; }
  double x(std::size_t item) const { return x_[item]; }
  double width(std::size_t item) const { return width_[item]; }
  double height(std::size_t node) const { return height_[node]; }
  double top(std::size_t node) const { return top_[rank_[node]]; }
  double left_edge() const { return left_; }
  double right_edge() const { return right_; }
  double bottom_edge() const { return top_.back() + rank_height_.back(); }

  void draw_edges(std::string& out) const {
    const std::size_t n = nodes_.size();
    out += "<g marker-end=\"url(#lmp-arrow)\">\n";
    for (std::size_t s = 0; s < segments_.size(); ++s) {
      const Segment& segment = segments_[s];
      if (segment.upper >= n || segment.lower >= n) continue;
      out += "<path d=\"";
      curve(out, x_[segment.upper] + start_[s], bottom(segment.upper), x_[segment.lower] + end_[s],
            top(segment.lower));
      out += "\"/>\n";
    }
    for (std::size_t v = 0; v < n; ++v) {
      if (bends_[v] == 0) continue;
      // From the first bend down to the node. A bend is as high as its rank.
      const std::size_t first = first_bend_[v];
      const std::size_t rank = rank_[first];
      out += "<path d=\"";
      put(out, "M", x_[first], top_[rank]);
      for (std::size_t i = 0; i < bends_[v]; ++i) {
        const std::size_t item = first + i;
        const bool last = i + 1 == bends_[v];
        if (!last && std::abs(x_[item + 1] - x_[item]) < 0.05) continue;
        const double y = top_[rank + i] + rank_height_[rank + i];
        out += 'V';
        put(out, y);
        bend(out, x_[item], y, last ? x_[v] + bus_end_[v] : x_[item + 1], top_[rank + i + 1]);
      }
      out += "\"/>\n";
    }
    for (const Segment& edge : direct_) {
      out += "<path d=\"";
      curve(out, x_[edge.upper], bottom(edge.upper), x_[edge.lower], top(edge.lower));
      out += "\"/>\n";
    }
    out += "</g>\n";
    for (std::size_t s = 0; s < segments_.size(); ++s) {
      const Segment& segment = segments_[s];
      if (segment.upper >= n || segment.lower < n) continue;
      out += "<path d=\"";
      curve(out, x_[segment.upper] + start_[s], bottom(segment.upper), x_[segment.lower],
            top_[rank_[segment.lower]]);
      out += "\"/>\n";
    }
    for (std::size_t v = 0; v < n; ++v) {
      if (!nodes_[v].cut) continue;
      out += "<path stroke-dasharray=\"2 4\" d=\"";
      put(out, "M", x_[v], bottom(v));
      out += "v20\"/>\n";
    }
  }

 private:
  double bottom(std::size_t node) const { return top(node) + height_[node]; }

  static void bend(std::string& out, double x, double y, double to_x, double to_y) {
    if (std::abs(x - to_x) < 0.05) {
      out += 'V';
      put(out, to_y);
      return;
    }
    const double half = (to_y - y) / 2;
    put(out, "C", x, y + half);
    put(out, " ", to_x, to_y - half);
    put(out, " ", to_x, to_y);
  }
  static void curve(std::string& out, double x, double y, double to_x, double to_y) {
    put(out, "M", x, y);
    bend(out, x, y, to_x, to_y);
  }

  void measure() {
    lines_.reserve(nodes_.size());
    for (const GraphNode& node : nodes_) {
      std::vector<std::string>& lines = lines_.emplace_back();
      lines.push_back(shortened(clean_text(title_of(node))));
      lines.push_back(name_of(node.type) + (' ' + tensor::detail::shape_text(node.shape)));
      if (node.released)
        lines.push_back("released");
      else if (node.saved_bytes > 0)
        lines.push_back("saves " + readable_bytes(node.saved_bytes));
      double width = width_of(lines[0], 14);
      for (std::size_t i = 1; i < lines.size(); ++i)
        width = std::max(width, width_of(lines[i], 11));
      width_.push_back(std::max(width + (node.leaf ? 30 : 22), 76.0));
      height_.push_back(2 * kPadding + kTitleHeight - 4 +
                        kLineHeight * static_cast<double>(lines.size() - 1));
    }
  }

  void find_ranks() {
    const std::size_t n = nodes_.size();
    rank_.assign(n, 0);
    std::vector<std::size_t> waits(n, 0), ready;
    ready.reserve(n);
    for (const GraphNode& node : nodes_)
      for (const std::size_t to : node.inputs) ++waits[to];
    for (std::size_t i = 0; i < n; ++i)
      if (waits[i] == 0) ready.push_back(i);
    for (std::size_t i = 0; i < ready.size(); ++i) {
      for (const std::size_t to : nodes_[ready[i]].inputs) {
        rank_[to] = std::max(rank_[to], rank_[ready[i]] + 1);
        if (--waits[to] == 0) ready.push_back(to);
      }
    }
  }

  // Edges become segments from one rank to the next; long ones go through bends.
  void connect() {
    const std::size_t n = nodes_.size();
    std::vector<std::size_t> nearest(rank_);  // the first rank that an edge to the node leaves
    for (std::size_t u = 0; u < n; ++u)
      for (const std::size_t to : nodes_[u].inputs) nearest[to] = std::min(nearest[to], rank_[u]);
    bends_.assign(n, 0);
    first_bend_.assign(n, 0);
    std::size_t left = 4 * n + 1000;
    for (std::size_t v = 0; v < n; ++v) {
      const std::size_t span = rank_[v] - nearest[v];
      if (span < 2 || span - 1 > left) continue;
      left -= span - 1;
      bends_[v] = span - 1;
      first_bend_[v] = rank_.size();
      for (std::size_t r = nearest[v] + 1; r < rank_[v]; ++r) rank_.push_back(r);
    }
    width_.resize(rank_.size(), 10);
    for (std::size_t u = 0; u < n; ++u) {
      for (const std::size_t to : nodes_[u].inputs) {
        if (rank_[to] == rank_[u] + 1)
          segments_.push_back({u, to});
        else if (bends_[to] > 0)
          segments_.push_back({u, first_bend_[to] + rank_[u] - nearest[to]});
        else
          direct_.push_back({u, to});
      }
    }
    for (std::size_t v = 0; v < n; ++v)
      for (std::size_t i = 0; i < bends_[v]; ++i)
        segments_.push_back({first_bend_[v] + i, i + 1 == bends_[v] ? v : first_bend_[v] + i + 1});
  }

  void order() {
    const std::size_t items = rank_.size();
    ranks_.resize(1 + *std::max_element(rank_.begin(), rank_.end()));
    for (std::size_t i = 0; i < items; ++i) ranks_[rank_[i]].push_back(i);
    position_.resize(items);
    for (std::size_t r = 0; r < ranks_.size(); ++r) number(r);
    Incidence up(items, segments_, &Segment::lower), down(items, segments_, &Segment::upper);
    auto best = ranks_;
    std::size_t fewest = crossings(down);
    const int sweeps = items < 20'000 ? 12 : 3;
    for (int sweep = 0; sweep < sweeps && fewest > 0; ++sweep) {
      if (sweep % 2 == 0)
        for (std::size_t r = 1; r < ranks_.size(); ++r) sort_rank(r, up, &Segment::upper);
      else
        for (std::size_t r = ranks_.size() - 1; r-- > 0;) sort_rank(r, down, &Segment::lower);
      if (const std::size_t now = crossings(down); now < fewest) {
        fewest = now;
        best = ranks_;
      }
    }
    ranks_ = std::move(best);
    for (std::size_t r = 0; r < ranks_.size(); ++r) number(r);
  }

  void number(std::size_t r) {
    for (std::size_t i = 0; i < ranks_[r].size(); ++i) position_[ranks_[r][i]] = i;
  }

  void sort_rank(std::size_t r, Incidence& neighbours, std::size_t Segment::*other) {
    if (ranks_[r].size() < 2) return;
    std::vector<std::pair<double, std::size_t>> keys;
    for (const std::size_t item : ranks_[r]) {
      double sum = 0;
      for (const std::size_t* s = neighbours.begin(item); s != neighbours.end(item); ++s)
        sum += static_cast<double>(position_[segments_[*s].*other]);
      const std::size_t count = neighbours.count(item);
      keys.emplace_back(
          count > 0 ? sum / static_cast<double>(count) : static_cast<double>(position_[item]),
          item);
    }
    std::stable_sort(keys.begin(), keys.end(),
                     [](const auto& a, const auto& b) { return a.first < b.first; });
    for (std::size_t i = 0; i < keys.size(); ++i) ranks_[r][i] = keys[i].second;
    number(r);
  }

  // Pairs of segments that cross: inversions of the lower ends, counted with a Fenwick tree.
  std::size_t crossings(Incidence& down) const {
    std::size_t total = 0;
    std::vector<std::size_t> tree, ends;
    for (std::size_t r = 0; r + 1 < ranks_.size(); ++r) {
      const std::size_t size = ranks_[r + 1].size();
      if (ranks_[r].size() < 2 || size < 2) continue;
      tree.assign(size + 1, 0);
      std::size_t seen = 0;
      for (const std::size_t item : ranks_[r]) {
        ends.clear();
        for (const std::size_t* s = down.begin(item); s != down.end(item); ++s)
          ends.push_back(position_[segments_[*s].lower]);
        for (const std::size_t end : ends) {
          std::size_t not_right = 0;
          for (std::size_t i = end + 1; i > 0; i -= i & (~i + 1)) not_right += tree[i];
          total += seen - not_right;
        }
        for (const std::size_t end : ends)
          for (std::size_t i = end + 1; i <= size; i += i & (~i + 1)) ++tree[i];
        seen += ends.size();
      }
    }
    return total;
  }

  bool is_bend(std::size_t item) const { return item >= nodes_.size(); }
  bool is_leaf(std::size_t item) const { return !is_bend(item) && nodes_[item].leaf; }
  // Operations and bends hold their line; leaves make room.
  double weight(const Segment& s) const { return is_leaf(s.lower) ? 1 : 8; }
  // How much a segment ought to be upright.
  int importance(const Segment& s) const {
    if (is_leaf(s.lower)) return 0;
    return is_bend(s.upper) && is_bend(s.lower) ? 3 : is_bend(s.upper) || is_bend(s.lower) ? 1 : 2;
  }

  // The neighbour of each item that it would best stand in line with, if there is one: the most
  // important, of those the one with the longest way below, of those the one in the middle.
  std::vector<std::size_t> favourites(Incidence& list, std::size_t Segment::*other,
                                      const std::vector<std::size_t>& below) const {
    std::vector<std::size_t> out(rank_.size(), kNone), best;
    for (std::size_t item = 0; item < rank_.size(); ++item) {
      best.clear();
      std::pair<int, std::size_t> most{-1, 0};
      for (const std::size_t* s = list.begin(item); s != list.end(item); ++s) {
        const std::size_t to = segments_[*s].*other;
        const std::pair<int, std::size_t> value{importance(segments_[*s]),
                                                rank_[to] > rank_[item] ? below[to] : 0};
        if (value < most) continue;
        if (value > most) best.clear();
        most = value;
        best.push_back(to);
      }
      std::sort(best.begin(), best.end(),
                [&](std::size_t a, std::size_t b) { return position_[a] < position_[b]; });
      best.erase(std::unique(best.begin(), best.end()), best.end());
      if (best.size() % 2 == 1) out[item] = best[best.size() / 2];
    }
    return out;
  }

  // Items that each other favours stand in line, in one block, unless their lines would cross.
  void form_blocks(Incidence& up, Incidence& down) {
    const std::size_t items = rank_.size();
    std::vector<std::size_t> below(items, 0);
    for (std::size_t r = ranks_.size(); r-- > 0;)
      for (const std::size_t item : ranks_[r])
        for (const std::size_t* s = down.begin(item); s != down.end(item); ++s)
          below[item] = std::max(below[item], below[segments_[*s].lower] + 1);
    const auto lower = favourites(down, &Segment::lower, below);
    const auto upper = favourites(up, &Segment::upper, below);
    std::vector<std::size_t> above(items, kNone);
    std::vector<Segment> links;
    std::map<std::size_t, std::size_t> taken;  // by place in the upper rank
    for (const std::vector<std::size_t>& row : ranks_) {
      links.clear();
      taken.clear();
      for (const std::size_t item : row)
        if (lower[item] != kNone && upper[lower[item]] == item)
          links.push_back({item, lower[item]});
      std::stable_sort(links.begin(), links.end(), [&](const Segment& a, const Segment& b) {
        return importance(a) > importance(b);
      });
      for (const Segment& link : links) {
        const std::size_t from = position_[link.upper], to = position_[link.lower];
        const auto next = taken.lower_bound(from);
        if (next != taken.end() && next->second < to) continue;
        if (next != taken.begin() && std::prev(next)->second > to) continue;
        taken.emplace_hint(next, from, to);
        above[link.lower] = link.upper;
      }
    }
    block_.resize(items);
    for (const std::vector<std::size_t>& row : ranks_) {
      for (const std::size_t item : row) {
        block_[item] = above[item] == kNone ? blocks_.size() : block_[above[item]];
        if (above[item] == kNone) blocks_.emplace_back();
        blocks_[block_[item]].push_back(item);
      }
    }
  }

  // The leftmost places with room between blocks, or mirrored the rightmost.
  std::vector<double> pack(bool mirrored) const {
    std::vector<double> place(blocks_.size(), 0);
    std::vector<std::size_t> waits(blocks_.size(), 0), ready;
    const auto each_after = [&](std::size_t block, auto&& f) {
      for (const std::size_t item : blocks_[block]) {
        const std::size_t next = neighbour(item, mirrored ? -1 : 1);
        if (next != kNone) f(block_[next], room(item, next));
      }
    };
    for (std::size_t b = 0; b < blocks_.size(); ++b)
      each_after(b, [&](std::size_t next, double) { ++waits[next]; });
    for (std::size_t b = 0; b < blocks_.size(); ++b)
      if (waits[b] == 0) ready.push_back(b);
    for (std::size_t i = 0; i < ready.size(); ++i) {
      each_after(ready[i], [&](std::size_t next, double gap) {
        place[next] = std::max(place[next], place[ready[i]] + gap);
        if (--waits[next] == 0) ready.push_back(next);
      });
    }
    return place;
  }

  // The item beside another, or none.
  std::size_t neighbour(std::size_t item, int side) const {
    const std::vector<std::size_t>& row = ranks_[rank_[item]];
    const std::size_t at = position_[item];
    if (side < 0) return at == 0 ? kNone : row[at - 1];
    return at + 1 == row.size() ? kNone : row[at + 1];
  }

  void place() {
    const std::size_t items = rank_.size();
    Incidence up(items, segments_, &Segment::lower), down(items, segments_, &Segment::upper);
    form_blocks(up, down);
    const std::vector<double> leftmost = pack(false), rightmost = pack(true);
    const double most = *std::max_element(leftmost.begin(), leftmost.end());
    x_.resize(items);
    for (std::size_t i = 0; i < items; ++i)
      x_[i] = (leftmost[block_[i]] + most - rightmost[block_[i]]) / 2;
    const int sweeps = items < 20'000 ? 30 : 4;
    for (int sweep = 0; sweep < sweeps; ++sweep)
      for (std::size_t b = 0; b < blocks_.size(); ++b)
        settle(blocks_[sweep % 2 == 0 ? b : blocks_.size() - 1 - b], up, down);
    left_ = std::numeric_limits<double>::max();
    right_ = std::numeric_limits<double>::lowest();
    for (std::size_t i = 0; i < items; ++i) {
      left_ = std::min(left_, x_[i] - width_[i] / 2);
      right_ = std::max(right_, x_[i] + width_[i] / 2);
    }
    spread_ports(up, down);

    rank_height_.assign(ranks_.size(), 0);
    std::vector<double> reach(ranks_.size(), 0);  // the widest step to the next rank
    for (std::size_t v = 0; v < nodes_.size(); ++v)
      rank_height_[rank_[v]] = std::max(rank_height_[rank_[v]], height_[v]);
    for (const Segment& s : segments_)
      reach[rank_[s.upper]] = std::max(reach[rank_[s.upper]], std::abs(x_[s.upper] - x_[s.lower]));
    double y = 0;
    for (std::size_t r = 0; r < ranks_.size(); ++r) {
      top_.push_back(y);
      y += rank_height_[r] + kGapY + std::min(reach[r] / 14, 60.0);
    }
  }

  // Moves a block as near to the mean of its neighbours as the blocks beside it let it.
  void settle(const std::vector<std::size_t>& block, Incidence& up, Incidence& down) {
    double sum = 0, pull = 0;
    double least = std::numeric_limits<double>::lowest();
    double most = std::numeric_limits<double>::max();
    for (const std::size_t item : block) {
      const auto add = [&](Incidence& list, std::size_t Segment::*other) {
        for (const std::size_t* s = list.begin(item); s != list.end(item); ++s) {
          const std::size_t to = segments_[*s].*other;
          if (block_[to] == block_[item]) continue;
          sum += weight(segments_[*s]) * x_[to];
          pull += weight(segments_[*s]);
        }
      };
      add(up, &Segment::upper);
      add(down, &Segment::lower);
      if (const std::size_t left = neighbour(item, -1); left != kNone)
        least = std::max(least, x_[left] + room(left, item));
      if (const std::size_t right = neighbour(item, 1); right != kNone)
        most = std::min(most, x_[right] - room(item, right));
    }
    if (pull == 0 || least > most) return;
    const double x = std::clamp(sum / pull, least, most);
    for (const std::size_t item : block) x_[item] = x;
  }

  double room(std::size_t a, std::size_t b) const { return (width_[a] + width_[b]) / 2 + kGapX; }

  // Where segments leave and reach boxes: side by side, in the order of the other ends.
  void spread_ports(Incidence& up, Incidence& down) {
    start_.assign(segments_.size(), 0);
    end_.assign(segments_.size(), 0);
    bus_end_.assign(nodes_.size(), 0);
    const auto spread = [&](Incidence& list, std::size_t Segment::*other, double step,
                            std::vector<double>& out) {
      for (std::size_t v = 0; v < nodes_.size(); ++v) {
        const std::size_t count = list.count(v);
        if (count < 2) continue;
        std::stable_sort(list.begin(v), list.end(v), [&](std::size_t a, std::size_t b) {
          return x_[segments_[a].*other] < x_[segments_[b].*other];
        });
        // One that comes straight from above or below stays straight.
        const double last = static_cast<double>(count - 1);
        double middle = last / 2;
        for (std::size_t i = 0; i < count; ++i)
          if (block_[segments_[list.begin(v)[i]].*other] == block_[v])
            middle = static_cast<double>(i);
        const double gap = std::min(step, (width_[v] / 2 - 15) / std::max(middle, last - middle));
        for (std::size_t i = 0; i < count; ++i)
          out[list.begin(v)[i]] = (static_cast<double>(i) - middle) * gap;
      }
    };
    spread(down, &Segment::lower, 24, start_);
    spread(up, &Segment::upper, 16, end_);
    for (std::size_t s = 0; s < segments_.size(); ++s)
      if (segments_[s].upper >= nodes_.size() && segments_[s].lower < nodes_.size())
        bus_end_[segments_[s].lower] = end_[s];
  }

  const std::vector<GraphNode>& nodes_;
  std::vector<std::vector<std::string>> lines_;
  std::vector<Segment> segments_, direct_;
  std::vector<std::vector<std::size_t>> ranks_, blocks_;
  // By item: the nodes, then the bends.
  std::vector<std::size_t> rank_, position_, block_;
  std::vector<double> width_, x_;
  // By node.
  std::vector<double> height_, bus_end_;
  std::vector<std::size_t> bends_, first_bend_;
  // By segment and by rank.
  std::vector<double> start_, end_, top_, rank_height_;
  double left_ = 0, right_ = 0;
};

constexpr const char* kStyle =
    "<defs><marker id=\"lmp-arrow\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"7\" "
    "markerHeight=\"7\" orient=\"auto\"><path d=\"M0 .6 7.6 4 0 7.4 1.6 4Z\" fill=\"#7c8aa0\"/>"
    "</marker></defs>\n"
    "<style>\n"
    ".lmp-graph text{font-family:ui-sans-serif,system-ui,-apple-system,'Segoe UI',Helvetica,Arial,"
    "sans-serif;font-size:11px;fill:#475569;text-anchor:middle}\n"
    ".lmp-graph .t{font-size:14px;font-weight:600;fill:#0f172a}\n"
    ".lmp-graph .k{text-anchor:start}\n"
    ".lmp-graph .z{fill:#b45309;font-style:italic}\n"
    ".lmp-graph rect{fill:#f8fafc;stroke:#64748b;stroke-width:1.2}\n"
    ".lmp-graph .l rect{fill:#e6f6ec;stroke:#2f855a}\n"
    ".lmp-graph .r rect{fill:#e7edff;stroke:#3b5bdb;stroke-width:2}\n"
    ".lmp-graph .x rect{stroke-dasharray:5 3}\n"
    "</style>\n";

struct Legend {
  std::string text;
  double width;
};

Legend legend_of(const GraphDrawing& drawing) {
  const auto counted = [](std::size_t count, const char* what) {
    return readable_count(count) + ' ' + what + (count == 1 ? "" : "s");
  };
  std::string head = counted(drawing.total_nodes, "node") + ", " +
                     readable_bytes(drawing.total_saved_bytes) + " saved";
  if (drawing.nodes.size() < drawing.total_nodes)
    head += "; " + readable_count(drawing.nodes.size()) + " nodes drawn";
  Legend legend;
  double x = 14;
  legend.text +=
      "<text class=\"t k\" x=\"14\" y=\"22\" style=\"font-size:13px\">" + head + "</text>\n";
  const auto key = [&](const char* style, double radius, const std::string& text) {
    legend.text += "<g class=\"";
    legend.text += style;
    put(legend.text, "\"><rect x=\"", x, 0);
    legend.text.erase(legend.text.rfind(' '));
    legend.text += "\" y=\"33\" width=\"18\" height=\"12\" rx=\"";
    put(legend.text, radius);
    legend.text += "\"/><text class=\"k\" x=\"";
    put(legend.text, x + 24);
    legend.text += "\" y=\"43\">" + text + "</text></g>\n";
    x += 24 + width_of(text, 11) + 16;
  };
  std::size_t operations = drawing.total_nodes - drawing.total_leaves;
  bool results = false, released = false;
  for (const GraphNode& node : drawing.nodes) {
    results |= node.root && !node.leaf;
    released |= node.released && !node.root;
  }
  if (results) key("r", 3, "result");
  if (operations > 0) key("o", 3, counted(operations, "operation"));
  if (released) key("x", 3, "released");
  if (drawing.total_leaves > 0)
    key("l", 6,
        readable_count(drawing.total_leaves) + (drawing.total_leaves == 1 ? " leaf" : " leaves"));
  legend.width = std::max(x, 14 + width_of(head, 13) + 14);
  return legend;
}

}  // namespace

std::string GraphDrawing::svg() const {
  const Layout layout(nodes);
  const Legend legend = legend_of(*this);
  constexpr double kLegendHeight = 56;
  const double graph_width = layout.right_edge() - layout.left_edge();
  const double width = std::ceil(std::max(graph_width, legend.width) + 2 * kMargin);
  const double shift_x = (width - graph_width) / 2 - layout.left_edge();
  const double shift_y = kMargin + kLegendHeight + kMargin;
  bool cut = false;
  for (const GraphNode& node : nodes) cut |= node.cut;
  const double height = std::ceil(shift_y + layout.bottom_edge() + kMargin + (cut ? 16 : 0));

  std::string out;
  out.reserve(2048 + 320 * nodes.size());
  const std::string w = std::to_string(static_cast<std::int64_t>(width));
  const std::string h = std::to_string(static_cast<std::int64_t>(height));
  out += "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"lmp-graph\" role=\"img\" width=\"" + w +
         "\" height=\"" + h + "\" viewBox=\"0 0 " + w + ' ' + h +
         "\">\n<title>Graph of gradients</title>\n" + kStyle;
  put(out, "<g transform=\"translate(", kMargin, kMargin);
  out += ")\">\n<rect width=\"";
  put(out, legend.width);
  out += "\" height=\"";
  put(out, kLegendHeight);
  out += "\" rx=\"8\" style=\"stroke:#cbd5e1\"/>\n" + legend.text + "</g>\n";

  put(out, "<g transform=\"translate(", shift_x, shift_y);
  out += ")\">\n<g fill=\"none\" stroke=\"#7c8aa0\" stroke-width=\"1.5\">\n";
  layout.draw_edges(out);
  out += "</g>\n";
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    const GraphNode& node = nodes[i];
    out += node.leaf       ? "<g class=\"l\""
           : node.root     ? (node.released ? "<g class=\"r x\"" : "<g class=\"r\"")
           : node.released ? "<g class=\"x\""
                           : "<g";
    put(out, " transform=\"translate(", layout.x(i), layout.top(i));
    out += ")\">";
    const std::vector<std::string>& lines = layout.lines(i);
    if (const std::string title = clean_text(title_of(node)); title != lines[0])
      out += "<title>" + xml_text(title) + "</title>";
    out += "<rect x=\"";
    put(out, -layout.width(i) / 2);
    out += "\" width=\"";
    put(out, layout.width(i));
    out += "\" height=\"";
    put(out, layout.height(i));
    out += node.leaf ? "\" rx=\"18\"/>" : "\" rx=\"6\"/>";
    double y = kPadding + 12;
    for (std::size_t k = 0; k < lines.size(); ++k) {
      out += k == 0                    ? "<text class=\"t\" y=\""
             : k == 2 && node.released ? "<text class=\"z\" y=\""
                                       : "<text y=\"";
      put(out, y);
      out += "\">" + xml_text(lines[k]) + "</text>";
      y += k == 0 ? kTitleHeight - 3 : kLineHeight;
    }
    out += "</g>\n";
  }
  out += "</g>\n</svg>\n";
  return out;
}

}  // namespace lmp::autograd
