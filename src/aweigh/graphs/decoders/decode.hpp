// Images to the inputs of an exported detector, and its outputs to boxes: C++17 alone; free to copy and change.
//
//   auto [height, width] = aweigh::size_for(image_height, image_width);
//   ... resize the image to this size, with any library; smoothed when it shrinks, if aweigh::card.antialias
//   std::vector<float> pixels = aweigh::inputs(resized, height, width, room);  // `images` [1, 3, room[0], room[1]]
//   ... run the graph with `images` and `sizes_hw` = {height, width}
//   auto found = aweigh::decode(boxes, scores, labels, count, {height, width}, {image_height, image_width});
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

namespace aweigh {

enum class Suppress { of_class, agnostic, soft, none };
using Size = std::array<std::int64_t, 2>;  // height, width

struct Card {
    std::int64_t resize_short, resize_long;  // pixels; 0: no limit
    bool antialias;
    Size within, size;  // what a resized image never exceeds; what the graph takes; 0: any
    std::int64_t divisor;
    std::array<float, 3> mean;  // colour of the padding, RGB in [0, 1]
    bool suppresses;            // the graph itself
    Suppress nms;
    float nms_threshold;
    std::size_t max_detections;
    std::vector<std::string> names;
    std::vector<std::int64_t> category_ids;
};

extern const Card card;  // of the detector, at the end of this file

struct Detection {
    float x0, y0, x1, y1, score;  // pixels of the whole image
    std::int64_t label, category_id;
    std::size_t row;  // of the outputs, where keypoints and masks of this object are
};

// Height and width that an image is resized to.
inline Size size_for(std::int64_t height, std::int64_t width) {
    const double shortest = std::min(height, width), longest = std::max(height, width);
    double scale = std::numeric_limits<double>::infinity();
    if (card.resize_short) scale = std::min(scale, card.resize_short / shortest);
    if (card.resize_long) scale = std::min(scale, card.resize_long / longest);
    if (!card.resize_short && !card.resize_long) scale = 1.0;
    Size sides{height, width};
    for (auto& side : sides) {
        const bool exactly = !card.resize_short && card.resize_long && side == longest;
        side = exactly ? card.resize_long : std::max<std::int64_t>(1, std::floor(side * scale));
    }
    if (card.within[0]) {
        double fitting = 1.0;
        for (int axis = 0; axis < 2; ++axis) fitting = std::min(fitting, double(card.within[axis]) / sides[axis]);
        for (auto& side : sides) side = std::max<std::int64_t>(1, std::floor(side * fitting));
    }
    return sides;
}

// A resized image, RGB of height * width * 3 bytes, as the graph takes it; `room` becomes height and width of that.
inline std::vector<float> inputs(const std::uint8_t* resized, std::int64_t height, std::int64_t width, Size& room) {
    room = card.size;
    const Size sides{height, width};
    for (int axis = 0; axis < 2; ++axis)
        if (!card.size[axis]) room[axis] = (sides[axis] + card.divisor - 1) / card.divisor * card.divisor;
    std::vector<float> pixels(3 * room[0] * room[1]);
    for (int channel = 0; channel < 3; ++channel) {
        float* plane = pixels.data() + channel * room[0] * room[1];
        std::fill(plane, plane + room[0] * room[1], card.mean[channel]);
        for (std::int64_t y = 0; y < height; ++y)
            for (std::int64_t x = 0; x < width; ++x)
                plane[y * room[1] + x] = resized[(y * width + x) * 3 + channel] / 255.0f;
    }
    return pixels;
}

// Intersection over union of two boxes (x0, y0, x1, y1), 0 where both are empty.
inline double overlap(const float* a, const float* b) {
    const auto area = [](const float* box) {
        return std::max(0.0, double(box[2]) - box[0]) * std::max(0.0, double(box[3]) - box[1]);
    };
    const double shared = std::max(0.0, double(std::min(a[2], b[2])) - std::max(a[0], b[0])) *
                          std::max(0.0, double(std::min(a[3], b[3])) - std::max(a[1], b[1]));
    const double whole = area(a) + area(b) - shared;
    return whole > 0 ? shared / whole : 0;
}

// What was found in one image, best first. boxes [count, 4], scores [count], labels [count]: its rows of the outputs, of
// which `count` count. resized, whole: the image as the graph saw it and as it is; equal for a graph of whole images.
inline std::vector<Detection> decode(const float* boxes, const float* scores, const std::int64_t* labels,
                                     std::int64_t count, Size resized, Size whole, float least = 0.5f) {
    const double scale_x = double(whole[1]) / resized[1], scale_y = double(whole[0]) / resized[0];
    std::vector<Detection> found;
    const auto take = [&](std::size_t row, float score) {
        if (score < least) return;
        const auto x = [&](float value) { return std::clamp(float(value * float(scale_x)), 0.0f, float(whole[1])); };
        const auto y = [&](float value) { return std::clamp(float(value * float(scale_y)), 0.0f, float(whole[0])); };
        const float* box = boxes + 4 * row;
        found.push_back({x(box[0]), y(box[1]), x(box[2]), y(box[3]), score, labels[row],
                         card.category_ids[labels[row]], row});
    };
    if (card.suppresses) {
        for (std::int64_t row = 0; row < count; ++row) take(row, scores[row]);
        return found;
    }
    const float lowest = 1e-3f;  // of soft suppression
    std::vector<float> left(scores, scores + count);
    for (auto& score : left)
        if (card.nms == Suppress::soft && score < lowest) score = 0;
    for (std::size_t kept = 0; kept < card.max_detections && !left.empty(); ++kept) {
        const std::size_t best = std::max_element(left.begin(), left.end()) - left.begin();
        if (!(left[best] > 0)) break;
        take(best, left[best]);
        left[best] = 0;
        for (std::size_t row = 0; row < left.size() && card.nms != Suppress::none; ++row) {
            if (!(left[row] > 0) || (card.nms != Suppress::agnostic && labels[row] != labels[best])) continue;
            const double shared = overlap(boxes + 4 * best, boxes + 4 * row);
            if (card.nms != Suppress::soft) {
                if (shared > card.nms_threshold) left[row] = 0;
            } else {  // Bodla et al. 2017, equation 3
                left[row] *= float(std::exp(-shared * shared / 0.5));
                if (left[row] < lowest) left[row] = 0;
            }
        }
    }
    return found;
}

}  // namespace aweigh
